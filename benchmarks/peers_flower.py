"""Flower's SecAgg+ and this library's SecAgg on the same vectors, in the same run.

    python benchmarks/peers_flower.py [--json FILE] [--quick]

Flower is driven as it is: `SecAggPlusWorkflow` against `secaggplus_mod`, over a loopback that carries protobuf bytes.
Terms are equal: every client is every other's neighbour (`num_shares` = n: the complete graph), one threshold, sums
modulo 2^32, values on Flower's default grid (2^22 steps over +-8), d entries in one array. One pinned core, processor
time. What is not secure aggregation is left out on Flower's side: quantising, the client's app, the strategy. Its
clients share keys once for each n, and the session goes on from there once for every d and number of dropouts; theirs
is the mean over all clients, and so is ours. n = 100 takes about ten minutes, nearly all of them Flower's.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.serverapp.grid import Grid
from flwr.supercore.task_identity import TaskIdentity
from measure import Figures, pin_to_one_core
from secagg import make_session

from protocols import ArraySource, ClientPolicy, Role, secagg
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore

# The package has a function of the module's name in the module's place.
client_module = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
CLIPPING, STEPS, WEIGHT = 8.0, 2**22, 1000
GOALS = {
    "client masking": 6.0,
    "client, whole masking phase": 6.0,
    "server unmasking, no dropouts": 500.0,
    "server unmasking, 30 % dropouts": 60.0,
    "vector bytes up": 2.0,
    "share bytes up": 5.0,
}
"""How many times less than Flower, at n = 100 and d = 10^6."""


@dataclass
class Costs:
    """What one session cost: processor seconds and bytes, of a client the mean."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, list[float]] = field(default_factory=dict)

    def spent(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)

    def sent(self, what: str, size: int) -> None:
        self.sizes.setdefault(what, []).append(size)


def vector(client: int, d: int) -> np.ndarray:
    """What a client contributes, on either side."""
    return np.random.default_rng([client, d]).uniform(-1, 1, d).astype(np.float32)


# -- Flower ------------------------------------------------------------------------------------------------------------


class Stopwatch:
    """Processor seconds spent in functions of a module."""

    def __init__(self, module: Any, names: Iterable[str]) -> None:
        self._module = module
        self._genuine = {name: getattr(module, name) for name in names}
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        for name, function in self._genuine.items():
            setattr(self._module, name, self._timed(function))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._genuine.items():
            setattr(self._module, name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.process_time() - began

        return timed


MASKING = (
    "pseudo_rand_gen",
    "parameters_addition",
    "parameters_subtraction",
    "parameters_mod",
    "generate_shared_key",
    "bytes_to_private_key",
    "bytes_to_public_key",
)
QUANTISING = ("quantize", "parameters_multiply", "parameters_to_ndarrays", "factor_combine")


class Loopback(Grid):
    """Carries messages as bytes to `secaggplus_mod`, one context a client."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in nodes}
        self.lost: set[int] = set()
        self.values: Callable[[int], np.ndarray] = lambda node: vector(node, 0)
        self.costs = Costs()
        self.stage = ""
        self.seconds = 0.0

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002  Flower's signature
    ) -> list[Message]:
        began = time.process_time()
        replies = [self._answer(message_to_proto(message).SerializeToString()) for message in messages]
        self.seconds += time.process_time() - began
        return replies

    def _answer(self, request: bytes) -> Message:
        message = message_from_proto(ProtoMessage.FromString(request))
        node = message.metadata.dst_node_id
        if node in self.lost:
            return Message(Error(0, "lost"), reply_to=message)
        app = 0.0

        def train(incoming: Message, _context: Context) -> Message:
            nonlocal app
            began_app = time.process_time()
            parameters = ndarrays_to_parameters([self.values(node)])
            result = FitRes(Status(Code.OK, ""), parameters, WEIGHT, {})
            reply = Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=incoming)
            app = time.process_time() - began_app
            return reply

        with Stopwatch(client_module, MASKING) as masking, Stopwatch(client_module, QUANTISING) as quantising:
            began = time.process_time()
            reply = client_module.secaggplus_mod(message, self.contexts[node], train)
            spent = time.process_time() - began
        self.costs.spent(f"{self.stage}, whole", spent - app - quantising.seconds)
        self.costs.spent(f"{self.stage}, masks", masking.seconds)
        sent = message_to_proto(reply).SerializeToString()
        self.costs.sent(self.stage, len(sent))
        return message_from_proto(ProtoMessage.FromString(sent))

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError


class Recorder(FedAvg):
    """A strategy that asks everybody, and keeps what the workflow hands it."""

    def __init__(self, grid: Loopback) -> None:
        super().__init__()
        self.grid = grid
        self.mean: np.ndarray | None = None

    def configure_fit(self, _round: int, parameters: Parameters, _manager: Any) -> list[tuple[GridClientProxy, FitIns]]:
        return [(GridClientProxy(node, self.grid, 1), FitIns(parameters, {})) for node in self.grid.contexts]

    def aggregate_fit(self, _round: int, results: list[Any], _failures: Any) -> tuple[None, dict[str, Any]]:
        (self.mean,) = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}


class FlowerSession:
    """A session of Flower's as far as the shares; from there it is run for a length and a number of dropouts."""

    def __init__(self, n: int, threshold: int) -> None:
        self.n = n
        self.grid = Loopback(range(1, n + 1))
        self.workflow = SecAggPlusWorkflow(
            n, threshold, max_weight=float(WEIGHT), clipping_range=CLIPPING, quantization_range=STEPS
        )
        self.context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), strategy=Recorder(self.grid))
        self.context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
        no_model = compat.parameters_to_arrayrecord(ndarrays_to_parameters([]), keep_input=False)
        self.context.state.array_records[MAIN_PARAMS_RECORD] = no_model
        self.state = WorkflowState()
        for self.grid.stage in ("setup", "share keys"):
            step = self.workflow.setup_stage if self.grid.stage == "setup" else self.workflow.share_keys_stage
            if not step(self.grid, self.context, self.state):
                raise SystemExit(f"Flower halted in {self.grid.stage}")

    def run(self, d: int, lost: int) -> Costs:
        """Masked vectors of those who are left, and the unmasking."""
        grid, state = self.grid, copy.copy(self.state)
        state.active_node_ids = set(self.state.active_node_ids)
        state.sampled_node_ids = set(self.state.sampled_node_ids)
        state.nid_to_fitins = {node: RecordDict() for node in grid.contexts}
        state.nid_to_neighbours = {node: set(all_) for node, all_ in self.state.nid_to_neighbours.items()}
        state.legacy_results, state.failures = [], []
        shared = {node: copy.deepcopy(context) for node, context in grid.contexts.items()}
        grid.costs = Costs({"share keys, whole": grid.costs.seconds["share keys, whole"]}, dict(grid.costs.sizes))
        for stage in ("masked vectors", "unmask"):
            grid.costs.sizes.pop(stage, None)
        grid.values = lambda node: vector(node, d)
        grid.lost = set(range(self.n - lost + 1, self.n + 1))
        grid.stage = "masked vectors"
        if not self.workflow.collect_masked_vectors_stage(grid, self.context, state):
            raise SystemExit("Flower halted before the unmasking")
        grid.stage, grid.seconds = "unmask", 0.0
        began = time.process_time()
        if not self.workflow.unmask_stage(grid, self.context, state):
            raise SystemExit("Flower halted in the unmasking")
        grid.costs.spent("server unmasking", time.process_time() - began - grid.seconds)
        grid.contexts, grid.lost = shared, set()
        expected = fmean_of(vector(node, d) for node in range(1, self.n - lost + 1))
        if not np.allclose(self.context.strategy.mean, expected, rtol=0, atol=2 * CLIPPING / STEPS):
            raise SystemExit("Flower's mean is wrong: no figure of this run means anything")
        return grid.costs


def fmean_of(vectors: Iterator[np.ndarray]) -> np.ndarray:
    """Mean of some vectors, one in memory at a time."""
    total, count = next(vectors).astype(np.float64), 1
    for item in vectors:
        total += item
        count += 1
    return total / count


# -- ours --------------------------------------------------------------------------------------------------------------


@contextmanager
def timed_masks(costs: Costs) -> Iterator[None]:
    """Time key agreement and masking of clients alone, within their third phase."""
    module = secagg.client
    genuine = module.masked_chunks

    def masked_chunks(*arguments: Any) -> Iterator[Any]:
        chunks = genuine(*arguments)
        while True:
            began = time.process_time()
            chunk = next(chunks, None)
            masks.seconds += time.process_time() - began
            if chunk is None:
                return
            yield chunk

    with Stopwatch(module, ("pairwise_mask_key", "self_mask_key")) as masks, Stopwatch(module, ("agree",)) as agreed:
        module.masked_chunks = masked_chunks
        try:
            yield
        finally:
            module.masked_chunks = genuine
    # Half of the agreements open shares; Flower's client has those secrets from the phase before.
    costs.spent("masked vectors, masks", masks.seconds + agreed.seconds / 2)


def our_session(n: int, d: int, lost: int) -> Costs:
    """A whole session on Flower's grid of values."""
    costs = Costs()
    parameters, identities, roster = make_session(n, d, 32)
    server = secagg.server(parameters, roster)
    policy = ClientPolicy()
    parties = {
        identity.id: secagg.party(Role.CLIENT, identity, roster, policy, entropy=os.urandom, store=MemoryStore())
        for identity in identities
    }
    words = {
        identity.id: np.rint((vector(node, d) + CLIPPING) * (STEPS / (2 * CLIPPING))).astype(np.uint32)
        for node, identity in enumerate(identities, start=1)
    }
    gone = {identity.id for identity in identities[n - lost :]}
    names = {"ShareKeys": "share keys", "MaskedInput": "masked vectors", "Unmask": "unmask"}
    while server.phase is not None:
        stage = names.get(server.phase, server.phase)
        for request in list(server.requests()):
            if stage not in ("AdvertiseKeys", "share keys") and request.party in gone:
                continue
            party = parties[request.party]
            source = ArraySource(words[request.party]) if party.inspect(request.header).vector else None
            part = Costs()
            with timed_masks(part):
                began = time.process_time()
                reply = party.handle(request.header, vector=source)
                costs.spent(f"{stage}, whole", time.process_time() - began)
            costs.spent(f"{stage}, masks", *part.seconds["masked vectors, masks"])
            chunks = list(reply.chunks)
            costs.sent(stage, len(reply.header) + len(reply.trailer) + sum(map(len, chunks)))
            deliver(server, replace(reply, chunks=chunks))
        began = time.process_time()
        server.close_phase()
        if stage == "unmask":
            costs.spent("server unmasking", time.process_time() - began)
    expected = np.zeros(d, np.uint32)
    for identity in identities[: n - lost]:
        expected += words[identity.id]
    if not np.array_equal(server.result().sum, expected):
        raise SystemExit("our sum is wrong: no figure of this run means anything")
    return costs


# -- both --------------------------------------------------------------------------------------------------------------


def compare(figures: Figures, flower: Costs, ours: Costs, n: int, d: int, lost: int) -> None:
    """Both sides' figures and their ratio."""
    drops = "30 % dropouts" if lost else "no dropouts"
    rows = [
        (f"server unmasking, {drops}", "server unmasking", "seconds", "s"),
        ("client masking", "masked vectors, masks", "seconds", "s"),
        ("client, whole masking phase", "masked vectors, whole", "seconds", "s"),
        ("client, sharing keys", "share keys, whole", "seconds", "s"),
        ("vector bytes up", "masked vectors", "sizes", "B"),
        ("share bytes up", "share keys", "sizes", "B"),
    ]
    for name, key, kind, unit in rows if not lost else rows[:1]:
        theirs, own = fmean(getattr(flower, kind)[key]), fmean(getattr(ours, kind)[key])
        ratio = theirs / own
        goal = GOALS.get(name) if (n, d) == (100, 10**6) else None
        # Both vectors travel with a header: a ratio of two is one to the third digit.
        verdict = "" if goal is None else ("reached" if round(ratio, 2) >= goal else "not reached")
        figures.rows.append(
            {
                "name": name,
                "n": n,
                "d": d,
                "Flower": float(f"{theirs:.4g}"),
                "secfl": float(f"{own:.4g}"),
                "of": unit,
                "value": ratio,
                "unit": "times",
                "goal": "" if goal is None else f">= {goal:g}, {verdict}",
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="n = 10, d = 10^5 only")
    arguments = parser.parse_args()
    pin_to_one_core()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    figures = Figures("SecAgg, complete graph, modulus 2^32: Flower's SecAgg+ / secfl")
    for n in (10,) if arguments.quick else (10, 50, 100):
        session = FlowerSession(n, make_session(n, 1, 32)[0].threshold)
        for d in (10**5,) if arguments.quick else (10**5, 10**6):
            for lost in (0, n * 3 // 10):
                compare(figures, session.run(d, lost), our_session(n, d, lost), n, d, lost)
    figures.describe("flwr")
    figures.show()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()

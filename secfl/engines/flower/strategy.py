"""`SecureAggregation`: any averaging strategy of Flower's, with the mean update from a secure sum."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from protocols.errors import ConfigError, EncodingError, SecflError, ThresholdNotMet, UsageError
from protocols.identity import Roster
from protocols.session import SessionParameters
from secfl.encoding import EncodingScheme, TensorLayout, decode_mean
from secfl.engines.base import Carried
from secfl.engines.flower.engine import FlowerEngine, Payload
from secfl.engines.flower.grid import TrainingGrid
from secfl.engines.flower.noise import ClientLevelNoise
from secfl.engines.flower.terms import Terms, assumed_collusion, bound_parts, model_of, settings_digest
from secfl.engines.workers import local_workers
from secfl.federation.roster_file import read_roster
from secfl.federation.silo import Scheme, context_hash
from secfl.privacy.mechanism import DistributedMechanism
from secfl.registry import offered

__all__ = ["SINGLE_UPDATES", "SecureAggregation", "SecureRound"]

ROSTER = "SECFL_ROSTER"
"""Environment variable of the ServerApp's process that names the roster file."""
SINGLE_UPDATES = frozenset(
    {
        "Bulyan",
        "DifferentialPrivacyClientSideAdaptiveClipping",
        "DifferentialPrivacyClientSideFixedClipping",
        "DifferentialPrivacyServerSideAdaptiveClipping",
        "DifferentialPrivacyServerSideFixedClipping",
        "FedMedian",
        "FedTrimmedAvg",
        "FedXgbBagging",
        "FedXgbCyclic",
        "Krum",
        "MultiKrum",
        "QFedAvg",
    }
)
"""Strategies that look at single updates, which no server sees under secure aggregation."""
_MODULUS_OF = {"examples": "private", "public": "public", "uniform": "none"}


@dataclass(frozen=True)
class SecureRound:
    """How one attempt at a round ended.

    :param examples: summed weight of the contributors; 0 without a sum.
    """

    number: int
    attempt: int
    parameters: SessionParameters = field(repr=False)
    carried: Carried = field(repr=False)
    contributors: tuple[str, ...]
    examples: int
    failure: SecflError | None


class SecureAggregation:
    """Runs a strategy with secure sums; the server sees no single update. On clients: `secagg_mod`.

    >>> SecureAggregation(FedAvg(), protocol="oneshot", min_contributors=3).start(grid, arrays, num_rounds=5)

    The strategy gets one reply a round: the weighted mean over the contributors and their summed weight. Metrics of
    single clients' training are dropped; evaluation messages pass as they are.

    :param strategy: FedAvg, FedProx, FedAdam, FedYogi, FedAdagrad, FedAvgM, or another that averages.
    :param roster: pinned public keys, or their file; by default the file that ``SECFL_ROSTER`` names.
    :param protocol: ``"oneshot"`` (fewest messages: each starts a process at a node), ``"secagg"`` or ``"ckks"``.
    :param min_contributors: fewest updates in a sum that is opened; by default the protocol's c + 2, at least 3.
    :param threshold: t, and ``collusion_bound`` c: None for the protocol's defaults.
    :param weights: ``"examples"`` as FedAvg weights, the numbers hidden in the sum; ``"uniform"``; or public integers
        by party, which every node must have in its ``node.toml``.
    :param noise: client-level differential privacy: every node clips its update and adds a share of noise. Weights are
        then ``"uniform"``, and each node needs a ``[privacy]`` of its own in ``node.toml``.
    :param value_range: bound of each coordinate of an *update* (trained model less global model). Public; what lies
        beyond is clipped at the node, which keeps count.
    :param value_bits: of a coordinate before weights; 16 with weights and 20 without them.
    :param maximum_examples: most examples that a node may have, with weights ``"examples"``.
    :param deadline: seconds after which a phase closes without those who have not answered.
    :param attempts: tries at a round; each trains afresh. When all fail, `start` raises.
    :param public_context: the key holder's, or its file, with protocol ckks.
    :raises UsageError: a strategy that needs single updates, or a value that is not allowed.
    """

    def __init__(  # noqa: PLR0913  all but one by keyword
        self,
        strategy: Strategy,
        *,
        roster: Roster | str | Path | None = None,
        protocol: str = "oneshot",
        min_contributors: int | None = None,
        threshold: int | None = None,
        collusion_bound: int | None = None,
        weights: Literal["examples", "uniform"] | Mapping[str, int] = "examples",
        noise: ClientLevelNoise | None = None,
        value_range: float = 8.0,
        value_bits: int | None = None,
        rounding: Literal["stochastic", "nearest"] = "stochastic",
        maximum_examples: int = 2**16 - 1,
        deadline: float = 600.0,
        attempts: int = 2,
        public_context: bytes | str | Path = b"",
    ) -> None:
        refuse_single_updates(strategy)
        offered(protocol)
        if isinstance(weights, str) and weights not in ("examples", "uniform"):
            raise UsageError(f"weights: {weights!r}; allowed: 'examples', 'uniform' or public integers by party")
        if noise is not None and weights != "uniform":
            raise UsageError(f"weights: {weights!r} with noise; allowed: 'uniform'")
        if attempts < 1:
            raise UsageError(f"attempts: {attempts}; allowed: at least 1")
        self.strategy = strategy
        self.roster = _roster(roster)
        self.protocol = protocol
        self.rounds: list[SecureRound] = []
        """Every attempt at a round, in order."""
        self._threshold, self._collusion_bound, self._min_contributors = threshold, collusion_bound, min_contributors
        self._weights, self._noise = weights, noise
        self._value_range, self._rounding = float(value_range), rounding
        self._value_bits = value_bits or (20 if weights == "uniform" else 16)
        self._maximum_examples = maximum_examples
        self._deadline, self._attempts = deadline, attempts
        given = public_context
        self._public_context = given if isinstance(given, bytes) else Path(given).read_bytes()
        self._run_id = ""
        self.engine: FlowerEngine | None = None
        """Of the last `start`; it knows which nodes were refused."""

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *arguments: Any, **options: Any) -> Result:
        """As `Strategy.start`, whose arguments it takes.

        :raises SecflError: a round of which every attempt failed; its notes say what each party answered.
        """
        self._run_id = f"flower-{grid.run.run_id}-{secrets.token_hex(4)}"
        self.engine = FlowerEngine(grid, self.roster, deadline_seconds=self._deadline)
        return self.strategy.start(TrainingGrid(grid, self._train), initial_arrays, *arguments, **options)

    def _train(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """What a round's training messages come to: one reply."""
        number = len({row.number for row in self.rounds if row.failure is None}) + 1
        content = _common_content(messages)
        nodes = {message.metadata.dst_node_id for message in messages}
        for attempt in range(self._attempts):
            row, reply = self._attempt(number, attempt, content, nodes, timeout)
            self.rounds.append(row)
            if reply is not None:
                return [Message(reply, reply_to=messages[0])]
        raise _failure(self.rounds[-1])

    def _attempt(
        self, number: int, attempt: int, content: RecordDict, nodes: set[int], timeout: float | None
    ) -> tuple[SecureRound, RecordDict | None]:
        engine = self._require_engine()
        if timeout is not None:
            engine.deadline_seconds = min(self._deadline, timeout)
        cohort = self._cohort(nodes)
        name, arrays = model_of(content)
        tensors = {key: array.numpy() for key, array in arrays.items()}
        layout = _layout(tensors)
        state = layout.flatten(tensors)
        terms = self._terms(cohort, layout)
        parameters = self._parameters(number, attempt, cohort, content, terms, layout, state)
        server = offered(self.protocol).server(parameters, self.roster, workers=local_workers(0))
        carried = engine.carry(server, Payload(content, terms.to_bytes()))
        failure, examples, reply = carried.failure, 0, None
        contributors: tuple[str, ...] = ()
        if carried.aggregate is not None:
            contributors = tuple(map(str, carried.aggregate.contributors))
            try:
                mean, examples = self._mean(terms, layout, carried)
            except EncodingError as error:  # a sum that these contributors cannot have sent: nothing to use
                failure = error
            else:
                reply = self._reply(name, layout, state + mean, examples)
        return SecureRound(number, attempt, parameters, carried, contributors, examples, failure), reply

    def _cohort(self, nodes: set[int]) -> list[str]:
        """The parties that the sampled nodes speak for.

        :raises ThresholdNotMet: too few for any sum; its notes say what the nodes said.
        """
        engine = self._require_engine()
        cohort = [party for party, node in engine.call_roll().items() if node in nodes]
        least = self._minimum(self._collusion(len(cohort)))
        if len(cohort) < least:
            error = ThresholdNotMet(least, len(cohort), phase="roll call")
            for node, problem in sorted((engine.errors | engine.refused).items()):
                error.add_note(f"node {node}: {problem}")
            raise error
        return cohort

    def _terms(self, cohort: list[str], layout: TensorLayout) -> Terms:
        kind = self._weights if isinstance(self._weights, str) else "public"
        public = () if isinstance(self._weights, str) else tuple(sorted(self._weights.items()))
        missing = set(cohort) - set(dict(public))
        if kind == "public" and missing:
            raise UsageError(f"weights: none for {', '.join(sorted(missing))}")
        key = getattr(self.strategy, "weighted_by_key", "num-examples")
        if self._noise is not None:
            collusion = self._collusion(len(cohort))
            used = self._noise.mechanism(layout, len(cohort), self._minimum(collusion), collusion)
            return Terms(encoding=used.to_bytes(), weights="uniform", weighted_by=key, noise=True)
        maximum = {"examples": self._maximum_examples, "uniform": 1}.get(kind) or max(dict(public).values())
        scheme = EncodingScheme.choose(
            self._value_range,
            self._value_bits,
            maximum_contributors=max(2, len(cohort)),
            layout_digest=layout.digest,
            maximum_weight=maximum,
            weighting=_MODULUS_OF[kind],  # type: ignore[arg-type]
            rounding=self._rounding,
            on_overflow="clip",
        )
        return Terms(encoding=scheme.to_bytes(), weights=kind, weighted_by=key, public=public)

    def _parameters(
        self,
        number: int,
        attempt: int,
        cohort: list[str],
        content: RecordDict,
        terms: Terms,
        layout: TensorLayout,
        state: npt.NDArray[np.float32],
    ) -> SessionParameters:
        scheme = _scheme(terms)
        bound = bound_parts(content, terms, layout)
        collusion = self._collusion(len(cohort))
        return offered(self.protocol).parameters(
            self.roster,
            cohort,
            nonce=os.urandom(32),
            run_id=self._run_id,
            round_number=number,
            attempt=attempt,
            modulus_bits=scheme.modulus_bits,
            vector_length=scheme.word_count(layout.size),
            context_hash=context_hash(layout, state.astype("<f4").tobytes(), *bound),
            encoding=terms.encoding,
            value_bound=scheme.largest_entry,
            public_context=self._public_context,
            threshold=self._threshold,
            collusion_bound=collusion,
            minimum_contributors=self._minimum(collusion),
        )

    def _mean(self, terms: Terms, layout: TensorLayout, carried: Carried) -> tuple[npt.NDArray[np.float64], int]:
        """Mean update and summed weight."""
        scheme, aggregate = _scheme(terms), carried.aggregate
        if aggregate is None:
            raise UsageError("there is no sum")
        if isinstance(scheme, DistributedMechanism):
            number = len(aggregate.contributors)
            return scheme.decode(aggregate.sum, number, aggregate.session_id) / number, number
        if terms.weights == "examples":
            total = int(aggregate.sum[-1])
            return decode_mean(aggregate.sum, scheme, layout=layout), total
        weights = dict(terms.public)
        total = sum(weights.get(str(party), 1) for party in aggregate.contributors)
        return decode_mean(aggregate.sum, scheme, total, layout=layout), total

    def _reply(self, name: str, layout: TensorLayout, model: npt.NDArray[np.float64], examples: int) -> RecordDict:
        tensors = layout.unflatten(model)
        key = getattr(self.strategy, "weighted_by_key", "num-examples")
        arrays = ArrayRecord({tensor: Array(np.ascontiguousarray(value)) for tensor, value in tensors.items()})
        return RecordDict({name: arrays, "metrics": MetricRecord({key: examples})})

    def _collusion(self, cohort: int) -> int:
        given = self._collusion_bound
        return assumed_collusion(self.protocol, self.roster, cohort) if given is None else given

    def _minimum(self, collusion: int) -> int:
        return self._min_contributors or max(collusion + 2, 3)

    def _require_engine(self) -> FlowerEngine:
        if self.engine is None:
            raise UsageError("training messages outside start()")
        return self.engine


def _scheme(terms: Terms) -> Scheme:
    kind = DistributedMechanism if terms.noise else EncodingScheme
    return kind.from_bytes(terms.encoding)


def refuse_single_updates(strategy: Strategy) -> None:
    """Refuse a strategy that looks at single updates.

    :raises UsageError: names it.
    """
    for kind in type(strategy).__mro__:
        if kind.__name__ in SINGLE_UPDATES and kind.__module__.startswith("flwr."):
            raise UsageError(
                f"strategy: {kind.__name__} looks at single updates, which secure aggregation hides from the server; "
                "allowed: strategies that average (FedAvg, FedProx, FedAdam, FedYogi, FedAdagrad, FedAvgM)"
            )


def _roster(given: Roster | str | Path | None) -> Roster:
    if isinstance(given, Roster):
        return given
    path = given or os.environ.get(ROSTER)
    if not path:
        raise ConfigError("roster", "missing", f"a Roster, the path of its file, or that path in {ROSTER}")
    return read_roster(Path(path))


def _common_content(messages: list[Message]) -> RecordDict:
    """What all the messages carry.

    :raises UsageError: the strategy tells different nodes different things.
    """
    first = messages[0].content
    digests = {(settings_digest(message.content), model_of(message.content)[1].object_id) for message in messages}
    if len(digests) != 1:
        raise UsageError("strategy: it sends different models or settings to different nodes; one sum needs one")
    return first


def _layout(tensors: dict[str, npt.NDArray[Any]]) -> TensorLayout:
    return TensorLayout.of(tensors)


def _failure(row: SecureRound) -> SecflError:
    error = row.failure or UsageError("the engine gave neither a sum nor an error")
    error.add_note(f"round {row.number}, attempt {row.attempt + 1}: the last allowed")
    for phase in row.carried.phases:
        for event in phase.events:
            error.add_note(f"{event.phase}: {event.party}: {event.error}")
    return error

"""Seconds a round on Flower, with and without secure aggregation: a real deployment on loopback, four nodes.

    python benchmarks/flower_rounds.py [--json FILE] [--quick] [--in-process] [--protocols oneshot,secagg]
        [--models heart,10^7] [--rounds 4]

One SuperLink and four SuperNodes as processes, TLS, node keys, SQLite. Training takes no time, so a round is what the
engine and the protocol take: with 23 parameters, about those of `examples/heart`, messages alone; with 10^7, vectors
as well. Elapsed seconds of whole rounds, medians; the first round of a secure run has the roll call and is left out.

A message costs what it takes to start a process at each node, whatever is in it: `message` is one such message to all
four nodes and back, with nothing in it. `beyond messages` is a secure round less a plain one less the messages that it
has more (two a round under oneshot, four under secagg), over the plain one; at 10^7 it is to be 0.1 at most.

Elapsed time on a machine that is doing other work means nothing: look at the load in the output. `--in-process` counts
processor seconds instead, of all parties one after another in this process: every message goes through Flower's own
serialisers, nothing is sent and no process is started. Server and clients apart; it says what is added to Flower's own
work on the same vectors, wherever the load is.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from measure import Figures

from protocols.identity import Role, Roster
from secfl.engines.flower import SecureAggregation
from secfl.engines.flower.deployment import Deployment, NodeSettings
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import write_roster

ROOT = Path(__file__).parents[1]
APP = Path(__file__).parent / "flower_app"
NODES = ("aachen", "basel", "cork", "delft")
SIZES = {"heart": 23, "10^7": 10**7}
MORE_MESSAGES = {"oneshot": 2, "secagg": 4}
GOAL = 0.1
SECONDS = 3600.0


def deployment(base: Path) -> Deployment:
    homes = {node: base / "homes" / node for node in NODES}
    identities = [
        load_or_create_identity(home / "identity.key", node, {Role.CLIENT, Role.COMMITTEE})
        for node, home in homes.items()
    ]
    roster = Roster(identity.member() for identity in identities)
    for folder in (*homes.values(), base):
        write_roster(folder / "roster.toml", roster)
    return Deployment(base / "flower", {node: NodeSettings(home) for node, home in homes.items()})


def measured(running: Deployment, base: Path, size: int, rounds: int, protocol: str) -> dict[str, Any]:
    output = base / f"{size}-{protocol or 'plain'}.json"
    settings = {"size": size, "rounds": rounds, "protocol": protocol, "output": str(output)}
    run = running.submit(APP, {**settings, "roster": str(base / "roster.toml")})
    status = running.wait(run, SECONDS)
    if status != "finished:completed":
        raise SystemExit(f"run {run} ended as {status}\n{running.flwr('log', str(run), 'loopback', '--show')}")
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def compare(figures: Figures, running: Deployment, base: Path, name: str, rounds: int, protocols: list[str]) -> None:
    size = SIZES[name]
    plain = median(measured(running, base, size, rounds, "")["rounds"][1:])
    figures.add("plain FedAvg, a round", plain, "s", model=name)
    for protocol in protocols:
        found = measured(running, base, size, rounds, protocol)
        secure = median(found["rounds"][1:])
        message = found["message"]
        beyond = (secure - plain - MORE_MESSAGES[protocol] * message) / plain
        figures.add("secure, a round", secure, "s", model=name, protocol=protocol)
        for phase in found["phases"][0]:
            seconds = median(row[phase] for row in found["phases"][1:])
            figures.add(f"phase {phase}", seconds, "s", model=name, protocol=protocol)
        figures.add("message to all nodes and back", message, "s", model=name, protocol=protocol)
        figures.add("beyond messages, over plain", beyond, "", model=name, protocol=protocol)
        figures.add("bytes up, all nodes", found["bytes_up"][-1], "B", model=name, protocol=protocol)


class Meter:
    """Processor seconds at the clients and in all."""

    def __init__(self) -> None:
        self.clients = 0.0

    def app(self, inner: ClientApp) -> Callable[[Message, Context], Message]:
        def metered(message: Message, context: Context) -> Message:
            began = time.process_time()
            try:
                return inner(message, context)
            finally:
                self.clients += time.process_time() - began

        return metered


def in_process(figures: Figures, name: str, protocols: list[str]) -> None:
    """One round of each kind after a first that warms up; the last counts."""
    sys.path[:0] = [str(ROOT / "tests" / "secfl" / "engines" / "flower"), str(APP)]
    from bench.client_app import app
    from bench.server_app import Plain
    from loopback import LoopbackGrid

    start = ArrayRecord({"model": Array(np.zeros(SIZES[name], np.float32))})
    nodes = {"min_train_nodes": 4, "min_available_nodes": 4, "fraction_evaluate": 0.0}
    plain = 0.0
    for protocol in ["", *protocols]:
        with tempfile.TemporaryDirectory() as folder:
            base, meter, ends = Path(folder), Meter(), list[tuple[float, float]]()
            deployment(base)
            grid = LoopbackGrid()
            for number, node in enumerate(NODES):
                grid.apps[1000 + number] = (meter.app(app), {"secfl-home": str(base / "homes" / node)})  # type: ignore[assignment]
            strategy: Any = Plain(**nodes)
            if protocol:
                strategy = SecureAggregation(FedAvg(**nodes), roster=base / "roster.toml", protocol=protocol)

            def ended(
                _round: int, _arrays: ArrayRecord, grid: Any = grid, meter: Meter = meter, ends: Any = ends
            ) -> None:
                grid.wire.clear()
                ends.append((time.process_time(), meter.clients))

            strategy.start(grid, start, num_rounds=2, evaluate_fn=ended)
        whole, clients = (after - before for before, after in zip(*ends[-2:], strict=True))
        label = {"model": name, "protocol": protocol or "plain FedAvg"}
        figures.add("processor time of a round, four nodes and server", whole, "s", **label)
        figures.add("  of it at the nodes' apps", clients, "s", **label)
        if protocol:
            figures.add("  over plain FedAvg", whole / plain, "", **label)
        else:
            plain = whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two rounds, the small model alone")
    parser.add_argument("--protocols", default="oneshot,secagg")
    parser.add_argument("--in-process", action="store_true", help="processor time, without processes")
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=4, help="of each run; the first is left out")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    figures = Figures("Flower: seconds a round")
    models = ["heart"] if arguments.quick else arguments.models.split(",")
    if arguments.in_process:
        logging.getLogger("flwr").setLevel(logging.ERROR)
        for name in models:
            in_process(figures, name, arguments.protocols.split(","))
        figures.describe("flwr")
        figures.show()
        figures.write(arguments.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with deployment(base).running() as running:
            for name in models:
                rounds = 2 if arguments.quick else arguments.rounds
                compare(figures, running, base, name, rounds, arguments.protocols.split(","))
    figures.describe("flwr")
    figures.show()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()

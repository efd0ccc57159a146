"""Node folders for tests, and an app whose training is arithmetic."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from loopback import LoopbackGrid

from protocols.identity import Identity, Roster
from secfl.engines.flower import secagg_mod
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import write_roster
from secfl.registry import offered

PARTIES = ("cleveland", "hungarian", "switzerland", "va")
EXAMPLES = {"cleveland": 227, "hungarian": 220, "switzerland": 92, "va": 150}
FIRST_NODE = 1000

Train = Callable[[str, Message], RecordDict]


def make_homes(base: Path, protocol: str, parties: tuple[str, ...] = PARTIES) -> tuple[Roster, bytes]:
    """A folder for each party, under its name; the roster and the key holder's public context."""
    cast = offered(protocol).cast(parties)
    identities: dict[str, Identity] = {}
    for name in (*parties, *cast.offices):
        path = base / name / "identity.key"
        identities[name] = load_or_create_identity(path, name, cast.roles(name), os.urandom)
    roster = Roster(identity.member() for identity in identities.values())
    for name in identities:
        write_roster(base / name / "roster.toml", roster)
    return roster, offered(protocol).public_context(identities.values())


def trained_by(party: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An update that tells party and entry apart."""
    shift = (PARTIES.index(party) + 1) * 0.1 + np.arange(array.size).reshape(array.shape) * 0.01
    return np.asarray(array + shift, np.float32)


def arithmetic(party: str, message: Message) -> RecordDict:
    record = message.content["arrays"]
    assert isinstance(record, ArrayRecord)
    trained = {name: Array(trained_by(party, array.numpy())) for name, array in record.items()}
    metrics = MetricRecord({"num-examples": EXAMPLES[party], "train-loss": 0.8675309})
    return RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics})


def app_of(party: str, train: Train = arithmetic, *, protected: bool = True) -> ClientApp:
    app = ClientApp()

    @app.train(mods=[secagg_mod] if protected else [])
    def _train(message: Message, context: Context) -> Message:
        return Message(train(party, message), reply_to=message)

    @app.evaluate()
    def _evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": EXAMPLES.get(party, 1), "accuracy": 0.5})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def initial_arrays() -> ArrayRecord:
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    return ArrayRecord({"weight": Array(weight), "bias": Array(np.zeros(3, np.float32))})


def connected(base: Path, parties: tuple[str, ...] = PARTIES, train: Train = arithmetic, **hooks: Any) -> LoopbackGrid:
    """A grid with a node for each party; nodes are numbered in the parties' order."""
    grid = LoopbackGrid(**hooks)
    for number, party in enumerate(parties):
        grid.apps[FIRST_NODE + number] = (app_of(party, train), {"secfl-home": str(base / party)})
    return grid


def unprotected() -> LoopbackGrid:
    """A grid of the same apps without secure aggregation."""
    grid = LoopbackGrid()
    for number, party in enumerate(PARTIES):
        grid.apps[FIRST_NODE + number] = (app_of(party, protected=False), {})
    return grid

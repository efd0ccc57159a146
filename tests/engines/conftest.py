"""One deployment for all tests of a module, and a look at what was left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocols.identity import Role, Roster
from secfl.engines.flower.deployment import Deployment, NodeSettings, marked_processes
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import write_roster

PROBE = Path(__file__).parent / "probe"
PARTIES = ("cleveland", "hungarian", "switzerland", "va")
EXAMPLES = (227, 220, 92, 150)
STRANGER = "stranger"
SHIFTS = (0.1, 0.2, 0.3, 0.4)
SECONDS = 600.0
"""For a run: a few seconds on a machine that has nothing else to do."""


@dataclass
class Federation:
    """A deployment whose nodes run the probe."""

    deployment: Deployment
    base: Path
    runs: int = 0

    def run(self, **config: Any) -> tuple[str, Path]:
        """A run of the probe to its end; its status, and where its results are."""
        number, output = self.begin(**config)
        return self.deployment.wait(number, SECONDS), output

    def begin(self, **config: Any) -> tuple[int, Path]:
        self.runs += 1
        output = self.base / f"run-{self.runs}"
        settings = {"roster": str(self.base / "roster.toml"), "output": str(output), **config}
        return self.deployment.submit(PROBE, settings), output

    def log(self, run: int) -> str:
        return self.deployment.flwr("log", str(run), "loopback", "--show")


def model(output: Path) -> np.ndarray[Any, Any]:
    return np.asarray(np.load(output.with_suffix(".npz"))["weight"])


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output.with_suffix(".json").read_text())
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    base = tmp_path_factory.mktemp("deployment")
    homes = {party: base / "homes" / party for party in PARTIES}
    identities = [
        load_or_create_identity(home / "identity.key", party, {Role.CLIENT, Role.COMMITTEE})
        for party, home in homes.items()
    ]
    roster = Roster(identity.member() for identity in identities)
    for folder in (*homes.values(), base):
        write_roster(folder / "roster.toml", roster)
    stranger = base / "homes" / STRANGER  # its SuperNode is registered, its key is in nobody's roster but its own
    alien = load_or_create_identity(stranger / "identity.key", STRANGER, {Role.CLIENT})
    write_roster(stranger / "roster.toml", Roster([*(identity.member() for identity in identities), alien.member()]))
    nodes = {
        party: NodeSettings(
            homes[party],
            {"party": party, "shift": shift, "examples": examples, "pid-file": str(base / f"{party}.pid")},
        )
        for party, shift, examples in zip(PARTIES, SHIFTS, EXAMPLES, strict=True)
    }
    nodes[STRANGER] = NodeSettings(stranger, {"party": STRANGER, "shift": 9.9, "examples": 1, "pid-file": "/dev/null"})
    deployment = Deployment(base / "flower", nodes, start={*PARTIES})
    mark = ""
    try:
        deployment.start()
        mark = json.loads((base / "flower" / "deployment.json").read_text())["mark"]
        yield Federation(deployment, base)
    finally:
        deployment.stop()
    assert mark
    assert marked_processes(mark) == []

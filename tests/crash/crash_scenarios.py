"""Whole rounds with kills, and how they end."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crash_party import party_process
from crash_server import Outcome
from crash_supervisor import Main, Plan, Supervisor, check, seams
from crash_world import World

ENDS: Counter[str] = Counter()
"""Kills, and rounds by how they ended, over all tests of this run."""


@dataclass(frozen=True)
class Round:
    """A round that is over, and found to be in order."""

    world: World
    outcome: Outcome
    end: str
    killed: tuple[str, ...]


class Rounds:
    """Rounds in a folder, one after another, each from new files.

    :param kind: of world.
    :param party_main: what a party's process does.
    """

    def __init__(
        self, folder: Path, protocol: str, kind: type[World] = World, party_main: Main = party_process
    ) -> None:
        self._folder = folder
        self._protocol = protocol
        self._kind = kind
        self._party_main = party_main

    def run(self, plan: Plan | Callable[[World], Plan]) -> Round:
        """One round.

        :param plan: or what makes it, where it needs to know the files.
        """
        directory = self._folder / "round"
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir()
        world = self._kind(self._protocol, directory)
        supervisor = Supervisor(world, plan if isinstance(plan, Plan) else plan(world), self._party_main)
        outcome = supervisor.run()
        end = check(world, outcome)
        ENDS["kills"] += len(supervisor.killed)
        ENDS[end] += 1
        return Round(world, outcome, end, tuple(supervisor.killed))

    def undisturbed(self, *names: str) -> dict[str, list[str]]:
        """The seams of a round in which nobody dies, by process: where to kill."""
        done = self.run(Plan())
        assert (done.end, done.killed) == ("sum over all", ())
        return {name: seams(done.world, name) for name in names}

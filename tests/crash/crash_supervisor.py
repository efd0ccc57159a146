"""Starts the processes of a round, kills them at chosen seams, starts them again or not, looks at what is left."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from crash_party import party_process
from crash_points import Points, die, watch_disk
from crash_server import OUTCOME, Outcome, serve
from crash_world import PARTIES, World

SCENARIO_SECONDS = 240.0
"""A round that hangs ends here; a busy machine may take a minute for one that does not."""
Main = Callable[[World, str, Points], None]


@dataclass(frozen=True)
class Plan:
    """What goes wrong.

    :param kills: by process, the number of the seam at which each of its lives ends; a life beyond has no end.
    :param comes_back: whether killed parties are started again (the server always is).
    :param acts: by process, further things to do at seams of its first life.
    :param before_restart: by process, what happens to its files before its second life.
    """

    kills: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    comes_back: bool = True
    acts: Mapping[str, Mapping[int, Callable[[], None]]] = field(default_factory=dict)
    before_restart: Mapping[str, Callable[[], None]] = field(default_factory=dict)


class Supervisor:
    """One round of one world."""

    def __init__(self, world: World, plan: Plan, party_main: Main = party_process) -> None:
        self._world = world
        self._plan = plan
        self._party_main = party_main
        self._selector = selectors.DefaultSelector()
        self._processes: dict[str, int] = {}
        self._lives: dict[str, int] = {}
        self.killed: list[str] = []
        """Which processes died by their own hand, in order."""

    def run(self) -> Outcome:
        """Until the server has written its outcome; nothing is left running, whatever happens."""
        _ = self._world.roster  # made once, for all children
        end = time.monotonic() + SCENARIO_SECONDS
        try:
            for name in ("server", *self._world.processes):
                self._start(name)
            while "server" in self._processes:
                for key, _events in self._selector.select(end - time.monotonic()):
                    self._ended(key.data, key.fd)
                if time.monotonic() > end:
                    raise AssertionError(f"no end after {SCENARIO_SECONDS} s; running: {sorted(self._processes)}")
        finally:
            self._stop()
        return msgspec.json.decode((self._world.directory / OUTCOME).read_bytes(), type=Outcome)

    def _start(self, name: str) -> None:
        life = self._lives[name] = self._lives.get(name, -1) + 1
        child = os.fork()
        if child == 0:
            self._live(name, life)
        self._processes[name] = child
        self._selector.register(os.pidfd_open(child), selectors.EVENT_READ, name)

    def _live(self, name: str, life: int) -> None:
        """In the child; never returns."""
        try:
            acts = dict(self._plan.acts.get(name, {})) if life == 0 else {}
            kills = self._plan.kills.get(name, ())
            if life < len(kills):
                acts[kills[life]] = die
            points = Points(self._world.directory / "log" / f"points-{name}-{life}", acts)
            watch_disk(points)
            if name == "server":
                serve(self._world, points)
            else:
                self._party_main(self._world, name, points)
            os._exit(0)
        except BaseException:  # noqa: BLE001  the child ends here, whatever it was
            (self._world.directory / "log" / f"failure-{name}").write_text(traceback.format_exc())
            os._exit(70)
        finally:
            os._exit(71)

    def _ended(self, name: str, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(self._processes.pop(name), 0)[1])
        if status == -signal.SIGKILL:
            self.killed.append(name)
            if name == "server" or self._plan.comes_back:
                if self._lives[name] == 0 and name in self._plan.before_restart:
                    self._plan.before_restart[name]()
                self._start(name)
            else:
                (self._world.directory / "gone" / name).touch()
        elif status != 0:
            failure = self._world.directory / "log" / f"failure-{name}"
            raise AssertionError(f"{name} ended with {status}:\n{failure.read_text() if failure.exists() else ''}")

    def _stop(self) -> None:
        for key in list(self._selector.get_map().values()):
            os.kill(self._processes[key.data], signal.SIGKILL)
            os.waitpid(self._processes[key.data], 0)
            os.close(key.fd)
        self._selector.close()
        sys.stdout.flush()


def seams(world: World, name: str, life: int = 0) -> list[str]:
    """The seams that a process passed."""
    path = world.directory / "log" / f"points-{name}-{life}"
    return path.read_text().splitlines() if path.exists() else []


def brought_back(backup: Path, place: Path) -> Callable[[], None]:
    """Put an old copy of a folder in its place."""

    def put() -> None:
        if backup.exists():
            shutil.rmtree(place)
            shutil.copytree(backup, place)

    return put


def sent(world: World, name: str) -> dict[tuple[str, str], set[bytes]]:
    """All that a party was about to send: by session and phase, the different answers."""
    path = world.directory / "log" / f"sent-{name}"
    answers: dict[tuple[str, str], set[bytes]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        session, phase, *answer = msgspec.json.decode(line)
        answers.setdefault((session, phase), set()).add(msgspec.json.encode(answer))
    return answers


def received(world: World) -> dict[tuple[str, str], set[bytes]]:
    """All whole answers that reached a server: by party and phase."""
    path = world.directory / "log" / "received"
    answers: dict[tuple[str, str], set[bytes]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        party, phase, *answer = msgspec.json.decode(line)
        answers.setdefault((party, phase), set()).add(msgspec.json.encode(answer))
    return answers


def check(world: World, outcome: Outcome) -> str:
    """The round ended as it may, and nobody gave two answers; how it ended, in words."""
    for party in world.processes:
        for (_session, phase), answers in sent(world, party).items():
            assert len(answers) == 1, f"{party} had {len(answers)} different answers in {phase}"
    for (party, phase), answers in received(world).items():
        known = set().union(*(own for (_, other), own in sent(world, party).items() if other == phase))
        assert answers <= known
    if outcome.error:
        assert outcome.error in {"ThresholdNotMet", "ClientFault", "PeerFault"}, outcome
        assert not outcome.sum
        return outcome.error
    assert list(outcome.sum) == world.total(outcome.contributors), "the sum is not its contributors'"
    return "sum over all" if outcome.contributors == PARTIES else "sum over fewer"

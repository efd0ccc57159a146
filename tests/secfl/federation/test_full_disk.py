"""A disk full while the ledger is written: no byte leaves before `sending` is on disk; spent once, never free."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_study import PHASES, SILOS, Study, open_study, study_text

from protocols.shape import ServerSession, Upload
from secfl.engines.base import Carried
from secfl.privacy import ledger_file

VICTIM = "north"
OTHERS = tuple(silo for silo in SILOS if silo != VICTIM)


@dataclass
class FullDisk:
    """The operating system with no room for one silo's ledger from one kind of line on.

    :param kind: of the line that finds no room.
    :param call: ``write``, ``torn`` (half of it is written) or ``fsync``.
    :param stays: whether nothing can be written afterwards either.
    """

    kind: str
    call: str
    stays: bool
    failures: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        content = bytes(content)
        if self._is_victims(descriptor) and self._hits(content):
            if self.call == "fsync":
                return os.write(descriptor, content)
            if self.call == "torn" and self.failures == 1:
                os.write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        if self.call == "fsync" and self._is_victims(descriptor) and self.failures == 1:
            self.failures += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync(descriptor)

    def _hits(self, content: bytes) -> bool:
        hit = f'"kind":"{self.kind}"'.encode() in content or (self.stays and self.failures > 0)
        if hit and (self.failures == 0 or self.stays):
            self.failures += 1
            return True
        return False

    @staticmethod
    def _is_victims(descriptor: int) -> bool:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        return name == "records.ledger" and VICTIM in str(Path(f"/proc/self/fd/{descriptor}").readlink())


class Watch:
    """An engine that looks into the ledger on disk at the moment at which a vector reaches the server."""

    name = "embedded"
    simulation = True

    def __init__(self, study: Study) -> None:
        self._study = study
        self.seen: list[tuple[str, bool]] = []

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        begin = server.begin

        def watched(header: bytes) -> Upload:
            if server.phase == "MaskedInput":
                party = next(silo for silo in SILOS if silo.encode() in header)
                at = server.parameters
                needle = f'"release":"{at.run_id}/{at.round_number}/{at.attempt}"'.encode()
                lines = self._study.ledger_path(party).read_bytes().splitlines()
                self.seen.append((party, any(needle in line and b'"kind":"sending"' in line for line in lines)))
            return begin(header)

        server.begin = watched  # type: ignore[method-assign]
        return self._study.engine().run_session(server, context)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with open_study(tmp_path, study_text(private=True)) as opened:
        yield opened


# Kind of line, call, whether the disk stays full; rounds the victim is in; where its releases stand before and after
# the ledger is opened anew; what the first fault says.
CASES = [
    ("reserve", "write", False, [2], {"2/0": "committed"}, {"2/0": "committed"}, "nothing was recorded"),
    ("reserve", "torn", False, [2], {"2/0": "committed"}, {"2/0": "committed"}, "nothing was recorded"),
    ("reserve", "write", True, [], {}, {}, "nothing was recorded"),
    ("reserve", "fsync", False, [], {}, {"1/0": "void"}, "open the ledger anew"),
    ("sending", "write", False, [2], {"1/0": "void", "2/0": "committed"}, None, "nothing was recorded"),
    ("sending", "torn", False, [2], {"1/0": "void", "2/0": "committed"}, None, "nothing was recorded"),
    ("sending", "write", True, [], {"1/0": "reserved"}, {"1/0": "void"}, "nothing was recorded"),
    ("sending", "fsync", False, [], {"1/0": "reserved"}, {"1/0": "sending"}, "open the ledger anew"),
    # A commit is tried again with the next reply.
    ("commit", "write", False, [1, 2], {"1/0": "committed", "2/0": "committed"}, None, "nothing was recorded"),
    ("commit", "torn", False, [1, 2], {"1/0": "committed", "2/0": "committed"}, None, "nothing was recorded"),
    ("commit", "write", True, [1], {"1/0": "sending"}, {"1/0": "sending"}, "nothing was recorded"),
    ("commit", "fsync", False, [1], {"1/0": "sending"}, {"1/0": "committed"}, "open the ledger anew"),
]


@pytest.mark.parametrize(("kind", "call", "stays", "rounds", "before", "after", "words"), CASES)
def test_a_full_disk_has_a_defined_end(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    call: str,
    stays: bool,
    rounds: list[int],
    before: dict[str, str],
    after: dict[str, str] | None,
    words: str,
) -> None:
    disk = FullDisk(kind, call, stays)
    monkeypatch.setattr(ledger_file, "os", disk)
    engine = Watch(study)
    result = study.run(engine)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert disk.failures > 0
    # The others do not notice, the run ends as planned.
    assert (result.status, [row.number for row in result.rounds]) == ("completed", [1, 2])
    for row in result.rounds:
        assert row.contributors == (SILOS if row.number in rounds else OTHERS)
    faults = [fault for record in result.rounds[0].phases for fault in record.faults]
    tried = 3 if kind == "commit" and (stays or call == "fsync") else 1
    assert [(fault.party, fault.phase) for fault in faults] == [(VICTIM, phase) for phase in PHASES[2 : 2 + tried]]
    assert words in faults[0].text
    # Whatever reached the server had its `sending` on disk.
    assert engine.seen
    assert all(on_disk for _, on_disk in engine.seen)
    assert [silo for silo, _ in engine.seen].count(VICTIM) == len(rounds)
    # Where the releases stand, and what they cost: never more than one release a round, none free once it left.
    assert study.states(VICTIM) == before
    full = study.parties.ledgers[OTHERS[0]].spent().filter_epsilon
    charged = [state for state in before.values() if state in ("sending", "committed")]
    spent = study.parties.ledgers[VICTIM].spent().filter_epsilon
    assert (spent == pytest.approx(full)) == (len(charged) == 2)
    assert (spent == 0) == (not charged)
    assert study.reopened(VICTIM) == (before if after is None else after)
    left = {f"{number}/0" for number in rounds}
    assert left <= {name for name, state in (before if after is None else after).items() if state != "void"}


def test_a_full_disk_at_all_silos_halts_the_run_without_spending_anything(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        write = staticmethod(refuse)

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    monkeypatch.setattr(ledger_file, "os", Full())
    result = study.run(study.engine())
    monkeypatch.undo()
    assert result.status == "halted"
    assert "not written (No space left on device); nothing was recorded" in result.reason
    assert all(row.contributors == () for row in result.rounds)
    for silo in SILOS:
        assert study.parties.ledgers[silo].spent().filter_epsilon == 0
        assert study.reopened(silo) == {}

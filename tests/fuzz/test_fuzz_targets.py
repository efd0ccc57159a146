"""Fuzzing in short: the corpus, seeded mutations, a few thousand coverage-guided executions, and a planted fault found.

The long run is ``python -m tests.fuzz.run TARGET --seconds 1800``.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.errors import PeerFault
from protocols.party import PartyShell
from protocols.server import ServerShell
from tests.fuzz.fuzz_sessions import SessionFuzz
from tests.fuzz.targets import TARGETS, describe, target

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[2]
MUTATIONS = 1500
EXECUTIONS = 2000
"""Coverage-guided, in short."""


def flipped(choice: random.Random) -> object:
    """A plain mutation of bytes, in the place of the fuzzer's."""

    def plain(raw: bytes, size: int) -> bytes:
        changed = bytearray(raw[:size])
        for _ in range(choice.randrange(1, 4)):
            position = choice.randrange(len(changed) + 1)
            what = choice.randrange(3)
            if what == 0 and position < len(changed):
                changed[position] ^= 1 << choice.randrange(8)
            elif what == 1:
                changed[position:position] = choice.randbytes(choice.randrange(1, 9))
            else:
                del changed[position : position + choice.randrange(1, 9)]
        return bytes(changed[:size])

    return plain


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_every_genuine_input_end_in_a_named_error_or_none(name: str) -> None:
    chosen = target(name)
    inputs = [*chosen.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]
    assert len(inputs) > len(chosen.seeds())
    for raw in inputs:
        chosen.run(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_seeded_mutations_end_in_a_named_error_or_none(name: str) -> None:
    chosen, choice = target(name), random.Random(name)
    plain = flipped(choice)
    pool = chosen.seeds()
    for _ in range(MUTATIONS):
        raw = chosen.mutate(choice.choice(pool), 65536, choice.randrange(2**32), plain)
        try:
            chosen.run(raw)
        except Exception as error:
            error.add_note(describe(raw))
            raise
        if choice.random() < 0.2:
            pool.append(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_coverage_guided_run_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is there for Linux alone")
    command = [sys.executable, "-m", "tests.fuzz.run", name, "--runs", str(EXECUTIONS), "--seconds", "60"]
    ended = subprocess.run(
        [*command, "--found", str(tmp_path / "found")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    executed = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
    assert executed is not None
    assert int(executed[1]) >= EXECUTIONS or "Done" in ended.stderr
    assert not list(tmp_path.glob("finding-*"))


def mutated_until_found(chosen: SessionFuzz) -> None:
    choice = random.Random("planted")
    pool = chosen.seeds()
    for _ in range(MUTATIONS):
        chosen.run(chosen.mutate(choice.choice(pool), 65536, choice.randrange(2**32), flipped(choice)))


def test_a_party_that_changes_when_it_refuses_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = PartyShell._read

    def careless(self: PartyShell[object], header: bytes, **arguments: bool) -> object:
        try:
            return genuine(self, header, **arguments)
        except PeerFault:
            self._answered = object()
            raise

    chosen = TARGETS["secagg"]()
    monkeypatch.setattr(PartyShell, "_read", careless)
    with pytest.raises(AssertionError, match="a request was refused, and the session has changed"):
        mutated_until_found(chosen)


def test_a_server_that_fails_otherwise_than_by_name_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(_self: ServerShell, _header: bytes) -> object:
        raise IndexError("list index out of range")

    chosen = TARGETS["secagg"]()
    monkeypatch.setattr(ServerShell, "_receive", careless)
    with pytest.raises(IndexError):
        mutated_until_found(chosen)

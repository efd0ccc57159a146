"""A budget reset by deleting, truncating or restoring the ledger, or by two processes at once: refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.errors import BudgetExceeded, LedgerCorrupt, LedgerRolledBack, PrivacyError
from protocols.primitives.signing import SigningKey
from secfl.privacy import Ledger, Lineage, PrivacyBudget, SampledGaussian

KEY = SigningKey(bytes(range(32)))
LINEAGE = Lineage("north", "records", "a register", 5000)
EVENT = SampledGaussian(0.01, 1.0, 190)
ROOT = Path(__file__).parents[2]
SECOND_PROCESS = """
import sys
from protocols.primitives.signing import SigningKey
from protocols.errors import PrivacyError
from secfl.privacy import Ledger
try:
    Ledger.open(sys.argv[1], SigningKey(bytes(range(32))), timeout=0.2)
except PrivacyError as error:
    print(error)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger that three rounds were charged to."""
    path = tmp_path / "records.ledger"
    with Ledger.create(path, KEY, LINEAGE, PrivacyBudget(3.0, 1e-5), order=8) as ledger:
        for number in range(3):
            charge(ledger, number)
    return path


def charge(ledger: Ledger, number: int) -> None:
    release = ledger.reserve(f"run/{number}/0", EVENT, run="run", round=number, attempt=0)
    ledger.sending(release)
    ledger.commit(release)


def test_deleted_ledger_is_missed_and_not_begun_anew(path: Path) -> None:
    path.unlink()
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path, KEY, timeout=1)
    with pytest.raises(PrivacyError):
        Ledger.create(path, KEY, LINEAGE, PrivacyBudget(3.0, 1e-5), order=8)
    assert not path.exists()


@pytest.mark.parametrize("lines", [1, 4, 7, 9])
def test_truncated_ledger_is_refused(path: Path, lines: int) -> None:
    whole = path.read_bytes().splitlines(keepends=True)
    assert len(whole) == 10
    path.write_bytes(b"".join(whole[:lines]))
    with pytest.raises(LedgerRolledBack):
        Ledger.open(path, KEY, timeout=1)


def test_older_copy_of_the_ledger_is_refused(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    with Ledger.open(path, KEY, timeout=1) as ledger:
        charge(ledger, 3)
    shutil.copy(copy, path)
    with pytest.raises(LedgerRolledBack):
        Ledger.open(path, KEY, timeout=1)


def test_two_processes_do_not_charge_one_ledger_at_once(path: Path) -> None:
    with Ledger.open(path, KEY, timeout=1):
        second = subprocess.run(
            [sys.executable, "-c", SECOND_PROCESS, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
    assert "another process holds the ledger" in second.stdout


def test_budget_that_is_spent_stays_spent_after_any_number_of_restarts(path: Path) -> None:
    for number in range(3, 200):
        with Ledger.open(path, KEY, timeout=1) as ledger:
            try:
                charge(ledger, number)
            except BudgetExceeded:
                break
    else:
        pytest.fail("the budget never ended")
    with Ledger.open(path, KEY, timeout=1) as ledger, pytest.raises(BudgetExceeded):
        charge(ledger, 1000)

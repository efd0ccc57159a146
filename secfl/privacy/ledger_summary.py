"""Reading ledgers without writing them: for people, auditors, reports and the ledgers of later lineages."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import LedgerCorrupt
from secfl.privacy.accounting import Curve
from secfl.privacy.budget import PrivacyBudget
from secfl.privacy.ledger_entries import Head
from secfl.privacy.ledger_file import LedgerPaths, PathLike, read_ledger, read_mark
from secfl.privacy.ledger_replay import Replay
from secfl.privacy.ledger_state import LedgerState, Release, Remaining, Spend

__all__ = ["Inspection", "LedgerSummary", "inspect", "summarise", "verify"]


@dataclass(frozen=True)
class LedgerSummary:
    """What a verified ledger says, for people, reports and the ledgers of later lineages.

    :param head: to be remembered by others, and compared when the ledger is opened again.
    :param spent_curve: Rényi curve of ``spent``, for a successor to inherit.
    :param inherited_curve: what of it earlier lineages spent; zeros for nothing.
    """

    silo: str
    lineage: str
    source: str
    public_key: str
    budget: PrivacyBudget
    total_records: int
    order: int
    head: Head
    spent: Spend
    reserved: Spend
    remaining: Remaining
    releases: tuple[Release, ...]
    successor: str | None
    spent_curve: Curve
    inherited_curve: Curve


@dataclass(frozen=True)
class Inspection:
    """A ledger as far as it verifies (None: not even its first line), and the fault that ended it (None: sound)."""

    summary: LedgerSummary | None
    fault: LedgerCorrupt | None


def verify(
    path: PathLike,
    public_key: bytes,
    *,
    expected_head: Head | None = None,
    mark_path: PathLike | None = None,
    require_mark: bool = True,
) -> LedgerSummary:
    """Verify a ledger without the private key, the lock, or any change to it.

    :param require_mark: False for a copy of the ledger alone, away from its silo.
    :raises LedgerRolledBack: an older copy, or one with another history.
    :raises LedgerCorrupt: any other broken rule; names the line and the rule.
    """
    replay = Replay(str(path), public_key)
    _read(replay, LedgerPaths.at(path, mark_path), expected_head, require_mark)
    return summarise(replay.state, replay.head)


def inspect(
    path: PathLike,
    public_key: bytes,
    *,
    expected_head: Head | None = None,
    mark_path: PathLike | None = None,
    require_mark: bool = True,
) -> Inspection:
    """Show a ledger that may be corrupt: as far as it verifies, and the first fault. Changes nothing.

    :raises OSError: the file cannot be read.
    """
    replay = Replay(str(path), public_key)
    fault = None
    try:
        _read(replay, LedgerPaths.at(path, mark_path), expected_head, require_mark)
    except LedgerCorrupt as error:
        fault = error
    return Inspection(summarise(replay.state, replay.head) if replay.size else None, fault)


def _read(replay: Replay, paths: LedgerPaths, expected_head: Head | None, require_mark: bool) -> None:
    # Mark before ledger: a writer beside us can then only make the ledger longer than the mark says.
    mark = read_mark(paths.mark) if require_mark else None
    replay.read(read_ledger(paths))
    if require_mark:
        replay.require_mark(mark, writer=False)
    if expected_head is not None:
        replay.require_head(expected_head)


def summarise(state: LedgerState, head: Head) -> LedgerSummary:
    """What a verified state says."""
    genesis = state.genesis
    return LedgerSummary(
        silo=genesis.silo,
        lineage=genesis.lineage,
        source=genesis.source,
        public_key=genesis.public_key,
        budget=genesis.budget,
        total_records=genesis.total_records,
        order=genesis.order,
        head=head,
        spent=state.spent(),
        reserved=state.reserved(),
        remaining=state.remaining(),
        releases=tuple(state.releases()),
        successor=state.successor,
        spent_curve=state.spent_curve(),
        inherited_curve=state.inherited,
    )

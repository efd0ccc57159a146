"""A silo's ledger as another party holds it: the bytes that the silo sent, verified under its public key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from secfl.files import write_whole
from secfl.privacy.accounting import steps_left
from secfl.privacy.ledger_entries import Head
from secfl.privacy.ledger_replay import Replay
from secfl.privacy.ledger_state import LedgerState, Release, Spend
from secfl.privacy.ledger_summary import LedgerSummary, summarise

__all__ = ["LedgerCopy"]


class LedgerCopy:
    """The last copy that verified. It may be behind the ledger itself, which alone decides what a silo may still spend.

    :param path: where the copy is kept.
    :param public_key: the silo's, of the roster.
    :param raw: the ledger.
    :raises LedgerCorrupt: see :meth:`update`.
    """

    def __init__(self, path: Path, public_key: bytes, raw: bytes) -> None:
        self._path = path
        self._public_key = public_key
        self._replay = self._verified(raw)

    def update(self, raw: bytes) -> None:
        """Take a newer copy.

        :raises LedgerRolledBack: it is older than the one before, or has another history.
        :raises LedgerCorrupt: any other broken rule.
        :raises OSError: the disk refused.
        """
        self._replay = self._verified(raw, self._replay.head)

    @property
    def state(self) -> LedgerState:
        """See `secfl.privacy.ledger.Ledger.state`."""
        return self._replay.state

    @property
    def head(self) -> Head:
        """See `secfl.privacy.ledger.Ledger.head`."""
        return self._replay.head

    def summary(self) -> LedgerSummary:
        """See `secfl.privacy.ledger.Ledger.summary`."""
        return summarise(self._replay.state, self._replay.head)

    def spent(self) -> Spend:
        """See `secfl.privacy.ledger.Ledger.spent`."""
        return self._replay.state.spent()

    def releases(self) -> Iterator[Release]:
        """See `secfl.privacy.ledger.Ledger.releases`."""
        return iter(self._replay.state.releases())

    def steps_left(self, sampling_rate: float, noise_multiplier: float) -> int:
        """See `secfl.privacy.ledger.Ledger.steps_left`."""
        return steps_left(
            self._replay.state.filter, self._replay.state.charged_curves(), sampling_rate, noise_multiplier
        )

    def _verified(self, raw: bytes, before: Head | None = None) -> Replay:
        replay = Replay(str(self._path), self._public_key)
        replay.read(raw)
        if before is not None:
            replay.require_head(before)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, raw)
        return replay

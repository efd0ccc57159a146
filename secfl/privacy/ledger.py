"""The privacy ledger: what one silo has spent on one lineage of records, append-only, chained, signed, locked.

Life of a release: ``reserve`` (durable) -> train -> ``sending`` (durable) -> send -> ``commit``. Killed before
``sending``, it becomes ``void`` when the ledger is next opened: nothing left the silo, and nothing of that training may
survive. Killed after it, it is spent. The rules have numbers (LG-1 ...), listed in docs/reference/ledger-rules.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from filelock import BaseFileLock

from protocols.errors import LedgerCorrupt, PrivacyError
from protocols.primitives.signing import SigningKey
from secfl.privacy.accounting import ORDERS_VERSION, rdp_curve, steps_left
from secfl.privacy.budget import PrivacyBudget
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.ledger_entries import (
    FORMAT,
    NO_PREVIOUS,
    AnyEntry,
    Commit,
    Genesis,
    Head,
    Parent,
    Reserve,
    Sending,
    Successor,
    Void,
    encode_line,
    line_hash,
)
from secfl.privacy.ledger_file import (
    LedgerFile,
    LedgerPaths,
    PathLike,
    lock_ledger,
    read_ledger,
    read_mark,
    write_mark,
    write_whole,
)
from secfl.privacy.ledger_replay import Replay, require_line
from secfl.privacy.ledger_state import LedgerState, Release, ReleaseState, Remaining, Reservation, Spend
from secfl.privacy.ledger_summary import Inspection, LedgerSummary, inspect, summarise, verify

__all__ = [
    "Head",
    "Inspection",
    "Ledger",
    "LedgerSummary",
    "Lineage",
    "Release",
    "ReleaseState",
    "Remaining",
    "Reservation",
    "Spend",
    "inspect",
    "verify",
]

LOCK_TIMEOUT_SECONDS = 10.0
_INTERRUPTED = "interrupted before sending"

Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Lineage:
    """Which records a ledger stands for, as the silo declares it.

    :param silo: the silo's name.
    :param name: of the lineage: these records and every later version of them.
    :param source: where they come from, in words.
    :param total_records: public total number of units of privacy; delta is measured against it.
    :param fingerprint: note on the local data that notices changes; it proves nothing.
    :param parents: summaries of the lineages that these records overlap with; each must name this one its successor.
    """

    silo: str
    name: str
    source: str
    total_records: int
    fingerprint: str = ""
    parents: tuple[LedgerSummary, ...] = ()


class Ledger:
    """A ledger open for writing, under an exclusive lock; a context manager.

    Made by ``create`` or ``open``. Safe to use from several threads, not from a forked process.
    """

    def __init__(
        self, file: LedgerFile, lock: BaseFileLock, replay: Replay, signing_key: SigningKey, clock: Clock
    ) -> None:
        self._file = file
        self._lock = lock
        self._state = replay.state
        self._head = replay.head
        self._hashes = list(replay.hashes)
        self._signing_key = signing_key
        self._clock = clock
        self._process = os.getpid()
        self._name = replay.name
        self._closed = False
        self._appending = threading.RLock()

    @classmethod
    def create(
        cls,
        path: PathLike,
        signing_key: SigningKey,
        lineage: Lineage,
        budget: PrivacyBudget,
        *,
        order: int,
        mark_path: PathLike | None = None,
        timeout: float = LOCK_TIMEOUT_SECONDS,
        clock: Clock = _utc_now,
    ) -> Ledger:
        """Begin the ledger of a lineage.

        :param order: the filter's order for the whole life (``accounting.choose_order``), from public parameters.
        :param mark_path: where the high-water mark goes; beside the ledger by default.
        :raises PrivacyError: a ledger or its mark exists (LG-23), delta, order or a parent is refused (LG-9, LG-16), or
            the lock is held (LG-24).
        """
        genesis = _genesis(signing_key.public, lineage, budget, order)
        LedgerState(genesis)
        paths = LedgerPaths.at(path, mark_path)
        lock = lock_ledger(paths, timeout)
        try:
            _require_vacant(paths)
            line = encode_line(signing_key, 0, NO_PREVIOUS, clock(), genesis)
            # Mark first: a ledger without a mark is refused, a mark at the first line without a ledger is an
            # interrupted creation, after which nothing was reserved.
            write_mark(paths.mark, Head(0, line_hash(line)))
            write_whole(paths.ledger, line)
        finally:
            lock.release()
        return cls.open(path, signing_key, mark_path=mark_path, timeout=timeout, clock=clock)

    @classmethod
    def open(
        cls,
        path: PathLike,
        signing_key: SigningKey,
        *,
        expected_head: Head | None = None,
        drop_torn_tail: bool = False,
        mark_path: PathLike | None = None,
        timeout: float = LOCK_TIMEOUT_SECONDS,
        clock: Clock = _utc_now,
    ) -> Ledger:
        """Open a ledger for writing: verify every line, void what was interrupted before sending.

        :param expected_head: what someone else (the server) remembers of this ledger.
        :param drop_torn_tail: a person's decision to remove an append that never completed.
        :param timeout: seconds to wait for the lock.
        :raises LedgerRolledBack: an older copy, or one with another history (LG-17, LG-18, LG-21).
        :raises LedgerCorrupt: any other broken rule; names the line and the rule.
        :raises PrivacyError: the lock is held (LG-24) or the disk refuses a line (LG-25).
        """
        paths = LedgerPaths.at(path, mark_path)
        lock = lock_ledger(paths, timeout)
        try:
            mark = read_mark(paths.mark)
            raw = read_ledger(paths)
            replay = Replay(str(paths.ledger), signing_key.public)
            replay.read(raw, drop_torn_tail=drop_torn_tail)
            replay.require_mark(mark, writer=True)
            if expected_head is not None:
                replay.require_head(expected_head)
            file = LedgerFile(paths, len(raw))
        except BaseException:
            lock.release()
            raise
        ledger = cls(file, lock, replay, signing_key, clock)
        try:
            if replay.size != len(raw):
                file.truncate(replay.size)
            if mark != replay.head:
                write_mark(paths.mark, replay.head)
            for reservation in replay.state.reservations(ReleaseState.RESERVED):
                ledger._append(Void(reservation.release_id, _INTERRUPTED))
        except BaseException:
            ledger.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release the lock. What is still reserved becomes void when the ledger is next opened."""
        if not self._closed:
            self._closed = True
            self._file.close()
            self._lock.release()

    def reserve(
        self,
        release_id: str,
        event: AnyPrivacyEvent,
        *,
        run: str,
        round: int,  # noqa: A002  the field's name
        attempt: int,
    ) -> Reservation:
        """Charge a release before its training begins. When this returns, the charge is durable.

        :param release_id: new in this ledger; a retried round is a new release.
        :param event: what the release will have revealed, all of its steps.
        :raises BudgetExceeded: it does not fit; nothing is written.
        :raises PrivacyError: the id was used (LG-11), or the disk refused (LG-25); nothing is recorded.
        """
        curve = tuple(rdp_curve(event).tolist())
        self._append(Reserve(release_id, run, round, attempt, event, curve))
        return Reservation(release_id, run, round, attempt, event)

    def sending(self, reservation: Reservation) -> None:
        """Record that the release is about to leave. Only when this has returned may its first byte be sent.

        :raises PrivacyError: it is not reserved here (LG-14), or the disk refused (LG-25).
        """
        self._step(Sending(reservation.release_id), reservation)

    def commit(self, reservation: Reservation) -> None:
        """Record that the release was received.

        :raises PrivacyError: it is not being sent (LG-14), or the disk refused (LG-25).
        """
        self._step(Commit(reservation.release_id), reservation)

    def void(self, reservation: Reservation, reason: str = "given up before sending") -> None:
        """Give a reservation back: nothing of it left the silo, and nothing of its training may survive.

        :raises PrivacyError: it is not reserved here, for instance already sent (LG-14), or the disk refused (LG-25).
        """
        self._step(Void(reservation.release_id, reason), reservation)

    def hand_over(self, successor: str) -> LedgerSummary:
        """End this lineage in favour of the next version of its records, which inherits all spend.

        :param successor: name of the next lineage; no other can inherit from this ledger.
        :returns: the summary that goes into ``Lineage.parents``.
        :raises PrivacyError: a release is still reserved, or the lineage has ended (LG-15).
        """
        self._append(Successor(successor))
        return self.summary()

    @property
    def head(self) -> Head:
        """The last line, for the server to countersign."""
        return self._head

    def require_head(self, expected: Head) -> None:
        """Compare with a head that others remember.

        :raises LedgerRolledBack: this ledger is older, or has another line there (LG-21).
        """
        require_line(self._hashes, expected, "LG-21", "LG-21", self._name, "the expected head")

    def spent(self) -> Spend:
        """Inherited spend, committed releases, and those that may have left the silo."""
        return self._state.spent()

    def reserved(self) -> Spend:
        """Releases admitted but neither sent nor void, by themselves."""
        return self._state.reserved()

    def remaining(self) -> Remaining:
        """What the budget still allows, with all that is reserved taken as spent."""
        return self._state.remaining()

    def steps_left(self, sampling_rate: float, noise_multiplier: float) -> int:
        """Number of further sampled Gaussian steps that the filter admits."""
        return steps_left(self._state.filter, self._state.charged_curves(), sampling_rate, noise_multiplier)

    def releases(self) -> Iterator[Release]:
        """All releases in the order of their reservation."""
        return self._state.releases()

    def unconfirmed(self) -> tuple[Reservation, ...]:
        """Releases that may have left the silo and were never committed: spent; ``commit`` them if they arrived."""
        return self._state.reservations(ReleaseState.SENDING)

    @property
    def state(self) -> LedgerState:
        """What its lines add up to; for reading."""
        return self._state

    def summary(self) -> LedgerSummary:
        """What this ledger says now."""
        return summarise(self._state, self._head)

    def _step(self, entry: Sending | Commit | Void, reservation: Reservation) -> None:
        found = self._state.find(reservation.release_id)
        if found is not None and found.reservation != reservation:
            raise PrivacyError(f"[LG-14] release {reservation.release_id!r} is another one in this ledger")
        self._append(entry)

    def _append(self, entry: AnyEntry) -> None:
        with self._appending:
            if self._closed:
                raise PrivacyError("the ledger is closed")
            if os.getpid() != self._process:
                raise PrivacyError("[LG-24] the ledger was opened by another process; open it in this one")
            self._state.check(entry)
            sequence = self._head.sequence + 1
            time = self._clock()
            line = encode_line(self._signing_key, sequence, self._head.hash, time, entry)
            head = Head(sequence, line_hash(line))
            self._file.append(line, head)
            self._state.apply(entry, time.isoformat(timespec="milliseconds"))
            self._head = head
            self._hashes.append(head.hash)


def _genesis(public_key: bytes, lineage: Lineage, budget: PrivacyBudget, order: int) -> Genesis:
    for parent in lineage.parents:
        if parent.successor != lineage.name:
            raise PrivacyError(
                f"[LG-16] parent {parent.lineage!r} names {parent.successor!r} its successor, not {lineage.name!r}; "
                "hand it over first"
            )
        if parent.budget.unit != budget.unit:
            raise PrivacyError(f"[LG-16] parent {parent.lineage!r}: unit {parent.budget.unit}, not {budget.unit}")
    return Genesis(
        format=FORMAT,
        silo=lineage.silo,
        public_key=public_key.hex(),
        lineage=lineage.name,
        source=lineage.source,
        fingerprint=lineage.fingerprint,
        total_records=lineage.total_records,
        parents=tuple(Parent(one.lineage, one.head, tuple(one.spent_curve.tolist())) for one in lineage.parents),
        budget=budget,
        order=order,
        orders_version=ORDERS_VERSION,
    )


def _require_vacant(paths: LedgerPaths) -> None:
    if paths.ledger.exists():
        raise PrivacyError(f"[LG-23] {paths.ledger}: a ledger exists; open it, or hand it over to a new lineage")
    mark = read_mark(paths.mark)
    if mark is not None and mark.sequence > 0:
        raise LedgerCorrupt(
            f"[LG-23] {paths.mark}: remembers a ledger of {mark.sequence + 1} lines at {paths.ledger}; restore it"
        )

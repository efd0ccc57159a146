"""What a ledger says: the life of each release and the spend, entry by entry. Pure: no files, no keys, no clock.

The writer checks an entry here before it writes it; the reader applies the same rules to what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, unique

import numpy as np

from protocols.errors import PrivacyError
from secfl.privacy.accounting import ORDERS, ORDERS_VERSION, Curve, RdpFilter, compose, epsilon, rdp_curve
from secfl.privacy.budget import check_delta
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.ledger_entries import (
    FORMAT,
    AnyEntry,
    Commit,
    Genesis,
    Reserve,
    Sending,
    Successor,
    Void,
)

__all__ = ["LedgerState", "Release", "ReleaseState", "Remaining", "Reservation", "Spend"]

# Another processor's logarithms differ in the last digits; an edited curve differs by more.
_CURVE_TOLERANCE = 1e-9


@unique
class ReleaseState(Enum):
    """Where a release stands. All but ``VOID`` are charged."""

    RESERVED = "reserved"
    SENDING = "sending"
    COMMITTED = "committed"
    VOID = "void"


@dataclass(frozen=True)
class Reservation:
    """A release that the budget has admitted."""

    release_id: str
    run: str
    round: int
    attempt: int
    event: AnyPrivacyEvent


@dataclass(frozen=True)
class Release:
    """One release as the report shows it: what was reserved, when (UTC), and where it stands now."""

    reservation: Reservation
    curve: Curve
    state: ReleaseState
    reserved_at: str
    changed_at: str


@dataclass(frozen=True)
class Spend:
    """Epsilon of a set of releases at the budget's delta.

    :param filter_epsilon: at the filter's fixed order: valid whatever was chosen after looking.
    :param rdp_epsilon: at the best order: valid only for a plan fixed before its first release.
    :param rdp_order: that order.
    """

    filter_epsilon: float
    rdp_epsilon: float
    rdp_order: int


@dataclass(frozen=True)
class Remaining:
    """Budget less spent and reserved: by the filter (what ``reserve`` goes by) and at the best order; 0 or more."""

    filter_epsilon: float
    rdp_epsilon: float


_CHARGED = (ReleaseState.RESERVED, ReleaseState.SENDING, ReleaseState.COMMITTED)
_SPENT = (ReleaseState.SENDING, ReleaseState.COMMITTED)
_LIFE: dict[type[Sending | Commit | Void], tuple[ReleaseState, ReleaseState]] = {
    Sending: (ReleaseState.RESERVED, ReleaseState.SENDING),
    Commit: (ReleaseState.SENDING, ReleaseState.COMMITTED),
    Void: (ReleaseState.RESERVED, ReleaseState.VOID),
}


class LedgerState:
    """The sum of a ledger's entries.

    :param genesis: first entry.
    :raises PrivacyError: the genesis breaks LG-9 or LG-16.
    """

    def __init__(self, genesis: Genesis) -> None:
        _check_genesis(genesis)
        self.genesis = genesis
        self.filter = RdpFilter(genesis.order, genesis.budget.epsilon, genesis.budget.delta)
        self.inherited = compose(np.array(parent.curve) for parent in genesis.parents)
        self.successor: str | None = None
        self._releases: dict[str, Release] = {}

    def releases(self) -> Iterator[Release]:
        """All releases in the order of their reservation."""
        return iter(tuple(self._releases.values()))

    def check(self, entry: AnyEntry) -> None:
        """Refuse an entry that may not follow.

        :raises PrivacyError: names the rule and the release.
        :raises BudgetExceeded: a reservation that does not fit (LG-13).
        """
        if self.successor is not None:
            raise PrivacyError(f"[LG-15] the lineage has ended; its successor is {self.successor!r}")
        if isinstance(entry, Genesis):
            raise PrivacyError("[LG-8] a second genesis; allowed: one, on the first line")
        if isinstance(entry, Reserve):
            self._check_reserve(entry)
        elif isinstance(entry, Successor):
            self._check_successor(entry)
        else:
            self._check_step(entry)

    def apply(self, entry: AnyEntry, time: str) -> None:
        """Check an entry and add it.

        :param time: the line's time stamp.
        :raises PrivacyError: as ``check``; the state is then unchanged.
        """
        self.check(entry)
        if isinstance(entry, Reserve):
            reservation = Reservation(entry.release, entry.run, entry.round, entry.attempt, entry.event)
            curve = np.array(entry.curve)
            curve.flags.writeable = False
            self._releases[entry.release] = Release(reservation, curve, ReleaseState.RESERVED, time, time)
        elif isinstance(entry, Successor):
            self.successor = entry.lineage
        elif isinstance(entry, Sending | Commit | Void):
            after = _LIFE[type(entry)][1]
            self._releases[entry.release] = replace(self._releases[entry.release], state=after, changed_at=time)

    def reservations(self, state: ReleaseState) -> tuple[Reservation, ...]:
        """Reservations that stand in one state, in their order."""
        return tuple(release.reservation for release in self._releases.values() if release.state is state)

    def find(self, release_id: str) -> Release | None:
        """One release, or None."""
        return self._releases.get(release_id)

    def spent_curve(self) -> Curve:
        """Sum of the curves of what was inherited, committed, or may have left the silo."""
        return compose([self.inherited, *self._curves(_SPENT)])

    def spent(self) -> Spend:
        """Inherited spend, committed releases, and those that may have left the silo."""
        return self._spend(self.spent_curve())

    def reserved(self) -> Spend:
        """Releases admitted but not yet sent or void, by themselves."""
        return self._spend(compose(self._curves((ReleaseState.RESERVED,))))

    def remaining(self) -> Remaining:
        """What the budget still allows, with all that is reserved taken as spent."""
        charged = self._spend(compose(self.charged_curves()))
        budget = self.genesis.budget.epsilon
        return Remaining(max(0.0, budget - charged.filter_epsilon), max(0.0, budget - charged.rdp_epsilon))

    def charged_curves(self) -> list[Curve]:
        """Curves that count against the budget: inherited, reserved, sending and committed."""
        return [self.inherited, *self._curves(_CHARGED)]

    def _curves(self, states: tuple[ReleaseState, ...]) -> list[Curve]:
        return [release.curve for release in self._releases.values() if release.state in states]

    def _spend(self, curve: Curve) -> Spend:
        best, order = epsilon(curve, self.genesis.budget.delta)
        return Spend(self.filter.epsilon_of(curve), best, order)

    def _check_reserve(self, entry: Reserve) -> None:
        if entry.release in self._releases:
            raise PrivacyError(f"[LG-11] release {entry.release!r} was reserved before")
        expected = rdp_curve(entry.event)
        found = np.array(entry.curve)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=_CURVE_TOLERANCE, atol=0.0):
            raise PrivacyError(f"[LG-12] release {entry.release!r}: the curve is not that of its event")
        self.filter.check(self.charged_curves(), found)

    def _check_successor(self, entry: Successor) -> None:
        unsettled = self.reservations(ReleaseState.RESERVED)
        if unsettled:
            raise PrivacyError(f"[LG-15] release {unsettled[0].release_id!r} is reserved: void or send it first")
        if entry.lineage == self.genesis.lineage:
            raise PrivacyError(f"[LG-15] lineage {entry.lineage!r} cannot succeed itself")

    def _check_step(self, entry: Sending | Commit | Void) -> None:
        release = self._releases.get(entry.release)
        if release is None:
            raise PrivacyError(f"[LG-14] release {entry.release!r} was never reserved")
        before, after = _LIFE[type(entry)]
        if release.state is not before:
            raise PrivacyError(
                f"[LG-14] release {entry.release!r} is {release.state.value}; "
                f"only a {before.value} one can become {after.value}"
            )


def _check_genesis(genesis: Genesis) -> None:
    if genesis.format != FORMAT:
        raise PrivacyError(f"[LG-9] format {genesis.format}; allowed: {FORMAT}")
    if genesis.orders_version != ORDERS_VERSION:
        raise PrivacyError(f"[LG-9] orders version {genesis.orders_version}; allowed: {ORDERS_VERSION}")
    try:
        check_delta(genesis.budget.delta, genesis.total_records)
        RdpFilter(genesis.order, genesis.budget.epsilon, genesis.budget.delta)
    except PrivacyError as error:
        raise PrivacyError(f"[LG-9] {error}") from None
    names = [parent.lineage for parent in genesis.parents]
    if len(set(names)) != len(names) or genesis.lineage in names:
        raise PrivacyError(f"[LG-16] parents {names!r} of lineage {genesis.lineage!r}: each once, and not itself")
    for parent in genesis.parents:
        if len(parent.curve) != len(ORDERS):
            raise PrivacyError(f"[LG-16] parent {parent.lineage!r}: {len(parent.curve)} orders; allowed: {len(ORDERS)}")

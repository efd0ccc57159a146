"""What secfl must know about a protocol to offer it: who plays which role, which numbers fit, what it promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from protocols.errors import PolicyRefused
from protocols.identity import Identity, Role, Roster
from protocols.organisation import Organisation, ProtocolPackage
from protocols.session import ClientPolicy, SessionParameters, default_collusion_bound
from protocols.shape import Entropy, MessageLimits, OnceStore, ServerSession
from protocols.wire import HEADER_LIMIT
from protocols.workers import SERIAL, Workers

__all__ = ["Cast", "Entry", "Figures"]


@dataclass(frozen=True)
class Cast:
    """Who plays which role, by name.

    :param clients: whose updates are summed.
    :param committee: who opens the sum of the keys; empty without a committee.
    :param key_holder: who holds the one secret key; empty without one.
    """

    clients: tuple[str, ...]
    committee: tuple[str, ...] = ()
    key_holder: str = ""

    def holders(self, role: Role) -> tuple[str, ...]:
        """Names of those who play a role."""
        others = {Role.CLIENT: self.clients, Role.COMMITTEE: self.committee}
        return others.get(role, (self.key_holder,) if self.key_holder else ())

    def roles(self, party: str) -> frozenset[Role]:
        """Roles of one of them."""
        return frozenset(role for role in Role if party in self.holders(role))

    @property
    def offices(self) -> tuple[str, ...]:
        """Those who contribute no update."""
        others = dict.fromkeys((*self.committee, self.key_holder))
        return tuple(party for party in others if party and party not in self.clients)


@dataclass(frozen=True)
class Figures:
    """The numbers of a run's sessions, for its report."""

    cast: Cast
    cohort: int
    collusion_bound: int
    threshold: int
    minimum_contributors: int


class Entry(ABC):
    """A protocol on offer."""

    package: ClassVar[ProtocolPackage]
    suite: ClassVar[str]
    """Its primitives, for people."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Keys of ``[aggregation]`` that only this protocol has."""

    @property
    def name(self) -> str:
        """The word that chooses it."""
        return self.package.PROTOCOL

    @property
    def phases(self) -> Mapping[str, Role]:
        """Its phases in order, each with the role that is asked."""
        return self.package.PHASE_ROLES

    # -- numbers -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def cast(self, silos: Iterable[str], committee: Iterable[str] | None = None, key_holder: str | None = None) -> Cast:
        """Who plays which role.

        :param committee: None for the protocol's default.
        """

    def roles(self, identity: Identity, _roster: Roster, cohort: Collection[str]) -> frozenset[Role]:
        """What a party does in sessions of a cohort, by the roster and the keys that it holds."""
        return frozenset({Role.CLIENT} if identity.id in cohort else ())

    def equipped(self, identity: Identity, _roles: Collection[Role], _entropy: Entropy) -> Identity:
        """An identity with fresh keys for its roles where it has none: for simulations."""
        return identity

    def public_context(self, _identities: Iterable[Identity]) -> bytes:
        """What of these parties' public keys does not fit a roster, and goes to `parameters`; empty for nothing.

        :raises UsageError: it is needed, and none of them has it.
        """
        return b""

    def highest_collusion_bound(self, cohort: int, _cast: Cast) -> int:
        """Most parties in league with the server that any session can take."""
        return cohort - 2

    def collusion_bound(self, cohort: int, cast: Cast) -> int:
        """Parties assumed to be in league with the server unless the caller says otherwise: a third, if that fits."""
        return max(0, min(default_collusion_bound(cohort), self.highest_collusion_bound(cohort, cast)))

    def least_contributors(self, cohort: int, collusion_bound: int) -> int:
        """Fewest parties in a sum unless the caller says otherwise: two honest ones, and three where there are."""
        return max(collusion_bound + 2, min(3, cohort))

    def session_options(self) -> dict[str, Any]:
        """What its sessions are given beyond what those of every protocol are."""
        return {}

    @abstractmethod
    def thresholds(self, cohort: int, cast: Cast, collusion_bound: int) -> tuple[int, int]:
        """Lowest threshold, which is the default, and highest; none fits if the lowest is above the highest."""

    # -- sessions ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def parameters(
        self, roster: Roster, cohort: Iterable[str], *, value_bound: int, **agreed: Any
    ) -> SessionParameters:
        """Parameters of a session.

        :param value_bound: largest magnitude of an entry of any party's vector, its weight included.
        :param public_context: see :meth:`public_context`.
        :raises UsageError: values that no session may have.
        """

    def value_bound(self, _parameters: SessionParameters) -> int | None:
        """Bound under which a session reads vectors; None where the modulus alone bounds them."""
        return None

    def check_bound(self, proposed: SessionParameters, value_bound: int) -> None:
        """Refuse a session that reads vectors under another bound than this party's encoding has.

        :raises PolicyRefused: naming the parameter.
        """
        bound = self.value_bound(proposed)
        if bound not in (None, value_bound):
            raise PolicyRefused("value bound", bound, f"{value_bound}, as the encoding has it")

    def server(self, parameters: SessionParameters, roster: Roster, *, workers: Workers = SERIAL) -> ServerSession:
        """The server's side of a session."""
        session: ServerSession = self.package.server(parameters, roster, workers=workers)
        return session

    def organisation(
        self,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        roles: Iterable[Role],
        entropy: Entropy,
        store: OnceStore,
        workers: Workers = SERIAL,
    ) -> Organisation:
        """A party's side of a session, in its roles."""
        options: dict[str, Any] = {"entropy": entropy, "store": store, "workers": workers}
        return Organisation(self.package, identity, roster, policy, roles=frozenset(roles), **options)

    def request_limits(self, _cohort: int, _vector_length: int) -> MessageLimits:
        """What a request to a party may hold at most, whatever it is asked as."""
        return MessageLimits(HEADER_LIMIT)

    # -- words ---------------------------------------------------------------------------------------------------------

    @property
    def statistical_failure(self) -> float:
        """Probability, one sum, that a single vector lies bare whatever is computed; it is charged to delta."""
        return 0.0

    @abstractmethod
    def describe(self, figures: Figures) -> dict[str, str | int | float]:
        """What is peculiar to it, for a report."""

    @abstractmethod
    def promises(self, figures: Figures) -> tuple[str, ...]:
        """Who learns what of single updates, and on what that rests: one sentence or two for each, nothing beyond."""

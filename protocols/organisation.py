"""One organisation in one session, in all of its roles: the kind of a request says which of them is asked.

The rules of this module are OG-1 and OG-2 in docs/reference/rules.md; all others are those of the sessions behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol, Self

import msgspec

from protocols import wire
from protocols.errors import FaultReason, PeerFault, ServerFault
from protocols.identity import Identity, Role, Roster
from protocols.session import ClientPolicy
from protocols.shape import Chunk, Entropy, Need, OnceStore, PartySession, Reply, Spool, VectorSource
from protocols.signed import MemorySpool
from protocols.workers import SERIAL, Workers

__all__ = ["Organisation", "ProtocolPackage"]


class ProtocolPackage(Protocol):
    """What a protocol's package offers to whoever does not care which protocol it is."""

    PROTOCOL: str
    """Its name in parameters and messages."""
    PHASE_ROLES: Mapping[str, Role]
    """Its phases in order, each with the role that is asked in it."""
    REQUEST_ROLES: Mapping[str, Role]
    """The kinds of its requests, each with the role that answers it."""

    @property
    def party(self) -> Callable[..., Any]:
        """``party(role, identity, roster, policy, *, entropy, store, spool, workers)``: a `PartyShell`."""

    @property
    def parameters(self) -> Callable[..., Any]:
        """``parameters(roster, cohort, *, ...)``: the `SessionParameters` of a session."""

    @property
    def server(self) -> Callable[..., Any]:
        """``server(parameters, roster, *, spool, workers)``: a `protocols.shape.ServerSession`."""

    @property
    def restore_server(self) -> Callable[..., Any]:
        """``restore_server(blob, roster, *, spool, workers)``: a saved one."""


class Organisation(PartySession):
    """One organisation's sessions of one SessionId: one for each role that it is asked in, made when first asked.

    All of them share identity, policy and once-only store.

    :param protocol: package of the protocol.
    :param roles: what this organisation does; all roles of the protocol by default.
    :param entropy: source of random bytes; ``os.urandom`` outside tests.
    :param store: durable once-only record.
    :param spool: factory of the buffer in which a vector reply waits to be sent.
    :param workers: where independent pieces of the vector are worked on.
    """

    def __init__(  # noqa: PLR0913  everything outside pure computation is passed in
        self,
        protocol: ProtocolPackage,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        entropy: Entropy,
        store: OnceStore,
        roles: Collection[Role] | None = None,
        spool: Callable[[], Spool] = MemorySpool,
        workers: Workers = SERIAL,
    ) -> None:
        self.identity = identity
        self.roles = frozenset(protocol.REQUEST_ROLES.values() if roles is None else roles)
        self.sessions: dict[Role, PartySession] = {}
        """By role; those that were asked for so far."""
        self._protocol = protocol
        self._common = (identity, roster, policy)
        self._options = {"entropy": entropy, "store": store, "spool": spool, "workers": workers}

    def session(self, role: Role) -> PartySession:
        """The session in one of its roles.

        :raises UsageError: the protocol has no such role, or the identity lacks the key for it.
        """
        if role not in self.sessions:
            self.sessions[role] = self._protocol.party(role, *self._common, **self._options)
        return self.sessions[role]

    def inspect(self, header: bytes) -> Need:
        """See `PartySession.inspect`."""
        return self._asked(header).inspect(header)

    def handle(self, header: bytes, chunks: Iterable[Chunk] = (), *, vector: VectorSource | None = None) -> Reply:
        """See `PartySession.handle`."""
        return self._asked(header).handle(header, chunks, vector=vector)

    def save(self, key: bytes) -> bytes:
        """See `PartySession.save`; the session of each role is sealed by itself."""
        saved = [(role, session.save(key)) for role, session in sorted(self.sessions.items())]
        return msgspec.msgpack.encode(_Saved(tuple(saved)))

    @classmethod
    def restore(
        cls,
        blob: bytes,
        key: bytes,
        protocol: ProtocolPackage,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        **options: Any,
    ) -> Self:
        """Continue what was saved. Whoever removes a session from the blob makes it begin again, which the once-only
        store refuses where it has answered.

        :raises PeerFault: BAD_CIPHERTEXT or MALFORMED, see `protocols.party.PartyShell.restore`.
        :raises PolicyRefused: roster or policy have changed, and refuse the session now.
        """
        organisation = cls(protocol, identity, roster, policy, **options)
        for role, saved in wire.decode_saved(blob, _Saved).sessions:
            kind: Any = type(organisation.session(role))
            session = kind.restore(saved, key, *organisation._common, **organisation._options)
            organisation.sessions[role] = session
        return organisation

    def __repr__(self) -> str:
        return f"Organisation({self.identity.id!r}, {', '.join(sorted(self.roles))})"

    def _asked(self, header: bytes) -> PartySession:
        try:
            protocol, kind = wire.peek_kind(header)
        except PeerFault as fault:
            raise ServerFault(fault.reason, fault.detail, rule="OG-1") from None
        role = self._protocol.REQUEST_ROLES.get(kind) if protocol == self._protocol.PROTOCOL else None
        if role is None:
            raise ServerFault(FaultReason.MALFORMED, f"no request of {self._protocol.PROTOCOL}", rule="OG-1")
        if role not in self.roles:
            detail = f"{self.identity.id!r} is asked as {role.value}, which it is not"
            raise ServerFault(FaultReason.UNKNOWN_PARTY, detail, rule="OG-2")
        return self.session(role)


class _Saved(msgspec.Struct, frozen=True):
    """The saved sessions by role."""

    sessions: tuple[tuple[Role, bytes], ...]

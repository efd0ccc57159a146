"""An organisation without records in a run: on the committee, or the key holder. It never trains and has no ledger."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from protocols.errors import ProtocolError
from protocols.identity import Identity, Role, Roster
from protocols.organisation import Organisation
from protocols.session import ClientPolicy
from protocols.shape import Chunk, Entropy, OnceStore, Reply
from secfl.open_sessions import OpenSessions
from secfl.registry import offered

__all__ = ["Office"]


class Office:
    """A party that opens sums and contributes none; see `secfl.engines.base.Party`.

    :param protocol: name of the protocol.
    :param roles: what it does in each session; never that of a client.
    :param policy: its own floors.
    :param store: once-only record; a path of its own, never inside a saved session.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        protocol: str,
        roles: Collection[Role],
        store: OnceStore,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.identity = identity
        self._roster = roster
        self._policy = policy
        self._protocol = offered(protocol)
        self._roles = frozenset(roles) - {Role.CLIENT}
        self._store = store
        self._entropy = entropy
        self._open: OpenSessions[Organisation] = OpenSessions()

    def answer(self, header: bytes, chunks: Iterable[Chunk], _context: bytes) -> Reply:
        """Answer a request; see `secfl.engines.base.Party`. The model does not matter here.

        :raises ProtocolError: the disk refused; nothing was sent.
        """
        session = self._open.of(header) or self._protocol.organisation(
            self.identity, self._roster, self._policy, roles=self._roles, entropy=self._entropy, store=self._store
        )
        try:
            reply = session.handle(header, chunks)
        except OSError as error:
            raise ProtocolError(f"the disk of {self.identity.id!r} refused: {error.strerror}") from error
        self._open.keep(header, session)
        return reply

    def delivered(self, reply: Reply) -> None:
        """See `secfl.engines.base.Party`; nothing is to be remembered."""

    def __repr__(self) -> str:
        return f"Office({self.identity.id!r})"

"""The sessions that a party keeps at a time, whatever it keeps for each."""

from __future__ import annotations

from typing import Generic, TypeVar

from protocols.session import SessionId
from protocols.wire import peek_session_id

__all__ = ["OPEN_SESSIONS", "OpenSessions"]

OPEN_SESSIONS = 2
"""By default: the next round's announcement may come while the last one is being opened."""

S = TypeVar("S")


class OpenSessions(Generic[S]):
    """What a party keeps, by session; past the limit the oldest is forgotten.

    A session is kept by its party once it has answered: a request that is refused leaves nothing behind.
    """

    def __init__(self, limit: int = OPEN_SESSIONS) -> None:
        self._limit = limit
        self._kept: dict[SessionId, S] = {}

    def of(self, header: bytes) -> S | None:
        """What is kept for the session of a message.

        :raises PeerFault: no message of any protocol.
        """
        return self._kept.get(SessionId(peek_session_id(header)))

    def keep(self, header: bytes, session: S) -> None:
        """Keep it for the session of a message."""
        self.put(SessionId(peek_session_id(header)), session)

    def put(self, session_id: SessionId, session: S) -> None:
        """Keep it for a session."""
        self._kept[session_id] = session
        while len(self._kept) > self._limit:
            self._kept.pop(next(iter(self._kept)))

    def forget(self, session_id: SessionId) -> None:
        """Keep nothing for a session any more."""
        self._kept.pop(session_id, None)

    def ids(self) -> tuple[SessionId, ...]:
        """The sessions for which something is kept, the oldest first."""
        return tuple(self._kept)

"""What an engine is, what it talks to and what it reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from protocols.errors import SecflError
from protocols.shape import Aggregate, Chunk, Reply, ServerSession

__all__ = ["Carried", "Engine", "Party", "PartyEvent", "PhaseRecord", "upload"]


class Party(Protocol):
    """A party as an engine sees it: something that answers."""

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        """Answer a request, training first if the vector is needed now.

        :param context: what the session's context hash stands for (the global model).
        """

    def delivered(self, reply: Reply) -> None:
        """Learn that the server took a reply."""


@dataclass(frozen=True)
class PartyEvent:
    """A refusal or fault, with who it concerns."""

    party: str
    phase: str
    error: SecflError


@dataclass(frozen=True)
class PhaseRecord:
    """One phase as it was carried, all parties together."""

    phase: str
    seconds: float
    bytes_up: int
    bytes_down: int
    answered: tuple[str, ...]
    dropped: tuple[str, ...]
    events: tuple[PartyEvent, ...]


@dataclass(frozen=True)
class Carried:
    """How a session ended: with an aggregate, or with the error that ended it."""

    aggregate: Aggregate | None
    failure: SecflError | None
    phases: tuple[PhaseRecord, ...] = field(repr=False)


class Engine(Protocol):
    """Carries the messages of one session between a server and its parties."""

    name: ClassVar[str]
    simulation: ClassVar[bool]
    """Whether all parties share one process, so that nobody is protected from anybody."""

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        """Run a session to its end."""


def upload(server: ServerSession, reply: Reply) -> int:
    """Deliver one reply; return its size in bytes.

    :raises PeerFault: the server refused it; the session is as it was.
    """
    incoming = server.begin(reply.header)
    size = len(reply.header) + len(reply.trailer)
    for chunk in reply.chunks:
        incoming.write(chunk)
        size += len(chunk)
    incoming.commit(reply.trailer)
    return size

"""What an engine is, what it talks to and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from protocols.errors import SecflError
from protocols.session import SessionParameters
from protocols.shape import Aggregate, Chunk, Reply, ServerSession

__all__ = ["Carried", "Engine", "Party", "PartyEvent", "PhaseRecord", "Watcher", "upload"]


class Party(Protocol):
    """A party as an engine sees it: something that answers."""

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        """Answer a request, training first if the vector is needed now.

        :param context: what the session's context hash stands for (the global model).
        :raises SecflError: the party refuses or cannot answer; it drops out of the phase.
        """

    def delivered(self, reply: Reply) -> None:
        """Learn that the server took a reply.

        :raises SecflError: the party cannot remember it; the reply stays taken.
        """


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


class Watcher(Protocol):
    """Is told how a session goes while it goes; what it raises ends the run."""

    def session_opened(self, parameters: SessionParameters) -> None:
        """The cohort is about to be asked for the first time."""

    def phase_opened(self, parameters: SessionParameters, phase: str) -> None:
        """The parties of a phase are about to be asked."""

    def phase_closed(self, parameters: SessionParameters, record: PhaseRecord) -> None:
        """A phase ended, in whatever way."""


class Engine(Protocol):
    """Carries the messages of one session between a server and its parties."""

    name: ClassVar[str]
    simulation: ClassVar[bool]
    """Whether all parties share one process, so that nobody is protected from anybody."""

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        """Run a session to its end."""


def upload(server: ServerSession, reply: Reply, carried: Callable[[int], None]) -> None:
    """Deliver one reply.

    :param carried: told the size in bytes of each part that reaches the server, refused ones included.
    :raises PeerFault: the server refused it; the session is as it was.
    """
    carried(len(reply.header))
    incoming = server.begin(reply.header)
    try:
        for chunk in reply.chunks:
            carried(len(chunk))
            incoming.write(chunk)
        carried(len(reply.trailer))
        incoming.commit(reply.trailer)
    except BaseException:
        incoming.abort()
        raise

"""A network in memory: it carries requests and replies as bytes, drops and tampers on schedule, keeps a transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from protocols.errors import ProtocolError
from protocols.shape import Aggregate, PartySession, PhaseSummary, Reply, Request, ServerSession, VectorSource

__all__ = ["Drop", "Network", "deliver"]

Tamper = Callable[[str, Reply], Reply]


@dataclass(frozen=True)
class Drop:
    """A party is lost in a phase, for good.

    :param answered: whether its reply of that phase still comes in.
    """

    party: str
    phase: str
    answered: bool = False


@dataclass
class Network:
    """Runs one session to its end.

    :param parties: a session per party.
    :param vectors: the vector of each party that has one.
    :param drops: who is lost when.
    :param tamper: changes a reply on its way, given the phase's name.
    """

    server: ServerSession
    parties: Mapping[str, PartySession]
    vectors: Mapping[str, VectorSource]
    drops: Iterable[Drop] = ()
    tamper: Tamper | None = None
    transcript: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    """(direction, phase, party, bytes) of everything carried."""
    refusals: list[tuple[str, str, ProtocolError]] = field(default_factory=list)
    """(phase, party, error): who refused a request, whose reply was refused."""
    summaries: list[PhaseSummary] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lost: set[str] = set()

    def run(self) -> Aggregate:
        """All phases."""
        while self.server.phase is not None:
            self.run_phase()
        return self.server.result()

    def run_phase(self) -> PhaseSummary:
        """One phase: every request, every reply, then closed.

        :raises ThresholdNotMet: as `ServerSession.close_phase`.
        """
        phase = self.server.phase or ""
        for request in list(self.server.requests()):
            self._carry(phase, request)
        summary = self.server.close_phase()
        self.summaries.append(summary)
        return summary

    def _carry(self, phase: str, request: Request) -> None:
        party = str(request.party)
        drop = next((item for item in self.drops if (item.party, item.phase) == (party, phase)), None)
        if drop is not None and not drop.answered:
            self._lost.add(party)
        if party in self._lost:
            return
        chunks = [bytes(chunk) for chunk in request.chunks]
        carried = Request(request.party, request.header, chunks)
        self.transcript += [("down", phase, party, part) for part in (request.header, *chunks)]
        try:
            reply = self._answer(party, carried)
            if self.tamper is not None:
                reply = self.tamper(phase, reply)
            chunks = [bytes(chunk) for chunk in reply.chunks]
            self.transcript += [("up", phase, party, part) for part in (reply.header, *chunks, reply.trailer)]
            deliver(self.server, Reply(reply.party, reply.header, chunks, reply.trailer))
        except ProtocolError as error:
            self.refusals.append((phase, party, error))
        if drop is not None:
            self._lost.add(party)

    def _answer(self, party: str, request: Request) -> Reply:
        session = self.parties[party]
        need = session.inspect(request.header)
        return session.handle(request.header, request.chunks, vector=self.vectors.get(party) if need.vector else None)


def deliver(server: ServerSession, reply: Reply) -> None:
    """Upload one reply.

    :raises PeerFault: the server refused it.
    """
    upload = server.begin(reply.header)
    for chunk in reply.chunks:
        upload.write(chunk)
    upload.commit(reply.trailer)

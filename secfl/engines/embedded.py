"""The embedded engine: all parties in one process, every message still encoded to bytes.

A simulation: it shows what a deployment would do, dropouts, delays and lost replies included, and protects nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from protocols.errors import SecflError
from protocols.session import SessionParameters
from protocols.shape import Reply, Request, ServerSession
from secfl.engines.base import Carried, Party, PartyEvent, PhaseRecord, Watcher, upload
from secfl.engines.durable import DurableServer
from secfl.engines.journal import ServerJournal
from secfl.registry import PROTOCOLS

__all__ = ["EmbeddedEngine", "Incident"]


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong on schedule.

    :param party: with whom.
    :param phase: name of the phase.
    :param round: number of the round; None for every round.
    :param attempt: at the round, from 0; None for every attempt.
    :param kind: ``drop``: the party is not reached, nor again in this session. ``lose_reply``: it answers, the reply is
        lost, and so is the party. ``delay``: its reply takes ``seconds`` longer; past the deadline it comes too late.
    :param seconds: of a delay; simulated, nobody waits.
    """

    party: str
    phase: str
    round: int | None = None
    attempt: int | None = None
    kind: Literal["drop", "lose_reply", "delay"] = "drop"
    seconds: float = 0.0

    def hits(self, server: ServerSession, party: str) -> bool:
        """Whether it happens to this party in the open phase."""
        return self.party == party and self.at(server.parameters, server.phase)

    def at(self, parameters: SessionParameters, phase: str | None) -> bool:
        """Whether it happens in this phase of this session."""
        return (
            self.phase == phase
            and self.round in (None, parameters.round_number)
            and self.attempt in (None, parameters.attempt)
        )


class EmbeddedEngine:
    """Runs sessions in this process.

    :param parties: by id.
    :param incidents: what goes wrong.
    :param deadline_seconds: a reply that takes its party longer (simulated delay included) comes after the phase has
        closed, and is refused. Parties are asked one after another here, so each has the deadline to itself.
    :param clock: seconds, monotonic.
    :param journal: where the server's side of the last session is kept, as in a deployment. A killed simulation loses
        its parties, so nothing is restored from it: the round is tried anew.
    :param watcher: told of every phase while it goes.
    """

    name: ClassVar[str] = "embedded"
    simulation: ClassVar[bool] = True

    def __init__(
        self,
        parties: Mapping[str, Party],
        *,
        incidents: Iterable[Incident] = (),
        deadline_seconds: float = 600.0,
        clock: Callable[[], float] = time.perf_counter,
        journal: ServerJournal | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.parties = dict(parties)
        self.incidents = tuple(incidents)
        self.deadline_seconds = deadline_seconds
        self.clock = clock
        self.journal = journal
        self.watcher = watcher

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        """See `Engine.run_session`."""
        if self.journal is not None:
            for over in self.journal.sessions():
                self.journal.forget(over)
            server = DurableServer.adopt(self.journal, server)
        lost = self._lost_before(server)
        phases: list[PhaseRecord] = []
        if self.watcher is not None:
            self.watcher.session_opened(server.parameters)
        while server.phase is not None:
            carrier = _PhaseCarrier(self, server, context, lost)
            if self.watcher is not None:
                self.watcher.phase_opened(server.parameters, server.phase)
            phases.append(carrier.run())
            if self.watcher is not None:
                self.watcher.phase_closed(server.parameters, phases[-1])
            if carrier.failure is not None:
                return Carried(None, carrier.failure, tuple(phases))
        return Carried(server.result(), None, tuple(phases))

    def _lost_before(self, server: ServerSession) -> set[str]:
        """Who was lost in a phase that was carried by somebody else, before this engine got the session."""
        parameters, phase = server.parameters, server.phase
        phases = list(PROTOCOLS[parameters.protocol].phases) if parameters.protocol in PROTOCOLS else []
        earlier = phases[: phases.index(phase)] if phase in phases else []
        return {
            item.party
            for item in self.incidents
            if item.kind != "delay" and any(item.at(parameters, before) for before in earlier)
        }


class _PhaseCarrier:
    """Carries one phase and counts."""

    def __init__(self, engine: EmbeddedEngine, server: ServerSession, context: bytes, lost: set[str]) -> None:
        self._engine = engine
        self._server = server
        self._context = context
        self._lost = lost
        self._phase = server.phase or ""
        self._bytes_up = self._bytes_down = 0
        self._events: list[PartyEvent] = []
        self._late: list[Reply] = []
        self.failure: SecflError | None = None

    def run(self) -> PhaseRecord:
        """Every request, the end of the phase, and what came after it."""
        began = self._engine.clock()
        for request in self._server.requests():
            self._carry(request)
        answered: tuple[str, ...] = ()
        dropped: tuple[str, ...] = ()
        try:
            summary = self._server.close_phase()
            answered, dropped = tuple(map(str, summary.answered)), tuple(map(str, summary.dropped))
        except SecflError as error:
            self.failure = error
        for reply in self._late:
            self._upload(reply)
        seconds = self._engine.clock() - began
        return PhaseRecord(
            self._phase, seconds, self._bytes_up, self._bytes_down, answered, dropped, tuple(self._events)
        )

    def _carry(self, request: Request) -> None:
        party = str(request.party)
        incident = next((item for item in self._engine.incidents if item.hits(self._server, party)), None)
        kind = None if incident is None else incident.kind
        if kind == "drop":
            self._lost.add(party)
        if party in self._lost:
            return
        chunks = [bytes(chunk) for chunk in request.chunks]
        self._bytes_down += len(request.header) + sum(map(len, chunks))
        began = self._engine.clock()
        try:
            reply = self._engine.parties[party].answer(request.header, chunks, self._context)
        except SecflError as error:
            self._note(party, error)
            return
        seconds = self._engine.clock() - began
        if incident is not None and kind == "delay":
            seconds += incident.seconds
        if kind == "lose_reply":
            self._lost.add(party)
        elif seconds > self._engine.deadline_seconds:
            self._late.append(reply)
        else:
            self._upload(reply)

    def _upload(self, reply: Reply) -> None:
        party = str(reply.party)
        try:
            upload(self._server, reply, self._count_up)
            self._engine.parties[party].delivered(reply)
        except SecflError as error:
            self._note(party, error)

    def _count_up(self, size: int) -> None:
        self._bytes_up += size

    def _note(self, party: str, error: SecflError) -> None:
        self._events.append(PartyEvent(party, self._phase, error))

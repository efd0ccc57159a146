"""The embedded engine: all parties in one process, every message still encoded to bytes.

A simulation: it shows what a deployment would do, dropouts, delays and lost replies included, and protects nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from protocols.errors import SecflError
from protocols.shape import Reply, Request, ServerSession
from secfl.engines.base import Carried, Party, PartyEvent, PhaseRecord, upload

__all__ = ["EmbeddedEngine", "Incident"]


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong on schedule.

    :param party: with whom.
    :param phase: name of the phase.
    :param round: number of the round; None for every round.
    :param kind: ``drop``: the party is not reached, nor again in this session. ``lose_reply``: it answers, the reply is
        lost, and so is the party. ``delay``: its reply takes ``seconds``; past the deadline it comes too late.
    :param seconds: of a delay; simulated, nobody waits.
    """

    party: str
    phase: str
    round: int | None = None
    kind: Literal["drop", "lose_reply", "delay"] = "drop"
    seconds: float = 0.0


class EmbeddedEngine:
    """Runs sessions in this process.

    :param parties: by id.
    :param incidents: what goes wrong.
    :param deadline_seconds: after which a phase closes without those who have not answered.
    :param clock: seconds, monotonic.
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
    ) -> None:
        self._parties = dict(parties)
        self._incidents = tuple(incidents)
        self._deadline = deadline_seconds
        self._clock = clock

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        """See `Engine.run_session`."""
        lost: set[str] = set()
        late: list[Reply] = []
        phases: list[PhaseRecord] = []
        while server.phase is not None:
            carrier = _PhaseCarrier(self, server, context, lost)
            began = self._clock()
            carrier.run(late)
            late = carrier.late
            answered: tuple[str, ...] = ()
            dropped: tuple[str, ...] = ()
            failure: SecflError | None = None
            try:
                summary = server.close_phase()
                answered, dropped = tuple(map(str, summary.answered)), tuple(map(str, summary.dropped))
            except SecflError as error:
                failure = error
            phases.append(carrier.record(self._clock() - began, answered, dropped))
            if failure is not None:
                return Carried(None, failure, tuple(phases))
        return Carried(server.result(), None, tuple(phases))

    def incident(self, server: ServerSession, party: str) -> Incident | None:
        """What goes wrong with a party in the open phase."""
        for item in self._incidents:
            if (item.party, item.phase) == (party, server.phase) and item.round in (
                None,
                server.parameters.round_number,
            ):
                return item
        return None

    def party(self, name: str) -> Party:
        """A party by its id."""
        return self._parties[name]

    def too_late(self, seconds: float) -> bool:
        """Whether a reply after so many seconds misses the deadline."""
        return seconds > self._deadline


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
        self.late: list[Reply] = []

    def run(self, late: list[Reply]) -> None:
        """Every request of the phase, after the late replies of the one before."""
        for reply in late:
            self._upload(reply)
        for request in self._server.requests():
            self._carry(request)

    def record(self, seconds: float, answered: tuple[str, ...], dropped: tuple[str, ...]) -> PhaseRecord:
        """What was carried."""
        events = tuple(self._events)
        return PhaseRecord(self._phase, seconds, self._bytes_up, self._bytes_down, answered, dropped, events)

    def _carry(self, request: Request) -> None:
        party = str(request.party)
        incident = self._engine.incident(self._server, party)
        if incident is not None and incident.kind == "drop":
            self._lost.add(party)
        if party in self._lost:
            return
        chunks = [bytes(chunk) for chunk in request.chunks]
        self._bytes_down += len(request.header) + sum(map(len, chunks))
        try:
            reply = self._engine.party(party).answer(request.header, chunks, self._context)
        except SecflError as error:
            self._events.append(PartyEvent(party, self._phase, error))
            return
        if incident is not None and incident.kind == "lose_reply":
            self._lost.add(party)
        elif incident is not None and self._engine.too_late(incident.seconds):
            self.late.append(reply)
        else:
            self._upload(reply)

    def _upload(self, reply: Reply) -> None:
        try:
            self._bytes_up += upload(self._server, reply)
        except SecflError as error:
            self._events.append(PartyEvent(str(reply.party), self._phase, error))
            return
        self._engine.party(str(reply.party)).delivered(reply)

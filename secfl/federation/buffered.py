"""Buffered asynchronous rounds (FedBuff, Nguyen et al. 2022) over the one-shot protocol, in simulated time.

Each silo trains from the newest model it knows and gives its update to whichever session is open when it is done. A
session goes on to the committee at a quota of updates or at its deadline, and the next one, which takes updates from
its own model and a window of older ones, is open while the committee works. At the quota a session waits for silos
whose model the next window would lack (bounded staleness, Ho et al. 2013), so that a slow silo is late, never starved;
past the deadline it waits no more, and such a silo drops its update unsent, at no charge, and trains again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from protocols.errors import SecflError, UsageError
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.messages import CONTRIBUTION
from protocols.session import SessionParameters
from protocols.shape import Aggregate, Reply, ServerSession
from secfl.engines.base import Carried, Engine, PartyEvent, PhaseRecord, upload
from secfl.engines.embedded import Incident
from secfl.federation.buffered_silo import BufferedSilo, staleness_units
from secfl.federation.round import RoundOutcome, RoundPlan
from secfl.federation.silo import Silo, context_hash

__all__ = ["BufferedPlan", "BufferedRounds"]


@dataclass(frozen=True)
class BufferedPlan(RoundPlan):
    """See `RoundPlan`.

    :param quota: updates that close a session.
    :param window: older models from which an update may start.
    :param staleness: see `secfl.federation.buffered_silo.staleness_units`.
    :param deadline_seconds: simulated seconds after which a session closes with the minimum of updates, as soon as that
        is there; None for never.
    :param opening_seconds: simulated seconds that the committee takes, while the next session is open.
    """

    quota: int = 0
    window: int = 0
    staleness: Literal["none", "polynomial"] = "none"
    deadline_seconds: float | None = None
    opening_seconds: float = 0.0

    def ages(self, parameters: SessionParameters, aggregate: Aggregate) -> dict[str, int]:
        """How many versions behind the session's model each contributor started."""
        bases = Agreement.of(parameters).bases
        started = aggregate.bases or (parameters.context_hash,) * len(aggregate.contributors)
        return {str(p): bases.index(base) for p, base in zip(aggregate.contributors, started, strict=True)}

    def weight(self, parameters: SessionParameters, aggregate: Aggregate) -> int:
        """See `RoundPlan.weight`; staleness included."""
        units = staleness_units(self.staleness, self.window)
        return sum(self.weights[party] * units[age] for party, age in self.ages(parameters, aggregate).items())


class BufferedRounds:
    """The silos of a run in simulated time, from one session to the next.

    :param seconds: simulated seconds that each silo's training takes.
    :param incidents: what goes wrong; those of other phases than the first are the engine's.
    :param next_session: gives a session its number, which no session of the run had before.
    :raises UsageError: a silo that cannot train ahead of a session.
    """

    def __init__(
        self,
        plan: BufferedPlan,
        silos: Mapping[str, Silo],
        seconds: Mapping[str, float],
        *,
        incidents: Iterable[Incident] = (),
        next_session: Callable[[], int],
    ) -> None:
        self.plan = plan
        self.incidents = tuple(incidents)
        self.silos: dict[str, BufferedSilo] = {}
        for name, silo in silos.items():
            if not isinstance(silo, BufferedSilo):
                raise UsageError(f"{silo!r}: not a silo for buffered rounds")
            self.silos[name] = silo
        self._seconds = seconds
        self._next_session = next_session
        self._models: list[bytes] = []
        """Models of sessions, newest first; one that several had in a row once."""
        self._ahead: _Contributions | None = None
        """The session that was opened while the last one's sum was."""
        self._events: list[tuple[float, int, _Happening]] = []
        """A heap; of what happens at one time the first that began is first."""
        self._begun = 0
        self._bases: dict[str, bytes] = {}
        """By silo, the model of the update that it trains or holds."""
        self._held: list[str] = []
        """Silos whose update is done and waits for a session in which they are reached."""
        self.now = 0.0
        """Simulated seconds since the run began."""

    def run(self, engine: Engine, state: npt.NDArray[np.float32], *, last: bool = False) -> RoundOutcome:
        """Take updates up to the quota or the deadline, have the committee open the sum.

        :param last: no session follows if this one succeeds, so none is opened meanwhile.
        """
        session, self._ahead = self._ahead or self._open(state), None
        session.take()
        record, failure = session.close()
        phases = [record]
        aggregate: Aggregate | None = None
        if failure is None:
            if self.plan.opening_seconds and not last:
                self._ahead = self._open(state)
                self._ahead.take(until=self.now + self.plan.opening_seconds)
            carried = engine.run_session(session.server, session.context)
            aggregate, failure = carried.aggregate, carried.failure
            phases += carried.phases
        parameters = session.server.parameters
        outcome = self.plan.outcome(parameters, Carried(aggregate, failure, tuple(phases)))
        if aggregate is not None:
            ages = self.plan.ages(parameters, aggregate)
            told = ", ".join(f"{party} {age}" for party, age in ages.items())
            outcome = replace(outcome, checks=(*outcome.checks, f"versions behind the model: {told}"))
        return outcome

    def _open(self, state: npt.NDArray[np.float32]) -> _Contributions:
        """Announce a session whose model is this one."""
        context = state.astype("<f4").tobytes()
        newest = context_hash(self.plan.layout, context)
        if self._models[:1] != [newest]:
            self._models.insert(0, newest)
        parameters = self.plan.parameters(
            self._next_session(), 0, tuple(self.silos), context, bases=self._window(), quota=self.plan.quota
        )
        return _Contributions(self, self.plan.open(parameters), context)

    def _window(self) -> tuple[bytes, ...]:
        """Older models, newest first. It ends where a model would be in it twice: a place in it is a version."""
        newest, *older = self._models
        window: list[bytes] = []
        for model in older[: self.plan.window]:
            if model in (newest, *window):
                break
            window.append(model)
        return tuple(window)

    def close(self) -> None:
        """End the run: what is still in training is voided."""
        self._events.clear()
        self._held.clear()
        self._ahead = None
        for silo in self.silos.values():
            silo.drop()

    def begun(self, name: str, base: bytes) -> None:
        """Note that a silo has begun to train."""
        self._bases[name] = base
        self.later(self._seconds[name], name)

    def later(self, seconds: float, happening: _Happening) -> None:
        """Have something happen after so many simulated seconds."""
        self._begun += 1
        heapq.heappush(self._events, (self.now + seconds, self._begun, happening))

    def over(self, name: str) -> None:
        """Note that a silo's update is sent or dropped."""
        self._bases.pop(name, None)

    def training_from(self, base: bytes) -> set[str]:
        """Silos that train from a model, or hold an update from it."""
        return {name for name, started in self._bases.items() if started == base}

    def next_time(self) -> float | None:
        """When something happens next; None if nothing does."""
        return self._events[0][0] if self._events else None

    def next_happening(self) -> _Happening:
        """Go on to it."""
        self.now, _, happening = heapq.heappop(self._events)
        return happening

    def unheld(self, lost: set[str]) -> list[str]:
        """Silos that hold a finished update, but for those that are still not reached: they hold it no more."""
        reached = [name for name in self._held if name not in lost]
        self._held = [name for name in self._held if name in lost]
        return reached

    def hold(self, name: str) -> None:
        """Keep a silo's finished update for a session in which it is reached."""
        self._held.append(name)

    @property
    def idle(self) -> tuple[str, ...]:
        """Silos that neither train nor hold an update."""
        return tuple(name for name in self.silos if name not in self._bases)


class _Contributions:
    """The first phase of one session."""

    def __init__(self, rounds: BufferedRounds, server: ServerSession, context: bytes) -> None:
        self.server = server
        self.context = context
        self._rounds = rounds
        self._agreement = Agreement.of(server.parameters)
        self._opened = rounds.now
        self._bytes_up = self._bytes_down = self._taken = 0
        self._events: list[PartyEvent] = []
        self._lost: set[str] = set()
        """Who is not reached in this session any more."""
        self._headers = {str(request.party): request.header for request in server.requests()}
        self._announce()

    def take(self, until: float | None = None) -> None:
        """Take updates until the session may close, or until a time.

        :param until: simulated time; the session goes on then even if it could close.
        """
        while until is not None or not self._may_close():
            following = self._rounds.next_time()
            stop = self._deadline() if until is None else until
            if stop is not None and (following is None or following > stop):
                self._rounds.now = max(self._rounds.now, stop)
                return
            if following is None:
                return
            self._happens(self._rounds.next_happening())

    def close(self) -> tuple[PhaseRecord, SecflError | None]:
        """End the phase."""
        answered: tuple[str, ...] = ()
        dropped: tuple[str, ...] = ()
        failure: SecflError | None = None
        try:
            summary = self.server.close_phase()
            answered, dropped = tuple(map(str, summary.answered)), tuple(map(str, summary.dropped))
        except SecflError as error:
            failure = error
        seconds = self._rounds.now - self._opened
        events = tuple(self._events)
        return PhaseRecord(CONTRIBUTION, seconds, self._bytes_up, self._bytes_down, answered, dropped, events), failure

    # -- when it is over -----------------------------------------------------------------------------------------------

    def _may_close(self) -> bool:
        deadline = self._deadline()
        if deadline is not None and self._rounds.now >= deadline:
            return True
        return self.server.ready() and not self._awaited()

    def _deadline(self) -> float | None:
        """When the session closes at the latest; None as long as too few have contributed for that."""
        seconds = self._rounds.plan.deadline_seconds
        if seconds is None or self._taken < self._agreement.parameters.minimum_contributors:
            return None
        return self._opened + seconds

    def _awaited(self) -> set[str]:
        """Silos whose model is in the window for the last time."""
        bases = self._agreement.bases
        if len(bases) <= self._rounds.plan.window:
            return set()
        return self._rounds.training_from(bases[-1]) - self._lost

    # -- what happens in it --------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Tell all that are reached of the session; take what they hold, have them begin if they are idle."""
        for name, header in self._headers.items():
            incident = self._incident(name)
            if incident is not None and incident.kind == "drop":
                self._lost.add(name)
                continue
            self._bytes_down += len(header)
            try:
                self._rounds.silos[name].announced(header)
            except SecflError as error:
                self._note(name, error)
        for name in self._rounds.unheld(self._lost):
            self._done(name)
        for name in self._rounds.idle:
            if name not in self._lost:
                self._begin(name)

    def _begin(self, name: str) -> None:
        self._bytes_down += len(self.context)
        try:
            self._rounds.silos[name].begin(self._headers[name], self.context)
        except SecflError as error:
            self._note(name, error)
        else:
            self._rounds.begun(name, self._agreement.bases[0])

    def _happens(self, happening: _Happening) -> None:
        if isinstance(happening, str):
            self._done(happening)
        else:
            self._arrives(*happening)

    def _arrives(self, session: _Contributions, reply: Reply) -> None:
        """A reply comes in: to this session, or to one before, which may have gone on without it and refuses it then.

        What was refused is noted in the session that is open.
        """
        try:
            upload(session.server, reply, self._count_up)
            session._taken += 1
            self._rounds.silos[str(reply.party)].delivered(reply)
        except SecflError as error:
            self._note(str(reply.party), error)

    def _done(self, name: str) -> None:
        """Contribute; or drop the update and train again, if its model has left the window."""
        if name in self._lost:
            self._rounds.hold(name)
            return
        silo, header = self._rounds.silos[name], self._headers[name]
        try:
            if not silo.fits(header):
                silo.drop()
                self._rounds.over(name)
                self._begin(name)
                return
            reply = silo.answer(header, (), self.context)
        except SecflError as error:
            self._note(name, error)
            silo.drop()  # if it was refused before it was used
            self._rounds.over(name)
            return
        self._rounds.over(name)
        incident = self._incident(name)
        if incident is None:
            self._arrives(self, reply)
        elif incident.kind == "delay":
            self._rounds.later(incident.seconds, (self, reply))
        else:
            self._lost.add(name)

    def _incident(self, name: str) -> Incident | None:
        return next((item for item in self._rounds.incidents if item.hits(self.server, name)), None)

    def _count_up(self, size: int) -> None:
        self._bytes_up += size

    def _note(self, name: str, error: SecflError) -> None:
        self._events.append(PartyEvent(name, CONTRIBUTION, error))


_Happening: TypeAlias = str | tuple[_Contributions, Reply]
"""That a silo's training is done, by its name; or that a reply arrives late in a session."""

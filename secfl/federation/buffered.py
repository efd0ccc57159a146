"""Buffered asynchronous rounds (FedBuff, Nguyen et al. 2022) over the one-shot protocol, in simulated time.

Each silo trains from the newest model it knows and gives its update to whichever session is open when it is done. A
session goes on to the committee at a quota of updates; its sum makes the next model, and the next session, which takes
updates from that model and a window of older ones, is open at once. A silo whose model has left the window drops its
update unsent, at no charge, and trains again.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from protocols.errors import SecflError, UsageError
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.messages import CONTRIBUTION
from protocols.session import SessionParameters
from protocols.shape import Aggregate, ServerSession
from secfl.engines.base import Carried, Engine, PartyEvent, PhaseRecord, upload
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
    """

    quota: int = 0
    window: int = 0
    staleness: Literal["none", "polynomial"] = "none"

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
    :raises UsageError: a silo that cannot train ahead of a session.
    """

    def __init__(self, plan: BufferedPlan, silos: Mapping[str, Silo], seconds: Mapping[str, float]) -> None:
        self._plan = plan
        self._silos: dict[str, BufferedSilo] = {}
        for name, silo in silos.items():
            if not isinstance(silo, BufferedSilo):
                raise UsageError(f"{silo!r}: not a silo for buffered rounds")
            self._silos[name] = silo
        self._seconds = seconds
        self._models: list[bytes] = []
        self._training: list[tuple[float, int, str]] = []
        """When which silo is done: a heap; of silos done at one time the first that began is first."""
        self._begun = 0
        self.now = 0.0
        """Simulated seconds since the run began."""

    def run(self, engine: Engine, state: npt.NDArray[np.float32], number: int, attempt: int) -> RoundOutcome:
        """Open a session, let silos train and contribute up to the quota, have the committee open the sum."""
        context = state.astype("<f4").tobytes()
        bases = self._window(context_hash(self._plan.layout, context))
        parameters = self._plan.parameters(
            number, attempt, tuple(self._silos), context, bases=bases, quota=self._plan.quota
        )
        server = self._plan.open(parameters)
        session = _Contributions(self, server, context)
        record, failure = session.run()
        if failure is None:
            carried = engine.run_session(server, context)
            carried = Carried(carried.aggregate, carried.failure, (record, *carried.phases))
        else:
            carried = Carried(None, failure, (record,))
        outcome = self._plan.outcome(parameters, carried)
        if outcome.mean is not None:  # the next session is the next version's; an older one stays in the window
            self._models.insert(0, parameters.context_hash)
        if carried.aggregate is not None:
            ages = self._plan.ages(parameters, carried.aggregate)
            told = ", ".join(f"{party} {age}" for party, age in ages.items())
            outcome = replace(outcome, checks=(*outcome.checks, f"versions behind the model: {told}"))
        return outcome

    def _window(self, newest: bytes) -> tuple[bytes, ...]:
        """Older models, newest first. It ends where a model would be in it twice: a place in it is a version."""
        window: list[bytes] = []
        for model in self._models[: self._plan.window]:
            if model in (newest, *window):
                break
            window.append(model)
        return tuple(window)

    def close(self) -> None:
        """End the run: what is still in training is voided."""
        self._training.clear()
        for silo in self._silos.values():
            silo.drop()

    def begun(self, name: str) -> None:
        """Note that a silo has begun to train."""
        self._begun += 1
        heapq.heappush(self._training, (self.now + self._seconds[name], self._begun, name))

    def next_done(self) -> str | None:
        """Go on to when the next silo is done; None if none trains."""
        if not self._training:
            return None
        self.now, _, name = heapq.heappop(self._training)
        return name

    @property
    def silos(self) -> Mapping[str, BufferedSilo]:
        """By name."""
        return self._silos

    @property
    def idle(self) -> tuple[str, ...]:
        """Silos that do not train."""
        busy = {name for _, _, name in self._training}
        return tuple(name for name in self._silos if name not in busy)


class _Contributions:
    """The first phase of one session."""

    def __init__(self, rounds: BufferedRounds, server: ServerSession, context: bytes) -> None:
        self._rounds = rounds
        self._server = server
        self._context = context
        self._headers = {str(request.party): request.header for request in server.requests()}
        self._bytes_up = self._bytes_down = 0
        self._events: list[PartyEvent] = []

    def run(self) -> tuple[PhaseRecord, SecflError | None]:
        """Announce, take updates until the quota is there or nobody trains, close the phase."""
        began = self._rounds.now
        for name, header in self._headers.items():
            self._bytes_down += len(header)
            self._told(name, header)
        for name in self._rounds.idle:
            self._begin(name)
        while not self._server.ready():
            done = self._rounds.next_done()
            if done is None:
                break
            self._done(done)
        answered: tuple[str, ...] = ()
        dropped: tuple[str, ...] = ()
        failure: SecflError | None = None
        try:
            summary = self._server.close_phase()
            answered, dropped = tuple(map(str, summary.answered)), tuple(map(str, summary.dropped))
        except SecflError as error:
            failure = error
        seconds = self._rounds.now - began
        events = tuple(self._events)
        return PhaseRecord(CONTRIBUTION, seconds, self._bytes_up, self._bytes_down, answered, dropped, events), failure

    def _told(self, name: str, header: bytes) -> None:
        try:
            self._rounds.silos[name].announced(header)
        except SecflError as error:
            self._note(name, error)

    def _begin(self, name: str) -> None:
        self._bytes_down += len(self._context)
        try:
            self._rounds.silos[name].begin(self._headers[name], self._context)
        except SecflError as error:
            self._note(name, error)
        else:
            self._rounds.begun(name)

    def _done(self, name: str) -> None:
        """Contribute; or drop the update and train again, if its model has left the window."""
        silo, header = self._rounds.silos[name], self._headers[name]
        try:
            if not silo.fits(header):
                silo.drop()
                self._begin(name)
                return
            reply = silo.answer(header, (), self._context)
            upload(self._server, reply, self._count_up)
            silo.delivered(reply)
        except SecflError as error:
            self._note(name, error)
            silo.drop()  # if it was refused before it was used

    def _count_up(self, size: int) -> None:
        self._bytes_up += size

    def _note(self, name: str, error: SecflError) -> None:
        self._events.append(PartyEvent(name, CONTRIBUTION, error))

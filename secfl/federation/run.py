"""A run: rounds until the plan is done or a budget is spent. Nothing here knows how bytes travel."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import BudgetExceeded, ConfigError
from protocols.shape import Entropy
from secfl.engines.base import Engine
from secfl.engines.embedded import Incident
from secfl.engines.workers import local_workers
from secfl.events import Observer as EventObserver
from secfl.federation.buffered import BufferedPlan, BufferedRounds
from secfl.federation.checkpoint import Checkpoint, Journal, Progress
from secfl.federation.cohort import sample_cohort
from secfl.federation.round import RoundOutcome, RoundPlan
from secfl.federation.rows import round_row
from secfl.federation.setup import Parties, Plan, server_optimiser
from secfl.federation.telling import budget_events, evaluated_event, round_events
from secfl.files import write_whole
from secfl.report.model import RoundRow

__all__ = [
    "Evaluate",
    "Observer",
    "RunResult",
    "first_checkpoint",
    "new_run_id",
    "round_plan",
    "run_rounds",
    "write_model",
]

State = npt.NDArray[np.float32]
Evaluate = Callable[[State], float]
Observer = Callable[[RoundRow], None]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    :param status: ``completed``, or ``halted`` with the reason: a budget is spent or too few parties took part.
    :param state: the final global model, flat.
    """

    run_id: str
    started: str
    finished: str
    status: str
    reason: str
    rounds: tuple[RoundRow, ...]
    state: State = field(repr=False)
    metric: float | None


def new_run_id(name: str, now: datetime, entropy: Entropy = os.urandom) -> str:
    """Readable and unique: name, UTC time, 32 random bits."""
    return f"{name}-{now:%Y%m%dT%H%M%SZ}-{uuid.UUID(bytes=entropy(16)).hex[:8]}"


def first_checkpoint(plan: Plan, run_id: str, configuration_hash: str, evaluate: Evaluate | None) -> Checkpoint:
    """Where a run begins: the initial model, no round."""
    state = plan.initial_vector()
    progress = Progress(
        run_id=run_id,
        configuration_hash=configuration_hash,
        started=_now(),
        finished_round=0,
        metric=evaluate(state) if evaluate else None,
        rounds=(),
    )
    return Checkpoint(progress, state, {})


def run_rounds(
    plan: Plan,
    parties: Parties,
    engine: Engine,
    start: Checkpoint,
    journal: Journal,
    *,
    evaluate: Evaluate | None = None,
    observer: Observer | None = None,
    events: EventObserver | None = None,
) -> RunResult:
    """Run the rounds after a checkpoint. A round is tried a bounded number of times; each try trains afresh.

    :param journal: remembers begun attempts and checkpoints, so that a killed run can go on.
    :param evaluate: metric of a global model, on records that may be used; None for none.
    :param observer: told of every attempt.
    :param events: told of everything in between (`secfl.events`).
    """
    loop = _Loop(plan, parties, engine, start, journal, evaluate, observer, events)
    reason = ""
    try:
        for number in range(start.progress.finished_round + 1, plan.config.run.rounds + 1):
            reason = loop.round(number)
            if reason:
                break
    finally:
        loop.close()
    progress = loop.progress
    status = "halted" if reason else "completed"
    return RunResult(
        progress.run_id, progress.started, _now(), status, reason, progress.rounds, loop.state, progress.metric
    )


class _Loop:
    """The state of a run between two attempts."""

    def __init__(
        self,
        plan: Plan,
        parties: Parties,
        engine: Engine,
        start: Checkpoint,
        journal: Journal,
        evaluate: Evaluate | None,
        observer: Observer | None,
        events: EventObserver | None,
    ) -> None:
        self._events = events
        self._plan = plan
        self._parties = parties
        self._engine = engine
        self._journal = journal
        self._evaluate = evaluate
        self._observer = observer
        self._rounds = round_plan(plan, parties, start.progress.run_id)
        self._buffered = _buffered(self._rounds, plan, parties, self._next_session)
        self._optimiser = server_optimiser(plan.config)
        self._optimiser.restore(start.moments)
        self.progress = start.progress
        self.state = start.state
        journal.checkpoint(start)

    def close(self) -> None:
        """Give up what no session waits for any more."""
        if self._buffered is not None:
            self._buffered.close()

    def round(self, number: int) -> str:
        """Try a round until it gives a sum; return why the run halts, or nothing.

        :raises ConfigError: a silo could not train because of the configuration or the model file.
        """
        if self._buffered is not None:
            return self._version(self._buffered, number)
        first = self._journal.next_attempt(number)
        for attempt in range(first, first + self._plan.config.aggregation.attempts):
            self._journal.begin(number, attempt)
            outcome = self._attempt(number, attempt)
            if outcome.mean is not None:
                return ""
            _raise_misconfiguration(outcome)
            if _exhausted(outcome):
                break
        return _why_halted(outcome)

    def _version(self, buffered: BufferedRounds, number: int) -> str:
        """Run sessions until one gives the next version of the model; return why the run halts, or nothing."""
        outcome = None
        for _ in range(self._plan.config.aggregation.attempts):
            self._parties.heads.remind(self._parties.silos)
            outcome = buffered.run(self._engine, self.state, last=number == self._plan.config.run.rounds)
            self._settle(outcome, number)
            if outcome.mean is not None:
                return ""
            _raise_misconfiguration(outcome)
            if _exhausted(outcome):
                break
        return "" if outcome is None else _why_halted(outcome)

    def _next_session(self) -> int:
        """Number of a session of buffered rounds; on record as begun."""
        number = self._journal.next_round()
        self._journal.begin(number, 0)
        return number

    def _attempt(self, number: int, attempt: int) -> RoundOutcome:
        randomness = self._plan.randomness("server", number, attempt)
        cohort = sample_cohort(tuple(self._parties.silos), self._plan.config.server.cohort_size, randomness)
        self._parties.heads.remind(cohort)
        outcome = self._rounds.run(self._engine, self.state, number, attempt, cohort)
        self._settle(outcome, number)
        return outcome

    def _settle(self, outcome: RoundOutcome, number: int) -> None:
        """Go on from an attempt: to the model that it gives, if it gives one; tell and remember it."""
        self._parties.heads.countersign()
        metric = None
        finished = self.progress.finished_round
        if outcome.mean is not None:
            self.state = _apply(self._plan, self.state, self._optimiser.step(outcome.mean))
            metric = self._evaluate(self.state) if self._evaluate else None
            finished = number
        if self._events is not None:
            self._tell(outcome, number, metric)
        row = round_row(outcome, metric, spent(self._parties))
        self._remember(row, finished, self.progress.metric if metric is None else metric)

    def _tell(self, outcome: RoundOutcome, number: int, metric: float | None) -> None:
        """Everything about an attempt that is over, but what the engine told while it went."""
        if self._events is None:
            return
        told = getattr(self._engine, "watcher", None) is not None
        for event in round_events(outcome, simulation=self._engine.simulation, told=told):
            self._events(event)
        if metric is not None:
            self._events(evaluated_event(outcome, self._plan.config.evaluation.metric, metric))
        to_come = self._plan.config.run.rounds - (number if outcome.mean is not None else number - 1)
        for charged in budget_events(outcome, self._parties.ledgers, to_come):
            self._events(charged)

    def _remember(self, row: RoundRow, finished: int, metric: float | None) -> None:
        before = self.progress
        self.progress = msgspec.structs.replace(
            before, finished_round=finished, metric=metric, rounds=(*before.rounds, row)
        )
        self._journal.checkpoint(Checkpoint(self.progress, self.state, self._optimiser.moments))
        if self._observer is not None:
            self._observer(row)


def round_plan(plan: Plan, parties: Parties, run_id: str) -> RoundPlan:
    """What stays the same over the rounds of a run."""
    aggregation = plan.config.aggregation
    kind = BufferedPlan if plan.config.rounds.buffered else RoundPlan
    return kind(
        run_id=run_id,
        roster=parties.roster,
        scheme=plan.scheme,
        layout=plan.layout,
        update_layout=plan.update_layout,
        weights=plan.weights,
        divisor=plan.divisor,
        protocol=aggregation.protocol,
        public_context=parties.public_context,
        threshold=aggregation.threshold,
        collusion_bound=plan.config.collusion_bound,
        minimum_contributors=plan.config.minimum_contributors,
        session_options=plan.config.protocol.session_options(),
        workers=local_workers(aggregation.threads),
    )


def _buffered(
    rounds: RoundPlan, plan: Plan, parties: Parties, next_session: Callable[[], int]
) -> BufferedRounds | None:
    if not isinstance(rounds, BufferedPlan):
        return None
    chosen = plan.config.rounds
    rounds = replace(
        rounds,
        quota=plan.config.quota,
        window=chosen.window,
        staleness=chosen.staleness,
        deadline_seconds=chosen.deadline_seconds,
        opening_seconds=chosen.opening_seconds,
    )
    seconds = {silo.name: silo.training_seconds or 1.0 for silo in plan.config.silo}
    incidents = [Incident(**item.model_dump()) for item in plan.config.simulation.incidents]
    return BufferedRounds(rounds, parties.silos, seconds, incidents=incidents, next_session=next_session)


def _apply(plan: Plan, state: State, step: npt.NDArray[np.float64]) -> State:
    """Global model plus the optimiser's step.

    :raises EncodingError: names a tensor that is no longer finite.
    """
    from secfl.training import add_update  # needs torch

    change = plan.update_layout.unflatten(step.astype(np.float32))
    return plan.layout.flatten(add_update(plan.layout.unflatten(state), change))


def spent(parties: Parties) -> dict[str, float]:
    """Epsilon spent by each silo, by the filter; empty without privacy."""
    return {silo: ledger.spent().filter_epsilon for silo, ledger in parties.ledgers.items()}


def _raise_misconfiguration(outcome: RoundOutcome) -> None:
    """A mistake that stops every silo is the configuration's or the model file's: another attempt would not help.

    :raises ConfigError: the first that a silo met.
    """
    mistakes = {
        event.party: event.error
        for phase in outcome.phases
        for event in phase.events
        if isinstance(event.error, ConfigError)
    }
    if set(mistakes) == set(outcome.parameters.cohort):
        party, error = next(iter(mistakes.items()))
        error.add_note(f"round {outcome.number}: silo {party!r}")
        raise error


def _exhausted(outcome: RoundOutcome) -> list[str]:
    """Silos whose budget refused the round."""
    return [
        event.party for phase in outcome.phases for event in phase.events if isinstance(event.error, BudgetExceeded)
    ]


def _why_halted(outcome: RoundOutcome) -> str:
    exhausted = _exhausted(outcome)
    if exhausted:
        return f"round {outcome.number}: the privacy budget of {', '.join(exhausted)} is spent; {outcome.failure}"
    reasons: dict[str, list[str]] = {}
    for phase in outcome.phases:
        for event in phase.events:
            reasons.setdefault(str(event.error), []).append(event.party)
    details = "".join(f"; {', '.join(parties)}: {reason}" for reason, parties in reasons.items())
    last = f"attempt {outcome.attempt + 1} was the last allowed and failed: {outcome.failure}"
    return f"round {outcome.number}: {last}{details}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_model(directory: Path, plan: Plan, state: State) -> Path:
    """Write the global model as safetensors."""
    from safetensors.numpy import save  # extra train

    path = directory / "model.safetensors"
    write_whole(path, save({name: np.ascontiguousarray(t) for name, t in plan.layout.unflatten(state).items()}))
    return path

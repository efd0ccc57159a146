"""What an attempt at a round tells observers: the events of `secfl.events`, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocols.session import SessionParameters
from secfl.engines.base import PhaseRecord
from secfl.events import (
    BudgetCharged,
    Event,
    Observer,
    PhaseOpened,
    RoundEvaluated,
    RoundFinished,
    carried_events,
    closed_events,
    opened_event,
    session_fields,
)
from secfl.federation.round import RoundOutcome
from secfl.privacy.accounting import compose
from secfl.privacy.ledger import Ledger
from secfl.report.accounts import present_event, rounds_left

__all__ = ["Teller", "budget_events", "evaluated_event", "round_events"]


class Teller:
    """Tells an observer how a session goes, while it goes; see `secfl.engines.base.Watcher`."""

    def __init__(self, observer: Observer, *, simulation: bool) -> None:
        self._observer = observer
        self._simulation = simulation

    def session_opened(self, parameters: SessionParameters) -> None:
        """See `Watcher`."""
        self._observer(opened_event(parameters, simulation=self._simulation))

    def phase_opened(self, parameters: SessionParameters, phase: str) -> None:
        """See `Watcher`."""
        self._observer(PhaseOpened(**session_fields(parameters), phase=phase))

    def phase_closed(self, parameters: SessionParameters, record: PhaseRecord) -> None:
        """See `Watcher`."""
        for event in closed_events(parameters, record):
            self._observer(event)


def round_events(outcome: RoundOutcome, *, simulation: bool, told: bool) -> Iterator[Event]:
    """The session's opening, its phases with their refusals, and its end.

    :param told: the engine has told all but the end while it went.
    """
    parameters = outcome.parameters
    if not told:
        yield opened_event(parameters, simulation=simulation)
        yield from carried_events(parameters, outcome.phases)
    yield RoundFinished(
        **session_fields(parameters),
        outcome="failed" if outcome.mean is None else "summed",
        contributors=outcome.contributors,
        dropped=tuple(party for party in parameters.cohort if party not in outcome.contributors),
        seconds=sum(phase.seconds for phase in outcome.phases),
        error="" if outcome.failure is None else type(outcome.failure).__name__,
    )


def evaluated_event(outcome: RoundOutcome, metric: str, value: float) -> RoundEvaluated:
    """What the model after a round is worth."""
    run_id = outcome.parameters.run_id
    return RoundEvaluated(run_id=run_id, round=outcome.number, attempt=outcome.attempt, metric=metric, value=value)


def budget_events(outcome: RoundOutcome, ledgers: Mapping[str, Ledger], to_come: int) -> Iterator[BudgetCharged]:
    """Where each ledger stands after an attempt, and how far the rest reaches.

    :param to_come: rounds of the plan after this one.
    """
    run_id = outcome.parameters.run_id
    for silo, ledger in ledgers.items():
        state = ledger.state
        event = present_event(state, run_id)
        charged = compose(state.charged_curves())
        yield BudgetCharged(
            silo=silo,
            run_id=run_id,
            round=outcome.number,
            attempt=outcome.attempt,
            epsilon_spent=state.spent().filter_epsilon,
            epsilon_budget=state.genesis.budget.epsilon,
            delta=state.genesis.budget.delta,
            epsilon_remaining=state.remaining().filter_epsilon,
            rounds_left=None if event is None else rounds_left(state.filter, [charged], event),
            rounds_planned_left=to_come,
        )

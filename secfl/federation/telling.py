"""What an attempt at a round tells observers: the events of `secfl.events`, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from secfl.events import BudgetCharged, Event, RoundFinished, carried_events, opened_event, session_fields
from secfl.federation.round import RoundOutcome
from secfl.privacy.ledger import Ledger

__all__ = ["round_events"]


def round_events(outcome: RoundOutcome, ledgers: Mapping[str, Ledger], *, simulation: bool) -> Iterator[Event]:
    """The session's opening, its phases with their refusals, its end, and where each ledger stands after it."""
    parameters = outcome.parameters
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
    for silo, ledger in ledgers.items():
        summary = ledger.summary()
        yield BudgetCharged(
            silo=silo,
            run_id=parameters.run_id,
            round=outcome.number,
            attempt=outcome.attempt,
            epsilon_spent=summary.spent.filter_epsilon,
            epsilon_budget=summary.budget.epsilon,
            delta=summary.budget.delta,
        )

"""From what an attempt at a round left behind to the record of it that checkpoints and reports hold."""

from __future__ import annotations

from secfl.engines.base import PhaseRecord
from secfl.federation.round import RoundOutcome
from secfl.report.model import FaultRow, PhaseRow, RoundRow

__all__ = ["round_row"]


def round_row(outcome: RoundOutcome, metric: float | None, epsilon: dict[str, float]) -> RoundRow:
    """The record of one attempt.

    :param metric: of the model after it; None if there is none or nothing may be evaluated.
    :param epsilon: spent by each silo after it.
    """
    return RoundRow(
        number=outcome.number,
        attempt=outcome.attempt,
        completed=outcome.mean is not None,
        failure="" if outcome.failure is None else str(outcome.failure),
        session=outcome.session,
        model_hash=outcome.model_hash,
        contributors=outcome.contributors,
        phases=tuple(_phase_row(phase) for phase in outcome.phases),
        checks=outcome.checks,
        metric=metric,
        epsilon=epsilon,
    )


def _phase_row(record: PhaseRecord) -> PhaseRow:
    return PhaseRow(
        phase=record.phase,
        seconds=record.seconds,
        bytes_up=record.bytes_up,
        bytes_down=record.bytes_down,
        answered=record.answered,
        dropped=record.dropped,
        faults=tuple(FaultRow(party=e.party, phase=e.phase, text=str(e.error)) for e in record.events),
    )

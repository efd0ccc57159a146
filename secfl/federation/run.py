"""A run: rounds until the plan is done or a budget is spent, then the result. Nothing here knows how bytes travel."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import BudgetExceeded, EncodingError
from protocols.shape import Entropy
from secfl.engines.base import Engine
from secfl.federation.round import RoundOutcome, RoundPlan
from secfl.federation.setup import Parties, Plan, as_vector

__all__ = ["Observer", "RoundResult", "RunResult", "new_run_id", "run_rounds"]


@dataclass(frozen=True)
class RoundResult:
    """An attempt at a round and what followed from it."""

    outcome: RoundOutcome
    metric: float | None
    epsilon: dict[str, float]
    """Spent by each silo after it."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    :param status: ``completed``, or ``halted`` with the reason: a budget is spent or too few parties took part.
    :param state: the final global model, flat.
    """

    run_id: str
    started: datetime
    finished: datetime
    status: str
    reason: str
    rounds: tuple[RoundResult, ...]
    state: npt.NDArray[np.float32] = field(repr=False)
    metric: float | None


Observer = Callable[[RoundResult], None]


def new_run_id(name: str, now: datetime, entropy: Entropy = os.urandom) -> str:
    """Readable and unique: name, UTC time, 32 random bits."""
    return f"{name}-{now:%Y%m%dT%H%M%SZ}-{uuid.UUID(bytes=entropy(16)).hex[:8]}"


def run_rounds(
    plan: Plan,
    parties: Parties,
    engine: Engine,
    run_id: str,
    *,
    evaluate: Callable[[npt.NDArray[np.float32]], float] | None = None,
    observer: Observer | None = None,
    entropy: Entropy = os.urandom,
) -> RunResult:
    """Federated averaging: the mean update of the contributors is added to the global model, round by round.

    :param evaluate: metric of a global model, on records that may be used; None for none.
    :param observer: told of every attempt.
    """
    config = plan.config
    aggregation = config.aggregation
    rounds = RoundPlan(
        run_id=run_id,
        roster=parties.roster,
        scheme=plan.scheme,
        layout=plan.layout,
        update_layout=plan.update_layout,
        weights=plan.weights,
        threshold=aggregation.threshold,
        collusion_bound=aggregation.collusion_bound,
        minimum_contributors=aggregation.minimum_contributors,
    )
    started = datetime.now(UTC)
    state, done, reason = as_vector(plan), [], ""
    metric = evaluate(state) if evaluate else None
    for number in range(1, config.run.rounds + 1):
        for attempt in range(aggregation.attempts):
            outcome = rounds.run(engine, state, number, attempt, entropy)
            if outcome.mean is not None:
                state = _apply(plan, state, outcome.mean)
                metric = evaluate(state) if evaluate else None
            result = RoundResult(outcome, metric if outcome.mean is not None else None, spent(parties))
            done.append(result)
            if observer is not None:
                observer(result)
            if outcome.mean is not None or _out_of_budget(outcome):
                break
        if done[-1].outcome.mean is None:
            reason = _why_halted(done[-1].outcome)
            break
    status = "halted" if reason else "completed"
    return RunResult(run_id, started, datetime.now(UTC), status, reason, tuple(done), state, metric)


def _apply(plan: Plan, state: npt.NDArray[np.float32], mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Global model plus mean update.

    :raises EncodingError: names a tensor that is no longer finite.
    """
    tensors = plan.layout.unflatten(state)
    for name, change in plan.update_layout.unflatten(mean).items():
        tensors[name] = (tensors[name] + change).astype(tensors[name].dtype)
        if not np.isfinite(tensors[name]).all():
            raise EncodingError(name, "the global model is no longer finite")
    return np.asarray(plan.layout.flatten(tensors), dtype=np.float32)


def spent(parties: Parties) -> dict[str, float]:
    """Epsilon spent by each silo, by the filter; empty without privacy."""
    return {silo: ledger.spent().filter_epsilon for silo, ledger in parties.ledgers.items()}


def _out_of_budget(outcome: RoundOutcome) -> bool:
    return bool(_exhausted(outcome))


def _exhausted(outcome: RoundOutcome) -> list[str]:
    return [
        event.party for phase in outcome.phases for event in phase.events if isinstance(event.error, BudgetExceeded)
    ]


def _why_halted(outcome: RoundOutcome) -> str:
    exhausted = _exhausted(outcome)
    if exhausted:
        return f"round {outcome.number}: the privacy budget of {', '.join(exhausted)} is spent; {outcome.failure}"
    return f"round {outcome.number}: {outcome.attempt + 1} attempts failed; the last: {outcome.failure}"


def model_file(directory: Path, plan: Plan, state: npt.NDArray[np.float32]) -> Path:
    """Write the global model as safetensors."""
    from safetensors.numpy import save  # extra train

    from secfl.files import write_whole

    path = directory / "model.safetensors"
    write_whole(path, save({name: np.ascontiguousarray(t) for name, t in plan.layout.unflatten(state).items()}))
    return path

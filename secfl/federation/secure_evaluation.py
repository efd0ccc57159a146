"""Secure evaluation: one more secure sum after the last round, of score histograms with shares of discrete noise.

Each silo counts its protected holdout records by score (`secfl.training.scores`): a record is one count in one bin, so
that adding or removing it moves the sum by 1 in L2 norm. Shares of noise and their accounting are those of mode B with
every record in the sample; each ledger is charged for it as a release of its own. The server computes the figures from
the noised sum: post-processing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from protocols.errors import ConfigError
from protocols.primitives.ring import Words
from protocols.shape import Entropy
from secfl.config import Config, SiloSettings
from secfl.encoding import TensorLayout
from secfl.encoding.layout import TensorEntry
from secfl.engines.base import Engine
from secfl.federation.checkpoint import Journal
from secfl.federation.model_code import model_code
from secfl.federation.noised import NoisedTraining
from secfl.federation.round import RoundOutcome, RoundPlan
from secfl.federation.silo import Vector
from secfl.files import write_whole
from secfl.privacy.accounting import RdpFilter, order_within_budget, rdp_curve
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.histograms import accuracy, auc, right_share
from secfl.privacy.mechanism import DistributedMechanism, MechanismReport
from secfl.report.accounts import EVALUATION

if TYPE_CHECKING:
    from secfl.federation.run import RunResult
    from secfl.federation.setup import Parties, Plan

__all__ = [
    "FILE",
    "SecureFigures",
    "evaluate_securely",
    "evaluation_mechanism",
    "evaluation_work",
    "planned_evaluation",
    "write_figures",
]

FILE = "evaluation.json"
_METRICS = {"auc": auc, "accuracy": accuracy, "top-1": right_share}
RECORDS = 2**22
"""Most holdout records of a silo."""
_ROWS = 4096


class SecureFigures(msgspec.Struct, frozen=True):
    """What a secure evaluation gave; all of it is private under the ledgers' budget.

    :param value: of the configured metric; None if there is no sum, or the noise drowns it (``problem`` says which).
    :param deviation: of ``value`` by the noise alone; that of the choice of holdout records comes on top.
    :param count_deviation: of each count by the noise.
    :param lower: noised counts of negatives (or of wrong answers) by rising score; ``upper`` of positives (or right).
    """

    metric: str
    value: float | None = None
    deviation: float | None = None
    contributors: tuple[str, ...] = ()
    count_deviation: float | None = None
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    problem: str = ""


def evaluation_layout(config: Config) -> TensorLayout:
    """Of the vector that is summed: two histograms."""
    return TensorLayout((TensorEntry("histogram", "float32", (2 * config.evaluation.bins,)),))


def evaluation_mechanism(config: Config, a_round: AnyPrivacyEvent) -> DistributedMechanism:
    """The mechanism whose one sum adds at most `evaluation.epsilon`, at the order that suits the training.

    :param a_round: what a round of training costs.
    """
    privacy, epsilon = config.privacy, config.evaluation.epsilon
    if privacy is None or epsilon is None:
        raise ConfigError("evaluation.kind", "secure without a privacy budget", '"benchmark" or "none"')
    order = order_within_budget(a_round, config.budgeted_rounds, config.training_epsilon, privacy.delta)
    noise = math.sqrt(order / (2 * epsilon))
    while True:
        mechanism = DistributedMechanism.choose(
            clip_norm=1.0,
            noise_multiplier=noise,
            dimension=2 * config.evaluation.bins,
            minimum_contributors=config.minimum_contributors,
            maximum_contributors=len(config.silo),
            colluding=config.collusion_bound,
            maximum_records=RECORDS,
            layout_digest=evaluation_layout(config).digest,
        )
        # The filter's value at its order, less its conversion, is what the sum adds to epsilon.
        if RdpFilter(order, 1e6, privacy.delta).rho(rdp_curve(mechanism.plan.event(1))) <= epsilon:
            return mechanism
        noise *= 1.001


def evaluation_work(plan: Plan, silo: SiloSettings, mechanism: DistributedMechanism) -> NoisedTraining:
    """A silo's part: from the global model to its noised histogram; one without holdout records sends noise."""
    from secfl.training.scores import score_bins

    evaluation, records = plan.config.evaluation, _holdout(plan, silo)

    def encode(
        state: Vector, used: DistributedMechanism, session: bytes, entropy: Entropy
    ) -> tuple[Words, MechanismReport]:
        total = used.record_sum()
        if records is not None:
            with model_code(f"evaluating at silo {silo.name!r}", quote=False):
                cells = score_bins(
                    plan.task, plan.layout.unflatten(state), records, evaluation.bins, answers=_answers(plan.config)
                )
            for start in range(0, len(cells), _ROWS):
                part = cells[start : start + _ROWS]
                rows = np.zeros((len(part), 2 * evaluation.bins), np.float32)
                rows[np.arange(len(part)), part] = 1.0
                total.add([rows])
        return used.encode_sum(total, session, entropy)

    return NoisedTraining(encode, mechanism.plan.event(1), plan.layout, evaluation_layout(plan.config))


def _holdout(plan: Plan, silo: SiloSettings) -> Any:
    with model_code(f"loading the records of silo {silo.name!r}"):
        return plan.task.silo_data(silo.name, plan.config.run.seed).test


def evaluate_securely(
    plan: Plan, parties: Parties, engine: Engine, result: RunResult, journal: Journal
) -> SecureFigures:
    """Open one sum of histograms of the final model; a failure is told, and charged if anything was sent.

    :param engine: of the parties' evaluating sides.
    """
    mechanism = planned_evaluation(plan)
    aggregation = plan.config.aggregation
    rounds = RoundPlan(
        run_id=result.run_id + EVALUATION,
        roster=parties.roster,
        scheme=mechanism,
        layout=plan.layout,
        update_layout=evaluation_layout(plan.config),
        weights=dict.fromkeys(parties.evaluating, 1),
        protocol=aggregation.protocol,
        public_context=parties.public_context,
        collusion_bound=plan.config.collusion_bound,
        minimum_contributors=plan.config.minimum_contributors,
    )
    number = plan.config.run.rounds + 1
    attempt = journal.next_attempt(number)
    journal.begin(number, attempt)
    parties.heads.remind(parties.silos)
    outcome = rounds.run(engine, result.state, number, attempt, tuple(parties.silos))
    parties.heads.countersign()
    return _figures(plan.config, outcome, mechanism)


def planned_evaluation(plan: Plan) -> DistributedMechanism:
    """The mechanism of a plan's evaluation, after the training that it comes on top of."""
    events = [plan.event(silo.name) for silo in plan.config.silo]
    return evaluation_mechanism(plan.config, events[0])


def write_figures(directory: Path, figures: SecureFigures) -> Path:
    """Write them into the directory of a run."""
    path = directory / FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    return path


def metric_of_counts(directory: Path, metric: str) -> float | None:
    """The metric that follows from the noised counts that a run kept; None if there was no sum or no figure.

    :raises ConfigError: the file is missing or damaged.
    """
    path = directory / FILE
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=SecureFigures)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the figures that the run wrote") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is damaged: {error}", "the figures that the run wrote") from None
    if metric != kept.metric or len(kept.lower) != len(kept.upper) or not kept.lower:
        return None
    return _METRICS[metric](np.array(kept.lower), np.array(kept.upper), kept.count_deviation or 0.0).value


def _answers(config: Config) -> bool:
    return config.evaluation.metric == "top-1"


def _figures(config: Config, outcome: RoundOutcome, mechanism: DistributedMechanism) -> SecureFigures:
    metric, bins = config.evaluation.metric, config.evaluation.bins
    if outcome.mean is None:
        reasons = {str(event.error) for phase in outcome.phases for event in phase.events}
        return SecureFigures(metric, problem="; ".join([f"no sum: {outcome.failure}", *sorted(reasons)]))
    counts = outcome.mean * len(outcome.contributors)
    deviation = mechanism.standard_deviation(len(outcome.contributors))
    figure = _METRICS[metric](counts[:bins], counts[bins:], deviation)
    return SecureFigures(
        metric=metric,
        value=figure.value,
        deviation=figure.deviation,
        contributors=outcome.contributors,
        count_deviation=deviation,
        lower=tuple(counts[:bins].tolist()),
        upper=tuple(counts[bins:].tolist()),
        problem="" if figure.value is not None else "the noise drowns the counts: more records, or more epsilon",
    )

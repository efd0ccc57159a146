"""From a run's result to the report's records."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from protocols.errors import MissingExtra, PrivacyError
from secfl.engines.base import Engine
from secfl.federation.run import RunResult
from secfl.federation.setup import Parties, Plan, noise_source
from secfl.privacy.crosscheck import prv_epsilon
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.ledger import Ledger, ReleaseState
from secfl.registry import Figures
from secfl.report.display import rounded_up
from secfl.report.model import Claim, Evaluation, ReleaseRow, RunReport, SiloRow

__all__ = ["build_report"]

_VERSIONED = ("secfl", "numpy", "cryptography", "torch", "opacus", "dp-accounting")
_CHARGED = (ReleaseState.SENDING, ReleaseState.COMMITTED)

RELATION = "add or remove one record of one silo"


def build_report(plan: Plan, parties: Parties, engine: Engine, result: RunResult, configuration: str) -> RunReport:
    """Everything about a run, from its result and its ledgers."""
    config = plan.config
    silos = tuple(_silo(plan, parties, name) for name in parties.silos)
    return RunReport(
        name=config.run.name,
        run_id=result.run_id,
        started=result.started,
        finished=result.finished,
        status="halted" if result.status == "halted" else "completed",
        status_reason=result.reason,
        engine=engine.name,
        simulation=engine.simulation,
        privacy_mode=config.training.mode,
        noise_source=noise_source(plan),
        claims=_claims(plan, silos),
        silos=silos,
        rounds=result.rounds,
        rounds_planned=config.run.rounds,
        evaluation=_evaluation(plan, result),
        protocol=config.aggregation.protocol,
        protocol_parameters=_protocol(plan),
        protocol_promises=config.protocol.promises(_figures(plan)),
        encoding=plan.scheme.describe(),
        training=_training(plan),
        not_protected=_not_protected(plan, engine),
        model_hash=hashlib.sha256(result.state.astype("<f4").tobytes()).hexdigest(),
        data_description=config.ledger.source,
        versions={"python": platform.python_version(), **{name: _version(name) for name in _VERSIONED}},
        configuration=configuration,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _silo(plan: Plan, parties: Parties, name: str) -> SiloRow:
    training = plan.config.training
    nominal = next(silo.nominal_size for silo in plan.config.silo if silo.name == name)
    ledger = parties.ledgers.get(name)
    key = parties.roster.member(name).identity_key.hex()
    if ledger is None:
        return SiloRow(
            name=name,
            nominal_records=nominal,
            budget_epsilon=None,
            delta=None,
            spent_epsilon=None,
            reserved_epsilon=None,
            remaining_epsilon=None,
            prv_epsilon=None,
            rounds_left=None,
            sampling_rate=None,
            noise_multiplier=None,
            steps_per_round=training.steps_per_round,
            clip_norm=None,
            ledger_head="",
            public_key=key,
            releases=(),
        )
    summary = ledger.summary()
    noise = plan.noise_multipliers[name]
    return SiloRow(
        name=name,
        nominal_records=nominal,
        budget_epsilon=summary.budget.epsilon,
        delta=summary.budget.delta,
        spent_epsilon=summary.spent.filter_epsilon,
        reserved_epsilon=summary.reserved.filter_epsilon,
        remaining_epsilon=summary.remaining.filter_epsilon,
        prv_epsilon=_prv(ledger, summary.budget.delta),
        rounds_left=ledger.steps_left(training.sampling_rate, noise) // training.steps_per_round,
        sampling_rate=training.sampling_rate,
        noise_multiplier=noise,
        steps_per_round=training.steps_per_round,
        clip_norm=training.clip_norm,
        ledger_head=summary.head.hash,
        public_key=key,
        releases=_releases(ledger),
        lineage=summary.lineage,
    )


def _prv(ledger: Ledger, delta: float) -> float | None:
    """The cross-check over all charged releases; None where Opacus is not installed."""
    return _prv_of(
        tuple(release.reservation.event for release in ledger.releases() if release.state in _CHARGED), delta
    )


@lru_cache(maxsize=64)
def _prv_of(events: tuple[AnyPrivacyEvent, ...], delta: float) -> float | None:
    """Silos under one plan have the same events: computed once."""
    if not events:
        return 0.0
    try:
        return prv_epsilon(events, delta)
    except (MissingExtra, PrivacyError):  # a cross-check that cannot be made is shown as missing
        return None


def _releases(ledger: Ledger) -> tuple[ReleaseRow, ...]:
    return tuple(
        ReleaseRow(
            release=release.reservation.release_id,
            round=release.reservation.round,
            attempt=release.reservation.attempt,
            state=release.state.value,
            sampling_rate=release.reservation.event.sampling_rate,
            noise_multiplier=release.reservation.event.noise_multiplier,
            steps=release.reservation.event.steps,
            run=release.reservation.run,
        )
        for release in ledger.releases()
    )


def _claims(plan: Plan, silos: tuple[SiloRow, ...]) -> tuple[Claim, ...]:
    """One sentence per adversary. In mode A each silo's own noise stands against all of them alike."""
    budget = plan.config.privacy
    if budget is None:
        return ()
    spent = max(silo.spent_epsilon or 0.0 for silo in silos)
    adversaries = {
        "outsider": "Who sees the final model or every global model",
        "server": "The server, even if secure aggregation failed and it saw every single update,",
        "another silo": "Another silo, which sees every global model,",
        "server with colluding silos": "The server together with any number of the other silos",
    }
    return tuple(
        Claim(
            adversary=adversary,
            sentence=(
                f"{who} learns about any single record of a silo no more than ({rounded_up(spent)}, {budget.delta:g})-"
                "differential privacy allows; every silo's noise stands by itself."
            ),
            unit=budget.unit,
            neighbouring_relation=RELATION,
            epsilon=spent,
            delta=budget.delta,
            accountant="RDP filter at a fixed integer order",
        )
        for adversary, who in adversaries.items()
    )


def _evaluation(plan: Plan, result: RunResult) -> Evaluation:
    evaluation = plan.config.evaluation
    records = {
        "benchmark": "pooled test records of all silos, declared unprotected in the configuration: published exactly",
        "none": "nothing was evaluated",
    }
    return Evaluation(
        kind=evaluation.kind, metric=evaluation.metric, value=result.metric, records=records[evaluation.kind]
    )


def _figures(plan: Plan) -> Figures:
    config = plan.config
    return Figures(
        config.cast, config.cohort_size, config.collusion_bound, config.threshold, config.minimum_contributors
    )


def _protocol(plan: Plan) -> dict[str, str | int | float]:
    figures = _figures(plan)
    return plan.config.protocol.describe(figures) | {
        "clients": figures.cohort,
        "collusion bound": figures.collusion_bound,
        "threshold": figures.threshold,
        "minimum contributors": figures.minimum_contributors,
        "suite": plan.config.protocol.suite,
        "modulus bits": plan.scheme.modulus_bits,
        "vector length": plan.update_layout.size,
    }


def _training(plan: Plan) -> dict[str, str | int | float]:
    training = plan.config.training.model_dump(exclude_none=True)
    return {key.replace("_", " "): value for key, value in training.items()} | {"rounds": plan.config.run.rounds}


def _not_protected(plan: Plan, engine: Engine) -> tuple[str, ...]:
    items = [
        "Who takes part, when, and how large its messages are.",
        "The sum of the updates: it is what the protocol is there to reveal.",
        "The test records: they are declared unprotected and the metric on them is exact."
        if plan.config.evaluation.kind == "benchmark"
        else "Nothing was evaluated.",
        "Time: how long a silo trains may depend on its records; replies do not leave at fixed times.",
        "Honesty of inputs: a silo may send any update within the clipping range.",
        "A server that lies about the result: it can hand out another model than the sum gives.",
    ]
    if plan.config.rounds.buffered:
        items.append(
            "Updates against the choice of models: those in one sum start from different models, and a server that "
            "chooses these models in bad faith learns more from the sum."
        )
    if plan.private:
        items.append(
            "Persons: the unit is a record. Whoever has several records is protected as a group: epsilon grows with "
            "their number, delta much faster, and soon nothing is promised."
        )
        items.append("Hyper-parameters that were tried on the same records: only this run's training is accounted for.")
    if engine.simulation:
        items.insert(0, "Anything, from whoever runs this process: it held the records and keys of all parties.")
    if plan.config.ledger.kind == "per-run":
        items.append("Other runs on the same records: this run's ledgers began empty, which only public data allow.")
    return tuple(items)

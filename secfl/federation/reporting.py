"""From the records of a run to its report.

`secfl run` and `secfl report verify` both come through `assemble`: the one with the open ledgers, the other with what
it reads from the run's directory. Whatever is computed here is thereby recomputed there.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from secfl.config import Config
from secfl.engines.base import Engine
from secfl.federation.report_noise import mechanism_of, noise_rows, paddings, sampling_of
from secfl.federation.run import RunResult
from secfl.federation.run_records import RunRecords
from secfl.federation.setup import Parties, Plan
from secfl.privacy.claims import RELATIONS, Floors, claims, epsilon_by_colluders
from secfl.registry import Figures
from secfl.report.accounts import (
    Account,
    charged_events,
    epsilon_after,
    forecast,
    noise_levels,
    present_event,
    prv_of,
    release_rows,
    rounds_left,
)
from secfl.report.curves import curves_of
from secfl.report.deployment import registry_entry
from secfl.report.model import (
    Claim,
    ColluderPoint,
    Evaluation,
    GroupPoint,
    Parameters,
    RunReport,
    SiloRow,
)
from secfl.report.signatures import sign_head
from secfl.report.summary import group_bound
from secfl.training.settings import RARE_SAMPLE

__all__ = ["assemble", "build_report"]

_VERSIONED = ("secfl", "numpy", "cryptography", "torch", "opacus", "dp-accounting")
GROUP_SIZES = (1, 2, 5)


def build_report(
    plan: Plan,
    parties: Parties,
    engine: Engine,
    result: RunResult,
    configuration: str,
    model: bytes,
    signatures: Mapping[str, str] | None = None,
) -> RunReport:
    """Everything about a run that has just ended; each silo signs the head of its ledger.

    :param model: content of the final model's file.
    :param signatures: of silos elsewhere; None if they are in this process and sign here.
    """
    model_hash = hashlib.sha256(model).hexdigest()
    accounts = {name: Account(ledger.state, ledger.head) for name, ledger in parties.ledgers.items()}
    signatures = (
        signatures
        if signatures is not None
        else {
            name: sign_head(
                parties.silos[name].identity.signing_key,
                run_id=result.run_id,
                model_hash=model_hash,
                silo=name,
                lineage=account.state.genesis.lineage,
                head=account.head,
            )
            for name, account in accounts.items()
        }
    )
    return assemble(
        RunRecords(
            config=plan.config,
            configuration=configuration,
            run_id=result.run_id,
            started=result.started,
            finished=result.finished,
            status=result.status,
            reason=result.reason,
            engine=engine.name,
            simulation=engine.simulation,
            rounds=result.rounds,
            metric=result.metric,
            model_hash=model_hash,
            update_size=plan.update_layout.size,
            keys={name: parties.roster.member(name).identity_key.hex() for name in parties.silos},
            roster_hash=parties.roster.digest().hex(),
            accounts=accounts,
            signatures=signatures,
            versions={"python": platform.python_version(), **{name: _version(name) for name in _VERSIONED}},
        )
    )


def assemble(records: RunRecords) -> RunReport:
    """The report that follows from the records."""
    config = records.config
    silos = tuple(_silo(records, silo.name) for silo in config.silo)
    claimed = _claims(records)
    report = RunReport(
        name=config.run.name,
        run_id=records.run_id,
        started=records.started,
        finished=records.finished,
        status="halted" if records.status == "halted" else "completed",
        status_reason=records.reason,
        rounds_planned=config.run.rounds,
        engine=records.engine,
        simulation=records.simulation,
        privacy_mode=config.training.mode,
        label="benchmark, no claim" if records.baselines else "",
        baselines=records.baselines,
        mechanism=mechanism_of(records, claimed),
        sampling=sampling_of(config),
        claims=claimed,
        colluders=_colluders(records),
        groups=_groups(claimed),
        curves=curves_of(records.accounts),
        silos=silos,
        rounds=records.rounds,
        noise=noise_rows(records),
        evaluation=_evaluation(config, records.metric),
        protocol=config.aggregation.protocol,
        protocol_parameters=_protocol(records),
        protocol_promises=config.protocol.promises(_figures(config)),
        encoding={key.replace("_", " "): value for key, value in records.scheme.describe().items()},
        training=_training(config),
        not_protected=_not_protected(records),
        audits=records.audits,
        roster_hash=records.roster_hash,
        model_hash=records.model_hash,
        data_description=config.ledger.source,
        versions=dict(records.versions),
        configuration=records.configuration,
    )
    return registry_entry(report)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# -- budget ------------------------------------------------------------------------------------------------------------


def _silo(records: RunRecords, name: str) -> SiloRow:
    training = records.config.training
    nominal = next(silo.nominal_size for silo in records.config.silo if silo.name == name)
    account = records.accounts.get(name)
    if account is None:
        return SiloRow(
            name=name,
            source=records.config.ledger.source,
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
            public_key=records.keys[name],
            releases=(),
        )
    state, budget = account.state, account.state.genesis.budget
    event = present_event(state, records.run_id)
    left = None if event is None else rounds_left(state.filter, state.charged_curves(), event)
    return SiloRow(
        name=name,
        lineage=state.genesis.lineage,
        source=state.genesis.source,
        fingerprint=state.genesis.fingerprint,
        nominal_records=nominal,
        budget_epsilon=budget.epsilon,
        delta=budget.delta,
        filter_order=state.genesis.order,
        spent_before_epsilon=epsilon_after(state, records.run_id, 0, 0),
        spent_epsilon=state.spent().filter_epsilon,
        reserved_epsilon=state.reserved().filter_epsilon,
        remaining_epsilon=state.remaining().filter_epsilon,
        prv_epsilon=prv_of(charged_events(state), budget.delta),
        rounds_left=left,
        noise_levels=() if event is None else noise_levels(state, event),
        forecast=() if event is None else forecast(state, event, min(left or 0, 2 * records.config.run.rounds)),
        sampling_rate=None if event is None else event.sampling_rate,
        noise_multiplier=None if event is None else event.noise_multiplier,
        steps_per_round=training.steps_per_round,
        clip_norm=training.clip_norm,
        ledger_head=account.head.hash,
        ledger_sequence=account.head.sequence,
        head_signature=records.signatures.get(name, ""),
        public_key=records.keys[name],
        releases=release_rows(state),
    )


def _claims(records: RunRecords) -> tuple[Claim, ...]:
    """One for each adversary, out of what the ledgers were charged and the run's public floors."""
    mode = records.config.training.mode
    if records.config.privacy is None or mode == "none":
        return ()
    return tuple(
        Claim(
            adversary=found.adversary,
            sentence=found.sentence,
            unit=records.config.privacy.unit,
            neighbouring_relation=RELATIONS[mode],
            epsilon=found.epsilon,
            delta=found.delta,
            accountant=found.accountant,
            colluding=found.colluding,
            shares=found.shares,
            delta_parts=dict(found.delta_parts),
            computational=found.computational,
        )
        for found in claims(mode, records.charged, _floors(records))
    )


def _colluders(records: RunRecords) -> tuple[ColluderPoint, ...]:
    if records.config.privacy is None:
        return ()
    return tuple(
        ColluderPoint(
            colluding=point.colluding,
            shares=point.shares,
            epsilon=point.epsilon,
            assumed=point.assumed,
            void=point.void,
        )
        for point in epsilon_by_colluders(records.charged, _floors(records))
    )


def _floors(records: RunRecords) -> Floors:
    config = records.config
    return Floors(
        minimum_contributors=config.minimum_contributors,
        colluding=config.collusion_bound,
        protocol=config.aggregation.protocol,
        protocol_failure=config.protocol.statistical_failure,
        sample_failure=max((found.failure for found in paddings(config)), default=0.0)
        + (RARE_SAMPLE if config.training.mode == "distributed-dp-sgd" else 0.0),
        local_dimension=records.update_size,
    )


def _groups(claimed: tuple[Claim, ...]) -> tuple[GroupPoint, ...]:
    """Group privacy of each claim."""
    points = []
    for claim in claimed:
        if claim.epsilon is None or claim.delta is None:
            continue
        for size in GROUP_SIZES:
            bound = group_bound(claim.epsilon, claim.delta, size)
            held = bound.delta is not None
            points.append(
                GroupPoint(
                    adversary=claim.adversary, size=size, epsilon=bound.epsilon if held else None, delta=bound.delta
                )
            )
    return tuple(points)


# -- the rest ----------------------------------------------------------------------------------------------------------


def _evaluation(config: Config, metric: float | None) -> Evaluation:
    evaluation = config.evaluation
    records = {
        "benchmark": "pooled test records of all silos, declared unprotected in the configuration: published exactly",
        "secure": "protected holdout records of all silos: from one noised secure sum of score histograms, charged to "
        "the ledgers",
        "none": "nothing was evaluated",
    }
    return Evaluation(kind=evaluation.kind, metric=evaluation.metric, value=metric, records=records[evaluation.kind])


def _figures(config: Config) -> Figures:
    return Figures(
        config.cast, config.cohort_size, config.collusion_bound, config.threshold, config.minimum_contributors
    )


def _protocol(records: RunRecords) -> Parameters:
    config = records.config
    figures = _figures(config)
    return config.protocol.describe(figures) | {
        "clients": figures.cohort,
        "collusion bound": figures.collusion_bound,
        "threshold": figures.threshold,
        "minimum contributors": figures.minimum_contributors,
        "suite": config.protocol.suite,
        "modulus bits": records.scheme.modulus_bits,
        "vector length": records.update_size,
    }


def _training(config: Config) -> Parameters:
    training = config.training.model_dump(exclude_none=True)
    return {key.replace("_", " "): value for key, value in training.items()} | {"rounds": config.run.rounds}


def _time(config: Config) -> str:
    if config.privacy is not None and config.training.pad_batches is not False:
        return (
            "Time, in part: every step runs on the same number of rows, but replies do not leave at fixed times, and "
            "caches and the like are not controlled."
        )
    return "Time: how long a silo trains may depend on its records; replies do not leave at fixed times."


_EVALUATED = {
    "benchmark": "The test records: they are declared unprotected and the metric on them is exact.",
    "secure": "The metric of the holdout records is noised; evaluation.json says how far that may move it.",
    "none": "Nothing was evaluated.",
}


_PERSONS = {
    "record": "Persons: the unit is a record. Whoever has several records is protected as a group: epsilon grows with "
    "their number, delta much faster, and soon nothing is promised.",
    "client": "Persons: the unit is a silo's whole update. Whoever has records at several silos is protected as a "
    "group of silos: epsilon grows with their number, delta much faster, and soon nothing is promised.",
}


def _not_protected(records: RunRecords) -> tuple[str, ...]:
    config = records.config
    items = [
        "Who takes part, when, and how large its messages are.",
        "The sum of the updates: it is what the protocol is there to reveal.",
        _EVALUATED[config.evaluation.kind],
        _time(config),
        "Honesty of inputs: a silo may send any update within the clipping range.",
        "A server that lies about the result: it can hand out another model than the sum gives.",
    ]
    if config.rounds.buffered:
        items.append(
            "Updates against the choice of models: those in one sum start from different models, and a server that "
            "chooses these models in bad faith learns more from the sum."
        )
    if config.privacy is not None:
        items.append(_PERSONS[config.privacy.unit])
        items.append("Hyper-parameters that were tried on the same records: only this run's training is accounted for.")
    if records.simulation:
        items.insert(0, "Anything, from whoever runs this process: it held the records and keys of all parties.")
    if config.ledger.kind == "per-run":
        items.append("Other runs on the same records: this run's ledgers began empty, which only public data allow.")
    return tuple(items)

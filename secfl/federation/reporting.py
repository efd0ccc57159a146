"""From the records of a run to its report.

`secfl run` and `secfl report verify` both come through `assemble`: the one with the open ledgers, the other with what
it reads from the run's directory. Whatever is computed here is thereby recomputed there.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from secfl.config import Config
from secfl.encoding import TensorLayout
from secfl.encoding.layout import TensorEntry
from secfl.engines.base import Engine
from secfl.federation.run import RunResult
from secfl.federation.setup import Parties, Plan, encoding_scheme, noise_multipliers
from secfl.federation.silo import Scheme
from secfl.federation.work import batch_padding, noise_source
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian
from secfl.privacy.grid import grid_bound, grid_step
from secfl.registry import Figures
from secfl.report.accounts import (
    Account,
    charged_events,
    forecast,
    noise_levels,
    present_event,
    prv_of,
    release_rows,
    rounds_left,
)
from secfl.report.curves import curves_of
from secfl.report.deployment import registry_entry
from secfl.report.display import rounded_up
from secfl.report.model import (
    Audit,
    Baseline,
    Claim,
    Evaluation,
    GroupPoint,
    Mechanism,
    NoiseRow,
    Parameters,
    RoundRow,
    RunReport,
    Sampling,
    SiloRow,
)
from secfl.report.signatures import sign_head
from secfl.report.summary import group_bound

__all__ = ["RunRecords", "assemble", "build_report"]

_VERSIONED = ("secfl", "numpy", "cryptography", "torch", "opacus", "dp-accounting")
GROUP_SIZES = (1, 2, 5)
RELATION = "add or remove one record of one silo"


@dataclass(frozen=True)
class RunRecords:
    """Everything that a report is made from.

    :param configuration: text of the configuration.
    :param keys: identity key of each silo, hex, as the roster pins it.
    :param accounts: ledger of each silo; empty without privacy.
    :param signatures: of the silos over their ledgers' heads, hex.
    :param model_hash: SHA-256 of the final model's file, hex.
    :param update_size: coordinates of an update.
    """

    config: Config
    configuration: str
    run_id: str
    started: str
    finished: str
    status: str
    reason: str
    engine: str
    simulation: bool
    noise_source: str
    rounds: tuple[RoundRow, ...]
    metric: float | None
    model_hash: str
    update_size: int
    keys: Mapping[str, str]
    roster_hash: str
    accounts: Mapping[str, Account] = field(repr=False)
    signatures: Mapping[str, str]
    versions: Mapping[str, str]
    audits: tuple[Audit, ...] = ()
    baselines: tuple[Baseline, ...] = ()

    @property
    def layout(self) -> TensorLayout:
        """Of so many coordinates."""
        return TensorLayout((TensorEntry("update", "float32", (self.update_size,)),))

    @property
    def scheme(self) -> Scheme:
        """The encoding that follows from the configuration."""
        return encoding_scheme(self.config, self.layout)

    @property
    def events(self) -> tuple[AnyPrivacyEvent, ...]:
        """What the ledgers have been charged, in one list; for their parameters, not to be added up."""
        return tuple(event for account in self.accounts.values() for event in charged_events(account.state))


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
            noise_source=noise_source(plan),
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
    claims = _claims(records, silos)
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
        mechanism=_mechanism(records),
        sampling=_sampling(config),
        claims=claims,
        groups=_groups(claims),
        curves=curves_of(records.accounts),
        silos=silos,
        rounds=records.rounds,
        noise=_noise(records),
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
        spent_epsilon=state.spent().filter_epsilon,
        reserved_epsilon=state.reserved().filter_epsilon,
        remaining_epsilon=state.remaining().filter_epsilon,
        prv_epsilon=prv_of(charged_events(state), budget.delta),
        rounds_left=left,
        noise_levels=() if event is None else noise_levels(state, event),
        forecast=() if event is None else forecast(state, event, min(left or 0, 2 * records.config.run.rounds)),
        sampling_rate=training.sampling_rate,
        noise_multiplier=None if event is None else event.noise_multiplier,
        steps_per_round=training.steps_per_round,
        clip_norm=training.clip_norm,
        ledger_head=account.head.hash,
        ledger_sequence=account.head.sequence,
        head_signature=records.signatures.get(name, ""),
        public_key=records.keys[name],
        releases=release_rows(state),
    )


def _claims(records: RunRecords, silos: tuple[SiloRow, ...]) -> tuple[Claim, ...]:
    """One sentence per adversary. In mode A each silo's own noise stands against all of them alike."""
    budget = records.config.privacy
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
            rests_on=("the silo runs this software unchanged", "its operating system's random numbers"),
        )
        for adversary, who in adversaries.items()
    )


def _groups(claims: tuple[Claim, ...]) -> tuple[GroupPoint, ...]:
    """Group privacy of each claim."""
    points = []
    for claim in claims:
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


# -- mechanism ---------------------------------------------------------------------------------------------------------


def _mechanism(records: RunRecords) -> Mechanism:
    training, scheme = records.config.training, records.scheme
    events = records.events
    local = max(noise_multipliers(records.config, records.layout).values(), default=None)
    shared = next((event for event in events if isinstance(event, DistributedGaussian)), None)
    inflation, sigma = None, None
    if shared is not None:
        sigma = shared.share_sigma
    elif local is not None and training.clip_norm is not None:
        bound = grid_bound(local, training.clip_norm, records.update_size)
        inflation, sigma = bound * grid_step(local, training.clip_norm) / training.clip_norm, local * bound
    return Mechanism(
        noise_source=records.noise_source,
        clip_norm=training.clip_norm,
        noise_multiplier=local if shared is None else shared.noise_multiplier,
        floor_multiplier=min((event.noise_multiplier for event in events), default=local),
        norm_inflation=inflation,
        share_sigma=None if shared is None else shared.share_sigma,
        minimum_contributors=None if shared is None else shared.shares + shared.known_shares,
        colluding=None if shared is None else shared.known_shares,
        value_bits=records.config.aggregation.value_bits,
        modulus_bits=scheme.modulus_bits,
        wrap_probability=0.0,
        sampler_delta=0.0 if sigma is None else _sampler_delta(records, sigma),
    )


def _sampler_delta(records: RunRecords, sigma: float) -> float:
    """(1 + e^epsilon) m d T times the distance of one draw (see `DiscreteGaussian.total_variation`), largest silo."""
    distance = DiscreteGaussian(sigma).total_variation
    worst = 0.0
    for account in records.accounts.values():
        draws = sum(
            event.steps * (event.shares if isinstance(event, DistributedGaussian) else 1)
            for event in charged_events(account.state)
        )
        spent = account.state.spent().filter_epsilon
        worst = max(worst, (1 + math.exp(min(spent, 700.0))) * draws * records.update_size * distance)
    return worst


def _noise(records: RunRecords) -> tuple[NoiseRow, ...]:
    """Noise of each completed round: nobody absent, at the floor, and as it was."""
    events = {
        (release.reservation.round, release.reservation.attempt): release.reservation.event
        for account in records.accounts.values()
        for release in account.state.releases()
        if release.reservation.run == records.run_id
    }
    rows = []
    for row in records.rounds:
        event = events.get((row.number, row.attempt))
        if not row.completed or event is None:
            continue
        asked = records.config.cohort_size
        rows.append(
            NoiseRow(
                number=row.number,
                attempt=row.attempt,
                dropped=asked - len(row.contributors),
                contributors=len(row.contributors),
                planned=_multiplier(event, asked),
                floor=event.noise_multiplier,
                achieved=_multiplier(event, len(row.contributors)),
            )
        )
    return tuple(rows)


def _multiplier(event: AnyPrivacyEvent, contributors: int) -> float:
    """Noise unknown to the strongest adversary, over the sensitivity, with so many contributors."""
    if not isinstance(event, DistributedGaussian):
        return event.noise_multiplier
    return math.sqrt(contributors - event.known_shares) * event.share_sigma / event.l2_sensitivity


def _batch_padding(config: Config) -> str:
    padded = [found.batch for silo in config.silo if (found := batch_padding(config, silo)) is not None]
    if not padded:
        return "none"
    rows = f"{min(padded)}" if min(padded) == max(padded) else f"{min(padded)} to {max(padded)}, by silo"
    return f"every step runs on a public number of rows ({rows})"


def _sampling(config: Config) -> Sampling:
    training = config.training
    private = config.privacy is not None
    cohort = f"silos are chosen at random, {config.cohort_size} of {len(config.silo)} a round; "
    chosen = "" if config.server.cohort_size is None else cohort
    return Sampling(
        scheme="Poisson: each record enters each step independently" if private else "shuffled batches",
        rate=training.sampling_rate,
        steps_per_round=training.steps_per_round,
        rounds_planned=config.run.rounds,
        cohort_size=config.cohort_size,
        silos=len(config.silo),
        nominal_units=sum(silo.nominal_size for silo in config.silo),
        amplification=f"{chosen}only the sampling of records counts for privacy, never that of silos"
        if private
        else "none: no differential privacy",
        batch_padding=_batch_padding(config),
    )


# -- the rest ----------------------------------------------------------------------------------------------------------


def _evaluation(config: Config, metric: float | None) -> Evaluation:
    evaluation = config.evaluation
    records = {
        "benchmark": "pooled test records of all silos, declared unprotected in the configuration: published exactly",
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


def _not_protected(records: RunRecords) -> tuple[str, ...]:
    config = records.config
    items = [
        "Who takes part, when, and how large its messages are.",
        "The sum of the updates: it is what the protocol is there to reveal.",
        "The test records: they are declared unprotected and the metric on them is exact."
        if config.evaluation.kind == "benchmark"
        else "Nothing was evaluated.",
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
        items.append(
            "Persons: the unit is a record. Whoever has several records is protected as a group: epsilon grows with "
            "their number, delta much faster, and soon nothing is promised."
        )
        items.append("Hyper-parameters that were tried on the same records: only this run's training is accounted for.")
    if records.simulation:
        items.insert(0, "Anything, from whoever runs this process: it held the records and keys of all parties.")
    if config.ledger.kind == "per-run":
        items.append("Other runs on the same records: this run's ledgers began empty, which only public data allow.")
    return tuple(items)

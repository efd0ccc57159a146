"""From a configuration to the parties of a run: task, training, encoding, identities, ledgers, silos."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from protocols.errors import ConfigError, EncodingError, LedgerRolledBack
from protocols.identity import Identity, Roster
from protocols.session import ClientPolicy
from protocols.shape import Entropy
from secfl.config import Config, Privacy, SiloSettings
from secfl.encoding import EncodingScheme, TensorLayout
from secfl.engines.base import Party
from secfl.engines.storage import FileStore
from secfl.engines.workers import local_workers
from secfl.events import jsonl_observer
from secfl.federation.buffered_silo import BufferedSilo, staleness_units
from secfl.federation.countersigned import SERVER, CountersignedHeads
from secfl.federation.identities import load_or_create_identity
from secfl.federation.model_code import model_code
from secfl.federation.noised import Divisor, Floors, mechanism, noise_event, planned_noise
from secfl.federation.office import Office
from secfl.federation.open_files import allow_open_files
from secfl.federation.optimisers import Adam, ServerOptimiser, Sgd, Yogi
from secfl.federation.randomness import Randomness, operating_system, seeded
from secfl.federation.secure_evaluation import evaluation_work, planned_evaluation
from secfl.federation.silo import Scheme, Silo, Vector
from secfl.federation.work import contribution, own_scheme
from secfl.privacy import Ledger, Lineage, PrivacyBudget, SampledGaussian, check_delta
from secfl.privacy.accounting import noise_multiplier_for, order_within_budget
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.ledger import Head
from secfl.privacy.mechanism import DistributedMechanism
from secfl.training import Task, load_task

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Parties",
    "Plan",
    "encoding_scheme",
    "floors_of",
    "noise_multipliers",
    "open_ledger",
    "plan_run",
    "server_optimiser",
    "set_up_parties",
]


@dataclass(frozen=True)
class Plan:
    """Everything public about a run: the same for the server and every silo.

    :param state: initial global model by tensor name.
    :param layout: of the whole state, which travels down; ``update_layout`` of what travels up.
    :param noise_multipliers: per silo; empty without privacy.
    """

    config: Config
    directory: Path
    """Of the configuration file; relative paths in it start here."""
    task: Task
    state: dict[str, Any] = field(repr=False)
    layout: TensorLayout
    update_layout: TensorLayout
    scheme: Scheme
    weights: dict[str, int]
    noise_multipliers: dict[str, float]
    divisor: Divisor | None = None
    """With noise in sums, instead of weights."""
    randomness: Randomness = field(default=operating_system, repr=False)
    """Of training and rounding; never of keys and masks."""

    def initial_vector(self) -> Vector:
        """The initial global model, flat."""
        return np.asarray(self.layout.flatten(self.state), dtype=np.float32)

    @property
    def private(self) -> bool:
        """Whether silos train with differential privacy."""
        return self.config.privacy is not None

    @property
    def entry_bound(self) -> int:
        """What the modulus must have room for; 0 where the sum may wrap, which is the encoding's affair."""
        wraps = isinstance(self.scheme, DistributedMechanism) and self.scheme.wrap_probability > 0
        return 0 if wraps else self.scheme.largest_entry

    def event(self, silo: str) -> AnyPrivacyEvent:
        """What one round costs a silo."""
        if isinstance(self.scheme, DistributedMechanism):
            return noise_event(self.config, self.scheme)
        training = self.config.training
        return SampledGaussian(training.sampling_rate, self.noise_multipliers[silo], training.steps_per_round)


def plan_run(config: Config, directory: Path, task: Task | None = None, randomness: Randomness | None = None) -> Plan:
    """Load the task and fix every public constant.

    :param task: instead of the configuration's model file.
    :param randomness: instead of what the configuration asks for; for tests.
    :raises ConfigError: naming the key that cannot be used.
    :raises PrivacyError: a budget that no noise reaches, or a delta too large for the records.
    """
    from secfl.training import check_model, model_state  # need torch

    task = task or load_task(directory / config.model.file)
    with model_code("building the model"):
        model = _initial_model(config, task)
        if config.training.mode not in ("none", "client-level"):
            check_model(model)
        state = model_state(model)
        parameters = {name: state[name] for name in _trainable(model)}
    layout, update_layout = _layout(state), _layout(parameters)
    weighted = config.aggregation.weights == "nominal" and not config.training.noise_in_sum
    weights = {silo.name: silo.nominal_size if weighted else 1 for silo in config.silo}
    return Plan(
        config,
        directory,
        task,
        state,
        layout,
        update_layout,
        encoding_scheme(config, update_layout),
        weights,
        noise_multipliers(config, update_layout),
        Divisor.of(config) if config.training.noise_in_sum else None,
        randomness or (seeded(config.run.seed) if config.run.reproducible else operating_system),
    )


def _layout(tensors: dict[str, Any]) -> TensorLayout:
    try:
        return TensorLayout.of(tensors)
    except EncodingError as error:
        allowed = "float tensors alone: no buffers of integers, hence GroupNorm in the place of BatchNorm"
        raise ConfigError("model.file", str(error), allowed) from None


def encoding_scheme(config: Config, layout: TensorLayout) -> Scheme:
    """The encoding that follows from a configuration and the layout of updates, with its noise where sums have some.

    :raises ConfigError: there is none for these values.
    :raises PrivacyError: a budget that no noise reaches.
    """
    aggregation = config.aggregation
    if config.training.noise_in_sum:
        floors = Floors(config.minimum_contributors, config.collusion_bound)
        return mechanism(config, layout, planned_noise(config, layout), floors)
    if aggregation.value_range is None:
        raise ConfigError("aggregation.value_range", "missing", "a number > 0")
    largest = max(silo.nominal_size for silo in config.silo) if aggregation.weights == "nominal" else 1
    maximum_weight = largest * max(staleness_units(config.rounds.staleness, 0))
    try:
        return EncodingScheme.choose(
            aggregation.value_range,
            aggregation.value_bits,
            maximum_contributors=config.cohort_size,
            layout_digest=layout.digest,
            maximum_weight=maximum_weight,
            weighting="public" if aggregation.weights == "nominal" or maximum_weight > 1 else "none",
            rounding="nearest" if aggregation.rounding == "nearest" else "stochastic",
            on_overflow="clip",
        )
    except EncodingError as error:
        allowed = "a range, bits and weights whose sum fits 64 bits"
        raise ConfigError("aggregation", f"no encoding for these values: {error}", allowed) from None


def _initial_model(config: Config, task: Task) -> nn.Module:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(config.run.seed)
        return task.build_model()


def _trainable(model: nn.Module) -> list[str]:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise ConfigError("model.file", "the model has no trainable parameters")
    return names


def noise_multipliers(config: Config, layout: TensorLayout) -> dict[str, float]:
    """Per silo; the smallest that lets every round of the plan fit, unless the configuration fixes one."""
    if config.privacy is None:
        return {}
    check_delta(config.privacy.delta, config.privacy_units)
    training = config.training
    if training.noise_in_sum:
        return dict.fromkeys((silo.name for silo in config.silo), planned_noise(config, layout))
    chosen = training.noise_multiplier or noise_multiplier_for(
        config.training_epsilon,
        config.privacy.delta,
        training.sampling_rate,
        training.steps_per_round * config.budgeted_rounds,
    )
    return {silo.name: chosen for silo in config.silo}


class Parties:
    """All parties of a simulation, with their open files; a context manager.

    :param silos: those that train, by name.
    :param offices: those that only open sums.
    :param evaluating: silos and offices as they take part in a secure evaluation.
    :param public_context: see `secfl.registry.Entry.public_context`.
    """

    def __init__(
        self,
        roster: Roster,
        silos: dict[str, Silo],
        ledgers: dict[str, Ledger],
        resources: ExitStack,
        offices: dict[str, Office] | None = None,
        public_context: bytes = b"",
        heads: CountersignedHeads | None = None,
        evaluating: dict[str, Party] | None = None,
    ) -> None:
        self.evaluating = evaluating or {}
        self.heads = heads or CountersignedHeads.none()
        self.roster = roster
        self.public_context = public_context
        self.silos = silos
        self.offices = offices or {}
        self.ledgers = ledgers
        self._resources = resources

    @property
    def answering(self) -> dict[str, Party]:
        """All of them by name, as an engine takes them."""
        return {**self.silos, **self.offices}

    def __enter__(self) -> Parties:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._resources.close()


def set_up_parties(plan: Plan, run_directory: Path, entropy: Entropy = os.urandom) -> Parties:
    """Identities, roster, once-only stores, ledgers, silos and offices.

    :param run_directory: where per-run ledgers go; lifetime ones are where the configuration says.
    :raises PrivacyError: a ledger that cannot be used.
    :raises ConfigError: more silos than this process may open files for.
    """
    config = plan.config
    allow_open_files(len(config.silo))
    home = plan.directory / config.ledger.directory if config.ledger.kind == "lifetime" else run_directory / "ledgers"
    cast = config.cast
    identities = {
        name: load_or_create_identity(home / name / "identity.key", name, cast.roles(name), entropy)
        for name in (*cast.clients, *cast.offices)
    }
    roster = Roster(identity.member() for identity in identities.values())
    with ExitStack() as resources:
        ledgers: dict[str, Ledger] = {}
        heads = CountersignedHeads.at(home / SERVER, roster, entropy) if plan.private else CountersignedHeads.none()
        set_up = _SetUp(plan, home, roster, identities, entropy, resources, heads)
        silos = {settings.name: set_up.silo(settings, ledgers) for settings in config.silo}
        offices = {name: set_up.office(name) for name in cast.offices}
        public_context = config.protocol.public_context(identities.values())
        evaluating = set_up.evaluating(ledgers) if config.evaluation.kind == "secure" else {}
        return Parties(roster, silos, ledgers, resources.pop_all(), offices, public_context, heads, evaluating)


@dataclass(frozen=True)
class _SetUp:
    """What the parties of a run have in common while they are set up."""

    plan: Plan
    home: Path
    roster: Roster
    identities: dict[str, Identity]
    entropy: Entropy
    resources: ExitStack
    heads: CountersignedHeads
    stores: dict[str, FileStore] = field(default_factory=dict)

    def silo(self, settings: SiloSettings, ledgers: dict[str, Ledger]) -> Silo:
        plan, name = self.plan, settings.name
        path = self.home / name / f"{plan.config.ledger.lineage}.ledger"
        ledger = None
        if plan.private:
            expected = self.heads.expected(path, name, plan.config.ledger.lineage)
            ledger = open_ledger(plan, settings, self.identities[name], path, expected)
            ledgers[name] = self.resources.enter_context(ledger)
            self.heads.watch(name, ledger, self.identities[name])
        rounds, policy = plan.config.rounds, _policy(plan)
        kind: Callable[..., Silo] = Silo
        if rounds.buffered:
            kind = partial(BufferedSilo, units=staleness_units(rounds.staleness, rounds.window))
        return kind(
            self.identities[name],
            self.roster,
            policy,
            store=self._store(name),
            training=contribution(plan, settings),
            scheme=own_scheme(plan, policy),
            weight=plan.weights[name],
            protocol=plan.config.aggregation.protocol,
            roles=plan.config.cast.roles(name),
            ledger=ledger,
            randomness=plan.randomness,
            entropy=self.entropy,
            workers=local_workers(plan.config.aggregation.threads),
            notes=self.resources.enter_context(jsonl_observer(self.home / name / "local.jsonl", mode=0o600)),
        )

    def evaluating(self, ledgers: dict[str, Ledger]) -> dict[str, Party]:
        """The same organisations in a secure evaluation: same keys, records of answers, ledgers; other work."""
        plan = self.plan
        mechanism = planned_evaluation(plan)
        policy = floors_of(plan.config, mechanism.largest_entry)
        silos: dict[str, Party] = {
            settings.name: Silo(
                self.identities[settings.name],
                self.roster,
                policy,
                store=self._store(settings.name),
                training=evaluation_work(plan, settings, mechanism),
                scheme=mechanism,
                protocol=plan.config.aggregation.protocol,
                roles=plan.config.cast.roles(settings.name),
                ledger=ledgers[settings.name],
                entropy=self.entropy,
            )
            for settings in plan.config.silo
        }
        return silos | {name: self.office(name, policy) for name in plan.config.cast.offices}

    def office(self, name: str, policy: ClientPolicy | None = None) -> Office:
        return Office(
            self.identities[name],
            self.roster,
            policy or _policy(self.plan),
            protocol=self.plan.config.aggregation.protocol,
            roles=self.plan.config.cast.roles(name),
            store=self._store(name),
            entropy=self.entropy,
        )

    def _store(self, name: str) -> FileStore:
        if name not in self.stores:
            self.stores[name] = FileStore(self.home / name / "answers.log")
            self.resources.callback(self.stores[name].close)
        return self.stores[name]


def floors_of(config: Config, value_range: int = 0) -> ClientPolicy:
    """The floors of a silo that agreed to a configuration: those in it, else the library's own.

    :param value_range: see `ClientPolicy`.
    """
    default = ClientPolicy()
    return ClientPolicy(
        protocols=frozenset({config.aggregation.protocol}),
        minimum_cohort=min(default.minimum_cohort, config.cohort_size),
        minimum_contributors=config.minimum_contributors,
        collusion_bound=config.collusion_bound,
        adversary_rate=config.collusion_bound / config.cohort_size,
        value_range=value_range,
    )


def _policy(plan: Plan) -> ClientPolicy:
    return floors_of(plan.config, plan.entry_bound)


def open_ledger(
    plan: Plan, silo: SiloSettings, identity: Identity, path: Path, expected_head: Head | None = None
) -> Ledger:
    """A silo's ledger under a plan, made if there is none.

    :param expected_head: what others remember of it.
    :raises LedgerRolledBack: it is older than that, or deleted.
    :raises PrivacyError: it cannot be used.
    :raises ConfigError: it began with another budget.
    """
    config = plan.config
    if config.privacy is None:
        raise ConfigError("privacy", "missing")
    if path.exists() or path.with_name(path.name + ".mark").exists():
        return _opened(path, identity, config.privacy, expected_head)
    if expected_head is not None:
        raise LedgerRolledBack(
            f"[LG-21] {path}: no such ledger; the expected head has seen line {expected_head.sequence + 1} of it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lineage = Lineage(
        silo=silo.name,
        name=config.ledger.lineage,
        source=config.ledger.source,
        total_records=config.privacy_units,
    )
    budget = PrivacyBudget(config.privacy.epsilon, config.privacy.delta, config.privacy.unit)
    order = order_within_budget(plan.event(silo.name), config.budgeted_rounds, config.training_epsilon, budget.delta)
    return Ledger.create(path, identity.signing_key, lineage, budget, order=order)


def _opened(path: Path, identity: Identity, privacy: Privacy, expected_head: Head | None) -> Ledger:
    """A ledger from before; its budget was fixed when it began."""
    ledger = Ledger.open(path, identity.signing_key, expected_head=expected_head)
    budget = ledger.summary().budget
    for key in ("epsilon", "delta", "unit"):
        if getattr(budget, key) != getattr(privacy, key):
            ledger.close()
            problem = f"{getattr(privacy, key)!r}, but the ledger {path} began with another budget"
            raise ConfigError(f"privacy.{key}", problem, repr(getattr(budget, key)))
    return ledger


def server_optimiser(config: Config) -> ServerOptimiser:
    """The optimiser that the configuration asks for, at its start."""
    server = config.server
    if server.optimiser == "sgd":
        return Sgd(server.learning_rate, server.momentum)
    kind = Adam if server.optimiser == "adam" else Yogi
    return kind(server.learning_rate, server.beta1, server.beta2, server.tau)

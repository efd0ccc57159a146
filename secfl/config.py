"""The TOML file's schema. Every value in it is public; none may be derived from private records."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from protocols.errors import ConfigError, PrivacyError, UsageError
from protocols.secagg.agreement import DEFAULT_DROPOUT_RATE
from protocols.secagg.graph import LARGEST_COMPLETE_COHORT, SMALLEST_HARARY_COHORT
from secfl.config_messages import describe_problem
from secfl.privacy.budget import UnitOfPrivacy, check_delta
from secfl.registry import PROTOCOLS, Cast, Entry, SparseSecAgg

__all__ = [
    "Aggregation",
    "Config",
    "Evaluation",
    "Incident",
    "LedgerSettings",
    "Model",
    "Privacy",
    "Rounds",
    "Run",
    "Server",
    "SiloSettings",
    "Training",
    "least_contributors",
    "load_config",
    "parse_config",
]

Item = TypeVar("Item")
PositiveFloat = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Array = Annotated[tuple[Item, ...], Strict(False)]
"""What TOML gives as a list. Its items are as strict as everything else."""

_MODES = Literal["local-dp-sgd", "distributed-dp-sgd", "client-level", "none"]
_TRAINING_KEYS = {
    "clip_norm": ("local-dp-sgd", "distributed-dp-sgd", "client-level"),
    "noise_multiplier": ("local-dp-sgd", "distributed-dp-sgd", "client-level"),
    "momentum": ("local-dp-sgd", "client-level", "none"),
    "proximal": ("local-dp-sgd", "client-level", "none"),
    "grad_sample": ("local-dp-sgd", "distributed-dp-sgd"),
    "max_physical_batch": ("local-dp-sgd", "distributed-dp-sgd"),
    "pad_batches": ("local-dp-sgd", "distributed-dp-sgd"),
}
"""Keys of ``[training]`` that not every mode has."""
_OPTIMISER_KEYS = {
    "momentum": ("sgd",),
    "beta1": ("adam", "yogi"),
    "beta2": ("adam", "yogi"),
    "tau": ("adam", "yogi"),
}


class _Section(BaseModel):
    # Strict: a string is never taken for a number, nor a number for a truth value.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Run(_Section):
    """What is run."""

    name: Name
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Splits of the data and initial weights; never noise, sampling or masks."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of torch while silos train in this process; small models are slower with more."""
    reproducible: bool = False
    """Batch order and rounding follow from the seed, so that a run repeats bit for bit. Only without privacy."""
    output: Text = "runs"
    """Directory of the results, relative to the working directory."""


class Model(_Section):
    """The user's Python file, relative to the configuration."""

    file: Text = "model.py"


class SiloSettings(_Section):
    """One organisation."""

    name: Name
    nominal_size: Annotated[int, Field(ge=1, lt=2**40)]
    """Public number of training records, declared, not counted."""
    training_seconds: PositiveFloat | None = None
    """Simulated seconds that its training takes, in buffered rounds alone; left out: 1."""


class Training(_Section):
    """Local training; the same public constants for all."""

    mode: _MODES
    steps_per_round: Annotated[int, Field(ge=1, le=1_000_000)]
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    """Probability with which a record enters a step's sample; where records have no privacy it sets the batch size."""
    clip_norm: PositiveFloat | None = None
    """Largest Euclidean norm of one record's gradient; with client-level of a client's whole update."""
    noise_multiplier: PositiveFloat | None = None
    """Left out: the smallest that fits the budget over all rounds."""
    grad_sample: Literal["hooks", "ghost"] = "hooks"
    max_physical_batch: Annotated[int, Field(ge=1)] | None = None
    pad_batches: bool | None = None
    """Whether every step of a private mode runs on a public number of rows, so that its time does not tell how many
    records were sampled; left out: true."""
    proximal: Annotated[float, Field(ge=0)] = 0.0
    """FedProx (Li et al. 2020): weight mu of the pull towards the global model; 0 for none."""

    @property
    def noise_in_sum(self) -> bool:
        """Whether silos add shares of noise to one sum, rather than each its own noise or none."""
        return self.mode in ("distributed-dp-sgd", "client-level")

    @model_validator(mode="after")
    def _fits_the_mode(self) -> Training:
        for key, modes in _TRAINING_KEYS.items():
            if self.mode not in modes and getattr(self, key) != type(self).model_fields[key].default:
                why = (
                    "has no effect in a single step; the server's momentum has"
                    if key == "momentum"
                    else "has no effect"
                )
                raise ConfigError(f"training.{key}", f"{why} with mode {self.mode}", f"mode {' or '.join(modes)}")
        if self.mode != "none" and self.clip_norm is None:
            raise ConfigError("training.clip_norm", "missing", f"a number > 0, required with mode {self.mode}")
        if self.mode == "distributed-dp-sgd" and self.steps_per_round != 1:
            problem = (
                f"{self.steps_per_round} with mode distributed-dp-sgd: silos share the noise of one sum per gradient "
                "step, and no analysis covers several local steps under it"
            )
            raise ConfigError("training.steps_per_round", problem, "1; take more rounds instead")
        return self


class Privacy(_Section):
    """Budget of each silo, for the life of its ledger."""

    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: UnitOfPrivacy = "record"
    """`record`: one record of one silo, added or removed. `client`: one client's whole update, replaced by zero; with
    client-level, and only there."""
    spare_rounds: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Rounds beyond the plan that the noise leaves room for: attempts that fail or are interrupted are charged too."""


class LedgerSettings(_Section):
    """Where the ledgers live."""

    kind: Literal["lifetime", "per-run"] = "lifetime"
    """`lifetime`: one ledger per silo for the life of its data. `per-run`: a fresh one a run, for public data only."""
    directory: Text = "ledgers"
    """Directory of lifetime ledgers and identity keys, relative to the configuration."""
    lineage: Name = "records"
    source: Text = "not described"


class Aggregation(_Section):
    """Secure aggregation and the encoding under it."""

    protocol: Literal["secagg", "oneshot", "ckks"] = "secagg"
    committee: Annotated[Array[Name], Field(min_length=2)] | None = None
    """Of oneshot: the silos that open sums. Left out: all."""
    key_holder: Name | None = None
    """Of ckks: who holds the secret key. Left out: a party of its own, `key-holder`, that is no silo."""
    graph: Literal["complete", "sparse"] | None = None
    """Of secagg: who masks with whom. `sparse`: a few neighbours on a random ring (SecAgg+), for 100 silos in a round
    or more. Left out: complete up to 200 silos in a round."""
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of secagg on a sparse graph: fraction of a round's silos that may be missing in the sum. Left out: 0.05."""
    withstands: Literal["semi-malicious", "fully active"] | None = None
    """Of secagg on a sparse graph: the server that its degree is chosen for. Left out: semi-malicious."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads that expand masks; 0 for one a core. Sums do not depend on it."""
    weights: Literal["nominal", "uniform"] = "nominal"
    value_range: PositiveFloat | None = None
    """Largest magnitude of a coordinate of an update; what lies beyond is clipped and counted at the silo."""
    value_bits: Annotated[int, Field(ge=8, le=32)] = 20
    """Grid of the encoding, before weights; the modulus follows. With noise in sums: bits of a word of the sum, which
    may wrap with probability 2^-20 (it costs accuracy, never privacy). Left out there: bits that no sum wraps in."""
    rounding: Literal["stochastic", "nearest", "conditional"] = "stochastic"
    """`conditional`, of client-level: stochastic, and anew until the update is hardly longer than it was."""
    rotation: bool = False
    """With noise in sums and value_bits: spread vectors over their coordinates first, so that few bits lose little."""
    collusion_bound: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[int, Field(ge=2)] | None = None
    minimum_contributors: Annotated[int, Field(ge=2)] | None = None
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Tries at a round; each trains afresh and is charged to the ledgers."""
    deadline_seconds: PositiveFloat = 600.0
    """After which a phase closes without those who have not answered."""


class Server(_Section):
    """What the server does with the mean update, and whom it asks."""

    optimiser: Literal["sgd", "adam", "yogi"] = "sgd"
    learning_rate: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of sgd."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: PositiveFloat = 1e-3
    """Adaptivity of adam and yogi."""
    cohort_size: Annotated[int, Field(ge=2)] | None = None
    """Silos asked in a round, chosen at random; None for all. Never counted as amplification of privacy."""


class Rounds(_Section):
    """When a round is over and from which models updates may start; see `secfl.federation.buffered`."""

    mode: Literal["synchronous", "buffered"] = "synchronous"
    """`buffered`: a session closes at a quota of updates, which may start from older models. Protocol oneshot alone."""
    quota: Annotated[int, Field(ge=2)] | None = None
    """Updates that close a session of buffered rounds: minimum contributors to all silos. Left out: the minimum."""
    window: Annotated[int, Field(ge=0, le=256)] = 4
    """Of buffered rounds: older models from which an update may start, beside the newest."""
    staleness: Literal["none", "polynomial"] = "none"
    """Of buffered rounds: `polynomial` weights an update from a model s versions old by (1 + s)^-1/2 (FedBuff)."""
    deadline_seconds: PositiveFloat | None = None
    """Of buffered rounds: simulated seconds after which a session closes with the minimum of contributors, as soon as
    that is there, though the quota is not, or a silo's model is about to leave the window. Left out: never."""
    opening_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of buffered rounds: simulated seconds that the committee takes to open a sum. The next session is open meanwhile,
    from the model before."""

    @property
    def buffered(self) -> bool:
        """Whether rounds are buffered."""
        return self.mode == "buffered"


class Evaluation(_Section):
    """What is measured after a round."""

    kind: Literal["benchmark", "secure", "none"]
    """`benchmark` declares the test records of `load_data` unprotected; the metric on them is published exactly.
    `secure` protects them: after the last round one noised secure sum of score histograms, charged to the ledgers."""
    metric: Text = "metric"
    """Name of the metric, for people; of `secure`: `auc`, `accuracy` (two classes) or `top-1` (several)."""
    epsilon: PositiveFloat | None = None
    """Of secure: part of the budget that the evaluation takes; the training keeps to the rest."""
    bins: Annotated[int, Field(ge=2, le=1000)] = 20
    """Of secure: equal bins of [0, 1] that scores are counted in; an even number."""


class Incident(_Section):
    """Something that goes wrong on schedule, in the embedded engine only."""

    party: Name
    phase: Text
    """Of the protocol."""
    round: Annotated[int, Field(ge=1)] | None = None
    """None: in every round."""
    attempt: Annotated[int, Field(ge=0)] | None = None
    """None: in every attempt at a round; 0 is the first."""
    kind: Literal["drop", "lose_reply", "delay"] = "drop"
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of a delay."""


class Simulation(_Section):
    """What the embedded engine simulates."""

    incidents: Array[Incident] = ()


class Config(_Section):
    """A whole configuration file."""

    run: Run
    model: Model = Model()
    silo: Annotated[Array[SiloSettings], Field(min_length=2)]
    training: Training
    privacy: Privacy | None = None
    ledger: LedgerSettings = LedgerSettings()
    aggregation: Aggregation
    server: Server = Server()
    rounds: Rounds = Rounds()
    evaluation: Evaluation
    simulation: Simulation = Simulation()

    @property
    def budgeted_rounds(self) -> int:
        """Rounds that the noise leaves room for: those of the plan and the spare ones."""
        return self.run.rounds + (self.privacy.spare_rounds if self.privacy is not None else 0)

    @property
    def training_epsilon(self) -> float:
        """The budget's epsilon less what the evaluation takes; 0 without privacy."""
        whole = self.privacy.epsilon if self.privacy is not None else 0.0
        return whole - (self.evaluation.epsilon or 0.0)

    @property
    def cohort_size(self) -> int:
        """Silos asked in a round."""
        return self.server.cohort_size or len(self.silo)

    @property
    def protocol(self) -> Entry:
        """The protocol that updates are summed by."""
        chosen = self.aggregation
        sparse = chosen.graph == "sparse" or (chosen.graph is None and self.cohort_size > LARGEST_COMPLETE_COHORT)
        if chosen.protocol == "secagg" and sparse:
            rate = DEFAULT_DROPOUT_RATE if chosen.dropout_rate is None else chosen.dropout_rate
            return SparseSecAgg(rate, chosen.withstands or "semi-malicious")
        return PROTOCOLS[chosen.protocol]

    @property
    def cast(self) -> Cast:
        """Who plays which role."""
        aggregation = self.aggregation
        return self.protocol.cast((silo.name for silo in self.silo), aggregation.committee, aggregation.key_holder)

    @property
    def collusion_bound(self) -> int:
        """Parties assumed to collude with the server; by default a third of the silos in a round, if that fits."""
        given = self.aggregation.collusion_bound
        return self.protocol.collusion_bound(self.cohort_size, self.cast) if given is None else given

    @property
    def threshold(self) -> int:
        """Parties that must stay to the end."""
        given = self.aggregation.threshold
        return (
            self.protocol.thresholds(self.cohort_size, self.cast, self.collusion_bound)[0] if given is None else given
        )

    @property
    def minimum_contributors(self) -> int:
        """Fewest silos in a sum; see `least_contributors` for the default."""
        return self.aggregation.minimum_contributors or least_contributors(
            self.protocol, self.cohort_size, self.collusion_bound, noise_in_sum=self.training.noise_in_sum
        )

    @property
    def privacy_units(self) -> int:
        """Public total number of what the budget protects: records, or clients."""
        if self.training.mode == "client-level":
            return len(self.silo)
        return sum(silo.nominal_size for silo in self.silo)

    @property
    def quota(self) -> int:
        """Updates that close a session of buffered rounds."""
        return self.rounds.quota or self.minimum_contributors

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        self._check_silos()
        self._check_privacy()
        self._check_evaluation()
        self._check_server()
        self._check_encoding()
        self._check_aggregation()
        self._check_rounds()
        for index, incident in enumerate(self.simulation.incidents):
            self._check_incident(f"simulation.incidents.{index}", incident)
        return self

    def _check_silos(self) -> None:
        names = [silo.name for silo in self.silo]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConfigError(f"silo.{index}.name", f"{name!r} is the name of another silo", "a name of its own")

    def _check_privacy(self) -> None:
        if self.privacy is None:
            if self.training.mode != "none":
                raise ConfigError("privacy", "missing", f"a table, required with mode {self.training.mode}")
            return
        if self.training.mode == "none":
            raise ConfigError("privacy", "given, but training.mode is none", "no such table, or a private mode")
        if self.run.reproducible:
            problem = "noise that follows from a seed protects nobody"
            raise ConfigError("run.reproducible", problem, "false with privacy")
        unit = "client" if self.training.mode == "client-level" else "record"
        if self.privacy.unit != unit:
            raise ConfigError("privacy.unit", f'"{self.privacy.unit}" with mode {self.training.mode}', f'"{unit}"')
        try:
            check_delta(self.privacy.delta, self.privacy_units)
        except PrivacyError as error:
            problem, _, allowed = str(error).removeprefix("delta: ").partition("; allowed: ")
            raise ConfigError("privacy.delta", problem, allowed) from None

    def _check_evaluation(self) -> None:
        evaluation, privacy = self.evaluation, self.privacy
        if evaluation.kind != "secure":
            for key in ("epsilon", "bins"):
                if getattr(evaluation, key) != type(evaluation).model_fields[key].default:
                    raise ConfigError(
                        f"evaluation.{key}", f"has no effect with kind {evaluation.kind}", 'kind "secure"'
                    )
            return
        if privacy is None:
            raise ConfigError("evaluation.kind", "secure without a privacy budget", 'a private mode, "benchmark"')
        if privacy.unit != "record":
            problem = "secure bounds what a record adds to a histogram; the budget's unit is a client"
            raise ConfigError("evaluation.kind", problem, '"benchmark" or "none" with mode client-level')
        if evaluation.epsilon is None or evaluation.epsilon >= privacy.epsilon:
            problem = (
                "missing" if evaluation.epsilon is None else f"{evaluation.epsilon:g} leaves nothing to train with"
            )
            raise ConfigError("evaluation.epsilon", problem, f"above 0, below privacy.epsilon ({privacy.epsilon:g})")
        if evaluation.bins % 2:
            raise ConfigError("evaluation.bins", f"{evaluation.bins} is odd: 1/2 is no edge of a bin", "an even number")
        if evaluation.metric not in ("auc", "accuracy", "top-1"):
            raise ConfigError("evaluation.metric", f"{evaluation.metric!r} with kind secure", "auc, accuracy or top-1")

    def _check_server(self) -> None:
        size, silos = self.server.cohort_size, len(self.silo)
        if size is not None and size > silos:
            raise ConfigError("server.cohort_size", f"{size} of {silos} silos", f"2 to {silos}")
        for key, optimisers in _OPTIMISER_KEYS.items():
            if key in self.server.model_fields_set and self.server.optimiser not in optimisers:
                problem = f"has no effect with optimiser {self.server.optimiser}"
                raise ConfigError(f"server.{key}", problem, f"optimiser {' or '.join(optimisers)}")

    def _check_encoding(self) -> None:
        aggregation, mode = self.aggregation, self.training.mode
        noised, given = self.training.noise_in_sum, aggregation.model_fields_set
        if not noised and aggregation.value_range is None:
            raise ConfigError("aggregation.value_range", "missing", f"a number > 0, required with mode {mode}")
        if not noised and aggregation.rotation:
            allowed = "false, or mode distributed-dp-sgd or client-level"
            raise ConfigError("aggregation.rotation", f"has no effect with mode {mode}", allowed)
        if noised and aggregation.rotation and "value_bits" not in given:
            raise ConfigError(
                "aggregation.rotation", "has no effect without value_bits", "value_bits as well, or false"
            )
        if noised and "value_range" in given:
            problem = f"has no effect with mode {mode}: the clip norm bounds vectors"
            raise ConfigError("aggregation.value_range", problem, "no such key, or mode local-dp-sgd or none")
        if noised and "value_bits" in given and aggregation.protocol != "secagg":
            problem = f"given with protocol {aggregation.protocol} and noise in sums, which no bits may cut there"
            raise ConfigError("aggregation.value_bits", problem, 'no such key, or protocol "secagg"')
        roundings = {"client-level": ("stochastic", "conditional"), "distributed-dp-sgd": ("stochastic",)}
        known = roundings.get(mode, ("stochastic", "nearest"))
        if aggregation.rounding not in known:
            problem = f'"{aggregation.rounding}" with mode {mode}'
            raise ConfigError("aggregation.rounding", problem, " or ".join(f'"{name}"' for name in known))
        if mode == "distributed-dp-sgd" and "weights" in given:
            problem = "given with mode distributed-dp-sgd: every record counts the same, whichever silo has it"
            raise ConfigError("aggregation.weights", problem, "no such key")

    def _check_rounds(self) -> None:
        if self.rounds.buffered and self.training.noise_in_sum:
            problem = (
                f"buffered with mode {self.training.mode}: every share of noise must be in the sum it was made for"
            )
            raise ConfigError("rounds.mode", problem, '"synchronous"')
        if not self.rounds.buffered:
            plain = Rounds()
            given = [f"rounds.{key}" for key in Rounds.model_fields if getattr(self.rounds, key) != getattr(plain, key)]
            given += [f"silo.{i}.training_seconds" for i, silo in enumerate(self.silo) if silo.training_seconds]
            for key in given:
                raise ConfigError(key, "has no effect in synchronous rounds", 'rounds.mode "buffered"')
            return
        if self.aggregation.protocol != "oneshot":
            problem = f"buffered with protocol {self.aggregation.protocol}"
            raise ConfigError("rounds.mode", problem, '"synchronous", or aggregation.protocol "oneshot"')
        if not self.minimum_contributors <= self.quota <= len(self.silo):
            allowed = f"{self.minimum_contributors} (the minimum of contributors) to {len(self.silo)} (all silos)"
            raise ConfigError("rounds.quota", f"{self.quota}", allowed)
        if self.server.cohort_size is not None:
            raise ConfigError("server.cohort_size", "given, but buffered rounds ask every silo", "no such key")

    def _check_aggregation(self) -> None:
        aggregation, size, collusion = self.aggregation, self.cohort_size, self.collusion_bound
        self._check_settings()
        self._check_graph()
        highest = self.protocol.highest_collusion_bound(size, self.cast)
        limits = {
            "collusion_bound": (collusion, 0, highest),
            "minimum_contributors": (
                aggregation.minimum_contributors,
                max(collusion + 2, self.protocol.least_contributors(size, collusion))
                if isinstance(self.protocol, SparseSecAgg)
                else collusion + 2,
                size,
            ),
            "threshold": (aggregation.threshold, *self.protocol.thresholds(size, self.cast, collusion)),
        }
        committee = f", {len(self.cast.committee)} on the committee" if self.cast.committee else ""
        for key, (value, lowest, most) in limits.items():
            if value is not None and not lowest <= value <= most:
                problem = f"{value} with {size} silos in a round{committee} and collusion bound {collusion}"
                raise ConfigError(f"aggregation.{key}", problem, f"{lowest} to {most}")

    def _check_settings(self) -> None:
        """Keys that belong to one protocol, and the names in them."""
        aggregation, names = self.aggregation, [silo.name for silo in self.silo]
        for other in PROTOCOLS.values():
            for key in sorted(other.settings - self.protocol.settings):
                if getattr(aggregation, key) is not None:
                    problem = f"has no effect with protocol {aggregation.protocol}"
                    raise ConfigError(f"aggregation.{key}", problem, f'protocol "{other.name}"')
        for index, member in enumerate(aggregation.committee or ()):
            if member not in names:
                problem, allowed = f"{member!r} is no silo", f"one of {', '.join(names)}"
                raise ConfigError(f"aggregation.committee.{index}", problem, allowed)
            if member in (aggregation.committee or ())[:index]:
                raise ConfigError(f"aggregation.committee.{index}", f"{member!r} is listed twice", "each silo once")

    def _check_graph(self) -> None:
        """A sparse graph that this many silos can have; no keys that have no effect."""
        aggregation, size, protocol = self.aggregation, self.cohort_size, self.protocol
        if not isinstance(protocol, SparseSecAgg):
            for key in ("dropout_rate", "withstands"):
                if getattr(aggregation, key) is not None:
                    raise ConfigError(f"aggregation.{key}", "has no effect on a complete graph", 'graph "sparse"')
            return
        if size < SMALLEST_HARARY_COHORT:
            problem = f"sparse with {size} silos in a round"
            raise ConfigError("aggregation.graph", problem, f'"complete", or {SMALLEST_HARARY_COHORT} silos or more')
        if not 0 <= self.collusion_bound <= protocol.highest_collusion_bound(size, self.cast):
            return  # what follows names that key
        try:
            protocol.smallest(size, self.collusion_bound)
        except UsageError as error:
            raise ConfigError("aggregation.graph", str(error), '"complete", or what the message says') from None

    def _check_incident(self, key: str, incident: Incident) -> None:
        phases, cast = self.protocol.phases, self.cast
        if incident.phase not in phases:
            problem = f"{incident.phase!r} is no phase of {self.aggregation.protocol}"
            raise ConfigError(f"{key}.phase", problem, f"one of {', '.join(phases)}")
        asked = cast.holders(phases[incident.phase])
        if incident.party not in asked:
            known = incident.party in (*cast.clients, *cast.offices)
            problem = f"{incident.party!r} is {f'not asked in {incident.phase}' if known else 'no party of the run'}"
            raise ConfigError(f"{key}.party", problem, f"one of {', '.join(asked)}")
        if incident.round is not None and incident.round > self.run.rounds:
            problem = f"{incident.round}, but the run has {self.run.rounds} rounds"
            raise ConfigError(f"{key}.round", problem, f"1 to {self.run.rounds}")
        if (incident.seconds > 0) != (incident.kind == "delay"):
            problem = f"{incident.seconds:g} with kind {incident.kind}"
            raise ConfigError(f"{key}.seconds", problem, "a number > 0 with kind delay, only there")


def least_contributors(protocol: Entry, cohort: int, collusion_bound: int, *, noise_in_sum: bool) -> int:
    """Fewest silos in a sum by default: what hides an update among two honest ones, and three where there are.

    With shares of noise nine tenths of the silos asked, or all but one: the fewer there may be, the larger each share.
    """
    least = protocol.least_contributors(cohort, collusion_bound)
    return max(least, cohort - max(1, cohort // 10)) if noise_in_sum else least


def load_config(path: str | Path) -> tuple[Config, str]:
    """Read a configuration file.

    :returns: the configuration and the file's text.
    :raises ConfigError: naming the key and what is allowed there.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "a TOML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not text: byte {error.start} is not UTF-8", "a TOML file") from None
    return parse_config(text, str(path)), text


def parse_config(text: str, source: str = "configuration") -> Config:
    """A configuration from its text.

    :param source: name of the text in errors.
    :raises ConfigError: naming the key and what is allowed there.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(source, f"is not TOML: {error}", "see https://toml.io") from None
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise describe_problem(Config, error) from None

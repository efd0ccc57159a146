"""The tables of a configuration file, one record each; what only two of them together can show is `secfl.config`'s."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from protocols.errors import ConfigError
from secfl.privacy.budget import UnitOfPrivacy

__all__ = [
    "Aggregation",
    "Array",
    "Evaluation",
    "Incident",
    "LedgerSettings",
    "Model",
    "Privacy",
    "Rounds",
    "Run",
    "Section",
    "Server",
    "SiloSettings",
    "Simulation",
    "Training",
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


class Section(BaseModel):
    """Base of all tables."""

    # Strict: a string is never taken for a number, nor a number for a truth value.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Run(Section):
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


class Model(Section):
    """The user's Python file, relative to the configuration."""

    file: Text = "model.py"


class SiloSettings(Section):
    """One organisation."""

    name: Name
    nominal_size: Annotated[int, Field(ge=1, lt=2**40)]
    """Public number of training records, declared, not counted."""
    training_seconds: PositiveFloat | None = None
    """Simulated seconds that its training takes, in buffered rounds alone; left out: 1."""


class Training(Section):
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


class Privacy(Section):
    """Budget of each silo, for the life of its ledger."""

    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: UnitOfPrivacy = "record"
    """`record`: one record of one silo, added or removed. `client`: one client's whole update, replaced by zero; with
    client-level, and only there."""
    spare_rounds: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Rounds beyond the plan that the noise leaves room for: attempts that fail or are interrupted are charged too."""


class LedgerSettings(Section):
    """Where the ledgers live."""

    kind: Literal["lifetime", "per-run"] = "lifetime"
    """`lifetime`: one ledger per silo for the life of its data. `per-run`: a fresh one a run, for public data only."""
    directory: Text = "ledgers"
    """Directory of lifetime ledgers and identity keys, relative to the configuration."""
    lineage: Name = "records"
    source: Text = "not described"


class Aggregation(Section):
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


class Server(Section):
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


class Rounds(Section):
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


class Evaluation(Section):
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


class Incident(Section):
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


class Simulation(Section):
    """What the embedded engine simulates."""

    incidents: Array[Incident] = ()

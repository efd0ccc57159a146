"""The TOML file's schema. Every value in it is public; none may be derived from private records."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocols.errors import ConfigError

__all__ = [
    "Aggregation",
    "Config",
    "Evaluation",
    "Incident",
    "LedgerSettings",
    "Model",
    "Privacy",
    "Run",
    "SiloSettings",
    "Training",
    "load_config",
]

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Run(_Section):
    """What is run."""

    name: Name
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Splits of the data and initial weights; never noise, sampling or masks."""
    output: str = "runs"
    """Directory of the results, relative to the working directory."""


class Model(_Section):
    """The user's Python file, relative to the configuration."""

    file: str = "model.py"


class SiloSettings(_Section):
    """One organisation."""

    name: Name
    nominal_size: Annotated[int, Field(ge=1, lt=2**40)]
    """Public number of training records, declared, not counted."""


class Training(_Section):
    """Local training; the same public constants for all."""

    mode: Literal["local-dp-sgd", "none"]
    steps_per_round: Annotated[int, Field(ge=1, le=1_000_000)]
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    """Probability with which a record enters a step's sample; without privacy it sets the batch size."""
    clip_norm: PositiveFloat | None = None
    noise_multiplier: PositiveFloat | None = None
    """Left out: the smallest that fits the budget over all rounds."""
    grad_sample: Literal["hooks", "ghost"] = "hooks"
    max_physical_batch: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _needs_clip(self) -> Training:
        if self.mode == "local-dp-sgd" and self.clip_norm is None:
            raise ValueError("clip_norm is required with mode local-dp-sgd")
        return self


class Privacy(_Section):
    """Budget of each silo, for the life of its ledger."""

    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: Literal["record"] = "record"


class LedgerSettings(_Section):
    """Where the ledgers live."""

    kind: Literal["lifetime", "per-run"] = "lifetime"
    """`lifetime`: one ledger per silo for the life of its data. `per-run`: a fresh one per run, for public data only."""
    directory: str = "ledgers"
    """Directory of lifetime ledgers and identity keys, relative to the configuration."""
    lineage: Name = "records"
    source: str = "not described"


class Aggregation(_Section):
    """Secure aggregation and the encoding under it."""

    protocol: Literal["secagg"] = "secagg"
    weights: Literal["nominal", "uniform"] = "nominal"
    value_range: PositiveFloat
    """Largest magnitude of a coordinate of an update; what lies beyond is clipped and counted at the silo."""
    value_bits: Annotated[int, Field(ge=8, le=32)] = 20
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    collusion_bound: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[int, Field(ge=2)] | None = None
    minimum_contributors: Annotated[int, Field(ge=2)] | None = None
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Tries at a round; each trains afresh and is charged to the ledgers."""
    deadline_seconds: PositiveFloat = 600.0
    """After which a phase closes without those who have not answered."""


class Evaluation(_Section):
    """What is measured after a round."""

    kind: Literal["benchmark", "none"]
    """`benchmark` declares the test records of `load_data` unprotected; the metric on them is published exactly."""
    metric: str = "metric"
    """Name of the metric, for people."""


class Incident(_Section):
    """Something that goes wrong on schedule, in the embedded engine only."""

    party: Name
    phase: str
    round: Annotated[int, Field(ge=1)] | None = None
    """None: in every round."""
    kind: Literal["drop", "lose_reply", "delay"] = "drop"
    seconds: Annotated[float, Field(ge=0)] = 0.0


class Simulation(_Section):
    """What the embedded engine simulates."""

    incidents: tuple[Incident, ...] = ()


class Config(_Section):
    """A whole configuration file."""

    run: Run
    model: Model = Model()
    silo: Annotated[tuple[SiloSettings, ...], Field(min_length=2)]
    training: Training
    privacy: Privacy | None = None
    ledger: LedgerSettings = LedgerSettings()
    aggregation: Aggregation
    evaluation: Evaluation
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        names = [silo.name for silo in self.silo]
        if len(set(names)) != len(names):
            raise ValueError("silo: two silos have one name")
        if (self.privacy is None) != (self.training.mode == "none"):
            raise ValueError("privacy: given exactly when training.mode is not none")
        for incident in self.simulation.incidents:
            if incident.party not in names:
                raise ValueError(f"simulation.incidents: {incident.party!r} is no silo; allowed: {', '.join(names)}")
        return self


def load_config(path: str | Path) -> tuple[Config, str]:
    """Read a configuration file.

    :returns: the configuration and the file's text.
    :raises ConfigError: naming the key and what is allowed there.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}", "a TOML file") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from None
    try:
        # Strict mode takes no list for a tuple from Python objects; JSON mode reads arrays as TOML means them.
        return Config.model_validate(values, strict=False), text
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> ConfigError:
    """The first problem, with its dotted key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "configuration"
    context = first.get("ctx", {})
    problem = {
        "extra_forbidden": "unknown key",
        "missing": "missing",
    }.get(first["type"], first["msg"])
    allowed = str(context.get("expected", "")) or "; ".join(f"{name} {bound}" for name, bound in context.items() if name != "error")
    return ConfigError(key, problem, allowed)

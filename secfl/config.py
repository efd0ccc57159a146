"""The TOML file's schema. Every value in it is public; none may be derived from private records."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from protocols.errors import ConfigError, PrivacyError, UsageError
from protocols.secagg.agreement import DEFAULT_DROPOUT_RATE
from protocols.secagg.graph import LARGEST_COMPLETE_COHORT, SMALLEST_HARARY_COHORT
from secfl.config_messages import describe_problem
from secfl.config_sections import (
    Aggregation,
    Array,
    Evaluation,
    Incident,
    LedgerSettings,
    Model,
    Privacy,
    Rounds,
    Run,
    Section,
    Server,
    SiloSettings,
    Simulation,
    Training,
)
from secfl.privacy.budget import check_delta
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

_OPTIMISER_KEYS = {
    "momentum": ("sgd",),
    "beta1": ("adam", "yogi"),
    "beta2": ("adam", "yogi"),
    "tau": ("adam", "yogi"),
}


class Config(Section):
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

"""Data model of a run: what its JSON says and what its HTML shows. Both are made from these records and nothing else.

Never in here: realised batch sizes, clip counts, a single client's loss, norm or seconds, anything secret. What a silo
may see of itself is in :mod:`secfl.report.local`.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from protocols.errors import ConfigError, UsageError

__all__ = [
    "SCHEMA_VERSION",
    "Audit",
    "Baseline",
    "Claim",
    "ColluderPoint",
    "Curve",
    "CurvePoint",
    "Evaluation",
    "FaultRow",
    "ForecastPoint",
    "GroupPoint",
    "Mechanism",
    "NoiseLevel",
    "NoiseRow",
    "PhaseRow",
    "ReleaseRow",
    "RoundRow",
    "RunReport",
    "Sampling",
    "SiloRow",
]

SCHEMA_VERSION: Final = 2
Parameters = dict[str, str | int | float]


class _Row(msgspec.Struct, frozen=True):
    """Base of all records."""


class FaultRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that was refused, or a party that refused."""

    party: str
    phase: str
    text: str


class PhaseRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One phase of one round, all parties together."""

    phase: str
    seconds: float
    bytes_up: int
    """From the parties to the server."""
    bytes_down: int
    answered: tuple[str, ...]
    dropped: tuple[str, ...]
    faults: tuple[FaultRow, ...]


class RoundRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attempt at a round."""

    number: int
    attempt: int
    """At the round, from 0."""
    completed: bool
    failure: str = ""
    """Why the attempt ended without a sum; empty if it did not."""
    session: str
    """Session id, hex."""
    model_hash: str
    """Hash of the global model that the round trained from, hex."""
    contributors: tuple[str, ...]
    phases: tuple[PhaseRow, ...]
    checks: tuple[str, ...]
    metric: float | None = None
    """Value after the round, on records declared unprotected; None where nothing may be evaluated."""
    epsilon: dict[str, float]
    """Spent by each silo after the attempt, at the ledger's delta; empty without privacy."""


class ReleaseRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entries of a silo's ledger, as charged: releases one after the other that differ in their round alone."""

    run: str
    """Run that charged them: a ledger outlives its runs, and each run counts rounds from 1."""
    first_round: int
    last_round: int
    releases: int
    attempt: int
    """At the round, from 0."""
    state: Literal["reserved", "sending", "committed", "void"]
    kind: str
    """Of the event: `sampled-gaussian` or `distributed-gaussian`."""
    sampling_rate: float
    noise_multiplier: float
    """Of the noise that the strongest adversary assumed does not know, over the sensitivity."""
    steps: int
    l2_sensitivity: float | None = None
    """Delta_2 in integer steps; this and what follows of distributed noise alone."""
    dimension: int | None = None
    share_sigma: float | None = None
    shares: int | None = None
    known_shares: int | None = None


class NoiseLevel(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the rest of a budget reaches at a noise multiplier."""

    noise_multiplier: float
    rounds_left: int


class ForecastPoint(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would remain after further rounds at the present noise, by the ledger's filter."""

    rounds: int
    remaining_epsilon: float


class SiloRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A silo's side of the budget."""

    name: str
    lineage: str = ""
    """Lineage of records whose spend this ledger counts; empty: not recorded."""
    source: str = ""
    """Where the records come from, as the ledger's first line says."""
    fingerprint: str = ""
    """Note of the ledger on the records, by which the silo notices that they changed; empty: none was made."""
    nominal_records: int
    """Public constant of the configuration, not a count."""
    budget_epsilon: float | None
    delta: float | None
    filter_order: int | None = None
    """Order of the RDP filter, fixed when the ledger began."""
    spent_before_epsilon: float | None = None
    """Before the run's first round: earlier runs and lineages."""
    spent_epsilon: float | None
    """By the RDP filter at its fixed order: the claim. Over the life of the ledger, earlier runs included."""
    reserved_epsilon: float | None
    remaining_epsilon: float | None
    prv_epsilon: float | None
    """Opacus PRV over the same events: a cross-check, not the claim."""
    rounds_left: int | None
    """Further rounds at the present noise."""
    noise_levels: tuple[NoiseLevel, ...] = ()
    """Rounds left at other noise, the present one among them, by rising noise."""
    forecast: tuple[ForecastPoint, ...] = ()
    sampling_rate: float | None
    noise_multiplier: float | None
    steps_per_round: int
    clip_norm: float | None
    ledger_head: str
    """Hash of the ledger's last entry, hex; empty without privacy."""
    ledger_sequence: int | None = None
    """Number of that entry, from 0."""
    head_signature: str = ""
    """The silo's signature over run, final model, lineage and this head, hex; see the reference. Empty: not signed."""
    public_key: str
    """Ed25519 identity key that signs the ledger, hex."""
    releases: tuple[ReleaseRow, ...]


class Claim(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is promised against one adversary."""

    adversary: str
    sentence: str
    unit: str
    neighbouring_relation: str
    epsilon: float | None
    delta: float | None
    accountant: str
    colluding: int | None = 0
    """Silos that the adversary has on its side; None: any number."""
    shares: int | None = None
    """Shares of noise in the smallest sum that it does not know; None where every silo's noise stands by itself."""
    delta_parts: dict[str, float] = {}
    """What delta is made of."""
    computational: bool = False
    """Whether it rests on secure aggregation, and that on assumptions about what can be computed."""


class ColluderPoint(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left against the server together with ``colluding`` silos; epsilon is None where nothing is promised."""

    colluding: int
    shares: int
    epsilon: float | None
    assumed: bool
    """Within what the run was planned for."""
    void: str
    """Why nothing is promised; empty where something is."""


class GroupPoint(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guarantee for ``size`` units together, against one adversary; None where nothing is promised."""

    adversary: str
    size: int
    epsilon: float | None
    delta: float | None


class CurvePoint(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Epsilon of the same releases at one delta, by two accountants, and as if every unit took part in each step."""

    delta: float
    rdp: float
    """Integer-order Rényi accounting, the best order: for a plan fixed before its first release."""
    pld: float | None
    rdp_unamplified: float
    pld_unamplified: float | None


class Curve(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Epsilon against delta for the silos whose ledgers hold the same events."""

    silos: tuple[str, ...]
    amplified: bool
    """Whether any event is subsampled, so that the unamplified figures differ."""
    pld_is_approximate: bool
    """Distributed discrete noise: a Gaussian's loss distribution only approximates it."""
    points: tuple[CurvePoint, ...]


class Mechanism(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much noise, of what kind, and what encoding adds to it."""

    noise_source: str
    clip_norm: float | None
    noise_multiplier: float | None
    """Planned, over the sensitivity; the largest if silos differ."""
    floor_multiplier: float | None
    """Against the strongest adversary assumed, at the fewest contributors that a silo's own floors admit."""
    norm_inflation: float | None
    """Bound on a unit's norm after rounding, over the clip: the noise grows with it. 1: none."""
    share_sigma: float | None
    """Standard deviation of one party's share, in steps of the grid; None where each silo adds all of its noise."""
    minimum_contributors: int | None
    colluding: int | None
    """Contributors whose noise is taken for missing in the floor."""
    value_bits: int | None
    """Of one value before it is weighted; None where clip and noise decide."""
    modulus_bits: int
    wrap_probability: float
    """Bound on the probability that a coordinate of any sum of the run wraps: it costs accuracy, never privacy."""
    sampler_delta: float
    """Part of delta that the noise sampler's distance from its distribution takes."""


class NoiseRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Noise of one completed round, as multiples of the sensitivity."""

    number: int
    attempt: int
    dropped: int
    contributors: int
    planned: float
    floor: float
    achieved: float


class Sampling(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which units take part in a step, and what of it counts for privacy."""

    scheme: str
    rate: float
    steps_per_round: int
    rounds_planned: int
    cohort_size: int
    silos: int
    nominal_units: int
    amplification: str
    batch_padding: str


class Evaluation(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, on which records."""

    kind: str
    """As the configuration has it: `benchmark` (records declared unprotected), `none`, ..."""
    metric: str
    value: float | None
    records: str
    """Which records, and why they may be used."""


class Baseline(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure of `secfl compare`: an exact release about protected records, under no claim."""

    setting: str
    silo: str = ""
    mean: float
    standard_deviation: float | None
    splits: int


class Audit(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `secfl audit` found: tests that can find fault, and cannot show that there is none."""

    kind: str
    passed: bool
    summary: str
    details: Parameters = {}


class RunReport(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a run."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    run_id: str
    started: str
    """ISO 8601, UTC."""
    finished: str
    status: Literal["completed", "halted"]
    status_reason: str
    rounds_planned: int | None = None
    engine: str
    simulation: bool
    """All parties in one process: the protocol ran, but nobody was protected from anybody."""
    privacy_mode: str
    """`local-dp-sgd`, `distributed-dp-sgd`, `client-level` or `none`."""
    label: Literal["", "benchmark, no claim"] = ""
    """`benchmark, no claim`: baselines on protected records were released beside the run, so no claim stands."""
    baselines: tuple[Baseline, ...] = ()
    mechanism: Mechanism
    sampling: Sampling
    claims: tuple[Claim, ...]
    colluders: tuple[ColluderPoint, ...] = ()
    """Epsilon against the server with ever more colluding silos."""
    groups: tuple[GroupPoint, ...] = ()
    curves: tuple[Curve, ...] = ()
    silos: tuple[SiloRow, ...]
    rounds: tuple[RoundRow, ...]
    noise: tuple[NoiseRow, ...] = ()
    """One for each completed round; empty without privacy."""
    evaluation: Evaluation
    protocol: str
    protocol_parameters: Parameters
    protocol_promises: tuple[str, ...] = ()
    """Who learns what of single updates while they are summed, and on what that rests."""
    encoding: Parameters
    training: Parameters
    not_protected: tuple[str, ...]
    audits: tuple[Audit, ...] = ()
    roster_hash: str = ""
    """Of all parties' pinned keys, hex: it enters every session id."""
    model_hash: str
    """SHA-256 of the final model, hex."""
    data_description: str
    versions: dict[str, str]
    configuration: str
    """The configuration file, as read."""
    deployment: dict[str, Any] = {}
    """The run as an entry of the OpenDP deployments registry, tier 3; see :mod:`secfl.report.deployment`."""

    def to_json(self) -> bytes:
        """Indented JSON, UTF-8, ending in a newline; `from_json` gives back an equal report.

        :raises UsageError: names a field of another type than declared, a number that is not finite, or a text that is
            not Unicode: JSON has neither.
        """
        values = msgspec.to_builtins(self)
        _require_writable("report", values)
        try:
            msgspec.convert(values, RunReport)
        except msgspec.ValidationError as error:
            raise UsageError(f"report: {error}") from None
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> RunReport:
        """Read `to_json`; strict: no unknown field, no other schema version.

        :raises ConfigError: names the field.
        """
        try:
            return msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError("report", str(error), f"a report of schema version {SCHEMA_VERSION}") from None


def _require_writable(where: str, value: Any) -> None:
    """Refuse what JSON would change silently (not-a-number becomes null) or cannot hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_writable(f"{where}.key", key)
            _require_writable(f"{where}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_writable(f"{where}[{index}]", item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value}; allowed: a finite number")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{where}: a text with a lone surrogate; allowed: Unicode text")

"""Data model of a run: what its JSON says and what its HTML shows. Both are made from these records and nothing else.

Never in here: realised batch sizes, clip counts, a single client's loss, norm or seconds, anything secret.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from protocols.errors import ConfigError, UsageError

__all__ = [
    "SCHEMA_VERSION",
    "Claim",
    "Evaluation",
    "FaultRow",
    "PhaseRow",
    "ReleaseRow",
    "RoundRow",
    "RunReport",
    "SiloRow",
]

SCHEMA_VERSION: Final = 1


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
    """One entry of a silo's ledger, as charged."""

    release: str
    run: str = ""
    """Run that charged it: a ledger outlives its runs, and each run counts rounds from 1. Empty: not recorded."""
    round: int
    attempt: int
    state: str
    sampling_rate: float
    noise_multiplier: float
    steps: int


class SiloRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A silo's side of the budget."""

    name: str
    lineage: str = ""
    """Lineage of records whose spend this ledger counts; empty: not recorded."""
    nominal_records: int
    """Public constant of the configuration, not a count."""
    budget_epsilon: float | None
    delta: float | None
    spent_epsilon: float | None
    """By the RDP filter at its fixed order: the claim. Over the life of the ledger, earlier runs included."""
    reserved_epsilon: float | None
    remaining_epsilon: float | None
    prv_epsilon: float | None
    """Opacus PRV over the same events: a cross-check, not the claim."""
    rounds_left: int | None
    """Further rounds at the present noise."""
    sampling_rate: float | None
    noise_multiplier: float | None
    steps_per_round: int
    clip_norm: float | None
    ledger_head: str
    """Hash of the ledger's last entry, hex; empty without privacy."""
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


class Evaluation(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, on which records."""

    kind: Literal["benchmark", "none"]
    metric: str
    value: float | None
    records: str
    """Which records, and why they may be used."""


class RunReport(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a run."""

    schema_version: Literal[1] = SCHEMA_VERSION
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
    """`local-dp-sgd` or `none`."""
    noise_source: str
    claims: tuple[Claim, ...]
    silos: tuple[SiloRow, ...]
    rounds: tuple[RoundRow, ...]
    evaluation: Evaluation
    protocol: str
    protocol_parameters: dict[str, str | int | float]
    protocol_promises: tuple[str, ...] = ()
    """Who learns what of single updates while they are summed, and on what that rests."""
    encoding: dict[str, str | int | float]
    training: dict[str, str | int | float]
    not_protected: tuple[str, ...]
    model_hash: str
    """SHA-256 of the final model, hex."""
    data_description: str
    versions: dict[str, str]
    configuration: str
    """The configuration file, as read."""

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

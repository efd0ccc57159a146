"""A silo's own report of a run: what it may see of itself, and nobody else may.

It holds what depends on the silo's records, above all what its local notes say (coordinates clipped, and whatever else
training noted), and its ledger line by line. It is written where the silo keeps its keys, readable by its owner alone.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from secfl.privacy.ledger_entries import AnyEntry, Reserve
from secfl.report.model import RoundRow, SiloRow

__all__ = ["WARNING", "LedgerLine", "LocalReport", "ledger_lines"]

WARNING: Final = (
    "Not to leave this silo. What follows depends on its records: counts of clipped values and samples, times, the "
    "ledger in full. The run's report says what may be shared."
)
Cell = str | int | float | bool | None


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the ledger."""

    sequence: int
    time: str
    kind: str
    release: str = ""
    note: str = ""
    epsilon_spent: float
    """After this line, by the filter."""


class LocalReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a silo's part in a run."""

    schema_version: Literal[1] = 1
    warning: str = WARNING
    silo: SiloRow
    run_id: str
    run_name: str
    mark_sequence: int | None
    """Line that the ledger's high-water mark stands at; None without a ledger."""
    lines: tuple[LedgerLine, ...]
    rounds: tuple[RoundRow, ...]
    notes: tuple[dict[str, Any], ...]
    """Lines of the silo's local notes of this run, as they are."""

    @property
    def note_columns(self) -> tuple[str, ...]:
        """Fields of the notes that differ from line to line or say something, in their order."""
        names = dict.fromkeys(name for note in self.notes for name in note)
        return tuple(name for name in names if name not in ("event", "run_id", "time"))

    def to_json(self) -> bytes:
        """Indented JSON, ending in a newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def ledger_lines(entries: list[tuple[int, str, AnyEntry, float]]) -> tuple[LedgerLine, ...]:
    """Lines from sequence number, time, entry and epsilon after it."""
    return tuple(
        LedgerLine(
            sequence=sequence,
            time=time,
            kind=str(entry.__struct_config__.tag),
            release=getattr(entry, "release", ""),
            note=repr(entry.event) if isinstance(entry, Reserve) else getattr(entry, "reason", ""),
            epsilon_spent=spent,
        )
        for sequence, time, entry, spent in entries
    )

"""Ledger lines: typed entries, canonical JSON, hash chain and signature. Pure: bytes in, records out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from protocols.errors import LedgerCorrupt, PeerFault, PrivacyError
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SigningKey, verify
from secfl.privacy.budget import PrivacyBudget
from secfl.privacy.events import AnyPrivacyEvent

__all__ = [
    "FORMAT",
    "NO_PREVIOUS",
    "Commit",
    "Entry",
    "Genesis",
    "Head",
    "Line",
    "Parent",
    "Reserve",
    "Sending",
    "Successor",
    "Void",
    "decode_line",
    "encode_line",
    "line_hash",
]

FORMAT = 1
NO_PREVIOUS = "0" * 64
MAX_LINE_BYTES = 1 << 20
_LABEL = "ledger/line"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Note = Annotated[str, msgspec.Meta(max_length=1024)]
Counter = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Divergences = tuple[Annotated[float, msgspec.Meta(ge=0)], ...]
Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Hex64 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line of a ledger as others remember it: its sequence number and its SHA-256."""

    sequence: Counter
    hash: Hex32


class Entry(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of all kinds of entries."""


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier lineage whose records are, in whole or in part, in this one: all of its spend is inherited."""

    lineage: Name
    head: Head
    curve: Divergences


class Genesis(Entry, frozen=True, tag="genesis"):
    """First line: whose ledger it is, for which records, under which budget."""

    format: int
    silo: Name
    public_key: Hex32
    lineage: Name
    source: Note
    fingerprint: Note
    total_records: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    parents: tuple[Parent, ...]
    budget: PrivacyBudget
    order: Counter
    orders_version: Counter


class Reserve(Entry, frozen=True, tag="reserve"):
    """A release is charged, before its training begins."""

    release: Name
    run: Name
    round: Counter
    attempt: Counter
    event: AnyPrivacyEvent
    curve: Divergences


class Sending(Entry, frozen=True, tag="sending"):
    """The release is about to leave the silo: from here on it is spent."""

    release: Name


class Commit(Entry, frozen=True, tag="commit"):
    """The release was received."""

    release: Name


class Void(Entry, frozen=True, tag="void"):
    """Nothing of the release left the silo, and nothing of its training survives."""

    release: Name
    reason: Note


class Successor(Entry, frozen=True, tag="successor"):
    """The lineage ends: its records live on in another one, which inherits the spend."""

    lineage: Name


AnyEntry = Genesis | Reserve | Sending | Commit | Void | Successor
KINDS = ("genesis", "reserve", "sending", "commit", "void", "successor")


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entry: AnyEntry
    previous: Hex32
    sequence: Counter
    signature: Hex64
    time: str


@dataclass(frozen=True)
class Line:
    """A line whose signature has been verified."""

    sequence: int
    previous: str
    time: str
    entry: AnyEntry


def line_hash(raw: bytes) -> str:
    """SHA-256 of a line with its newline, in hex (what ``sed -n 1p LEDGER | sha256sum`` prints)."""
    return hashlib.sha256(raw).hexdigest()


def encode_line(signing_key: SigningKey, sequence: int, previous: str, time: datetime, entry: AnyEntry) -> bytes:
    """Sign an entry and write it as one line of canonical JSON, newline included.

    :raises PrivacyError: the entry breaks a bound that a reader would refuse; names the field.
    """
    fields: dict[str, Any] = {
        "entry": msgspec.to_builtins(entry),
        "previous": previous,
        "sequence": sequence,
        "time": time.isoformat(timespec="milliseconds"),
    }
    fields["signature"] = signing_key.sign(_signed_message(fields)).hex()
    raw = _canonical(fields) + b"\n"

    def refuse(rule: str, problem: str) -> PrivacyError:
        return PrivacyError(f"[{rule}] entry not written: {problem}")

    _parse(raw, refuse)
    return raw


def decode_line(raw: bytes, public_key: bytes, where: str) -> Line:
    """Read one line (newline included) and verify its form (LG-3, LG-4) and its signature (LG-7).

    :param where: file and line number, for the message.
    :raises LedgerCorrupt: names the rule and the line.
    """

    def refuse(rule: str, problem: str) -> PrivacyError:
        return LedgerCorrupt(f"[{rule}] {where}: {problem}")

    fields, record = _parse(raw, refuse)
    del fields["signature"]
    try:
        verify(public_key, _signed_message(fields), bytes.fromhex(record.signature))
    except PeerFault:
        raise refuse("LG-7", "the signature does not verify under this silo's key") from None
    return Line(record.sequence, record.previous, record.time, record.entry)


def _parse(raw: bytes, refuse: Callable[[str, str], PrivacyError]) -> tuple[dict[str, Any], _Record]:
    if len(raw) > MAX_LINE_BYTES:
        raise refuse("LG-3", f"{len(raw)} bytes; allowed: {MAX_LINE_BYTES}")
    try:
        fields = json.loads(raw)
        canonical = _canonical(fields) + b"\n"
    except (ValueError, RecursionError):
        raise refuse("LG-3", "not JSON, or a number that is not finite") from None
    if canonical != raw:
        raise refuse("LG-3", "not in canonical form (sorted keys, no spaces, no repeated key)")
    entry = fields.get("entry") if isinstance(fields, dict) else None
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if kind not in KINDS:
        raise refuse("LG-4", f"entry of unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
    try:
        record = msgspec.convert(fields, _Record)
        offset = datetime.fromisoformat(record.time).utcoffset()
    except (msgspec.ValidationError, PrivacyError, ValueError) as error:
        raise refuse("LG-3", f"{error}") from None
    if offset != timedelta(0):
        raise refuse("LG-3", f"time {record.time!r} is not in UTC")
    return fields, record


def _canonical(fields: object) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _signed_message(fields: dict[str, Any]) -> bytes:
    return tagged_hash(_LABEL, _canonical(fields))

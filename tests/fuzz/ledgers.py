"""Ledgers as fuzz targets: a small genuine one, and what a silo that signs anything may write."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from protocols.errors import SecflError
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SigningKey
from secfl.privacy import Ledger, Lineage, PrivacyBudget, SampledGaussian
from secfl.privacy.ledger_entries import NO_PREVIOUS, line_hash
from secfl.privacy.ledger_replay import Replay
from tests.fuzz.fuzz_sessions import mutated

Plain = Callable[[bytes, int], bytes]


def small_ledger(key: SigningKey) -> bytes:
    """Genesis, two releases, one given up."""
    path = Path(tempfile.mkdtemp(prefix="secfl-fuzz-")) / "records.ledger"
    lineage = Lineage("north", "records", "a register", 5000)
    with Ledger.create(path, key, lineage, PrivacyBudget(3.0, 1e-5), order=8) as ledger:
        for number in range(3):
            release = ledger.reserve(
                f"run/{number}/0", SampledGaussian(0.01, 1.0, 190), run="run", round=number, attempt=0
            )
            if number == 2:
                ledger.void(release)
                break
            ledger.sending(release)
            ledger.commit(release)
    return path.read_bytes()


class SignedLedger:
    """Ledgers of a silo that signs whatever it likes: each line's number, link and signature are made good."""

    def __init__(self) -> None:
        self.key = SigningKey(bytes(range(32)))

    def seeds(self) -> list[bytes]:
        """The entries of a genuine ledger, as JSON."""
        lines = [msgspec.json.decode(line) for line in small_ledger(self.key).splitlines()]
        return [msgspec.json.encode([line["entry"] for line in lines[:number]]) for number in (1, 3, len(lines))]

    def run(self, raw: bytes) -> None:
        """Forge the lines and read them."""
        try:
            entries = msgspec.json.decode(raw, type=list[dict[str, Any]])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        ledger, previous = b"", NO_PREVIOUS
        for sequence, entry in enumerate(entries):
            time = f"2026-01-01T00:00:{sequence % 60:02}.000+00:00"
            fields = {"entry": entry, "previous": previous, "sequence": sequence, "time": time}
            message = tagged_hash("ledger/line", canonical(fields))
            line = canonical({**fields, "signature": self.key.sign(message).hex()}) + b"\n"
            ledger, previous = ledger + line, line_hash(line)
        try:
            Replay("fuzz", self.key.public).read(ledger)
        except SecflError:
            return

    def mutate(self, raw: bytes, size: int, seed: int, plain: Plain) -> bytes:
        """Another value in one of the entries; an entry more, less or elsewhere."""
        choice = random.Random(seed)
        try:
            entries = mutated(msgspec.json.decode(raw), choice, plain)
            changed = json.dumps(entries).encode()
        except (ValueError, TypeError, RecursionError):
            return plain(raw, size)
        return changed if len(changed) <= size else raw


def canonical(fields: object) -> bytes:
    """As the ledger writes it."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")

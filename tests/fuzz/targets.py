"""What is fuzzed: each target takes bytes and may raise nothing but the library's own errors."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec

from protocols import wire
from protocols.errors import SecflError
from protocols.identity import Roster
from protocols.primitives import bitpack, merkle, shamir
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SigningKey
from protocols.session import SessionParameters
from protocols.testing.cohort import Cohort
from secfl.aggregation.framing import FrameLimits, Message, write_frames
from secfl.config import parse_config
from secfl.encoding import EncodingScheme
from secfl.federation.key_statements import Introduction, Revocation, read_statement
from secfl.federation.keys import load_key
from secfl.federation.roster_file import read_roster, roster_text
from secfl.privacy import Ledger, Lineage, PrivacyBudget, SampledGaussian
from secfl.privacy.ledger_entries import NO_PREVIOUS, line_hash
from secfl.privacy.ledger_replay import Replay
from tests.fuzz.fuzz_sessions import SessionFuzz, mutated

Plain = Callable[[bytes, int], bytes]
SECAGG_PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")


class Target(Protocol):
    """One target."""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""

    def run(self, raw: bytes) -> None:
        """Feed one input; anything raised is a finding."""

    def mutate(self, raw: bytes, size: int, seed: int, plain: Plain) -> bytes:
        """Another input made from this one."""


class Decoders:
    """Everything that reads bytes from outside a session; the first byte says which."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="secfl-fuzz-")) / "file"
        key = SigningKey(bytes(range(32)))
        cohort = Cohort()
        roster, now = cohort.roster, datetime(2026, 1, 1, tzinfo=UTC)
        scheme = EncodingScheme.choose(1.0, 16, maximum_contributors=3, layout_digest=bytes(32))
        heart = Path(__file__).parents[2] / "examples" / "heart" / "config.toml"
        frames = b"".join(write_frames(b"header", [b"chunk"], bytes(64)))
        self.readers: list[tuple[Callable[[bytes], Any], bytes]] = [
            (SessionParameters.from_bytes, cohort.parameters.to_bytes()),
            (Roster.from_bytes, roster.to_bytes()),
            (lambda raw: Message.from_bytes(raw, FrameLimits(64, 64, 4, 64)), frames),
            (EncodingScheme.from_bytes, scheme.to_bytes()),
            (wire.peek_kind, cohort.request("c00").header),
            (self._bitpack, b"\x05\x07" + bytes(5)),
            (self._merkle, bytes(32) * 5),
            (lambda raw: shamir.unpack_shares(raw, 1), bytes(34)),
            (lambda raw: parse_config(raw.decode("utf-8", "replace")), heart.read_bytes()),
            (lambda raw: Replay("fuzz", key.public).read(raw, drop_torn_tail=True), small_ledger(key)),
            (self._from_file(read_roster), roster_text(roster).encode()),
            (self._from_file(read_statement), Introduction.make("c00", key, now).to_json()),
            (self._from_file(read_statement), Revocation.make("c00", key, now).to_json()),
            (self._from_file(lambda path: load_key(path, lambda _: b"")), KEY),
        ]

    def _from_file(self, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        def through_a_file(raw: bytes) -> Any:
            self.path.write_bytes(raw)
            self.path.chmod(0o600)
            return read(self.path)

        return through_a_file

    @staticmethod
    def _bitpack(raw: bytes) -> None:
        if len(raw) > 2 and 1 <= raw[0] <= 64:
            bitpack.unpack(raw[2:], raw[1], raw[0])

    @staticmethod
    def _merkle(raw: bytes) -> None:
        if len(raw) >= 66:
            path = [raw[i : i + 32] for i in range(66, len(raw), 32)]
            merkle.verify_path(raw[:32], raw[32:64], raw[64], raw[65], path)

    def seeds(self) -> list[bytes]:
        """A genuine input for each reader."""
        return [bytes([number]) + genuine for number, (_, genuine) in enumerate(self.readers)]

    def run(self, raw: bytes) -> None:
        """See `Target.run`."""
        if not raw:
            return
        try:
            self.readers[raw[0] % len(self.readers)][0](raw[1:])
        except SecflError:
            return

    def mutate(self, raw: bytes, size: int, seed: int, plain: Plain) -> bytes:
        """The fuzzer's own mutation is right for these."""
        return plain(raw, size)


KEY = (
    b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
    b"-----END PRIVATE KEY-----\n"
)
"""The Ed25519 private key 00 01 02 ..."""


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


def secagg() -> Target:
    """SecAgg, five clients."""
    return SessionFuzz(lambda: Cohort(length=70), SECAGG_PHASES)


TARGETS: dict[str, Callable[[], Target]] = {"decoders": Decoders, "ledger": SignedLedger, "secagg": secagg}


@cache
def target(name: str) -> Target:
    """A target, made once."""
    return TARGETS[name]()


def describe(raw: bytes) -> str:
    """An input for people."""
    try:
        return str(msgspec.msgpack.decode(raw))[:2000]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return repr(raw[:2000])

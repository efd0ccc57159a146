"""What is fuzzed: each target takes bytes and may raise nothing but the library's own errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import msgspec

from protocols.errors import SecflError
from protocols.testing.cohort import Cohort
from tests.fuzz.fuzz_sessions import SessionFuzz
from tests.fuzz.ledgers import SignedLedger
from tests.fuzz.readers import all_readers
from tests.protocols.ckks.ckks_cohort import CkksCohort
from tests.protocols.oneshot.oneshot_cohort import OneShotCohort, advance

Plain = Callable[[bytes, int], bytes]
SECAGG_PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
ONESHOT_PHASES = ("Contribution", "Check", "Opening", "Blame")
CKKS_PHASES = ("Contribution", "Decryption")


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
        self.readers = all_readers()

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


def secagg() -> Target:
    """SecAgg, five clients on the complete graph."""
    return SessionFuzz(lambda: Cohort(length=70), SECAGG_PHASES)


def oneshot() -> Target:
    """One-shot, four silos that are clients and committee; in the phase of blame one of them has lied."""
    return SessionFuzz(lambda: OneShotCohort(length=70), ONESHOT_PHASES, advance=advance)


def ckks() -> Target:
    """CKKS, three clients and a key holder."""
    return SessionFuzz(lambda: CkksCohort(3, length=70), CKKS_PHASES, spent=frozenset({"KS-14", "KS-15", "KS-16"}))


TARGETS: dict[str, Callable[[], Target]] = {
    "decoders": Decoders,
    "ledger": SignedLedger,
    "secagg": secagg,
    "oneshot": oneshot,
    "ckks": ckks,
}


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

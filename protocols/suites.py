"""The cryptographic suites, by the number that travels. A suite never changes its meaning: a new one gets a number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from protocols.errors import UsageError
from protocols.primitives.signing import SignatureScheme

__all__ = ["SUITES", "SealingKem", "Suite", "suite"]


@unique
class SealingKem(Enum):
    """How messages to a party's long-term key are sealed: KEM of HPKE (RFC 9180), with HKDF-SHA256 and AES-256-GCM."""

    MLKEM768_X25519 = "ML-KEM-768 with X25519"
    X25519 = "X25519"


@dataclass(frozen=True)
class Suite:
    """What keeps a session confidential and authentic.

    :param sealing: for protocols that seal to long-term keys. SecAgg, whose keys live for one session, agrees on them
        by X25519 in its suite 1.
    :param signature: of every reply.
    """

    id: int
    sealing: SealingKem
    signature: SignatureScheme


SUITES = MappingProxyType(
    {
        known.id: known
        for known in (
            Suite(1, SealingKem.MLKEM768_X25519, SignatureScheme.ED25519),
            Suite(2, SealingKem.X25519, SignatureScheme.ED25519),
            Suite(3, SealingKem.MLKEM768_X25519, SignatureScheme.ED25519_MLDSA65),
        )
    }
)
"""1: what is recorded today stays closed to a quantum computer of tomorrow. 2: classical throughout. 3: as 1, and a
quantum computer forges no message either, at 3309 bytes more a signature."""


def suite(number: int) -> Suite:
    """The suite of this number.

    :raises UsageError: there is none.
    """
    if number not in SUITES:
        raise UsageError(f"suite: {number}; known: {', '.join(map(str, SUITES))}")
    return SUITES[number]

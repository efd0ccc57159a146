"""Named parameter sets of CKKS, SEAL's bound for 128 bits of security, and how wrong a decrypted sum can be at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

from protocols.errors import UsageError

__all__ = [
    "DEFAULT_RECORD",
    "LARGEST_MODULUS_BITS",
    "RECORDS",
    "CkksRecord",
    "check_sum",
    "record",
    "sum_error",
]

LARGEST_MODULUS_BITS = MappingProxyType({1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881})
"""Bits of all moduli together at which a degree still has 128 bits of security, ternary keys, sigma 3.2: SEAL's table
(``CoeffModulus::MaxBitCount``), that of the Homomorphic Encryption Standard, 2018, table 1."""

_LENGTH_BYTES = 4
_PREAMBLE_BYTES = 97
"""Of a SEAL ciphertext before its coefficients: id of the parameters, form, sizes, scale, correction, array header."""
_LARGEST_ERROR = 21
"""Of SEAL's error distribution: a centred binomial of 42 bits; built with its Gaussian instead, clipped at 19.2."""
_UNIT = 2.0**-53
_WORD_ROUNDING = 2.0**11
"""By how much SEAL's decoder rounds a coefficient of more than one word, at most: half a unit of a 64-bit word's last
place as a float64, for two words."""


@dataclass(frozen=True)
class CkksRecord:
    """One parameter set. A record never changes its meaning; a new one gets a new number.

    :param id: by which sessions name it.
    :param degree: N; a ciphertext has N / 2 slots.
    :param moduli: bits of the primes of the key's modulus; the last one is divided away by encryption.
    :param scale_bits: log2 of the scale.
    :param serialised_limit: most bytes of a ciphertext in SEAL's serialisation, see `protocols.ckks.blocks`.
    :raises UsageError: less than 128 bits of security, or no special prime.
    """

    id: int
    degree: int
    moduli: tuple[int, ...]
    scale_bits: int
    serialised_limit: int

    def __post_init__(self) -> None:
        allowed = LARGEST_MODULUS_BITS.get(self.degree, 0)
        if sum(self.moduli) > allowed:
            raise UsageError(
                f"CKKS record {self.id}: {sum(self.moduli)} bits of modulus; degree {self.degree} has 128 bits of "
                f"security up to {allowed}"
            )
        if len(self.moduli) < 2:
            raise UsageError(f"CKKS record {self.id}: {len(self.moduli)} prime; at least 2, the last for encryption")

    @property
    def slots(self) -> int:
        """Integers in a ciphertext."""
        return self.degree // 2

    @property
    def scale(self) -> float:
        """By what integers are multiplied."""
        return 2.0**self.scale_bits

    @property
    def modulus_bits(self) -> int:
        """Bits of q, the modulus of ciphertexts, above 2^(bits - 1)."""
        return sum(self.moduli[:-1])

    @property
    def ciphertext_bytes(self) -> int:
        """Of a ciphertext of two polynomials before compression."""
        return _PREAMBLE_BYTES + 2 * self.degree * len(self.moduli[:-1]) * 8

    @property
    def block_bytes(self) -> int:
        """Of a ciphertext on the wire: its length, its serialisation, zeros."""
        return _LENGTH_BYTES + self.serialised_limit


RECORDS = MappingProxyType(
    {
        known.id: known
        for known in (
            CkksRecord(id=1, degree=8192, moduli=(60, 40, 40), scale_bits=40, serialised_limit=58 * 4096),
            CkksRecord(id=2, degree=4096, moduli=(60, 49), scale_bits=31, serialised_limit=65_792),
        )
    }
)
"""1: sums to 2^37, up to 16,000 clients. 2: about half the bytes and time; sums below 2^27, up to 125 clients."""
DEFAULT_RECORD = 1


def record(number: int) -> CkksRecord:
    """The record of this number.

    :raises UsageError: there is none.
    """
    if number not in RECORDS:
        raise UsageError(f"CKKS record: {number}; known: {', '.join(map(str, RECORDS))}")
    return RECORDS[number]


def sum_error(used: CkksRecord, clients: int, value_bound: int) -> float:
    """Largest distance, in units of an integer, between a decrypted slot and the true sum: for every key and noise.

    Derived in docs/explanation/ckks-error-bound.md: of each client the encoder's rounding, the noise of encryption to a
    public key and the rounding that divides the special prime away; conversion to float64 and the transforms, once.

    :param clients: n, whose ciphertexts are added.
    :param value_bound: B, largest absolute value of an integer in a slot.
    """
    degree, scale = used.degree, used.scale
    fresh = _LARGEST_ERROR * (2 * degree + 1) / 2.0 ** (used.moduli[-1] - 1)
    coefficient = 0.5 + fresh + (degree + 1) / 2
    transform = (11 * math.log2(degree) + 2) * _UNIT * math.sqrt(degree)
    return (
        clients * degree * coefficient / scale
        + degree * _WORD_ROUNDING / scale
        + 2 * transform * (clients * value_bound + 1) * (1 + 2.0**-30)
    )


def check_sum(used: CkksRecord, clients: int, value_bound: int) -> None:
    """Make sure that the sum of so many integers is exact once it is rounded.

    :raises UsageError: the proven error is not below 1/2, or the sum does not fit the modulus.
    """
    error = sum_error(used, clients, value_bound)
    if error >= 0.5:
        raise UsageError(
            f"sums of {clients} values up to {value_bound} may be off by {error:.3g} in CKKS record {used.id}; "
            "below 0.5 they would be exact"
        )
    if (clients * value_bound + 1) * used.scale >= 2.0 ** (used.modulus_bits - 2):
        raise UsageError(
            f"sums of {clients} values up to {value_bound} do not fit the modulus of CKKS record {used.id}"
        )

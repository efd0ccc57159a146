"""How vector entries share the coefficients of a plaintext polynomial, and how many bits of a ciphertext travel.

A coefficient holds `slots` entries side by side, each in a slot that is wide enough for the sum over all clients, above
the noise: the plaintext is multiplied by Delta = 2^delta_bits. The ciphertext's low `dropped_bits` bits do not travel;
rounding them away adds noise of variance (4^dropped_bits - 1) / 12 a client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from protocols.errors import UsageError
from protocols.oneshot.records import WORD_BITS, LatticeRecord, Words64
from protocols.primitives.ring import Words, word_dtype

__all__ = ["Layout", "Slots", "choose_layout", "choose_slots"]

DEVIATIONS = 12
"""Standard deviations of the summed noise that still decrypt: missed with probability below 2^-102 a coefficient."""
MINIMUM_COEFFICIENTS = 64
"""Fewest coefficients of a ciphertext: with fewer, the residual check could not tell a wrong key from the right one."""


@dataclass(frozen=True)
class Layout:
    """Where entries, noise and rounding lie in a 64-bit coefficient.

    :param slots: entries in a coefficient.
    :param width: bits of a slot.
    :param dropped_bits: low bits that do not travel (rho in the specification).
    :param variance: of the noise that one client adds, rounding included.
    """

    slots: int
    width: int
    dropped_bits: int
    variance: float

    @property
    def delta_bits(self) -> int:
        """log2 of Delta: the bits below the slots."""
        return WORD_BITS - self.slots * self.width

    @property
    def sent_bits(self) -> int:
        """Bits of a coefficient that travel."""
        return WORD_BITS - self.dropped_bits

    def bits_per_entry(self) -> float:
        """Bits of ciphertext an entry."""
        return self.sent_bits / self.slots

    def coefficients(self, entries: int) -> int:
        """Coefficients of the ciphertext of a vector."""
        return max(MINIMUM_COEFFICIENTS, -(-entries // self.slots))


def _needed_half_delta(clients: int, variance: float) -> float:
    """What Delta / 2 must exceed: the bias of rounding and twelve standard deviations of the summed noise."""
    return clients / 2 + DEVIATIONS * math.sqrt(clients * variance)


@lru_cache(maxsize=64)
def choose_layout(lattice: LatticeRecord, clients: int, width: int) -> Layout:
    """The layout with the fewest bits an entry; of two such the one with more slots.

    :param clients: n, for which the slots are wide enough.
    :param width: bits of a slot.
    :raises UsageError: the width leaves no room for the noise.
    """
    best: Layout | None = None
    for slots in range(1, WORD_BITS // width + 1):
        half_delta = 2.0 ** (WORD_BITS - slots * width - 1)
        for dropped in range(WORD_BITS - slots * width):
            variance = lattice.variance + (4**dropped - 1) / 12
            if half_delta <= _needed_half_delta(clients, variance):
                break
            candidate = Layout(slots, width, dropped, variance)
            if best is None or candidate.bits_per_entry() <= best.bits_per_entry():
                best = candidate
    if best is None:
        raise UsageError(f"a slot of {width} bits leaves no room for the noise of {clients} clients")
    return best


@dataclass(frozen=True)
class Slots:
    """Entries to plaintext coefficients and back.

    A slot holds x + B in [0, 2 B], x being the entry read as a signed number and B the bound; or, for encodings that
    may wrap (bound 0), the word itself. Either way sums are exact integers and are reduced modulo 2^bits at the end.

    :param bits: b, entries are words modulo 2^b.
    :param bound: B, or 0.
    """

    layout: Layout
    bits: int
    bound: int

    def encode(self, words: Words, out: Words64) -> None:
        """Put entries into plaintext coefficients; slots past the last entry are zero.

        :param words: 1-d array of an unsigned dtype.
        :param out: uint64 array of at least ceil(len(words) / slots) coefficients, overwritten.
        :raises UsageError: an entry of 2^b or more, or beyond the bound.
        """
        dtype = word_dtype(self.bits)
        if words.size and int(words.max()) >> self.bits:
            raise UsageError(f"an entry does not fit into {self.bits} bits")
        values = words.astype(dtype, copy=False)
        if self.bound:
            values = np.add(values, dtype.type(self.bound))
            np.bitwise_and(values, dtype.type((1 << self.bits) - 1), out=values)
            if values.size and int(values.max()) > _largest(self.bits, self.bound):
                raise UsageError(f"an entry is beyond +-{self.bound}")
        out.fill(0)
        for slot in range(self.layout.slots):
            part = values[slot :: self.layout.slots].astype(np.uint64)
            if slot:
                np.left_shift(part, np.uint64(slot * self.layout.width), out=part)
            np.bitwise_or(out[: part.size], part, out=out[: part.size])

    def decode(self, plain: Words64, contributors: int, out: Words) -> None:
        """Take the sums out of plaintext coefficients.

        :param plain: uint64 coefficients of the sum.
        :param contributors: number of vectors in it.
        :param out: 1-d array of ``word_dtype(bits)``, overwritten with words modulo 2^b.
        """
        modulus = (1 << self.bits) - 1
        offset = np.uint64((-contributors * self.bound) & modulus)
        slot_mask = np.uint64((1 << self.layout.width) - 1)
        for slot in range(self.layout.slots):
            target = out[slot :: self.layout.slots]
            part = np.right_shift(plain[: target.size], np.uint64(slot * self.layout.width))
            np.bitwise_and(part, slot_mask, out=part)
            np.add(part, offset, out=part)
            np.bitwise_and(part, np.uint64(modulus), out=part)
            target[:] = part


def choose_slots(lattice: LatticeRecord, clients: int, bits: int, bound: int) -> Slots:
    """Slots for the sum over `clients` vectors of words modulo 2^bits, bounded by `bound` unless that is 0.

    :raises UsageError: the sum leaves no room for the noise, or 2 B >= 2^b.
    """
    if 2 * bound >= 1 << bits:
        raise UsageError(f"bound: {bound}; below 2^{bits - 1} in words of {bits} bits")
    width = (_largest(bits, bound) * clients).bit_length()
    return Slots(choose_layout(lattice, clients, width), bits, bound)


def _largest(bits: int, bound: int) -> int:
    """Largest value of a slot of one client."""
    return 2 * bound if bound else (1 << bits) - 1

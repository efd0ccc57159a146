"""How vector entries share the coefficients of a plaintext polynomial, and how many bits of a ciphertext travel.

A coefficient holds `slots` entries side by side, each in a slot that is wide enough for the sum over all clients, above
the noise: the plaintext is multiplied by Delta = 2^delta_bits, and the modulus is 2^Q, Q the bits of slots and Delta
together. The ciphertext's low `dropped_bits` bits do not travel; rounding them away adds noise of variance
(4^dropped_bits - 1) / 12 a client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np

from protocols.errors import UsageError
from protocols.oneshot.records import WORD_BITS, LatticeRecord, Words64
from protocols.primitives.ring import Words, word_dtype

__all__ = ["Layout", "Slots", "choose_layout", "choose_slots"]

DEVIATIONS = 12
"""Standard deviations of the summed noise that still decrypt: missed with probability below 2^-102 a coefficient."""
MINIMUM_COEFFICIENTS = 64
"""Fewest coefficients of a ciphertext: with fewer, the residual check could not tell a wrong key from the right one."""

_PIECE = 16 * 1024
"""Coefficients taken apart at a time: few enough to stay in the cache."""


@dataclass(frozen=True)
class Layout:
    """Where entries, noise and rounding lie in a coefficient.

    :param slots: entries in a coefficient.
    :param width: bits of a slot.
    :param delta_bits: log2 of Delta, the bits below the slots.
    :param dropped_bits: low bits that do not travel (rho in the specification).
    :param variance: of the noise that one client adds, rounding included.
    """

    slots: int
    width: int
    delta_bits: int
    dropped_bits: int
    variance: float

    @property
    def modulus_bits(self) -> int:
        """Q, at most 64."""
        return self.slots * self.width + self.delta_bits

    @property
    def sent_bits(self) -> int:
        """Bits of a coefficient that travel."""
        return self.modulus_bits - self.dropped_bits

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
    """The layout with the fewest bits an entry; of several such one with the most slots, then the smallest modulus.

    A smaller modulus under the same noise is the harder lattice problem, and takes fewer limbs to multiply.

    :param clients: n, for which the slots are wide enough.
    :param width: bits of a slot.
    :raises UsageError: the width leaves no room for the noise.
    """
    fitting = []
    for slots in range(1, WORD_BITS // width + 1):
        for dropped in count():
            variance = lattice.variance + (4**dropped - 1) / 12
            # The least power of two above what half of Delta must exceed.
            delta = math.frexp(_needed_half_delta(clients, variance))[1] + 1
            if slots * width + delta > WORD_BITS:
                break
            fitting.append(Layout(slots, width, delta, dropped, variance))
    if not fitting:
        raise UsageError(f"a slot of {width} bits leaves no room for the noise of {clients} clients")
    return min(fitting, key=lambda layout: (layout.bits_per_entry(), -layout.slots, layout.delta_bits))


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
        slots = self.layout.slots
        values = np.empty(min(words.size, _PIECE * slots), word_dtype(self.bits))
        part = np.empty(min(out.size, _PIECE), np.uint64)
        for low in range(0, out.size, _PIECE):
            source, target = words[low * slots : (low + _PIECE) * slots], out[low : low + _PIECE]
            shifted = self._shifted(source, values[: source.size])
            lowest = shifted[::slots]
            np.copyto(target[: lowest.size], lowest)
            target[lowest.size :] = 0
            for slot in range(1, slots):
                entries = shifted[slot::slots]
                np.copyto(part[: entries.size], entries)
                np.left_shift(part[: entries.size], np.uint64(slot * self.layout.width), out=part[: entries.size])
                np.bitwise_or(target[: entries.size], part[: entries.size], out=target[: entries.size])

    def _shifted(self, words: Words, values: Words) -> Words:
        """What a slot holds for each entry, in `values`.

        :raises UsageError: see `encode`.
        """
        if words.size and int(words.max()) >> self.bits:
            raise UsageError(f"an entry does not fit into {self.bits} bits")
        np.copyto(values, words, casting="same_kind")
        if self.bound:
            np.add(values, values.dtype.type(self.bound), out=values)
            np.bitwise_and(values, values.dtype.type((1 << self.bits) - 1), out=values)
            if values.size and int(values.max()) > _largest(self.bits, self.bound):
                raise UsageError(f"an entry is beyond +-{self.bound}")
        return values

    def decode(self, plain: Words64, contributors: int, out: Words) -> None:
        """Take the sums out of plaintext coefficients.

        :param plain: uint64 coefficients of the sum.
        :param contributors: number of vectors in it.
        :param out: 1-d array of ``word_dtype(bits)``, overwritten with words modulo 2^b.
        """
        modulus = np.uint64((1 << self.bits) - 1)
        offset = np.uint64((-contributors * self.bound) % (1 << self.bits))
        slots, slot_mask = self.layout.slots, np.uint64((1 << self.layout.width) - 1)
        part = np.empty(min(plain.size, _PIECE), np.uint64)
        for low in range(0, -(-out.size // slots), _PIECE):
            source = plain[low : low + _PIECE]
            for slot in range(slots):
                target = out[low * slots + slot : (low + _PIECE) * slots : slots]
                sums = np.right_shift(
                    source[: target.size], np.uint64(slot * self.layout.width), out=part[: target.size]
                )
                np.bitwise_and(sums, slot_mask, out=sums)
                np.add(sums, offset, out=sums)
                np.bitwise_and(sums, modulus, out=sums)
                target[:] = sums


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

"""Exact products in Z[X]/(X^N + 1) modulo 2^Q, Q <= 64, by floating-point transforms.

A polynomial is folded into N/2 complex points z_k = (p_k + i p_{k+N/2}) exp(i pi k / N); their discrete Fourier
transform of length N/2 holds the values of p at half of the roots of X^N + 1, one of each conjugate pair, so that
products are pointwise. Polynomials are stored the way they are folded: word 2 k of an array is coefficient k, word
2 k + 1 is coefficient k + N/2, so that an array of reals is one of complex numbers as it stands.

The public factor is split into signed limbs; each limb's product with the short factor is an integer polynomial whose
float64 image is off by less than 1/4 (`error_bound`, derived in docs/explanation/oneshot-error-bound.md), so that
rounding gives it exactly.
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from protocols.oneshot.records import WORD_BITS, Polynomial, Words64
from protocols.primitives.secrecy import HoldsSecret

__all__ = ["LIMB_COUNTS", "NegacyclicProduct", "choose_limbs", "error_bound"]

UNIT_ROUNDOFF = 2.0**-53
LIMB_COUNTS = (2, 3, 4)
"""Limbs of a public coefficient: the fewest whose error bound holds are taken."""
PERMITTED_ERROR = 0.25
BATCH_BLOCKS = 8
"""Blocks transformed at a time: fewer pay for the calls, more leave the second-level cache."""

# A word w < 2^52 under these bits is the float64 2^52 + w: a conversion by two vector instructions.
_EXPONENT = np.uint64(0x433 << 52)
_MANTISSA_BITS = 52
# Adding 1.5 * 2^52 rounds to the nearest integer, which then stands in the low bits in two's complement.
_ROUNDER = 1.5 * 2.0**52
_ROUNDER_BITS = 0x4338 << 48


def error_bound(degree: int, limb_bits: int, norm: float, peak: float) -> float:
    """Largest error of a coefficient of (limb polynomial) * (short polynomial) before it is rounded.

    :param degree: N, a power of two.
    :param limb_bits: limbs are in [-2^(limb_bits - 1), 2^(limb_bits - 1)).
    :param norm: Euclidean norm of the short polynomial's coefficients.
    :param peak: largest absolute value in its computed transform.
    """
    u = UNIT_ROUNDOFF
    transform = 6.7 * u * math.log2(degree // 2)
    public_norm = 2.0 ** (limb_bits - 1) * math.sqrt(degree)
    return ((2 * transform + 17 * u) * norm + (transform + 7 * u) * peak) * (1 + 2.0**-30) * public_norm


def choose_limbs(degree: int, modulus_bits: int, norm: float, peak: float) -> tuple[int, ...]:
    """Widths, lowest first, of the fewest limbs whose products with such a polynomial are exact after rounding.

    :raises UsageError: no number of limbs is exact: the polynomial is not short.
    """
    for count in LIMB_COUNTS:
        bits = -(-modulus_bits // count)
        if error_bound(degree, bits, norm, peak) < PERMITTED_ERROR:
            return (bits,) * (count - 1) + (modulus_bits - bits * (count - 1),)
    raise UsageError("the polynomial is too long for exact products in float64")


class NegacyclicProduct(HoldsSecret):
    """Multiplication by one short polynomial.

    :param polynomial: int64 array of N coefficients, N a power of two and at least 4.
    :param modulus_bits: Q, at least 8.
    :raises UsageError: another shape or dtype, another modulus, or a polynomial too long for exact products.
    """

    __slots__ = ("_biased", "_degree", "_folded", "_limbs", "_rounding", "_shifts", "_transform", "_twist", "_untwist")

    def __init__(self, polynomial: Polynomial, modulus_bits: int = WORD_BITS) -> None:
        degree = polynomial.size
        if polynomial.ndim != 1 or polynomial.dtype != np.int64 or degree < 4 or degree & (degree - 1):
            raise UsageError(f"a polynomial is int64[N], N a power of two, not {polynomial.dtype}{polynomial.shape}")
        if not 8 <= modulus_bits <= WORD_BITS:
            raise UsageError(f"the modulus is 2^8 to 2^{WORD_BITS}, not 2^{modulus_bits}")
        self._degree = degree
        half = degree // 2
        angle = np.arange(half) * (np.pi / degree)
        self._twist = np.cos(angle) + 1j * np.sin(angle)
        values = polynomial.astype(np.float64)
        self._transform = np.fft.fft(values.view(np.complex128) * self._twist)
        norm, peak = float(np.sqrt(np.dot(values, values))), float(np.abs(self._transform).max())
        self._limbs = choose_limbs(degree, modulus_bits, norm, peak)
        positions = self._positions()
        # Limbs are transformed where they stand in the word, that is scaled by a power of two; the way back undoes it.
        self._shifts = [
            max(0, position + bits - _MANTISSA_BITS) for position, bits in zip(positions, self._limbs, strict=True)
        ]
        scales = [2.0 ** (shift - position) / half for position, shift in zip(positions, self._shifts, strict=True)]
        self._untwist = np.conj(self._twist) * np.array(scales)[:, np.newaxis, np.newaxis]
        self._rounding = np.uint64(-sum(_ROUNDER_BITS << position for position in positions) % 2**64)
        self._folded = np.empty((len(self._limbs), BATCH_BLOCKS, half), np.complex128)
        self._biased = np.empty((BATCH_BLOCKS, degree), np.uint64)

    @property
    def limbs(self) -> tuple[int, ...]:
        """Widths of the public factor's limbs."""
        return self._limbs

    def add_into(self, accumulator: Words64, public: Words64) -> None:
        """Add the products of the public polynomials to the accumulator, in place; right modulo 2^Q.

        :param accumulator: contiguous uint64 array [blocks, N].
        :param public: uint64 array of the same shape, unchanged; only its low Q bits count.
        :raises UsageError: another shape or dtype.
        """
        for words in (accumulator, public):
            if words.ndim != 2 or words.shape[1] != self._degree or words.dtype != np.uint64:
                raise UsageError(f"blocks are uint64[blocks, {self._degree}], not {words.dtype}{words.shape}")
        if len(accumulator) != len(public):
            raise UsageError(f"{len(public)} public polynomials for {len(accumulator)} blocks")
        for low in range(0, len(public), BATCH_BLOCKS):
            self._add_batch(accumulator[low : low + BATCH_BLOCKS], public[low : low + BATCH_BLOCKS])

    def erase(self) -> None:
        """Overwrite all that follows from the short polynomial; the object is of no use afterwards."""
        for array in (self._transform, self._folded, self._biased):
            array.fill(0)

    def _add_batch(self, accumulator: Words64, public: Words64) -> None:
        np.add(accumulator, self._rounding, out=accumulator)
        for limb, position in zip(self._images(public), self._positions(), strict=True):
            rounded = limb.view(np.float64)
            np.add(rounded, _ROUNDER, out=rounded)
            integers = limb.view(np.uint64)
            if position:
                np.left_shift(integers, np.uint64(position), out=integers)
            np.add(accumulator, integers, out=accumulator)

    def _images(self, public: Words64) -> npt.NDArray[np.complex128]:
        """Float64 images of the limbs' products, before they are rounded: [limbs, blocks, N / 2]."""
        folded = self._folded[:, : len(public)]
        self._split(public, folded)
        np.multiply(folded, self._twist, out=folded)
        np.fft.fft(folded, axis=-1, out=folded)
        np.multiply(folded, self._transform, out=folded)
        np.fft.ifft(folded, axis=-1, norm="forward", out=folded)  # the factor 2 / N is in the untwisting
        np.multiply(folded, self._untwist, out=folded)
        return folded

    def _split(self, public: Words64, folded: npt.NDArray[np.complex128]) -> None:
        """Split words into signed limbs, each at its place in the word."""
        # Adding half of each limb's range makes the limbs of the sum non-negative; it is taken off again below.
        offset = sum(1 << (end - 1) for end in accumulate(self._limbs)) % 2**64
        biased = np.add(public, np.uint64(offset), out=self._biased[: len(public)])
        for limb, bits, position, shift in zip(folded, self._limbs, self._positions(), self._shifts, strict=True):
            words, at = limb.view(np.uint64), position - shift
            mask = np.uint64(((1 << bits) - 1) << at)
            if shift:
                np.right_shift(biased, np.uint64(shift), out=words)
                np.bitwise_and(words, mask, out=words)
            else:
                np.bitwise_and(biased, mask, out=words)
            np.bitwise_or(words, _EXPONENT, out=words)
            values = limb.view(np.float64)
            np.subtract(values, 2.0**_MANTISSA_BITS + 2.0 ** (at + bits - 1), out=values)

    def _positions(self) -> list[int]:
        """Where each limb stands in the word."""
        return [0, *accumulate(self._limbs)][:-1]

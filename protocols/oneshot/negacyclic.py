"""Exact products in Z[X]/(X^N + 1) modulo 2^64 by floating-point transforms.

A polynomial is folded into N/2 complex points z_k = (p_k + i p_{k+N/2}) exp(i pi k / N); their discrete Fourier
transform of length N/2 holds the values of p at half of the roots of X^N + 1, one of each conjugate pair, so that
products are pointwise. The public factor is split into signed limbs; each limb's product with the short factor is an
integer polynomial whose float64 image is off by less than 1/4 (`error_bound`, derived in
docs/explanation/oneshot-error-bound.md), so that rounding gives it exactly.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from protocols.oneshot.records import Polynomial, Words64
from protocols.primitives.secrecy import HoldsSecret

__all__ = ["LIMB_CHOICES", "NegacyclicProduct", "choose_limbs", "error_bound"]

UNIT_ROUNDOFF = 2.0**-53
LIMB_CHOICES = ((22, 22, 20), (16, 16, 16, 16))
"""Widths of the limbs of a 64-bit word, lowest first: the first choice whose error bound holds is taken."""
PERMITTED_ERROR = 0.25
BATCH_BLOCKS = 8
"""Blocks transformed at a time: fewer pay for the calls, more leave the second-level cache."""

# A word w < 2^52 under these bits is the float64 2^52 + w: a conversion by two vector instructions.
_EXPONENT = np.uint64(0x433 << 52)
_MANTISSA_BITS = 52
# Adding 1.5 * 2^52 rounds to the nearest integer, which then stands in the low bits in two's complement.
_ROUNDER = 1.5 * 2.0**52
_ROUNDER_BITS = 0x4338 << 48


def error_bound(degree: int, limb_bits: int, norm: float) -> float:
    """Largest error of a coefficient of (limb polynomial) * (short polynomial) before it is rounded.

    :param degree: N, a power of two.
    :param limb_bits: limbs are in [-2^(limb_bits - 1), 2^(limb_bits - 1)).
    :param norm: Euclidean norm of the short polynomial's coefficients.
    """
    half = degree // 2
    u = UNIT_ROUNDOFF
    transform = 6.7 * u * math.log2(half)
    public_norm = 2.0 ** (limb_bits - 1) * math.sqrt(degree)
    relative = (2 * transform + 17 * u) + (transform + 7 * u) * math.sqrt(half)
    return relative * (1 + 2.0**-30) * public_norm * norm


def choose_limbs(degree: int, norm: float) -> tuple[int, ...]:
    """Fewest limbs whose products with a polynomial of this norm are exact after rounding.

    :raises UsageError: no choice is exact: the polynomial is not short.
    """
    for limbs in LIMB_CHOICES:
        if error_bound(degree, max(limbs), norm) < PERMITTED_ERROR:
            return limbs
    raise UsageError("the polynomial is too long for exact products in float64")


class NegacyclicProduct(HoldsSecret):
    """Multiplication by one short polynomial.

    :param polynomial: int64 array of N coefficients, N a power of two and at least 4.
    :raises UsageError: another shape or dtype, or a polynomial too long for exact products.
    """

    __slots__ = (
        "_biased",
        "_degree",
        "_folded",
        "_limbs",
        "_rounded",
        "_rounding",
        "_transform",
        "_twist",
        "_untwist",
        "_words",
    )

    def __init__(self, polynomial: Polynomial) -> None:
        degree = polynomial.size
        if polynomial.ndim != 1 or polynomial.dtype != np.int64 or degree < 4 or degree & (degree - 1):
            raise UsageError(f"a polynomial is int64[N], N a power of two, not {polynomial.dtype}{polynomial.shape}")
        self._degree = degree
        values = polynomial.astype(np.float64)
        self._limbs = choose_limbs(degree, float(np.sqrt(np.dot(values, values))))
        count, half = len(self._limbs), degree // 2
        positions = [0, *accumulate(self._limbs)][:-1]
        angle = np.arange(half) * (np.pi / degree)
        self._twist = np.cos(angle) + 1j * np.sin(angle)
        self._folded = np.empty((count, BATCH_BLOCKS, half), np.complex128)
        self._rounded = np.empty((BATCH_BLOCKS, degree))
        self._words = np.empty((BATCH_BLOCKS, degree), np.uint64)
        self._biased = np.empty((BATCH_BLOCKS, degree), np.uint64)
        # Limbs are transformed where they stand in the word, that is scaled by a power of two; the way back undoes it.
        shifts = [_shift(position, bits) for position, bits in zip(positions, self._limbs, strict=True)]
        scales = [2.0 ** (shift - position) / half for position, shift in zip(positions, shifts, strict=True)]
        self._untwist = np.conj(self._twist) * np.array(scales)[:, np.newaxis, np.newaxis]
        self._rounding = -sum(_ROUNDER_BITS << position for position in positions) % 2**64
        folded = (values[:half] + 1j * values[half:]) * self._twist
        self._transform = np.fft.fft(folded)

    @property
    def limbs(self) -> tuple[int, ...]:
        """Widths of the public factor's limbs."""
        return self._limbs

    def add_into(self, accumulator: Words64, public: Words64) -> None:
        """Add the products of the public polynomials to the accumulator, in place, modulo 2^64.

        :param accumulator: contiguous uint64 array [blocks, N].
        :param public: uint64 array of the same shape, unchanged.
        :raises UsageError: another shape or dtype.
        """
        for words in (accumulator, public):
            if words.ndim != 2 or words.shape[1] != self._degree or words.dtype != np.uint64:
                raise UsageError(f"blocks are uint64[blocks, {self._degree}], not {words.dtype}{words.shape}")
        if len(accumulator) != len(public):
            raise UsageError(f"{len(public)} public polynomials for {len(accumulator)} blocks")
        for low in range(0, len(public), BATCH_BLOCKS):
            self._add_batch(accumulator[low : low + BATCH_BLOCKS], public[low : low + BATCH_BLOCKS])

    def _add_batch(self, accumulator: Words64, public: Words64) -> None:
        count, half = len(public), self._degree // 2
        folded = self._folded[:, :count]
        words, rounded = self._words[:count], self._rounded[:count]
        self._split(public, folded, words)
        np.multiply(folded, self._twist, out=folded)
        np.fft.fft(folded, axis=-1, out=folded)
        np.multiply(folded, self._transform, out=folded)
        np.fft.ifft(folded, axis=-1, norm="forward", out=folded)  # the factor 2 / N is in the untwisting
        np.multiply(folded, self._untwist, out=folded)
        np.add(accumulator, np.uint64(self._rounding), out=accumulator)
        position = 0
        for limb, bits in zip(folded, self._limbs, strict=True):
            np.add(limb.real, _ROUNDER, out=rounded[:, :half])
            np.add(limb.imag, _ROUNDER, out=rounded[:, half:])
            integers = rounded.view(np.uint64)
            if position:
                integers = np.left_shift(integers, np.uint64(position), out=words)
            np.add(accumulator, integers, out=accumulator)
            position += bits

    def _split(self, public: Words64, folded: npt.NDArray[np.complex128], words: Words64) -> None:
        """Split words into signed limbs, each at its place in the word and folded to complex points."""
        half = self._degree // 2
        # Adding half of each limb's range makes the limbs of the sum non-negative; it is taken off again below.
        offset = sum(1 << (end - 1) for end in accumulate(self._limbs))
        position = 0
        biased = np.add(public, np.uint64(offset), out=self._biased[: len(public)])
        for limb, bits in zip(folded, self._limbs, strict=True):
            shift = _shift(position, bits)
            source: npt.NDArray[Any] = np.right_shift(biased, np.uint64(shift), out=words) if shift else biased
            at = position - shift
            np.bitwise_and(source, np.uint64(((1 << bits) - 1) << at), out=words)
            np.bitwise_or(words, _EXPONENT, out=words)
            value = words.view(np.float64)
            zero = 2.0**_MANTISSA_BITS + 2.0 ** (at + bits - 1)
            np.subtract(value[:, :half], zero, out=limb.real)
            np.subtract(value[:, half:], zero, out=limb.imag)
            position += bits


def _shift(position: int, bits: int) -> int:
    """By how much a limb moves down so that it stands in the mantissa of a float64."""
    return max(0, position + bits - _MANTISSA_BITS)

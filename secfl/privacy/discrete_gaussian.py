"""Exact sampling of the discrete Gaussian: integers x with probability proportional to exp(-x^2 / (2 sigma^2)).

Definition: Canonne, Kamath, Steinke 2020, definition 1. No floating-point Gaussian, no generator of numpy or torch, no
seed: every decision is taken by words of the operating system (or by a source passed in, for tests).

With sigma = a sigma_0, a an integer: Y >= 0 comes from a table of exp(-y^2 / (2 sigma_0^2)), U is uniform in [0, a),
and x = a Y + U is kept with probability exp(-U (2 a Y + U) / (2 sigma^2)): the product is exp(-x^2 / (2 sigma^2)). Then
a random sign; minus zero is drawn again. Up to sigma = 2^11 a is 1 and the table alone decides.

The table holds cumulative probabilities as 128-bit integers, computed with 90 decimal digits; a 64-bit word decides
where it can and a second one where it cannot. How far the result is from the exact distribution is `total_variation`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from protocols.errors import PrivacyError
from protocols.primitives.sampling import Entropy, draw, uniform_below

__all__ = ["MAXIMAL_SIGMA", "MINIMAL_SIGMA", "DiscreteGaussian"]

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

MINIMAL_SIGMA = 2.0**-4
MAXIMAL_SIGMA = 2.0**48
"""So that 16 standard deviations, and a Y in the acceptance test, are exact in float64."""
_LARGEST_TABLED = 2.0**11
_TABLED_SIGMA = 2**8
_TAIL = Decimal(2) ** -136
_DIGITS = Context(prec=90)
_CHUNK = 1 << 14
_WORD_BITS = 64
# What t, -expm1(-t) and their product with 2^64 can be off by in float64: six roundings of 2^-53, generously.
_THRESHOLD_ERROR = 2.0**-48


class _Table(NamedTuple):
    """Cumulative probabilities of |y|, scaled to 2^128, without the last, which is 2^128."""

    boundaries: tuple[int, ...]
    high: Words
    """The upper 64 bits of each."""


class DiscreteGaussian:
    """A sampler for one standard deviation.

    :param sigma: the distribution's parameter, from 2^-4 to 2^48. The true standard deviation is below it, by less than
        a part in 10^15 from sigma = 2 on.
    :raises PrivacyError: another sigma.
    """

    def __init__(self, sigma: float) -> None:
        if not isinstance(sigma, int | float) or isinstance(sigma, bool) or not MINIMAL_SIGMA <= sigma <= MAXIMAL_SIGMA:
            raise PrivacyError(f"sigma: {sigma!r}; allowed: {MINIMAL_SIGMA:g} to 2^48")
        self.sigma = float(sigma)
        self._stretch = 1 if self.sigma <= _LARGEST_TABLED else int(self.sigma // _TABLED_SIGMA)
        self._table = _table(Fraction(self.sigma) ** 2 / self._stretch**2)

    def __repr__(self) -> str:
        return f"DiscreteGaussian(sigma={self.sigma:g})"

    @property
    def total_variation(self) -> float:
        """Bound on the total-variation distance of one draw from the exact distribution.

        To be charged: m shares of d coordinates over T releases add (1 + e^epsilon) m d T times this to delta.
        """
        table = (len(self._table.boundaries) + 2) * 2.0**-128
        acceptance = 2.0**-127 if self._stretch > 1 else 0.0
        # Redrawing (minus zero, and what is not accepted) conditions on events of probability above 1/2.
        return 4 * (table + acceptance)

    def sample(self, count: int, entropy: Entropy) -> Integers:
        """Independent draws.

        :param count: how many, 0 or more.
        :param entropy: ``os.urandom``; another source in tests only.
        :returns: int64 of shape (count,).
        :raises UsageError: the source does not give the bytes asked for.
        """
        drawn = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            # Few draws are refused: an extra hundredth saves most second turns.
            wanted = min(_CHUNK, count - filled)
            accepted = self._candidates(wanted + wanted // 100 + 8, entropy)[:wanted]
            drawn[filled : filled + accepted.size] = accepted
            filled += accepted.size
        return drawn

    def _candidates(self, count: int, entropy: Entropy) -> Integers:
        """Draws, those that are refused left out."""
        magnitude = self._magnitudes(count, entropy)
        keep: npt.NDArray[np.bool_] = np.ones(count, np.bool_)
        if self._stretch > 1:
            offset = uniform_below(self._stretch, count, entropy).astype(np.int64)
            magnitude *= self._stretch
            keep = self._accepted(magnitude, offset, entropy)
            magnitude += offset
        negative = (np.frombuffer(draw(entropy, count), np.uint8) & 1).astype(np.bool_)
        keep &= ~(negative & (magnitude == 0))
        np.negative(magnitude, out=magnitude, where=negative)
        kept: Integers = magnitude[keep]
        return kept

    def _accepted(self, base: Integers, offset: Integers, entropy: Entropy) -> npt.NDArray[np.bool_]:
        """Which of base + offset are kept: with probability exp(-t), t = offset (2 base + offset) / (2 sigma^2)."""
        exponent = offset * ((2 * base + offset) / (2.0 * self.sigma * self.sigma))
        refused_below = np.ldexp(-np.expm1(-exponent), _WORD_BITS)
        words = _words(base.size, entropy)
        distance = words.astype(np.float64) - refused_below
        accepted: npt.NDArray[np.bool_] = distance >= 0
        # So close to the threshold float64 cannot tell: exact arithmetic and a second word do.
        for position in np.flatnonzero(np.abs(distance) <= refused_below * _THRESHOLD_ERROR + 2**12):
            whole = int(words[position]) << _WORD_BITS | int.from_bytes(draw(entropy, 8), "little")
            u, y = int(offset[position]), int(base[position])
            t = Fraction(u * (2 * y + u)) / (2 * Fraction(self.sigma) ** 2)
            power = _DIGITS.exp(_DIGITS.divide(Decimal(-t.numerator), Decimal(t.denominator)))
            accepted[position] = Decimal(whole) >= _DIGITS.multiply(
                _DIGITS.subtract(Decimal(1), power), Decimal(2**128)
            )
        return accepted

    def _magnitudes(self, count: int, entropy: Entropy) -> Integers:
        """Draws from the half-table, 0 upwards."""
        words = _words(count, entropy)
        high = self._table.high
        place = np.searchsorted(high, words, side="right")
        # The upper half is that of a boundary: it takes the lower half to tell on which side the draw lies.
        undecided = np.flatnonzero(high[np.maximum(place, 1) - 1] == words)
        for position in undecided:
            whole = int(words[position]) << _WORD_BITS | int.from_bytes(draw(entropy, 8), "little")
            place[position] = bisect_right(self._table.boundaries, whole)
        return place.astype(np.int64, copy=False)


def _words(count: int, entropy: Entropy) -> Words:
    return np.frombuffer(draw(entropy, 8 * count), "<u8")


@lru_cache(maxsize=64)
def _table(variance: Fraction) -> _Table:
    """Half-table for exp(-y^2 / (2 variance)), y = 0, 1, ... until what is left is below 2^-128 of the whole."""
    context = _DIGITS
    exponent = context.divide(Decimal(variance.denominator), Decimal(2 * variance.numerator))
    factor = context.exp(context.minus(exponent))  # from y = 0 to 1; from y to y + 1 it is this to the power of 2 y + 1
    square = context.multiply(factor, factor)
    weights = [Decimal(1)]
    while weights[-1] > _TAIL:
        weights.append(context.multiply(weights[-1], factor))
        factor = context.multiply(factor, square)
    total = Decimal(0)
    for weight in weights:
        total = context.add(total, weight)
    boundaries, below = [], Decimal(0)
    scale = context.divide(Decimal(2**128), total)
    for weight in weights[:-1]:
        below = context.add(below, weight)
        boundaries.append(min(math.floor(context.multiply(below, scale)), 2**128 - 1))
    high = np.array([boundary >> _WORD_BITS for boundary in boundaries], np.uint64)
    return _Table(tuple(boundaries), high)

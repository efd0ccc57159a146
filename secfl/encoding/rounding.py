"""Round scaled coordinates to integers, a chunk at a time.

Stochastic rounding works in fixed point: with r dither bits, q = trunc(y 2^r) as int64, u uniform in [0, 2^r), and the
result is floor((q + u) / 2^r). It is exactly one of the two neighbours of y (an integer y stays), and its mean is
q / 2^r, within 2^-r of y: exactly y where y is a multiple of 2^-r. r = 32, or what 62 bits leave beside the largest
integer, so that the bias is below 2^-60 of the range in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.primitives.labels import KEY_BYTES
from protocols.primitives.prg import MaskStream
from secfl.encoding.vectors import CHUNK, Vector

__all__ = ["Entropy", "NearestRounder", "StochasticRounder", "dither_bits"]

Entropy = Callable[[int], bytes]
Integers = npt.NDArray[np.int64]

_DITHER_WORD_BITS = 32
_FIXED_POINT_BITS = 62


def dither_bits(peak: int) -> int:
    """Number r of dither bits for integers up to ``peak`` in magnitude (at most 2^53): q + u fits 63 bits."""
    return min(_DITHER_WORD_BITS, _FIXED_POINT_BITS - peak.bit_length())


class NearestRounder:
    """Round ``factor * x`` to the nearest integer, ties to even."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._scaled = np.empty(CHUNK)
        self._integers = np.empty(CHUNK, np.int64)

    def round(self, chunk: Vector, start: int) -> Integers:  # noqa: ARG002  the position matters to dither only
        """Integers for at most ``CHUNK`` coordinates; valid until the next call."""
        scaled, integers = self._scaled[: chunk.size], self._integers[: chunk.size]
        np.multiply(chunk, self._factor, out=scaled, dtype=np.float64)
        np.rint(scaled, out=scaled)
        np.copyto(integers, scaled, casting="unsafe")
        return integers


class StochasticRounder:
    """Round ``factor * x`` up or down at random, without bias.

    :param factor: of the coordinates; ``peak`` bounds the magnitude of the result.
    :param dither: returns words [start, start + count), uniform uint32, fresh for each start.
    """

    def __init__(self, factor: float, peak: int, dither: Callable[[int, int], npt.NDArray[Any]]) -> None:
        self._bits = dither_bits(peak)
        self._factor = math.ldexp(factor, self._bits)
        self._dither = dither
        self._scaled = np.empty(CHUNK)
        self._integers = np.empty(CHUNK, np.int64)

    @classmethod
    def keyed(cls, factor: float, peak: int, entropy: Entropy) -> StochasticRounder:
        """Rounder with AES-256-CTR dither under a key of its own from ``entropy`` (a secure source: ``os.urandom``).

        :raises UsageError: ``entropy(32)`` does not give 32 bytes.
        """
        return cls(factor, peak, MaskStream(entropy(KEY_BYTES), _DITHER_WORD_BITS).words)

    def round(self, chunk: Vector, start: int) -> Integers:
        """Integers for at most ``CHUNK`` coordinates from position ``start`` on; valid until the next call."""
        scaled, integers = self._scaled[: chunk.size], self._integers[: chunk.size]
        np.multiply(chunk, self._factor, out=scaled, dtype=np.float64)
        np.copyto(integers, scaled, casting="unsafe")
        dither = self._dither(start, chunk.size)
        if self._bits < _DITHER_WORD_BITS:
            np.right_shift(dither, _DITHER_WORD_BITS - self._bits, out=dither)
        np.add(integers, dither, out=integers)
        np.right_shift(integers, self._bits, out=integers)
        return integers

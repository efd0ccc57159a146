"""From float32 gradients to whole numbers whose L2 norm is bounded exactly, however floating point rounds.

A vector is multiplied by 2^(f+r), f the fraction bits of what is sent and r those of the dither, and rounded to whole
numbers, held in float64, where they and their sums are exact up to 2^53. It is scaled down beforehand by as much as the
errors of its own norm, of the product and of rounding can make up, so that the whole numbers have norm at most
c 2^(f+r), exactly: no bound rests on what torch adds up in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, PrivacyError, UsageError
from protocols.primitives.labels import KEY_BYTES
from protocols.primitives.prg import MaskStream
from protocols.primitives.sampling import Entropy, draw
from secfl.encoding.clipping import l2_norm, summation_slack
from secfl.encoding.vectors import CHUNK, UNNAMED, chunks

__all__ = ["DITHER_BITS", "EXACT", "FixedPoint", "RecordSum", "dithered", "square_norm"]

Whole = npt.NDArray[np.float64]
"""Whole numbers up to `EXACT` in magnitude."""

EXACT = 2.0**53
DITHER_BITS = 32
"""Most bits of dither below a step."""

_UNIT_ROUNDOFF = 2.0**-53
_LIMB_BITS = 20  # squares of limbs below 2^40: CHUNK = 2^13 of them add up exactly


def square_norm(vector: Whole | npt.NDArray[np.int64]) -> int:
    """Sum of squares of whole numbers, exactly.

    :param vector: int64, or float64 of whole numbers; magnitudes at most 2^53.
    """
    total = 0
    for part in chunks(vector.size):
        rest, limbs = np.abs(vector[part].astype(np.float64)), []
        while rest.any():
            above = np.floor(np.ldexp(rest, -_LIMB_BITS))
            limbs.append(rest - np.ldexp(above, _LIMB_BITS))
            rest = above
        for i, low in enumerate(limbs):
            for j, high in enumerate(limbs):
                total += int(np.dot(low, high)) << (_LIMB_BITS * (i + j))
    return total


def dithered(whole: Whole, bits: int, entropy: Entropy) -> npt.NDArray[np.int64]:
    """floor((q + u) / 2^bits), u uniform below 2^bits and anew for each coordinate.

    For the same u, two vectors that differ by v end less than one step a coordinate from v / 2^bits apart: neighbouring
    sums stay within C + sqrt(d), in whatever way each came about.
    """
    integers = whole.astype(np.int64)
    if bits == 0:
        return integers
    stream = MaskStream(draw(entropy, KEY_BYTES), DITHER_BITS)
    for part in chunks(integers.size):
        dither = stream.words(part.start, part.stop - part.start)
        np.right_shift(dither, DITHER_BITS - bits, out=dither)
        integers[part] += dither
    np.right_shift(integers, bits, out=integers)
    return integers


@dataclass(frozen=True)
class FixedPoint:
    """How vectors become whole numbers.

    :param clip_norm: c, bound of the L2 norm.
    :param bits: f + r: a unit is 2^bits.
    :param dimension: coordinates of a vector.
    :raises PrivacyError: so coarse that rounding alone may exceed the clip.
    """

    clip_norm: float
    bits: int
    dimension: int

    def __post_init__(self) -> None:
        if self._room <= 0:
            raise PrivacyError(f"fraction_bits: {self.bits} leave nothing of the clip; allowed: a finer scale")

    @property
    def _room(self) -> float:
        """What of the clip rounding to whole numbers leaves: each coordinate moves by half of one at most."""
        return self.clip_norm * (1 - 2 * _UNIT_ROUNDOFF) - math.ldexp(math.sqrt(self.dimension) / 2, -self.bits)

    @property
    def square_bound(self) -> int:
        """Largest sum of squares that a vector may have: floor((c 2^bits)^2)."""
        return math.floor((Fraction(self.clip_norm) * Fraction(2) ** self.bits) ** 2)

    def clipped(self, vector: npt.NDArray[np.float32]) -> Whole:
        """Clip to c and round.

        :returns: whole numbers whose sum of squares is at most `square_bound`.
        :raises EncodingError: not finite, or not float32 of shape (d,).
        :raises PrivacyError: the bound is exceeded all the same, which is a bug: nothing may be sent.
        """
        if vector.dtype != np.float32 or vector.shape != (self.dimension,):
            raise EncodingError(UNNAMED, f"float32 of shape ({self.dimension},) expected")
        factor = self._factor(np.array([l2_norm(vector)]), summation_slack(self.dimension))[0]
        whole = np.empty(self.dimension)
        for part in chunks(self.dimension):
            np.multiply(vector[part], factor, out=whole[part], dtype=np.float64)
            np.rint(whole[part], out=whole[part])
        if square_norm(whole) > self.square_bound:
            raise PrivacyError("clip_norm: the rounded vector is longer than the clip, which is a bug: nothing is sent")
        return whole

    def _factor(self, norms: Whole, slack: float) -> Whole:
        """From float32 to whole numbers: 2^bits, less where the norm exceeds what rounding leaves of the clip."""
        with np.errstate(divide="ignore"):
            shrink = np.minimum(1.0, self._room / (norms * ((1 + 4 * slack) * (1 + 8 * _UNIT_ROUNDOFF))))
        return np.ldexp(shrink, self.bits)


class RecordSum:
    """Sum of clipped per-record gradients of one step, exact; it depends on records and never leaves the party.

    :param maximum_records: public; the largest number of records a sum may have.
    :param margin: part of the clip, in [0, 1), that gradients are kept below it: for what floating point may change in
        the gradients of the *other* records when one more is computed along with them.
    """

    def __init__(self, point: FixedPoint, maximum_records: int, margin: float = 0.0) -> None:
        if not 0.0 <= margin < 1.0:
            raise UsageError(f"margin: {margin!r}; allowed: 0 or more, below 1")
        if point.clip_norm * maximum_records * 2.0**point.bits > EXACT:
            raise UsageError(f"{maximum_records} records at {point.bits} bits exceed 2^53")
        self.point = point
        self._margin = margin
        self._maximum = maximum_records
        self.records = 0
        self.left_out = 0
        """Records whose gradient was not finite: they count as zero."""
        self.total: Whole = np.zeros(point.dimension)

    def __repr__(self) -> str:
        return f"RecordSum(dimension={self.point.dimension})"

    def add(self, gradients: Sequence[npt.NDArray[np.float32]], counted: int | None = None) -> None:
        """Clip each record's gradient, over all tensors together, and add it.

        :param gradients: per tensor in the layout's order, float32 of shape (records, ...); not clipped yet.
        :param counted: the first so many are records, the others fillers that count as nothing; None: all.
        :raises EncodingError: other shapes or types.
        :raises PrivacyError: more records than the public maximum (the caller drops them before), or a norm above the
            clip, which is a bug.
        """
        rows = self._rows(gradients)
        counted = rows[0].shape[0] if counted is None else counted
        self.records += counted
        if self.records > self._maximum:
            raise PrivacyError(f"maximum_records: more than {self._maximum} records in a step's sum")
        squares = np.zeros(rows[0].shape[0])
        for tensor in rows:
            for part in self._columns(tensor):
                wide = tensor[:, part].astype(np.float64)
                squares += np.einsum("ij,ij->i", wide, wide)
        finite = np.isfinite(squares)
        self.left_out += int(np.count_nonzero(~finite[:counted]))
        finite[counted:] = False
        slack = (self.point.dimension + 4) * _UNIT_ROUNDOFF
        factor = self.point._factor(np.sqrt(np.where(finite, squares, 0.0)) / (1.0 - self._margin), slack)
        self._accumulate(rows, finite, factor, slack)

    def add_clipped(self, total: Sequence[npt.NDArray[Any]], records: int) -> None:
        """Add a sum of gradients that were clipped where they were computed (ghost clipping).

        The bound is the caller's: two such sums that differ by one record must be within c of each other, less what
        rounding to whole numbers adds here, sqrt(d) of them.

        :param total: per tensor in the layout's order, finite.
        :param records: in the sum.
        :raises EncodingError: another number of coordinates, or not finite.
        :raises PrivacyError: more records than the public maximum.
        """
        flat = np.concatenate([tensor.reshape(-1).astype(np.float64) for tensor in total])
        if flat.size != self.point.dimension or not np.isfinite(flat).all():
            raise EncodingError(UNNAMED, f"a finite sum of {self.point.dimension} coordinates is expected")
        self.records += records
        if self.records > self._maximum:
            raise PrivacyError(f"maximum_records: more than {self._maximum} records in a step's sum")
        self.total += np.rint(np.ldexp(flat, self.point.bits))

    def _accumulate(
        self, rows: list[npt.NDArray[np.float32]], finite: npt.NDArray[np.bool_], factor: Whole, slack: float
    ) -> None:
        squares, start = np.zeros(factor.size), 0
        for tensor in rows:
            for part in self._columns(tensor):
                whole = tensor[:, part].astype(np.float64)
                whole[~finite] = 0.0
                whole *= factor[:, None]
                np.rint(whole, out=whole)
                squares += np.einsum("ij,ij->i", whole, whole)
                self.total[start + part.start : start + part.stop] += whole.sum(axis=0)
            start += tensor.shape[1]
        if squares.size and float(squares.max()) * (1 + 2 * slack) > self.point.square_bound:
            self.total[:] = np.nan
            raise PrivacyError(
                "clip_norm: a record's gradient is longer than the clip, which is a bug: nothing is sent"
            )

    def _rows(self, gradients: Sequence[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        if not gradients or any(g.dtype != np.float32 or g.ndim < 1 for g in gradients):
            raise EncodingError(UNNAMED, "per-record gradients are float32 of shape (records, ...)")
        records = gradients[0].shape[0]
        rows = [g.reshape(records, math.prod(g.shape[1:])) for g in gradients if g.shape[0] == records]
        if len(rows) != len(gradients) or sum(row.shape[1] for row in rows) != self.point.dimension:
            raise EncodingError(UNNAMED, f"per-record gradients of {self.point.dimension} coordinates are expected")
        return rows

    @staticmethod
    def _columns(tensor: npt.NDArray[np.float32]) -> list[slice]:
        width = max(1, 16 * CHUNK // max(1, tensor.shape[0]))
        return [slice(low, min(low + width, tensor.shape[1])) for low in range(0, tensor.shape[1], width)]

"""Clip a flat update: its L2 norm as a whole, or each coordinate's range.

What was clipped depends on the records behind the update: the reports stay with the party (their ``repr`` shows no
figure of the vector).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from protocols.errors import EncodingError, UsageError
from secfl.encoding.vectors import (
    CHUNK,
    UNNAMED,
    Vector,
    Whereabouts,
    check_out,
    check_vector,
    chunks,
    largest_magnitude,
)

__all__ = ["MINIMAL_NORM", "ClipReport", "RangeReport", "clip_l2", "clip_range", "l2_norm", "summation_slack"]

# Far above the subnormal float32 numbers, whose rounding error is not relative.
MINIMAL_NORM = 2.0**-100
_UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True, slots=True)
class ClipReport:
    """L2 norm before clipping, the factor applied (1.0 if none), whether it was clipped. Local to the party."""

    norm_before: float = field(repr=False)
    scale_factor: float = field(repr=False)
    clipped: bool = field(repr=False)


@dataclass(frozen=True, slots=True)
class RangeReport:
    """Number of coordinates clipped, and the largest magnitude before. Local to the party."""

    clipped_count: int = field(repr=False)
    largest_magnitude: float = field(repr=False)


def summation_slack(size: int) -> float:
    """Bound eta of the relative error of :func:`l2_norm`: the exact norm is at most (1 + eta) times the computed one.

    With u = 2^-53, a dot product of m <= ``CHUNK`` non-negative terms, in any order, has relative error at most m u,
    and adding k chunk sums k u more, to first order (Higham 2002, section 3.1); the square root halves it. Twice that
    bound is returned, which covers second order, the square root and underflow below 2^-1074 of the largest square.
    """
    return (min(size, CHUNK) + math.ceil(size / CHUNK) + 4) * _UNIT_ROUNDOFF


def l2_norm(vector: Vector, layout: Whereabouts | None = None) -> float:
    """L2 norm of a float32 or float64 vector of shape ``[d]``, accumulated in float64, free of overflow and underflow.

    :raises EncodingError: not finite, or a norm beyond the range of float64; see also ``check_vector``.
    """
    check_vector(vector)
    largest = largest_magnitude(vector, layout)
    # Dividing by a power of two is exact and brings the squares into range.
    exponent = max(-1000, min(1000, math.frexp(largest)[1]))
    scale = math.ldexp(1.0, -exponent)
    work = np.empty(min(CHUNK, vector.size))
    total = 0.0
    for part in chunks(vector.size):
        scaled = work[: part.stop - part.start]
        np.multiply(vector[part], scale, out=scaled, dtype=np.float64)
        total += float(np.dot(scaled, scaled))
    try:
        return math.ldexp(math.sqrt(total), exponent)
    except OverflowError:
        raise EncodingError(UNNAMED, "its L2 norm is beyond the range of float64") from None


def clip_l2(vector: Vector, norm: float, *, out: Vector | None = None, layout: Whereabouts | None = None) -> ClipReport:
    """Scale a vector down to L2 norm at most ``norm``, in place or into ``out``.

    The result's exact norm is at most ``norm`` if it was scaled (the factor leaves room for rounding to the vector's
    dtype) and at most ``norm * (1 + summation_slack(d))`` if it was not. NaN or infinity leave the vector as it was.

    :param vector: float32 or float64, shape ``[d]``; writeable if ``out`` is None.
    :param norm: at least 2^-100, finite.
    :param out: same shape and dtype, apart from ``vector`` in memory.
    :raises EncodingError: see :func:`l2_norm`.
    :raises UsageError: ``norm`` or ``out`` not as described.
    """
    if not (MINIMAL_NORM <= norm < math.inf):
        raise UsageError(f"the clip norm is finite and at least {MINIMAL_NORM:.3g}, not {norm}")
    before = l2_norm(vector, layout)
    target = _target(vector, out)
    if before <= norm:
        if target is not vector:
            np.copyto(target, vector)
        return ClipReport(norm_before=before, scale_factor=1.0, clipped=False)
    rounding = float(np.finfo(vector.dtype).eps) / 2 + summation_slack(vector.size)
    factor = norm / before * (1.0 - 2.0 * rounding)
    work = np.empty(min(CHUNK, vector.size))
    for part in chunks(vector.size):
        scaled = work[: part.stop - part.start]
        np.multiply(vector[part], factor, out=scaled, dtype=np.float64)
        np.copyto(target[part], scaled, casting="same_kind")
    return ClipReport(norm_before=before, scale_factor=factor, clipped=True)


def clip_range(
    vector: Vector, bound: float, *, out: Vector | None = None, layout: Whereabouts | None = None
) -> RangeReport:
    """Clip each coordinate to ``[-bound, bound]``, in place or into ``out``.

    A float32 vector is clipped to the largest float32 number not above ``bound``, so that the bound holds exactly.

    :param vector: float32 or float64, shape ``[d]``; writeable if ``out`` is None.
    :param bound: positive, finite.
    :param out: same shape and dtype, apart from ``vector`` in memory.
    :raises EncodingError: not finite; see also ``check_vector``.
    :raises UsageError: ``bound`` or ``out`` not as described.
    """
    if not (0.0 < bound < math.inf):
        raise UsageError(f"the bound of a range is positive and finite, not {bound}")
    check_vector(vector)
    largest = largest_magnitude(vector, layout)
    target = _target(vector, out)
    if largest <= bound:
        if target is not vector:
            np.copyto(target, vector)
        return RangeReport(clipped_count=0, largest_magnitude=largest)
    limit = _round_down(bound, vector.dtype)
    clipped = 0
    for part in chunks(vector.size):
        chunk = vector[part]
        clipped += int(np.count_nonzero(np.abs(chunk) > limit))
        np.clip(chunk, -limit, limit, out=target[part])
    return RangeReport(clipped_count=clipped, largest_magnitude=largest)


def _round_down(bound: float, dtype: np.dtype[np.floating]) -> np.floating:
    """Largest number of ``dtype`` that is at most ``bound`` > 0."""
    with np.errstate(over="ignore"):
        nearest: np.floating = dtype.type(bound)
    return np.nextafter(nearest, dtype.type(0.0)) if float(nearest) > bound else nearest


def _target(vector: Vector, out: Vector | None) -> Vector:
    if out is None or out is vector:
        if not vector.flags.writeable:
            raise UsageError("the vector is read-only: pass out")
        return vector
    check_out(out, vector.size, vector.dtype)
    if np.may_share_memory(out, vector):
        raise UsageError("out overlaps the vector")
    return out

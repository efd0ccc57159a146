"""Flat float vectors: what counts as one, its chunks, its largest magnitude, and the name of a position in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError

__all__ = [
    "CHUNK",
    "UNNAMED",
    "Vector",
    "Whereabouts",
    "check_out",
    "check_vector",
    "chunks",
    "largest_magnitude",
    "locate",
]

Vector = npt.NDArray[np.floating[Any]]

UNNAMED = "vector"
# Coordinates worked on at a time: 64 KiB of float64, so that a chunk and its buffers stay in the second-level cache.
CHUNK = 8192


class Whereabouts(Protocol):
    """What knows the tensor at a position of the vector (a ``TensorLayout``)."""

    def locate(self, index: int) -> tuple[str, int]:
        """Name of the tensor at a flat index, and the index within it."""
        ...


def locate(layout: Whereabouts | None, index: int) -> tuple[str, int]:
    """Name of the tensor at a flat index and the index within it; ``"vector"`` and the flat index without a layout."""
    return (UNNAMED, index) if layout is None else layout.locate(index)


def chunks(size: int) -> Iterator[slice]:
    """Slices of at most ``CHUNK`` coordinates that cover ``size`` of them in order."""
    for low in range(0, size, CHUNK):
        yield slice(low, min(low + CHUNK, size))


def check_vector(vector: Vector) -> None:
    """Refuse what is not a non-empty 1-d float32 or float64 array.

    :raises EncodingError: another type, dtype or number of dimensions, or no coordinate.
    """
    if not isinstance(vector, np.ndarray):
        raise EncodingError(UNNAMED, f"an array is expected, not {type(vector).__name__}")
    if vector.dtype not in (np.dtype(np.float32), np.dtype(np.float64)) or vector.ndim != 1:
        raise EncodingError(UNNAMED, f"1-d float32 or float64 expected, not {vector.ndim}-d {vector.dtype}")
    if vector.size == 0:
        raise EncodingError(UNNAMED, "empty: there is nothing to encode")


def check_out(out: npt.NDArray[Any], size: int, dtype: npt.DTypeLike) -> None:
    """Refuse an output array that is not writeable, C-contiguous, of shape ``[size]`` and of ``dtype``.

    :raises UsageError: it is not.
    """
    if not isinstance(out, np.ndarray) or out.shape != (size,) or out.dtype != np.dtype(dtype):
        raise UsageError(f"out must be an array of shape ({size},) and dtype {np.dtype(dtype)}")
    if not (out.flags.writeable and out.flags.c_contiguous):
        raise UsageError("out must be writeable and C-contiguous")


def largest_magnitude(vector: Vector, layout: Whereabouts | None = None) -> float:
    """Largest absolute value of a vector that passed :func:`check_vector`.

    :raises EncodingError: NaN or infinity; names the tensor and the position, not the value.
    """
    largest = 0.0
    for part in chunks(vector.size):
        chunk = vector[part]
        low, high = float(chunk.min()), float(chunk.max())  # both are NaN if any coordinate is
        if not (math.isfinite(low) and math.isfinite(high)):
            name, position = locate(layout, part.start + int(np.argmin(np.isfinite(chunk))))
            raise EncodingError(name, f"not finite (NaN or infinity) at position {position}")
        largest = max(largest, high, -low)
    return largest

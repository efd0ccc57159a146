"""Uniform sampling from an entropy source that the caller passes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError

__all__ = ["Entropy", "draw", "uniform_below"]

Entropy = Callable[[int], bytes]
"""Returns that many unpredictable bytes; ``os.urandom`` outside tests."""

# A candidate is refused with probability below 1/2: an honest source gets here with probability below 2^-128 a value.
_MAXIMAL_ATTEMPTS = 128


def draw(entropy: Entropy, length: int) -> bytes:
    """Take ``length`` bytes from the entropy source.

    :raises UsageError: the source returned something else than that many bytes.
    """
    drawn = entropy(length)
    if not isinstance(drawn, bytes) or len(drawn) != length:
        raise UsageError(f"the entropy source did not return {length} bytes")
    return drawn


def uniform_below(bound: int, count: int, entropy: Entropy) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Sample ``count`` independent integers uniform on [0, bound), exactly, by rejection.

    Candidates are little-endian words of 32 bits (64 if bound > 2^32); those at or above the largest multiple of
    ``bound`` are drawn again, the others reduced modulo ``bound``.

    :returns: uint32 array, uint64 if bound > 2^32.
    :raises UsageError: bound not in 1..2^64, negative count, or a source that yields nothing but refused candidates.
    """
    if not 1 <= bound <= 1 << 64:
        raise UsageError(f"a bound to sample below is in 1..2^64, not {bound}")
    if count < 0:
        raise UsageError(f"a number of samples is not negative, as {count} is")
    dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype("<u4" if bound <= 1 << 32 else "<u8")
    space = 1 << (8 * dtype.itemsize)
    largest_accepted = space - space % bound - 1
    samples = np.empty(count, dtype)
    filled = 0
    for _ in range(_MAXIMAL_ATTEMPTS):
        if filled == count:
            break
        candidates = np.frombuffer(draw(entropy, (count - filled) * dtype.itemsize), dtype)
        accepted = candidates[candidates <= largest_accepted]
        samples[filled : filled + accepted.size] = accepted
        filled += accepted.size
    if filled < count:
        raise UsageError(f"the entropy source is broken: candidates refused {_MAXIMAL_ATTEMPTS} times")
    if bound < space:
        np.remainder(samples, dtype.type(bound), out=samples)
    return samples

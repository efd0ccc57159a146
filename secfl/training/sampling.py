"""Which records take part in a step: Poisson samples for privacy, shuffled batches without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = ["poisson_sample", "shuffled_batches", "with_replacement"]

_CHUNK = 1 << 14  # words of 8 bytes: 128 KiB


def _words(count: int, entropy: Callable[[int], bytes]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(entropy(8 * count), dtype="<u8")


def poisson_sample(records: int, rate: float, entropy: Callable[[int], bytes]) -> npt.NDArray[np.int64]:
    """Return the indices of a sample that each of ``records`` records enters independently with probability ``rate``.

    A record is in if its 64-bit word is below floor(rate 2^64): the true probability is ``rate`` or up to 2^-64 less,
    never more, so accounting at ``rate`` holds.

    :param rate: 0 < rate <= 1.
    :param entropy: ``os.urandom``, or a deterministic source in tests; returns as many bytes as asked for.
    :returns: indices in ascending order, possibly none, int64.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate {rate!r} is not in (0, 1]")
    if rate == 1:
        return np.arange(records, dtype=np.int64)
    threshold = np.uint64(int(Fraction(rate) * 2**64))
    parts = [
        start + np.flatnonzero(_words(min(_CHUNK, records - start), entropy) < threshold)
        for start in range(0, records, _CHUNK)
    ]
    return np.concatenate(parts).astype(np.int64, copy=False) if parts else np.empty(0, dtype=np.int64)


def with_replacement(records: int, count: int, entropy: Callable[[int], bytes]) -> npt.NDArray[np.int64]:
    """Return ``count`` indices below ``records`` >= 1, each drawn by itself; not a private sampling scheme."""
    return (_words(count, entropy) % np.uint64(records)).astype(np.int64)


def shuffled_batches(records: int, size: int, entropy: Callable[[int], bytes]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield batches without end: each pass goes through all records once in a new random order.

    The last batch of a pass may be smaller. Not a private sampling scheme.
    """
    while True:
        order = np.argsort(_words(records, entropy), kind="stable")
        for start in range(0, records, size):
            yield order[start : start + size]

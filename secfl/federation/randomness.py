"""Where a run's random choices come from.

From the operating system: a configuration's seed never reaches noise or sampling. Without privacy `[run] reproducible`
may derive batch order and rounding from the seed, so that a run can be repeated and resumed bit for bit. Keys and masks
come from the operating system always; they cancel in the sum.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from protocols.shape import Entropy

__all__ = ["Randomness", "operating_system", "seeded"]

Randomness = Callable[[str, int, int], Entropy]
"""``randomness(who, round, attempt)`` gives the source of one party's choices in one attempt at a round."""


def operating_system(_who: str, _round: int, _attempt: int) -> Entropy:
    """Fresh bytes for everybody, every time."""
    return os.urandom


def seeded(seed: int) -> Randomness:
    """Bytes that follow from a public seed: for runs without privacy, and for tests.

    They are the same in every attempt at a round, so that a run that was killed in between ends as if it had not been.
    """

    def source(who: str, round_number: int, _attempt: int) -> Entropy:
        return _Seeded(tagged_hash("federation/seeded", seed, who, round_number))

    return source


class _Seeded:
    """Successive bytes of one AES-CTR stream."""

    def __init__(self, key: bytes) -> None:
        self._stream = MaskStream(key, 8)
        self._position = 0

    def __call__(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        return self._stream.words(start, count).tobytes()

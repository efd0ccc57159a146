"""Deterministic randomness for tests and test vectors. Predictable by design: never use it for a real session."""

from __future__ import annotations

from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream

__all__ = ["DeterministicEntropy"]


class DeterministicEntropy:
    """Bytes that depend on a name alone, each handed out once.

    :param name: equal names give equal bytes.
    """

    def __init__(self, name: str) -> None:
        self._stream = MaskStream(tagged_hash("testing/entropy", name), 8)
        self._position = 0

    def __call__(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        start, self._position = self._position, self._position + count
        return self._stream.words(start, count).tobytes()

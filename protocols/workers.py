"""Where independent pieces of a computation run: here one after another; on threads or hosts if the caller says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["SERIAL", "SerialWorkers", "Workers"]

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")


class Workers(Protocol):
    """Runs pieces of work. What comes out must not depend on how many run at a time, nor on where."""

    @property
    def count(self) -> int:
        """How many pieces run at a time, at least 1."""

    def map(self, function: Callable[[Piece], Outcome], pieces: Iterable[Piece]) -> Iterator[Outcome]:
        """``function`` of each piece, in the order of the pieces; the first exception is raised.

        A function may change the arrays of its piece and return them. Where pieces are copied to another process the
        arrays that come back are others, so callers use what is returned.
        """


class SerialWorkers:
    """The calling thread, piece by piece."""

    count = 1

    def map(self, function: Callable[[Piece], Outcome], pieces: Iterable[Piece]) -> Iterator[Outcome]:
        """See `Workers.map`."""
        return map(function, pieces)


SERIAL = SerialWorkers()

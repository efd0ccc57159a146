"""Where the independent pieces of a sum are worked on: in the calling thread, or on threads.

The cipher and numpy release the interpreter lock, so threads share the work without copying a vector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from protocols.errors import UsageError
from protocols.workers import SERIAL, Workers

__all__ = ["ThreadWorkers", "local_workers"]

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")


class ThreadWorkers:
    """See `protocols.workers.Workers`. The caller works too, so nothing waits for a thread that does not get a core.
    Threads start with the first pieces; several sessions may share them.

    :param threads: 2 or more, the caller's included.
    :raises UsageError: another number.
    """

    def __init__(self, threads: int) -> None:
        if threads < 2:
            raise UsageError(f"threads: {threads}; allowed: 2 or more")
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "secfl-worker")

    @property
    def count(self) -> int:
        """How many pieces run at a time."""
        return self._threads

    def map(self, function: Callable[[Piece], Outcome], pieces: Iterable[Piece]) -> Iterator[Outcome]:
        """See `Workers.map`. When it raises, none of the pieces is being worked on any more."""
        listed = list(pieces)
        futures = [self._pool.submit(function, piece) for piece in listed[:-1]]
        own: dict[int, Outcome] = {}
        try:
            # The threads take pieces from the front, the caller from the back, until they meet.
            for position in reversed(range(len(listed))):
                if position == len(futures) or futures[position].cancel():
                    own[position] = function(listed[position])
            for position in range(len(listed)):
                yield own[position] if position in own else futures[position].result()
        finally:
            wait([future for future in futures if not future.cancel()])

    def __repr__(self) -> str:
        return f"ThreadWorkers({self._threads})"


@cache
def local_workers(threads: int) -> Workers:
    """Workers of this process; the same for every caller, so that sessions do not compete with threads of their own.

    :param threads: 1 for none beside the caller's, 0 for one a core that this process may use.
    :raises UsageError: a negative number.
    """
    if threads < 0:
        raise UsageError(f"threads: {threads}; allowed: 0 (all cores) or more")
    number = threads or _cores()
    return SERIAL if number == 1 else ThreadWorkers(number)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

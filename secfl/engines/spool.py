"""A spool on disk: a vector in transit takes no memory beyond the chunk that is being read or written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from protocols.shape import Chunk

__all__ = ["FileSpool"]


class FileSpool:
    """See `protocols.shape.Spool`. A temporary file without a name, for its owner alone; it ends with its process.

    A session takes a factory: ``partial(FileSpool, directory)``.

    :param directory: on a disk with room for a vector; None for the system's temporary directory, which may lie in
        memory. The file is made with the first chunk.
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        self._directory = directory
        self._descriptor = -1
        self._sizes: list[int] = []
        self._end = 0

    def append(self, chunk: Chunk) -> None:
        """Add a chunk at the end.

        :raises OSError: the disk refused; the chunk is not there.
        """
        if self._descriptor < 0:
            self._descriptor = _unnamed(self._directory)
        view = memoryview(chunk).cast("B")
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], self._end + written)
        self._sizes.append(len(view))
        self._end += len(view)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks from the first.

        :raises OSError: the disk does not give back what was put in.
        """
        for size, end in zip(self._sizes, accumulate(self._sizes), strict=True):
            yield self._read(size, end - size)

    def discard(self) -> None:
        """Forget everything; the disk gets its room back."""
        self._sizes.clear()
        self._end = 0
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.discard()

    def _read(self, size: int, at: int) -> bytes:
        content = os.pread(self._descriptor, size, at)
        while len(content) < size:
            more = os.pread(self._descriptor, size - len(content), at + len(content))
            if not more:
                raise OSError(f"spool: {len(content)} of {size} bytes are left")
            content += more
        return content


def _unnamed(directory: str | Path | None) -> int:
    """A new file, readable by its owner alone, that has no name (any more)."""
    with tempfile.TemporaryFile(buffering=0, dir=directory) as file:
        return os.dup(file.fileno())

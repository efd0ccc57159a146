"""How far a once-only store has come, remembered where a restore of the store's disk does not reach."""

from __future__ import annotations

import hashlib
from pathlib import Path

from protocols.errors import UsageError
from secfl.files import write_whole

__all__ = ["HighWaterMark"]


class HighWaterMark:
    """A line: length of the store in bytes, SHA-256 of what it holds.

    :param path: of the mark.
    :param store: whose mark it is, for the errors.
    """

    def __init__(self, path: Path, store: Path) -> None:
        self._path = path
        self._store = store
        self._hash = hashlib.sha256()
        self._length = 0

    def check(self, content: bytes) -> None:
        """Compare the store with its mark, then bring the mark up to it.

        :raises UsageError: the store is older than the mark, or another one; or records are there and no mark is.
        """
        length, digest = self._read() if self._path.exists() else (0, hashlib.sha256().hexdigest())
        if content and not self._path.exists():
            raise UsageError(f"{self._store}: it has records, and its mark {self._path} is missing")
        if len(content) < length:
            raise UsageError(f"{self._store}: rolled back: {len(content)} bytes, its mark has seen {length}")
        if hashlib.sha256(content[:length]).hexdigest() != digest:
            raise UsageError(f"{self._store}: its beginning is not what its mark {self._path} has seen")
        self._hash = hashlib.sha256()
        self._length = 0
        self.advance(content)

    def advance(self, line: bytes) -> None:
        """The store has grown by this.

        :raises OSError: the disk refused; the mark is behind.
        """
        self._hash.update(line)
        self._length += len(line)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, f"{self._length} {self._hash.hexdigest()}\n".encode(), mode=0o600)

    def _read(self) -> tuple[int, str]:
        raw = self._path.read_bytes()[:128]
        length, _, digest = raw.decode("ascii", "replace").removesuffix("\n").partition(" ")
        if not length.isdigit() or f"{int(length)} {digest}\n".encode() != raw or len(digest) != 64:
            raise UsageError(f"{self._path}: not the mark of a once-only store")
        return int(length), digest

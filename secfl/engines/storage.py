"""The once-only store as a file of its own: append-only, fsynced, locked, outside any saved session."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from filelock import FileLock

from protocols.errors import UsageError

__all__ = ["FileStore"]

LINE_BYTES = 2 * 64 + 2
"""Two SHA-256 values in hex, a space, a line feed."""


class FileStore:
    """See `protocols.shape.OnceStore`. One line per record: key and value in hex.

    A torn last line is a record that was never acted on (`record` had not returned); it is completed or cut by the next
    append, never read as a record.

    :param path: of the file; made if absent. Another process that opens it is refused while this one holds it.
    :raises UsageError: the file is held elsewhere or is not such a store.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self._path}.lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except TimeoutError:
            raise UsageError(f"{self._path}: another process holds this store") from None
        self._guard = threading.Lock()
        self._records: dict[bytes, bytes] = {}
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def record(self, key: bytes, value: bytes) -> bytes:
        """Durably record unless present; return what is on record.

        :raises OSError: the disk refused; nothing is on record then.
        """
        with self._guard:
            if key in self._records:
                return self._records[key]
            size = os.fstat(self._file).st_size
            try:
                line = f"{key.hex()} {value.hex()}\n".encode()
                if os.write(self._file, line) != len(line):
                    raise OSError(f"{self._path}: the line was not written whole")
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
            self._records[key] = value
            return value

    def close(self) -> None:
        """Give the file up."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._lock.release()

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole = len(content) - len(content) % LINE_BYTES
        if whole != len(content):
            os.ftruncate(self._file, whole)
        for start in range(0, whole, LINE_BYTES):
            line = content[start : start + LINE_BYTES]
            try:
                if line[64:65] != b" " or line[-1:] != b"\n":
                    raise ValueError
                key, value = bytes.fromhex(line[:64].decode()), bytes.fromhex(line[65:-1].decode())
            except ValueError:
                raise UsageError(f"{self._path}: line {start // LINE_BYTES + 1} is not a record") from None
            self._records[key] = value

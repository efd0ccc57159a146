"""The once-only store as a file of its own: append-only, fsynced, locked, outside any saved session."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from protocols.errors import UsageError
from secfl.engines.mark import HighWaterMark
from secfl.files import sync_directory

__all__ = ["FileStore", "locked"]

HASH_BYTES = 32
LINE_BYTES = 2 * 2 * HASH_BYTES + 2
"""Two SHA-256 values in hex, a space, a line feed."""


class FileStore:
    """See `protocols.shape.OnceStore`. One line per record: key and value, 32 bytes each, in hex.

    An incomplete last line is a record that was never acted on (`record` had not returned); it is cut off when the
    store is opened. Safe to use from several threads, not from a forked process.

    :param path: of the file; made if absent. Who opens it while somebody else holds it is refused.
    :param mark: a second file, for a place that is not restored together with the first (another disk, another
        machine's share): how many records there are, and their hash. A store that has lost records since is refused.
    :raises UsageError: the file is held elsewhere, is not such a store, lies on a file system without locks, or is
        older than its mark.
    """

    def __init__(self, path: str | Path, *, mark: str | Path | None = None) -> None:
        self._path = Path(path)
        self._mark = None if mark is None else HighWaterMark(Path(mark), self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self._path, "store")
        self._guard = threading.Lock()
        self._records: dict[bytes, bytes] = {}
        self._process = os.getpid()
        self._failed = ""
        self._file = -1
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            sync_directory(self._path.parent)
            self._size = self._read()
        except BaseException:
            self.close()
            raise

    def record(self, key: bytes, value: bytes) -> bytes:
        """Durably record unless present; return what is on record.

        :raises UsageError: another process, or another hand, changed the file, or an earlier failure could not be
            undone: open the store anew.
        :raises OSError: the disk refused; nothing may be done on this record.
        """
        if (len(key), len(value)) != (HASH_BYTES, HASH_BYTES):
            raise UsageError(f"key and value: {len(key)} and {len(value)} bytes; allowed: {HASH_BYTES} each")
        with self._guard:
            self._require_unchanged()
            if key not in self._records:
                line = f"{key.hex()} {value.hex()}\n".encode()
                self._append(line)
                if self._mark is not None:
                    # After the record: a crash in between leaves a mark that is behind, which is no rollback.
                    self._failed = "its mark could not be written"
                    self._mark.advance(line)
                    self._failed = ""
                self._records[key] = value
            return self._records[key]

    def close(self) -> None:
        """Give the file up."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"{self._path}: {written} of {len(line)} bytes written")
        except OSError:
            self._failed = "an incomplete line could not be taken back"
            os.ftruncate(self._file, self._size)
            self._failed = ""
            raise
        # After a failed fsync nobody knows what the disk holds: only reading it anew tells.
        self._failed = "a record could not be made durable"
        os.fsync(self._file)
        self._failed = ""
        self._size += len(line)

    def _require_unchanged(self) -> None:
        if self._file < 0:
            raise UsageError(f"{self._path}: the store is closed")
        if os.getpid() != self._process:
            raise UsageError(f"{self._path}: opened by another process; open it in this one")
        if self._failed:
            raise UsageError(f"{self._path}: {self._failed}; open the store anew")
        own = os.fstat(self._file)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            raise UsageError(f"{self._path}: removed while it was open") from None
        if (own.st_dev, own.st_ino, own.st_size) != (there.st_dev, there.st_ino, self._size):
            raise UsageError(f"{self._path}: changed while it was open")

    def _read(self) -> int:
        """Read all records, cut an incomplete one off; return the length of what stays."""
        content = self._path.read_bytes()
        whole = len(content) - len(content) % LINE_BYTES
        # After a power cut the last block may be missing, or have its length but not its bytes.
        if whole and not any(content[whole - LINE_BYTES : whole]):
            whole -= LINE_BYTES
        for start in range(0, whole, LINE_BYTES):
            key, value = self._parse(content[start : start + LINE_BYTES], start // LINE_BYTES + 1)
            if key in self._records:
                raise UsageError(f"{self._path}: line {start // LINE_BYTES + 1} repeats a key")
            self._records[key] = value
        if whole != len(content):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
        if self._mark is not None:
            self._mark.check(content[:whole])
        return whole

    def _parse(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        try:
            key, value = (bytes.fromhex(part) for part in line.decode().removesuffix("\n").split(" "))
        except ValueError:
            key = value = b""
        if f"{key.hex()} {value.hex()}\n".encode() != line or len(key) != HASH_BYTES:
            raise UsageError(f"{self._path}: line {number} is not a record")
        return key, value


def locked(path: Path, kind: str) -> BaseFileLock:
    """Hold a file against other processes, until the lock is released or this process ends.

    :param kind: what the file is, for the error.
    :raises UsageError: it is held, or cannot be held on this file system.
    """
    lock: BaseFileLock = FileLock(f"{path}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{path}: another process holds this {kind}") from None
    if isinstance(lock, SoftFileLock):
        # filelock falls back to a lock that outlives a killed process and can be deleted by anyone.
        lock.release()
        raise UsageError(f"{path}: this file system has no locks; keep the {kind} on a local disk")
    return lock

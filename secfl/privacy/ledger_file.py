"""The ledger on disk: whole-line appends, a high-water mark beside it, one writer at a time.

Order of writes: line, fsync, mark, fsync, and only then does the caller act. Hence whatever stands behind the line that
the mark names has never been acted upon, and the mark of an honest ledger is at most one line behind.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from protocols.errors import LedgerCorrupt, PrivacyError
from secfl.privacy.ledger_entries import Head

__all__ = [
    "LedgerFile",
    "LedgerPaths",
    "PathLike",
    "lock_ledger",
    "read_ledger",
    "read_mark",
    "write_mark",
    "write_whole",
]

PathLike = str | os.PathLike[str]

MAX_LEDGER_BYTES = 1 << 30
_MAX_MARK_BYTES = 256


@dataclass(frozen=True)
class LedgerPaths:
    """Where a ledger lives.

    :param ledger: the ledger itself.
    :param mark: its high-water mark; on another volume it also notices a restored backup of the whole directory.
    """

    ledger: Path
    mark: Path

    @classmethod
    def at(cls, path: PathLike, mark_path: PathLike | None = None) -> LedgerPaths:
        """Paths from the ledger's own; the mark stands beside it unless told otherwise."""
        ledger = Path(path)
        return cls(ledger, Path(mark_path) if mark_path is not None else ledger.with_name(f"{ledger.name}.mark"))

    @property
    def lock(self) -> Path:
        """The lock file; it stays when the lock is released."""
        return self.ledger.with_name(f"{self.ledger.name}.lock")


def lock_ledger(paths: LedgerPaths, timeout: float) -> BaseFileLock:
    """Take the exclusive lock (LG-24), waiting up to ``timeout`` seconds.

    :raises PrivacyError: another process holds it, or the file system has no locks; names the lock file.
    """
    if not paths.lock.parent.is_dir():
        raise LedgerCorrupt(f"[LG-1] {paths.ledger}: the directory does not exist")
    lock: BaseFileLock = FileLock(paths.lock, thread_local=False)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise PrivacyError(f"[LG-24] {paths.lock}: another process holds the ledger; waited {timeout:g} s") from None
    if isinstance(lock, SoftFileLock):
        # filelock falls back to a lock that outlives a killed process and can be deleted by anyone.
        lock.release()
        raise PrivacyError(f"[LG-24] {paths.lock}: this file system has no locks; keep the ledger on a local disk")
    return lock


def read_mark(path: Path) -> Head | None:
    """Read the high-water mark; None if there is no such file.

    :raises LedgerCorrupt: it is not a mark (LG-19).
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        head = msgspec.json.decode(raw[:_MAX_MARK_BYTES], type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise LedgerCorrupt(f"[LG-19] {path}: not a high-water mark") from None
    if _encode_mark(head) != raw:
        raise LedgerCorrupt(f"[LG-19] {path}: not a high-water mark as this library writes it")
    return head


def write_mark(path: Path, head: Head) -> None:
    """Replace the high-water mark as a whole.

    :raises OSError: it could not be written; the old one may stand.
    """
    write_whole(path, _encode_mark(head))


def _encode_mark(head: Head) -> bytes:
    return msgspec.json.encode(head) + b"\n"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after a crash either the old or the new content stands, readable by its owner only.

    :raises OSError: as the system says.
    """
    # One fixed name, because the caller holds the lock: a crash leaves at most one file, and the next write reuses it.
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    _sync_directory(path.parent)


def read_ledger(paths: LedgerPaths) -> bytes:
    """Read the whole ledger.

    :raises LedgerCorrupt: it is missing (LG-1) or larger than any ledger can be (LG-3).
    """
    try:
        with paths.ledger.open("rb") as stream:
            raw = stream.read(MAX_LEDGER_BYTES + 1)
    except FileNotFoundError:
        remembered = paths.mark.exists()
        problem = f"missing, but {paths.mark} remembers it: restore the ledger" if remembered else "no such ledger"
        raise LedgerCorrupt(f"[LG-1] {paths.ledger}: {problem}") from None
    if len(raw) > MAX_LEDGER_BYTES:
        raise LedgerCorrupt(f"[LG-3] {paths.ledger}: more than {MAX_LEDGER_BYTES} bytes")
    return raw


class LedgerFile:
    """A ledger open for appending, under its lock.

    :param paths: of the ledger.
    :param size: length in bytes of what was verified.
    """

    def __init__(self, paths: LedgerPaths, size: int) -> None:
        self._paths = paths
        self._size = size
        self._failed = ""
        self._descriptor = os.open(paths.ledger, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)

    def append(self, line: bytes, head: Head) -> None:
        """Append one line durably, then raise the mark to it. When this returns, the caller may act.

        :param head: what the mark shall say: the new line's number and hash.
        :raises PrivacyError: the disk refused the line; it was taken back, nothing is recorded (LG-25).
        :raises LedgerCorrupt: the file changed under the lock (LG-22), or a failed write could not be undone and the
            ledger has to be opened anew (LG-25).
        """
        self._require_unchanged()
        try:
            _write_all(self._descriptor, line)
        except OSError as error:
            self._take_back(error)
        try:
            os.fsync(self._descriptor)
            self._size += len(line)
            write_mark(self._paths.mark, head)
        except OSError as error:
            # After a failed fsync nobody knows what the disk holds, and a line that the mark may name is not removed.
            # Nothing has been acted upon: opened anew, a reservation is void and a `sending` counts as spent.
            self._failed = f"line {head.sequence + 1} could not be made durable ({error.strerror})"
            raise LedgerCorrupt(f"[LG-25] {self._paths.ledger}: {self._failed}; open the ledger anew") from error

    def truncate(self, size: int) -> None:
        """Cut the file to a verified length, durably.

        :raises OSError: as the system says.
        """
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)
        self._size = size

    def _require_unchanged(self) -> None:
        """Refuse to go on when another hand changed the file (LG-22), or after a failure that was not undone (LG-25).

        :raises LedgerCorrupt: names the file.
        """
        if self._failed:
            raise LedgerCorrupt(f"[LG-25] {self._paths.ledger}: {self._failed}; open the ledger anew")
        own = os.fstat(self._descriptor)
        try:
            there = self._paths.ledger.stat()
        except FileNotFoundError:
            raise LedgerCorrupt(f"[LG-22] {self._paths.ledger}: removed while it was open") from None
        if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) or own.st_size != self._size:
            raise LedgerCorrupt(f"[LG-22] {self._paths.ledger}: changed while it was open; open the ledger anew")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _take_back(self, error: OSError) -> None:
        try:
            self.truncate(self._size)
        except OSError as second:
            self._failed = f"an incomplete line could not be taken back ({second.strerror})"
            raise LedgerCorrupt(
                f"[LG-25] {self._paths.ledger}: not written ({error.strerror}) and {self._failed}; open the ledger anew"
            ) from error
        raise PrivacyError(
            f"[LG-25] {self._paths.ledger}: not written ({error.strerror}); nothing was recorded"
        ) from error


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A party's sessions between two messages: one sealed file a session, written whole before an answer leaves.

An old copy of such a file brought back does no harm: what was answered is on record in the once-only store, which lies
elsewhere, and a party that no longer knows an answer gives none. Where a whole disk is put back, the store with it, the
machine starts anew: sessions of an earlier start are not continued, so that no mask is used a second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from protocols.errors import PeerFault, UsageError
from protocols.primitives.labels import derive_key, tagged_hash
from protocols.session import SessionId
from protocols.shape import PartySession
from secfl.files import sync_directory, write_whole

__all__ = ["SealedSessions", "machine_start"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Where Linux names the machine's present start, at random; elsewhere all starts are alike."""
KEY_BYTES = 32
SUFFIX = ".session"
_NAME = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{16})?\.session")

SessionT = TypeVar("SessionT", bound=PartySession)


class SealedSessions:
    """The folder of one party; it holds the keys and shares of open sessions, sealed.

    :param directory: made if absent, for its owner alone; not the place of the once-only store's backups.
    :param key: 32 bytes, this party's own; whoever has it and the files has the sessions' secrets.
    :param start: names the machine's present start; that of the operating system by default. Files of another start
        are erased: their sessions have lost this party.
    :raises UsageError: a key of another length.
    """

    def __init__(self, directory: str | Path, key: bytes, *, start: bytes | None = None) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"storage key: {len(key)} bytes; allowed: {KEY_BYTES}")
        self._directory = Path(directory)
        present = machine_start() if start is None else start
        self._key = derive_key(key, label="secfl/sealed-sessions", context=(present,))
        self._suffix = f".{tagged_hash('secfl/machine-start', present).hex()[:16]}{SUFFIX}"
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700, parents=True)
            sync_directory(self._directory.parent)
        for leftover in self._directory.glob(f".*{SUFFIX}.*.new"):  # of a process that was killed while it wrote
            leftover.unlink()
        for path in self._directory.iterdir():
            if _NAME.fullmatch(path.name) and not path.name.endswith(self._suffix):
                path.unlink()

    def save(self, session_id: SessionId, session: PartySession) -> None:
        """Write a session; its answer may leave when this returns.

        :raises OSError: the disk refused; the file before is as it was, and the answer must stay.
        """
        write_whole(self._path(session_id), session.save(self._key), mode=0o600)

    def load(self, restore: Callable[[bytes, bytes], SessionT]) -> dict[SessionId, SessionT]:
        """All sessions, the one saved last at the end.

        :param restore: ``(blob, key)`` to the session.
        :raises UsageError: names a file that does not open under this key, for this party.
        """
        return {self._session_id(path): self._restored(path, restore) for path in sorted(self._files(), key=_written)}

    def find(self, session_id: SessionId, restore: Callable[[bytes, bytes], SessionT]) -> SessionT | None:
        """One session, or None where there is no file of it.

        :param restore: as for :meth:`load`, with its error.
        """
        path = self._path(session_id)
        return self._restored(path, restore) if path.exists() else None

    def keep_newest(self, number: int) -> None:
        """Erase all sessions but those saved last."""
        for path in sorted(self._files(), key=_written)[:-number]:
            path.unlink()

    def forget_others(self, kept: Collection[SessionId]) -> None:
        """Erase all sessions but these."""
        for path in self._files():
            if self._session_id(path) not in kept:
                path.unlink()

    def __repr__(self) -> str:
        return f"SealedSessions({str(self._directory)!r})"

    def _files(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.suffix == SUFFIX]

    def _path(self, session_id: SessionId) -> Path:
        return self._directory / f"{session_id.hex()}{self._suffix}"

    def _session_id(self, path: Path) -> SessionId:
        try:
            return SessionId(bytes.fromhex(path.name.removesuffix(self._suffix)))
        except ValueError:
            raise UsageError(f"{path}: its name is not that of a session") from None

    def _restored(self, path: Path, restore: Callable[[bytes, bytes], SessionT]) -> SessionT:
        try:
            return restore(path.read_bytes(), self._key)
        except PeerFault as fault:
            raise UsageError(f"{path}: not a session of this party under this key: {fault.reason.value}") from None


def machine_start() -> bytes:
    """A name for the machine's present start, different after each; empty where the system gives none."""
    try:
        return BOOT_ID.read_bytes().strip()
    except OSError:
        return b""


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns

"""The server's journal: what a server must remember to go on after a kill, in one SQLite file.

For each session it holds a snapshot, and what came after it: accepted replies, the ends of phases. A session is
deterministic, so the snapshot and the events give it back as it was (`secfl.engines.durable`). All of it is what a
server sees anyway: signed messages, sealed shares, masked vectors and their sum; no secret of a party.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.errors import ProtocolError, UsageError
from protocols.primitives.labels import tagged_hash
from protocols.session import SessionId
from protocols.shape import Chunk
from secfl.engines.storage import locked
from secfl.files import sync_directory

__all__ = ["Event", "ServerJournal"]

APPLICATION = int.from_bytes(b"SecF")
FORMAT = 1
PIECE_BYTES = 4 * 2**20
"""A snapshot lies in pieces: SQLite bounds a value to 1 GB, and copies it whole."""
WAL_BYTES = 64 * 2**20
"""Size to which the write-ahead log is cut after it was copied into the file."""

SCHEMA = """
CREATE TABLE session (session BLOB PRIMARY KEY, protocol TEXT NOT NULL, digest BLOB NOT NULL, head BLOB NOT NULL);
CREATE TABLE piece (session BLOB, number INTEGER, body BLOB NOT NULL, PRIMARY KEY (session, number));
CREATE TABLE event (session BLOB, number INTEGER, phase TEXT, upload INTEGER, header BLOB, chunks INTEGER, trailer BLOB,
                    PRIMARY KEY (session, number));
CREATE TABLE chunk (upload INTEGER, number INTEGER, body BLOB NOT NULL, PRIMARY KEY (upload, number));
"""


@dataclass(frozen=True)
class Event:
    """What happened to a session after its snapshot.

    :param phase: that was closed; empty for a reply.
    :param upload: where the reply's chunks are, and how many.
    """

    phase: str
    upload: int = 0
    header: bytes = field(default=b"", repr=False)
    chunks: int = 0
    trailer: bytes = field(default=b"", repr=False)

    def chained(self, head: bytes) -> bytes:
        """Hash over all events up to this one, from the hash up to the one before; it begins with the snapshot's."""
        return tagged_hash("journal", head, self.phase, self.upload, self.header, self.chunks, self.trailer)


class ServerJournal:
    """The journal of a server's sessions. Each call is one transaction, durable when it returns.

    Safe to use from several threads, not from a forked process.

    :param path: of the file; made if absent, readable by its owner alone. Who opens it while somebody else holds it is
        refused.
    :raises UsageError: the file is held elsewhere, is damaged or not such a journal, or lies on a file system without
        locks.
    :raises ProtocolError: the disk refused.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.path, "journal")
        self._guard = threading.RLock()
        self._process = os.getpid()
        self._failed = ""
        self._uploads = 0
        self._connection: sqlite3.Connection | None = None
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(self.path.parent)
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the file up."""
        with self._guard:
            if os.getpid() != self._process:  # a fork shares the file; closed here, SQLite would write to it
                return
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            self._lock.release()

    def sessions(self) -> dict[SessionId, str]:
        """The sessions in the journal, each with the name of its protocol."""
        return {
            SessionId(session): protocol for session, protocol in self._rows("SELECT session, protocol FROM session")
        }

    # -- one session ---------------------------------------------------------------------------------------------------

    def begin(self, session: SessionId, protocol: str, snapshot: bytes) -> None:
        """Remember a session that begins.

        :raises UsageError: it is in the journal already.
        """
        with self._transaction() as run:
            if run("SELECT 1 FROM session WHERE session = ?", session).fetchone():
                raise UsageError(f"{self.path}: session {session.hex()[:16]} is in the journal; restore it")
            run("INSERT INTO session VALUES (?, ?, ?, ?)", session, protocol, b"", b"")
            self._write_snapshot(run, session, snapshot)

    def compact(self, session: SessionId, snapshot: bytes) -> None:
        """Put a new snapshot in the place of the old one and of all that came after it."""
        with self._transaction() as run:
            self._erase(run, session)
            self._write_snapshot(run, session, snapshot)

    def forget(self, session: SessionId) -> None:
        """Erase a session; nothing happens if there is none."""
        with self._transaction() as run:
            self._erase(run, session)
            run("DELETE FROM session WHERE session = ?", session)

    def snapshot(self, session: SessionId) -> bytes:
        """The session's snapshot.

        :raises UsageError: no such session, or a damaged snapshot.
        """
        digest, _head = self._session(session)
        pieces = self._rows("SELECT body FROM piece WHERE session = ? ORDER BY number", session)
        snapshot = b"".join(body if isinstance(body, bytes) else b"" for (body,) in pieces)
        if hashlib.sha256(snapshot).digest() != digest:
            raise self.damaged(session, "the snapshot does not have its digest")
        return snapshot

    def events(self, session: SessionId) -> Iterator[Event]:
        """What came after the snapshot, in order.

        :raises UsageError: no such session; one of them is missing or was changed.
        """
        number, (head, last) = 0, self._session(session)
        while True:
            query = "SELECT phase, upload, header, chunks, trailer FROM event WHERE session = ? AND number = ?"
            found = self._rows(query, session, number)
            if not found:
                break
            if [type(value) for value in found[0]] != [str, int, bytes, int, bytes]:
                raise self.damaged(session, f"event {number} is none")
            event = Event(*found[0])
            yield event
            head, number = event.chained(head), number + 1
        if head != last:
            raise self.damaged(session, f"the {number} events are not those that were written")

    def accept(self, session: SessionId, upload: int, header: bytes, chunks: int, trailer: bytes) -> None:
        """Remember a reply that the session took; its chunks are in the journal already."""
        self._happened(session, Event("", upload, header, chunks, trailer))

    def close_phase(self, session: SessionId, phase: str) -> None:
        """Remember that a phase closes, with the replies accepted so far."""
        self._happened(session, Event(phase))

    def damaged(self, session: SessionId, what: str) -> UsageError:
        """The error for what this journal cannot have written."""
        return UsageError(f"{self.path}: session {session.hex()[:16]}: damaged: {what}")

    # -- chunks of a reply ---------------------------------------------------------------------------------------------

    def new_upload(self) -> int:
        """A number for a reply on its way in."""
        with self._guard:
            self._uploads += 1
            return self._uploads

    def append(self, upload: int, number: int, chunk: Chunk) -> None:
        """Keep a chunk of a reply."""
        with self._transaction() as run:
            run("INSERT INTO chunk VALUES (?, ?, ?)", upload, number, chunk)

    def chunk(self, upload: int, number: int) -> bytes:
        """A chunk that was kept.

        :raises UsageError: it is not there.
        """
        found = self._rows("SELECT body FROM chunk WHERE upload = ? AND number = ?", upload, number)
        if not found or not isinstance(found[0][0], bytes):
            raise UsageError(f"{self.path}: damaged: chunk {number} of upload {upload} is missing")
        body: bytes = found[0][0]
        return body

    def drop(self, upload: int) -> None:
        """Forget the chunks of a reply that was not accepted. What a failed journal cannot drop goes when it is opened
        anew.
        """
        if not self._failed:
            with self._transaction() as run:
                run("DELETE FROM chunk WHERE upload = ?", upload)

    # -- the machinery -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        with self._named():
            # Transactions are begun and ended by this class alone; `_guard` keeps threads apart.
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            run = self._run
            run("PRAGMA locking_mode = EXCLUSIVE")  # no shared memory, and no tool that writes meanwhile
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            run(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            run("PRAGMA trusted_schema = OFF")
            (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
            (application,) = run("PRAGMA application_id").fetchone()
            (version,) = run("PRAGMA user_version").fetchone()
        if (tables, application, version) == (0, 0, 0):
            with self._transaction():
                for statement in SCHEMA.strip().split(";\n"):
                    run(statement)
                run(f"PRAGMA application_id = {APPLICATION}")
                run(f"PRAGMA user_version = {FORMAT}")
        elif application != APPLICATION:
            raise UsageError(f"{self.path}: is not a server's journal")
        elif version != FORMAT:
            raise UsageError(f"{self.path}: format {version}; this version of secfl reads {FORMAT}")
        with self._transaction():
            # Replies that were on their way in when the process died.
            run("DELETE FROM chunk WHERE upload NOT IN (SELECT upload FROM event)")
            (self._uploads,) = run("SELECT coalesce(max(upload), 0) FROM event").fetchone()

    def _happened(self, session: SessionId, event: Event) -> None:
        with self._transaction() as run:
            _digest, head = self._session(session)
            (number,) = run("SELECT count(*) FROM event WHERE session = ?", session).fetchone()
            values = (event.phase, event.upload, event.header, event.chunks, event.trailer)
            run("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", session, number, *values)
            run("UPDATE session SET head = ? WHERE session = ?", event.chained(head), session)

    def _session(self, session: SessionId) -> tuple[bytes, bytes]:
        """Digest of the snapshot, head of the chain of events.

        :raises UsageError: no such session.
        """
        found = self._rows("SELECT digest, head FROM session WHERE session = ?", session)
        if not found:
            raise UsageError(f"{self.path}: no session {session.hex()[:16]}")
        digest, head = found[0]
        return digest, head

    def _erase(self, run: Any, session: SessionId) -> None:
        run("DELETE FROM chunk WHERE upload IN (SELECT upload FROM event WHERE session = ?)", session)
        run("DELETE FROM event WHERE session = ?", session)
        run("DELETE FROM piece WHERE session = ?", session)

    def _write_snapshot(self, run: Any, session: SessionId, snapshot: bytes) -> None:
        view = memoryview(snapshot)
        for number, start in enumerate(range(0, len(view), PIECE_BYTES)):
            run("INSERT INTO piece VALUES (?, ?, ?)", session, number, view[start : start + PIECE_BYTES])
        digest = hashlib.sha256(snapshot).digest()
        if run("UPDATE session SET digest = ?, head = ? WHERE session = ?", digest, digest, session).rowcount != 1:
            raise UsageError(f"{self.path}: no session {session.hex()[:16]}")

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._guard, self._named():
            return self._run(query, *values).fetchall()

    def _run(self, query: str, *values: object) -> sqlite3.Cursor:
        if self._connection is None:
            raise UsageError(f"{self.path}: the journal is closed")
        if os.getpid() != self._process:
            raise UsageError(f"{self.path}: opened by another process; open it in this one")
        if self._failed:
            raise ProtocolError(f"{self.path}: {self._failed}; open the journal anew")
        return self._connection.execute(query, values)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """All or nothing, and durable at its end."""
        with self._guard, self._named():
            self._run("BEGIN IMMEDIATE")
            try:
                yield self._run
                self._run("COMMIT")
            except BaseException:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn SQLite's errors into this package's."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
                # After a failed fsync nobody knows what the disk holds: only reading it anew tells.
                self._failed = f"the disk failed: {error}"
            raise ProtocolError(f"{self.path}: the disk refused: {error}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged file may even garble SQLite's message
            raise UsageError(f"{self.path}: damaged, or not a journal: {error}") from error

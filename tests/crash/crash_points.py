"""Seams at which a process of these tests dies: calls that reach the disk or the wire, counted one by one.

All of it is put on from outside, in the test's own processes; the packages know nothing of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from protocols.session import SessionId
from protocols.shape import OnceStore
from secfl.engines import ServerJournal

LENGTH_BYTES = 4


class Points:
    """Counts the seams that a process passes, writes their names down, and does something at chosen ones.

    :param log: where the names go, one a line; a killed process has written all that it reached.
    :param acts: what to do, by number of the seam.
    """

    def __init__(self, log: Path, acts: dict[int, Callable[[], None]]) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._acts = acts
        self._count = 0

    def __call__(self, name: str) -> None:
        os.write(self._log, f"{name}\n".encode())
        act = self._acts.get(self._count)
        self._count += 1
        if act is not None:
            act()


def die() -> None:
    """As kill -9 does: no handler, no clean-up, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def copy_away(source: Path, backup: Path) -> Callable[[], None]:
    """Keep a folder as it is now, to bring it back later."""
    return lambda: shutil.copytree(source, backup)


def watch_disk(points: Points) -> None:
    """Every fsync and rename of this process passes a seam before and after."""
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        points("fsync:before")
        fsync(descriptor)
        points("fsync:after")

    def watched_replace(path: Path, target: Path) -> Path:
        points("rename:before")
        moved = replace(path, target)
        points("rename:after")
        return moved

    os.fsync = watched_fsync
    Path.replace = watched_replace  # type: ignore[method-assign]


class WatchedStore:
    """A once-only store with a seam before and after each record."""

    def __init__(self, store: OnceStore, points: Points) -> None:
        self._store = store
        self._points = points

    def record(self, key: bytes, value: bytes) -> bytes:
        self._points("record:before")
        recorded = self._store.record(key, value)
        self._points("record:after")
        return recorded


class WatchedJournal(ServerJournal):
    """A journal with a seam before each of its SQL statements, and after each transaction."""

    def __init__(self, path: Path, points: Points) -> None:
        self._points = points
        super().__init__(path)

    def _open(self) -> None:
        super()._open()
        if self._connection is not None:
            self._connection.set_trace_callback(lambda statement: self._points(f"sql:{statement.split()[0].lower()}"))

    def _run(self, query: str, *values: object) -> sqlite3.Cursor:
        cursor = super()._run(query, *values)
        if query == "COMMIT":
            self._points("sql:committed")
        return cursor

    def begin(self, session: SessionId, protocol: str, snapshot: bytes) -> None:
        super().begin(session, protocol, snapshot)
        self._points("journal:begun")


class Wire:
    """Whole messages over a socket, with seams before, in the middle of, and after a message."""

    def __init__(self, connection: socket.socket, points: Points) -> None:
        self.connection = connection
        self._points = points

    def send(self, *message: Any) -> None:
        body = msgspec.msgpack.encode(message)
        raw = len(body).to_bytes(LENGTH_BYTES, "big") + body
        kind = message[0]
        self._points(f"send {kind}:before")
        self.connection.sendall(raw[: len(raw) // 2])
        self._points(f"send {kind}:half")
        self.connection.sendall(raw[len(raw) // 2 :])
        self._points(f"send {kind}:after")

    def receive(self) -> list[Any]:
        """The next message.

        :raises ConnectionError: the other side is gone, perhaps in the middle of a message.
        """
        length = int.from_bytes(self._read(LENGTH_BYTES), "big")
        message: list[Any] = msgspec.msgpack.decode(self._read(length))
        self._points(f"received {message[0]}")
        return message

    def _read(self, length: int) -> bytes:
        buffer = bytearray()
        while len(buffer) < length:
            piece = self.connection.recv(length - len(buffer))
            if not piece:
                raise ConnectionError("the other side is gone")
            buffer += piece
        return bytes(buffer)

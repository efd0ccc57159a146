"""A party's process: it answers until it is ended; killed, it goes on from its once-only store and sealed files."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec
from crash_points import Points, WatchedStore, Wire
from crash_server import PATIENCE_SECONDS, SOCKET
from crash_world import STORAGE_KEY, World

from protocols import Organisation, SessionId
from protocols.errors import SecflError
from protocols.shape import ArraySource, Chunk, Reply
from protocols.wire import peek_kind, peek_session_id
from secfl.engines import FileStore
from secfl.engines.sealed_sessions import SealedSessions


class Answering(Protocol):
    """See `secfl.engines.base.Party`."""

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply: ...

    def delivered(self, reply: Reply) -> None: ...


class SavedParty:
    """A party whose sessions are saved before an answer leaves."""

    def __init__(self, world: World, name: str, points: Points) -> None:
        self._vector = world.vector(name)
        store = WatchedStore(FileStore(world.directory / name / "answers.log"), points)
        self._arguments = (world.module, world.identities[name], world.roster, world.policy)
        self._options = {"entropy": os.urandom, "store": store}
        self._files = SealedSessions(world.directory / name / "sessions", STORAGE_KEY)
        self._sessions = self._files.load(
            lambda blob, key: Organisation.restore(blob, key, *self._arguments, **self._options)
        )

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        session_id = SessionId(peek_session_id(header))
        session = self._sessions.get(session_id) or Organisation(*self._arguments, **self._options)
        needed = session.inspect(header).vector
        reply = session.handle(header, chunks, vector=ArraySource(self._vector) if needed else None)
        self._sessions[session_id] = session
        self._files.save(session_id, session)
        return reply

    def delivered(self, reply: Reply) -> None:
        """Nothing to remember."""


def take_part(world: World, name: str, party: Answering, points: Points) -> None:
    """Connect, answer, connect again; until the supervisor ends the process."""
    log = os.open(world.directory / "log" / f"sent-{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(world.directory / SOCKET))
            wire = Wire(connection, points)
            wire.send("hello", name)
            while True:
                _converse(wire, party, world.context(), log)
        except OSError:  # the server is gone; it, or its successor, will listen again
            time.sleep(0.002)
        finally:
            connection.close()


def _converse(wire: Wire, party: Answering, context: bytes, log: int) -> None:
    kind, *parts = wire.receive()
    if kind == "taken":
        header, trailer = parts
        party.delivered(Reply("", header, (), trailer))  # type: ignore[arg-type]
        return
    header, chunks = parts
    phase = peek_kind(header)[1].removesuffix("Request")
    try:
        reply = party.answer(header, chunks, context)
        sending = [bytes(chunk) for chunk in reply.chunks]
    except SecflError as error:
        wire.send("refusal", phase, f"{type(error).__name__}: {error}")
        return
    # Written down before the first byte leaves: whatever left is here.
    entry = [peek_session_id(header).hex(), phase, reply.header, sending, reply.trailer]
    os.write(log, msgspec.json.encode(entry) + b"\n")
    wire.send("reply", phase, reply.header, sending, reply.trailer)


def party_process(world: World, name: str, points: Points) -> None:
    """Main function of a party that saves its sessions."""
    take_part(world, name, SavedParty(world, name, points), points)

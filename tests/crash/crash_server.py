"""The server's process: a loop around one durable session, over a Unix socket; killed, it goes on from its journal."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

import msgspec
from crash_points import Points, WatchedJournal, Wire
from crash_world import World

from protocols.errors import ProtocolError
from protocols.shape import Reply, Request
from secfl.engines import DurableServer
from secfl.engines.base import upload
from secfl.files import write_whole

SOCKET = "socket"
OUTCOME = "outcome.json"
JOURNAL = "server/journal.sqlite"
PATIENCE_SECONDS = 180.0


class Outcome(msgspec.Struct, frozen=True):
    """How the round ended: a sum and whose it is, or a named error."""

    contributors: tuple[str, ...] = ()
    sum: tuple[int, ...] = ()
    error: str = ""
    text: str = ""


def serve(world: World, points: Points) -> None:
    """Begin or go on, to the end of the round; the outcome is written before anybody hears of it."""
    path = world.directory / OUTCOME
    journal = WatchedJournal(world.directory / JOURNAL, points)
    if not path.exists():
        write_whole(path, msgspec.json.encode(_outcome(world, points, journal)))
    for session in journal.sessions():
        journal.forget(session)
    journal.close()


def _outcome(world: World, points: Points, journal: WatchedJournal) -> Outcome:
    try:
        known = next(iter(journal.sessions()), None)
        if known is None:
            server = DurableServer.adopt(journal, world.module.server(world.parameters(), world.roster))
        else:
            server = DurableServer.restore(journal, world.module, known, world.roster)
        with Exchange(world, points) as exchange:
            while server.phase is not None:
                exchange.run_phase(server)
                points("close_phase:before")
                server.close_phase()
                points("close_phase:after")
    except ProtocolError as error:
        return Outcome(error=type(error).__name__, text=str(error))
    aggregate = server.result()
    return Outcome(tuple(map(str, aggregate.contributors)), tuple(int(value) for value in aggregate.sum))


class Exchange:
    """Connections to the parties; each is asked once per connection and phase, unless its answer is in already."""

    def __init__(self, world: World, points: Points) -> None:
        self._world = world
        self._points = points
        self._selector = selectors.DefaultSelector()
        self._wires: dict[str, Wire] = {}
        self._log = (world.directory / "log" / "received").open("ab", buffering=0)

    def __enter__(self) -> Exchange:
        path = self._world.directory / SOCKET
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        return self

    def __exit__(self, *_exception: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._log.close()

    def run_phase(self, server: DurableServer) -> None:
        """Until everybody has answered, has refused, or is gone for good."""
        requests = {str(request.party): request for request in server.requests()}
        settled = set(server.answered)
        asked: dict[str, Wire] = {}
        began = time.monotonic()
        while waiting := requests.keys() - settled - self._gone():
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"{server.phase}: nobody heard of {sorted(waiting)}")
            for party in sorted(waiting & self._wires.keys()):
                if asked.get(party) is not self._wires[party]:
                    asked[party] = self._wires[party]
                    self._guarded(party, lambda party=party: self._ask(requests[party]))
            for key, _ in self._selector.select(0.01):
                if key.data is None:
                    self._accept()
                elif self._is_open(key):
                    self._guarded(key.data, lambda party=key.data: self._take(server, party, settled))

    def _is_open(self, key: selectors.SelectorKey) -> bool:
        """A party that came back in this very moment has a new connection: what the old one had to say is void."""
        wire = self._wires.get(key.data)
        return wire is not None and wire.connection is key.fileobj

    def _gone(self) -> set[str]:
        """Parties that the operator knows will not come back; the stand-in for a deadline."""
        gone = {path.name for path in (self._world.directory / "gone").iterdir()}
        return gone - self._wires.keys()

    def _accept(self) -> None:
        connection, _address = self._listener.accept()
        connection.settimeout(PATIENCE_SECONDS / 4)  # a wait without end would be a fault of these tests
        wire = Wire(connection, self._points)
        try:
            _hello, party = wire.receive()
        except ConnectionError:
            connection.close()
            return
        if party in self._wires:
            self._lose(party)
        self._wires[party] = wire
        self._selector.register(connection, selectors.EVENT_READ, party)

    def _ask(self, request: Request) -> None:
        chunks = [bytes(chunk) for chunk in request.chunks]
        self._wires[str(request.party)].send("request", request.header, chunks)

    def _take(self, server: DurableServer, party: str, settled: set[str]) -> None:
        kind, *parts = self._wires[party].receive()
        if kind == "refusal":
            settled.add(party)
            return
        phase, header, chunks, trailer = parts
        self._log.write(msgspec.json.encode([party, phase, header, chunks, trailer]) + b"\n")
        try:
            upload(server, Reply(party, header, chunks, trailer), lambda size: None)  # type: ignore[arg-type]
        except ProtocolError:
            settled.add(party)
            return
        settled.add(party)
        self._wires[party].send("taken", header, trailer)

    def _guarded(self, party: str, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError:
            self._lose(party)

    def _lose(self, party: str) -> None:
        wire = self._wires.pop(party)
        self._selector.unregister(wire.connection)
        wire.connection.close()

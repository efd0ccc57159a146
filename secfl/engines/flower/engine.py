"""The Flower engine: one session carried between a ServerApp and the nodes of a federation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid

from protocols.errors import ProtocolError, SecflError
from protocols.identity import ClientId, Role, Roster
from protocols.shape import Entropy, Reply, Request, ServerSession
from secfl.engines.base import Carried, PartyEvent, PhaseRecord, upload
from secfl.engines.flower.envelope import Letter
from secfl.engines.flower.nodes import Exchange, NodeReply
from secfl.engines.flower.roll_call import call, verified_party
from secfl.registry import offered

__all__ = ["CONTEXT", "FlowerEngine", "Payload"]

CONTEXT = "secfl.context"
"""Name of the record with the global model, where no app of somebody else's has its own."""
HEADS = "secfl.heads"
"""Name of the record with what the server has countersigned of each silo's ledger, by silo."""
CALL_SECONDS = 300.0
TRIES = 3
"""Calls to a node that does not answer, before it is left alone for the run."""


@dataclass(frozen=True)
class Payload:
    """What goes beside a request for a vector.

    :param records: the model and settings, as an app expects them.
    :param terms: see `secfl.engines.flower.terms`; in a study the run's name.
    """

    records: RecordDict = field(repr=False)
    terms: bytes = field(default=b"", repr=False)


class FlowerEngine:
    """Carries sessions over a Flower `Grid`; see `secfl.engines.base.Engine`.

    :param roster: the pinned public keys; nodes are matched to its members by a signed roll call, once a run.
    :param deadline_seconds: after which a phase closes without those who have not answered.
    :param action: see `Exchange`.
    :param credentials: what nodes compare before they answer a call, such as a configuration's hash.
    :param heard: told of every answer to a request, with the party's name, before it counts; what it raises refuses it.
    """

    name: ClassVar[str] = "flower"
    simulation: ClassVar[bool] = False

    def __init__(
        self,
        grid: Grid,
        roster: Roster,
        *,
        deadline_seconds: float = 600.0,
        action: str = "train",
        credentials: bytes = b"",
        heard: Callable[[str, Letter], None] | None = None,
        entropy: Entropy = os.urandom,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self.refused: dict[int, SecflError] = {}
        """Nodes that are not who they say, or nobody in the roster."""
        self.errors: dict[int, SecflError] = {}
        """What nodes said instead of answering the call."""
        self._grid = grid
        self._roster = roster
        self.exchange = Exchange(grid, action, clock)
        self._credentials = credentials
        self.heard = heard
        self.heads: dict[str, bytes] = {}
        """Of a study's silos: the newest countersigned head of each one's ledger, told with the model."""
        self._entropy = entropy
        self.clock = clock
        self._nodes: dict[str, int] = {}
        self._silent: dict[int, int] = {}

    def call_roll(self) -> dict[str, int]:
        """Ask nodes that are new who they are; return the node of each party that is connected."""
        connected = set(self._grid.get_node_ids())
        known = set(self._nodes.values()) | set(self.refused)
        asked = sorted(node for node in connected - known if self._silent.get(node, 0) < TRIES)
        nonce = self._entropy(32)
        letters = ((node, call(nonce, self._credentials), RecordDict()) for node in asked)
        silent = set(asked)
        for reply in self.exchange.replies(letters, min(CALL_SECONDS, self.deadline_seconds), "secfl"):
            if reply.letter is None:
                self.errors[reply.node] = reply.error or ProtocolError("no answer")
                continue
            silent.discard(reply.node)
            try:
                party = verified_party(reply.letter, nonce, self._roster, self._grid.run.run_id, reply.node)
            except SecflError as error:
                self.refused[reply.node] = error
            else:
                self._nodes[party] = reply.node
        for node in silent:
            self._silent[node] = self._silent.get(node, 0) + 1
        return {party: node for party, node in self._nodes.items() if node in connected}

    def ask(self, letter: Letter) -> dict[str, Letter]:
        """Send one letter to every party that is connected; what they answer, by party."""
        nodes = self.call_roll()
        parties = {node: party for party, node in nodes.items()}
        letters = ((node, letter, RecordDict()) for node in parties)
        replies = self.exchange.replies(letters, min(CALL_SECONDS, self.deadline_seconds), "secfl")
        return {parties[reply.node]: reply.letter for reply in replies if reply.letter is not None}

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        """See `Engine.run_session`; the model travels as one flat array, and the run's name with it."""
        model = Array(np.frombuffer(context, np.dtype("<f4")))
        records = RecordDict({CONTEXT: ArrayRecord({"model": model}), HEADS: ConfigRecord(dict(self.heads))})
        return self.carry(server, Payload(records, server.parameters.run_id.encode()))

    def carry(self, server: ServerSession, payload: Payload) -> Carried:
        """Run a session to its end."""
        nodes = self.call_roll()
        phases: list[PhaseRecord] = []
        while server.phase is not None:
            carrier = _Phase(self, server, payload, nodes)
            phases.append(carrier.run())
            if carrier.failure is not None:
                return Carried(None, carrier.failure, tuple(phases))
        return Carried(server.result(), None, tuple(phases))


class _Phase:
    """Carries one phase and counts."""

    def __init__(self, engine: FlowerEngine, server: ServerSession, payload: Payload, nodes: dict[str, int]) -> None:
        self._exchange, self._server, self._payload = engine.exchange, server, payload
        self._nodes, self._deadline, self._clock = nodes, engine.deadline_seconds, engine.clock
        self._heard = engine.heard
        self._parties = {node: party for party, node in nodes.items()}
        self._phase = server.phase or ""
        self._up = self._down = 0
        self._events: list[PartyEvent] = []
        self._waiting: set[str] = set()
        self.failure: SecflError | None = None

    def run(self) -> PhaseRecord:
        """Send the requests, take the replies, close the phase."""
        began = self._clock()
        group = f"{self._server.parameters.round_number}"
        for reply in self._exchange.replies(self._letters(), self._deadline, group):
            self._take(reply)
            if self._server.ready():
                break
        for party in sorted(self._waiting):
            self._note(party, ProtocolError(f"no answer within {self._deadline:g} seconds"))
        answered: tuple[str, ...] = ()
        dropped: tuple[str, ...] = ()
        try:
            summary = self._server.close_phase()
            answered, dropped = tuple(map(str, summary.answered)), tuple(map(str, summary.dropped))
        except SecflError as error:
            self.failure = error
        seconds = self._clock() - began
        return PhaseRecord(self._phase, seconds, self._up, self._down, answered, dropped, tuple(self._events))

    def _letters(self) -> Iterator[tuple[int, Letter, RecordDict]]:
        vector = self._for_vectors()
        beside, terms = (self._payload.records, self._payload.terms) if vector else (RecordDict(), b"")
        extra = sum(len(array.data) for record in beside.array_records.values() for array in record.values())
        for request in self._server.requests():
            party = str(request.party)
            if party not in self._nodes:
                self._note(party, ProtocolError("no node that speaks for it is connected"))
                continue
            self._waiting.add(party)
            yield self._nodes[party], Letter("request", request.header, self._counted(request), terms=terms), beside
            self._down += len(request.header) + extra

    def _counted(self, request: Request) -> Iterable[bytes]:
        for chunk in request.chunks:
            self._down += len(chunk)
            yield bytes(chunk)

    def _for_vectors(self) -> bool:
        """Whether clients are asked for their vectors in this phase."""
        parameters = self._server.parameters
        asked = offered(parameters.protocol).phases[self._phase]
        return asked is Role.CLIENT and self._server.reply_limits().chunks > 0

    def _take(self, reply: NodeReply) -> None:
        party = self._parties[reply.node]
        self._waiting.discard(party)
        if reply.letter is None:
            self._note(party, reply.error or ProtocolError("no answer"))
            return
        letter = reply.letter
        try:
            if self._heard is not None:
                self._heard(party, letter)
            answer = Reply(ClientId(party), letter.header, letter.chunks, letter.trailer)
            upload(self._server, answer, self._count_up)
        except SecflError as error:
            self._note(party, error)

    def _count_up(self, size: int) -> None:
        self._up += size

    def _note(self, party: str, error: SecflError) -> None:
        self._events.append(PartyEvent(party, self._phase, error))

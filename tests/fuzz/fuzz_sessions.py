"""Sessions under fuzz: every phase of a protocol kept ready, a mutated message in, nothing but a named fault out.

An input is a MessagePack array: phase, side (0 a request to a party, 1 a reply to the server), header, chunks, whether
the reply is signed with its party's key. A signed reply is what a malicious client sends; an unsigned one anybody's.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import msgspec

from protocols.errors import ProtocolError
from protocols.shape import PartySession, Reply
from protocols.testing.cohort import SessionHarness
from protocols.testing.malformed import signed_reply
from protocols.testing.network import deliver
from tests.protocols.any_protocol import Adapter

MAXIMUM_FAULTS_KEPT = 64


class Case(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One input."""

    phase: int
    side: int
    header: bytes
    chunks: list[bytes]
    signed: bool


class Stage:
    """One phase: a cohort that has come this far, the genuine messages, and copies to throw away.

    :param spent: rules by which a refusal uses up the one answer, as it must; every other leaves no trace.
    """

    def __init__(self, cohort: Any, phase: str, spent: frozenset[str]) -> None:
        self.cohort, self.phase, self.spent = cohort, phase, spent
        self.party = str(next(iter(cohort.server.requests())).party)
        self.server_blob = cohort.server.save()
        self.party_blobs = cohort.saved(self.party)
        self.records = dict(cohort.stores[self.party]._records)
        self.request = cohort.request(self.party)
        self.request_chunks = [bytes(chunk) for chunk in self.request.chunks]
        self.reply: Reply = cohort.answered(self.party, self.request.header, self.request_chunks)
        self.reset_party()
        self.reset_server()

    def reset_party(self) -> None:
        """The party as it was before the request came."""
        self.cohort.stores[self.party]._records = dict(self.records)
        self.cohort.restored(self.party, self.party_blobs)

    def reset_server(self) -> None:
        """The server as it was before the reply came."""
        self.cohort.restore_from(self.server_blob)

    def seeds(self, number: int) -> list[bytes]:
        """Genuine messages as inputs."""
        cases = [
            Case(number, 0, self.request.header, self.request_chunks, signed=False),
            Case(number, 1, self.reply.header, [bytes(chunk) for chunk in self.reply.chunks], signed=True),
        ]
        return [msgspec.msgpack.encode(case) for case in cases]

    def run(self, case: Case) -> None:
        """Feed one input.

        :raises AssertionError: a session that refused has changed. Anything but a `ProtocolError` passes through.
        """
        if case.side % 2 == 0:
            self._to_party(case)
        else:
            self._to_server(case)

    def _to_party(self, case: Case) -> None:
        session: PartySession = self.cohort.session(self.party)
        before = _state(session)
        try:
            session.inspect(case.header)
            wanted = session.inspect(case.header).vector
            session.handle(case.header, case.chunks, vector=self.cohort.sources()[self.party] if wanted else None)
        except ProtocolError as refusal:
            if _state(self.cohort.session(self.party)) != before:
                raise AssertionError(f"{self.phase}: a request was refused, and the session has changed") from None
            if self.cohort.stores[self.party]._records != self.records:
                if getattr(refusal, "rule", "") in self.spent:
                    self.reset_party()
                    return
                raise AssertionError(f"{self.phase}: a request was refused, and an answer is on record") from None
            return
        self.reset_party()

    def _to_server(self, case: Case) -> None:
        server = self.cohort.server
        reply = Reply(self.party, case.header, case.chunks, bytes(64))
        if case.signed:
            identity = self.cohort.identities[self.party]
            reply = signed_reply(identity, server.session_id, self.phase, case.header, case.chunks)
        answered = list(server._phase.answered)
        try:
            deliver(server, reply)
        except ProtocolError:
            if server._phase.answered != answered or server.phase != self.phase:
                raise AssertionError(f"{self.phase}: a reply was refused, and it counts") from None
            if len(server._faults) > MAXIMUM_FAULTS_KEPT:
                self.reset_server()
            return
        self.reset_server()


def _state(session: Any) -> tuple[int, ...]:
    parts = (session._state, session._answered, session._spool, session._parameters, session._session_id)
    return tuple(id(part) for part in parts)


class SessionFuzz:
    """All phases of one protocol.

    :param cohort: makes a cohort; each phase gets its own, of equal bytes.
    :param phases: names, in order.
    :param advance: brings a cohort to a phase that honest parties never come to.
    :param spent: see `Stage`.
    """

    def __init__(
        self,
        cohort: Callable[[], SessionHarness],
        phases: tuple[str, ...],
        *,
        advance: Callable[[Any, str], object] = SessionHarness.advance,
        spent: frozenset[str] = frozenset(),
    ) -> None:
        self.stages = []
        for phase in phases:
            made = cohort()
            advance(made, phase)
            self.stages.append(Stage(Adapter(made), phase, spent))
        self.decoder = msgspec.msgpack.Decoder(Case)

    def seeds(self) -> list[bytes]:
        """Every genuine message."""
        return [seed for number, stage in enumerate(self.stages) for seed in stage.seeds(number)]

    def run(self, raw: bytes) -> None:
        """Feed one input; what is no input at all says nothing."""
        try:
            case = self.decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return
        self.stages[case.phase % len(self.stages)].run(case)

    def mutate(self, raw: bytes, size: int, seed: int, plain: Callable[[bytes, int], bytes]) -> bytes:
        """Change a message where its fields are, so that it still decodes; sometimes just its bytes.

        :param plain: the fuzzer's own mutation of bytes.
        """
        choice = random.Random(seed)
        try:
            case = self.decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return choice.choice(self.seeds())[:size]
        what = choice.randrange(12)
        if what == 0:
            case.phase = choice.randrange(len(self.stages))
        elif what == 1:
            case.signed = not case.signed
        elif what == 2:
            other = self.decoder.decode(choice.choice(self.seeds()))
            case.header, case.chunks = other.header, other.chunks
        elif what in (3, 4) and case.chunks:
            index = choice.randrange(len(case.chunks))
            case.chunks[index] = plain(case.chunks[index], len(case.chunks[index]) + 8)
            if choice.random() < 0.2:
                choice.shuffle(case.chunks)
        elif what == 5:
            case.header = plain(case.header, len(case.header) + 16)
        else:
            case.header = self._changed_field(case.header, choice, plain)
        encoded = msgspec.msgpack.encode(case)
        return encoded if len(encoded) <= size else raw

    def _changed_field(self, header: bytes, choice: random.Random, plain: Callable[[bytes, int], bytes]) -> bytes:
        """Another value somewhere in the tree of fields; parameters are a tree of their own in a string of bytes."""
        fields = _unpacked(header)
        if fields is None:
            return plain(header, len(header) + 16)
        return _packed(mutated(fields, choice, plain), header)


def mutated(value: Any, choice: random.Random, plain: Callable[[bytes, int], bytes]) -> Any:  # noqa: C901  a case a type
    """The same tree with one value changed."""
    if isinstance(value, list) and value:
        value = copy.copy(value)
        index, what = choice.randrange(len(value)), choice.randrange(10)
        if what == 0:
            value.append(copy.copy(value[index]))
        elif what == 1:
            del value[index]
        elif what == 2:
            other = choice.randrange(len(value))
            value[index], value[other] = value[other], value[index]
        else:
            value[index] = mutated(value[index], choice, plain)
        return value
    if isinstance(value, dict) and value:
        key = choice.choice(sorted(value, key=str))
        if choice.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: mutated(value[key], choice, plain)}
    if choice.random() < 0.05:  # a value of another type
        return choice.choice([0, 1.5, b"", "", [], {}, None, True])
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return choice.choice([0.0, -value, value * 1e300, value / 3, float("inf"), float("nan"), 1])
    if isinstance(value, int):
        return choice.choice([value + 1, max(0, value - 1), 0, 1, 255, 2**16, 2**31 - 1, 2**32, 2**63, value * 2, -1])
    if isinstance(value, str):
        return plain(value.encode(), len(value) + 4).decode("utf-8", "replace")
    if isinstance(value, bytes):
        if len(value) > 64 and choice.random() < 0.7:  # a record inside a field
            inner = _unpacked(value)
            if inner is not None:
                return _packed(mutated(inner, choice, plain), value)
        return plain(value, len(value) + 8)
    return choice.choice([0, b"", "", [], None])


def _unpacked(raw: bytes) -> list[Any] | None:
    """The fields of a message or record; None if it is none."""
    try:
        fields = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    return fields if isinstance(fields, list) else None


def _packed(fields: Any, otherwise: bytes) -> bytes:
    """The fields as bytes; what they were if an integer has outgrown the format."""
    try:
        return msgspec.msgpack.encode(fields)
    except (OverflowError, msgspec.EncodeError, RecursionError):
        return otherwise

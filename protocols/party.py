"""What every party session does alike: dispatch, policy, once-only answers, signatures, saving.

A protocol adds its transition table: which request is answered in which state, and by which function. The rules that
are common to all protocols are PT-1 to PT-13 in docs/reference/rules.md.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import msgspec

from protocols import wire
from protocols.chunked import ChunkLayout, IncomingChunks
from protocols.errors import ClientFault, FaultReason, PeerFault, ServerFault, UsageError
from protocols.identity import Identity, Roster
from protocols.primitives.labels import encode_parts, tagged_hash
from protocols.primitives.sealing import open_state, seal_state
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import Chunk, Entropy, Need, OnceStore, PartySession, Reply, Spool, VectorSource, base_of
from protocols.signed import ContentDigest, MemorySpool, Opening, ReplyMessage, reply_digest
from protocols.suites import suite
from protocols.workers import SERIAL, Workers

__all__ = ["Answer", "Idle", "PartyShell", "SecretState", "Transition", "needed"]


class SecretState(msgspec.Struct, frozen=True, tag=True):
    """Base of a party's states. They hold keys and seeds, so they print nothing but their name."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # rich would print the fields otherwise
        return []


class Idle(SecretState, frozen=True):
    """No request has been answered yet."""


StateT = TypeVar("StateT", bound=SecretState)


@dataclass(frozen=True)
class Answer(Generic[StateT]):
    """What a transition yields: the state to go to, the reply's header and, lazily, its chunks."""

    state: StateT
    message: ReplyMessage
    chunks: Iterator[Chunk] | None = None


@dataclass(frozen=True)
class Transition(Generic[StateT]):
    """One line of a party's transition table.

    :param phase: name of the phase that the request belongs to.
    :param request: its message type.
    :param state: type of the state in which it is answered.
    :param answer: ``(session, state, request, vector) -> Answer``; pure but for the session's entropy. With `chunks`
        the last argument is an iterator over their payloads instead, on whose bytes nothing may rest that outlives a
        failure: their digest is known to fit only after `answer`, and the chunks that it yields, are through.
    :param vector: whether the answer needs the party's vector; not together with `chunks`.
    :param check: ``(session, state, request)``, the part of `answer` that may refuse the request; `inspect` runs it, so
        that nobody trains, or spends privacy budget, for a request that will be refused.
    :param chunks: ``(session, request)``, what chunks the request carries; None for a request that has none.
    """

    phase: str
    request: type[wire.Message]
    state: type[SecretState]
    answer: Callable[[Any, Any, Any, Any], Answer[StateT]]
    vector: bool = False
    check: Callable[[Any, Any, Any], object] | None = None
    chunks: Callable[[Any, Any], ChunkLayout] | None = None


def needed(vector: VectorSource | None) -> VectorSource:
    """The vector of a transition that is marked as needing it; the shell has made sure that it is there.

    :raises UsageError: it is not.
    """
    if vector is None:
        raise UsageError("the vector is needed now")
    return vector


class _Answered(msgspec.Struct, frozen=True):
    """The last answer, kept so that a repeated request gets the same bytes."""

    phase: str
    request_hash: bytes
    header: bytes
    trailer: bytes
    with_chunks: bool


class PartyShell(PartySession, Generic[StateT]):
    """A party session around a transition table.

    :param identity: this party's name and signing key.
    :param roster: the pinned roster; its hash must be the announced one.
    :param policy: this party's floors.
    :param entropy: source of random bytes; ``os.urandom`` outside tests.
    :param store: durable once-only record, outside any saved blob.
    :param spool: factory of the buffer in which a vector reply waits to be sent.
    :param workers: where independent pieces of the vector are masked.
    :raises UsageError: the roster has another key for this party.
    """

    PROTOCOL: ClassVar[str]
    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]]
    STATES: ClassVar[Any]
    """Union of all states, for the codec of saved sessions."""

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        entropy: Entropy,
        store: OnceStore,
        spool: Callable[[], Spool] = MemorySpool,
        workers: Workers = SERIAL,
    ) -> None:
        known = roster.in_good_standing(identity.id)
        if known and roster.member(identity.id).identity_key != identity.signing_key.public:
            raise UsageError(f"roster: it has another identity key for {identity.id!r}")
        post_quantum = roster.member(identity.id).post_quantum_key if known else b""
        if post_quantum and identity.post_quantum_key and post_quantum != identity.post_quantum_key.public:
            raise UsageError(f"roster: it has another ML-DSA key for {identity.id!r}")
        self.identity = identity
        self.roster = roster
        self.policy = policy
        self.entropy = entropy
        self._store = store
        self._new_spool = spool
        self.workers = workers
        self._parameters: SessionParameters | None = None
        self._session_id: SessionId | None = None
        self._state: SecretState = Idle()
        self._answered: _Answered | None = None
        self._spool: Spool | None = None

    def __repr__(self) -> str:
        session = self._session_id.hex()[:16] if self._session_id else "no session"
        return f"{type(self).__name__}({self.identity.id!r}, {session}, {type(self._state).__name__})"

    # -- what a protocol adds ------------------------------------------------------------------------------------------

    @abstractmethod
    def _check_parameters(self, parameters: SessionParameters) -> None:
        """Refuse parameters that this protocol or this party's policy does not allow."""

    def _bases(self, parameters: SessionParameters) -> tuple[bytes, ...]:
        """See `Need.bases`."""
        return (parameters.context_hash,)

    # -- the interface -------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> SessionParameters:
        """What the session agreed on.

        :raises UsageError: before the first request was answered.
        """
        if self._parameters is None:
            raise UsageError("no request has been answered yet")
        return self._parameters

    @property
    def session_id(self) -> SessionId:
        """Hash of the parameters.

        :raises UsageError: before the first request was answered.
        """
        if self._session_id is None:
            raise UsageError("no request has been answered yet")
        return self._session_id

    def inspect(self, header: bytes) -> Need:
        """See `PartySession.inspect`."""
        answered = self._repeated(header) is not None
        transition, message, parameters = self._read(header, repeated=answered)
        if transition.check is not None and not answered:
            transition.check(self, self._state, message)
        return Need(
            SessionId(message.session_id),
            transition.phase,
            parameters,
            parameters.context_hash,
            transition.vector and not answered,
            self._bases(parameters),
        )

    def handle(self, header: bytes, chunks: Iterable[Chunk] = (), *, vector: VectorSource | None = None) -> Reply:
        """See `PartySession.handle`."""
        repeated = self._repeated(header)
        if repeated is not None:
            return self._repeat(repeated, vector)
        transition, message, parameters = self._read(header)
        if transition.chunks is None and any(True for _ in chunks):
            detail = "this request carries no chunks"
            raise self.server_fault(FaultReason.CHUNK_LENGTH, detail, rule="PT-9", phase=transition.phase)
        self._check_vector(transition, parameters, vector)
        with self._bound(parameters, SessionId(message.session_id)):
            if transition.chunks is None:
                answer = transition.answer(self, self._state, message, vector)
                return self._send(transition.phase, header, answer)
            with self._blame(transition.phase):
                layout = transition.chunks(self, message)
            incoming = IncomingChunks(layout, chunks, lambda: self._blame(transition.phase))
            answer = transition.answer(self, self._state, message, iter(incoming))
            return self._send(transition.phase, header, answer, incoming)

    def save(self, key: bytes) -> bytes:
        """See `PartySession.save`."""
        record = _Saved(
            None if self._parameters is None else self._parameters.to_bytes(),
            msgspec.msgpack.encode(self._state),
            self._answered,
        )
        return seal_state(key, msgspec.msgpack.encode(record), self._seal_label(self.identity), self.entropy)

    @classmethod
    def restore(  # noqa: PLR0913  the constructor's arguments and the blob's
        cls,
        blob: bytes,
        key: bytes,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        entropy: Entropy,
        store: OnceStore,
        spool: Callable[[], Spool] = MemorySpool,
        workers: Workers = SERIAL,
    ) -> Self:
        """Continue a saved session.

        :raises PeerFault: BAD_CIPHERTEXT, the blob was not sealed under this key for this party; MALFORMED, another
            version sealed it.
        :raises PolicyRefused: roster or policy have changed, and refuse the session now.
        """
        session = cls(identity, roster, policy, entropy=entropy, store=store, spool=spool, workers=workers)
        record = wire.decode_saved(open_state(key, blob, cls._seal_label(identity)), _Saved)
        if record.parameters is not None:
            session._parameters = SessionParameters.from_bytes(record.parameters)
            session._session_id = session._parameters.session_id()
            session._check(session._parameters)
        session._state = wire.decode_saved(record.state, cls.STATES)
        session._answered = record.answered
        return session

    # -- the machinery -------------------------------------------------------------------------------------------------

    @classmethod
    def _seal_label(cls, identity: Identity) -> bytes:
        return tagged_hash("saved session", cls.PROTOCOL, cls.__name__, str(identity.id))

    def _read(
        self, header: bytes, *, repeated: bool = False
    ) -> tuple[Transition[Any], wire.Message, SessionParameters]:
        """Everything that is checked before a protocol's own rules; changes nothing.

        :param repeated: whether the request was answered already, in an earlier state.
        """
        transition = self._transition(header)
        with self._blame(transition.phase):
            message = wire.decode(header, transition.request)
            parameters = self._agree(message)
            if not repeated and not isinstance(self._state, transition.state):
                detail = f"session is in state {type(self._state).__name__}"
                raise PeerFault(FaultReason.WRONG_PHASE, detail, rule="PT-8")
            if self._session_id is None:
                self._check(parameters)
        return transition, message, parameters

    def _check(self, parameters: SessionParameters) -> None:
        """Refuse parameters, and a suite that this party cannot sign in: before it trains or answers.

        :raises UsageError: the suite needs an ML-DSA key, and the identity has none.
        """
        self._check_parameters(parameters)
        if suite(parameters.suite).signature.post_quantum and self.identity.post_quantum_key is None:
            raise UsageError(f"{self.identity.id!r} has no ML-DSA key, which suite {parameters.suite} needs")

    def _transition(self, header: bytes) -> Transition[Any]:
        with self._blame(""):
            protocol, kind = wire.peek_kind(header)
            for transition in self.TRANSITIONS:
                if (protocol, kind) == (self.PROTOCOL, transition.request.KIND):
                    return transition
            raise PeerFault(FaultReason.MALFORMED, "no request of this protocol", rule="PT-3")

    def _agree(self, message: wire.Message) -> SessionParameters:
        """Parameters of the session that a request belongs to."""
        if self._parameters is None:
            if not isinstance(message, Opening):
                raise PeerFault(FaultReason.WRONG_PHASE, "the first request must carry the parameters", rule="PT-4")
            parameters = SessionParameters.from_bytes(message.parameters)
            if (parameters.protocol, parameters.suite) != (message.protocol, message.suite):
                raise PeerFault(FaultReason.MALFORMED, "protocol or suite differs from the parameters'", rule="PT-5")
            if parameters.session_id() != message.session_id:
                raise PeerFault(FaultReason.WRONG_SESSION, "session id is not the hash of the parameters", rule="PT-6")
            return parameters
        if message.session_id != self._session_id or message.suite != self._parameters.suite:
            raise PeerFault(FaultReason.WRONG_SESSION, "another session id or suite", rule="PT-7")
        if isinstance(message, Opening) and message.parameters != self._parameters.to_bytes():
            raise PeerFault(FaultReason.WRONG_SESSION, "session id is not the hash of the parameters", rule="PT-6")
        return self._parameters

    def _check_vector(self, step: Transition[Any], parameters: SessionParameters, vector: VectorSource | None) -> None:
        if step.vector and vector is None:
            raise UsageError(f"{step.phase}: the vector is needed now")
        if not step.vector and vector is not None:
            raise UsageError(f"{step.phase}: no vector is wanted now")
        if vector is not None and vector.length != parameters.vector_length:
            raise UsageError(f"vector: {vector.length} entries, {parameters.vector_length} agreed on")
        if vector is not None and base_of(vector, parameters) not in self._bases(parameters):
            base = base_of(vector, parameters).hex()[:16]
            raise UsageError(f"vector: it starts from model {base}, which is none of this session's")

    def _repeated(self, header: bytes) -> _Answered | None:
        """The last answer, if this is the request that it answered."""
        if self._answered is not None and self._answered.request_hash == hashlib.sha256(header).digest():
            return self._answered
        return None

    def _repeat(self, answered: _Answered, vector: VectorSource | None) -> Reply:
        if vector is not None:
            raise UsageError(f"{answered.phase}: answered already; a second vector under the same masks is refused")
        if answered.with_chunks and self._spool is None:
            # The spool did not survive a restart, and the masks are not to be used again.
            raise UsageError(f"{answered.phase}: answered already before a restart; the vector was not kept")
        chunks = self._spool.chunks() if answered.with_chunks and self._spool else iter(())
        return Reply(self.identity.id, answered.header, chunks, answered.trailer)

    @contextmanager
    def _bound(self, parameters: SessionParameters, session_id: SessionId) -> Iterator[None]:
        """Bind the session while its first request is answered; let go again if that fails."""
        before = (self._parameters, self._session_id)
        self._parameters, self._session_id = parameters, session_id
        try:
            yield
        except BaseException:
            self._parameters, self._session_id = before
            raise

    def _send(self, phase: str, request: bytes, answer: Answer[Any], incoming: IncomingChunks | None = None) -> Reply:
        """Spool, sign and durably record an answer, if the request is whole; only then may its first byte leave."""
        header = wire.encode(answer.message)
        content = ContentDigest()
        spool = self._new_spool() if answer.chunks is not None else None
        try:
            if spool is not None and answer.chunks is not None:
                for chunk in answer.chunks:
                    content.update(chunk)
                    spool.append(chunk)
            if incoming is not None:
                incoming.finish()
            if spool is not None:
                self._once("round", self._round(), self.session_id, phase, "PT-10")
            digest = reply_digest(self.session_id, phase, header, content.digest())
            request_hash = hashlib.sha256(request).digest()
            value = tagged_hash("answer", request_hash, digest)
            self._once("once", encode_parts(self.session_id, phase), value, phase, "PT-11")
        except BaseException:
            if spool is not None:
                spool.discard()
            raise
        trailer = self.identity.sign(digest, suite(self.parameters.suite).signature)
        if self._spool is not None:
            self._spool.discard()
        self._state, self._spool = answer.state, spool
        self._answered = _Answered(phase, request_hash, header, trailer, spool is not None)
        return Reply(self.identity.id, header, iter(()) if spool is None else spool.chunks(), trailer)

    def _round(self) -> bytes:
        """The attempt at a round for which a vector was made: it goes into one session only.

        A vector given to two sessions with different cohorts would be revealed by the difference of their sums.
        """
        parameters = self.parameters
        return encode_parts(parameters.run_id, parameters.round_number, parameters.attempt)

    def _once(self, label: str, what: bytes, value: bytes, phase: str, rule: str) -> None:
        """Durably record a value.

        :raises PeerFault: ALREADY_ANSWERED, another value is on record. Not proven against the server: an old blob of
            this party, restored, leads here as well.
        """
        if self._store.record(tagged_hash(label, str(self.identity.id), what), value) != value:
            session = self.session_id.hex()[:16]
            detail = f"{self.identity.id!r}"
            raise PeerFault(FaultReason.ALREADY_ANSWERED, detail, rule=rule, phase=phase, session=session)

    @contextmanager
    def _blame(self, phase: str, rule: str = "") -> Iterator[None]:
        """Turn a fault in a request into the server's: only it can have sent the request."""
        try:
            yield
        except (ClientFault, ServerFault):
            raise
        except PeerFault as fault:
            raise self.server_fault(fault.reason, fault.detail, rule=fault.rule or rule, phase=phase) from None

    def server_fault(
        self, reason: FaultReason, detail: str, *, rule: str = "", phase: str = "", evidence: tuple[bytes, ...] = ()
    ) -> ServerFault:
        """A fault of the server in this session."""
        session = self._session_id.hex()[:16] if self._session_id else ""
        return ServerFault(reason, detail, rule=rule, phase=phase, session=session, evidence=evidence)


class _Saved(msgspec.Struct, frozen=True):
    """A party session between two messages."""

    parameters: bytes | None
    state: bytes
    answered: _Answered | None

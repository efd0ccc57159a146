"""What every server session does alike: dispatch, signatures, fault records, phases.

A protocol adds one class per phase; the next phase is what closing the present one returns. The rules that are common
to all protocols are SV-1 to SV-10 in docs/reference/rules.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import msgspec

from protocols import wire
from protocols.errors import ClientFault, FaultReason, PeerFault, ThresholdNotMet, UsageError
from protocols.identity import ClientId, Roster, own_fault
from protocols.primitives.bitpack import packed_size
from protocols.primitives.signing import SignatureScheme
from protocols.session import SessionId, SessionParameters
from protocols.shape import Aggregate, Fault, MessageLimits, PhaseSummary, Request, ServerSession, Spool, Upload, Words
from protocols.signed import NO_CHUNKS, MemorySpool, ReplyMessage, reply_digest
from protocols.suites import suite
from protocols.upload import SpooledUpload
from protocols.wire import CHUNK_INDEX_BYTES
from protocols.workers import SERIAL, Workers

__all__ = ["MAXIMUM_FAULTS", "MAXIMUM_UPLOADS", "Phase", "Received", "ServerShell", "Verified", "reply_name"]

MAXIMUM_FAULTS = 1000
"""Faults kept with their evidence; a flood beyond it is counted, not stored."""
MAXIMUM_UPLOADS = 256
"""Uploads under way at a time. Anybody can begin one in anybody's name, so what waits in spools must have a bound."""
UNPROVEN_EVIDENCE_BYTES = 4096
"""Anybody can send what proves nothing: only its beginning is kept."""


@dataclass(frozen=True)
class Received:
    """A reply whose signature is not yet verified."""

    message: ReplyMessage
    header: bytes = field(repr=False)
    spool: Spool = field(repr=False)


@dataclass(frozen=True)
class Verified:
    """A reply whose signature is its party's. Only these reach a phase."""

    party: ClientId
    message: Any
    signature: bytes = field(repr=False)
    spool: Spool = field(repr=False)
    content: bytes = NO_CHUNKS
    """Digest of its chunks, which the signature covers."""


class Phase(msgspec.Struct, tag=True, kw_only=True):
    """One phase of the server's side, savable as it stands.

    :param expected: who is asked, in the order of the cohort.
    :param answered: who answered, in the order of arrival.
    """

    name: ClassVar[str]
    reply: ClassVar[type[ReplyMessage]]
    vector: ClassVar[bool] = False
    """Whether replies carry a vector in chunks."""

    expected: tuple[ClientId, ...]
    answered: list[ClientId] = msgspec.field(default_factory=list)

    def reply_limit(self, _shell: ServerShell) -> int:
        """Largest header of a reply, in bytes."""
        return wire.HEADER_LIMIT

    def chunk_count(self, shell: ServerShell) -> int:
        """Chunks of a reply; by default those of a vector, where replies carry one."""
        return shell.parameters.chunk_count() if self.vector else 0

    def chunk_layout(self, shell: ServerShell, index: int) -> tuple[int, int]:
        """Entries of a reply's chunk and bits an entry; by default those of a chunk of the vector."""
        return shell.parameters.chunk_entries(index), shell.parameters.modulus_bits

    def keeps_replies(self) -> bool:
        """Whether the spools of accepted replies are kept; see `ServerShell.kept`."""
        return False

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """Requests of this phase."""
        raise NotImplementedError

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Fold a verified reply in, wholly or, raising `PeerFault`, not at all."""
        raise NotImplementedError

    def close(self, shell: ServerShell) -> Phase | Aggregate:
        """What follows.

        :raises ThresholdNotMet: too few answered.
        """
        raise NotImplementedError

    def ready(self, _shell: ServerShell) -> bool:
        """Whether nobody is waited for."""
        return len(self.answered) == len(self.expected)

    def present(self) -> tuple[ClientId, ...]:
        """Who answered, in the order of the request list."""
        answered = set(self.answered)
        return tuple(party for party in self.expected if party in answered)

    def absent(self) -> tuple[ClientId, ...]:
        """Who did not answer, in the order of the request list."""
        answered = set(self.answered)
        return tuple(party for party in self.expected if party not in answered)

    def require(self, number: int) -> tuple[ClientId, ...]:
        """Who answered, if that is enough.

        :raises ThresholdNotMet: otherwise.
        """
        if len(self.answered) < number:
            raise ThresholdNotMet(number, len(self.answered), phase=self.name)
        return self.present()


def reply_name(party: str) -> str:
    """Under which name `ServerShell.kept` has a party's accepted reply."""
    return f"reply/{party}"


class ServerShell(ServerSession):
    """A server session around its phases.

    :param parameters: what all parties must agree on; checked here.
    :param roster: the pinned roster whose hash the parameters carry.
    :param phase: the phase to open with.
    :param spool: factory of the buffer in which an upload waits for its trailer.
    :param workers: where independent pieces of the sum are worked on.
    :raises UsageError: parameters that no session may have.
    """

    def __init__(
        self,
        parameters: SessionParameters,
        roster: Roster,
        phase: Phase,
        *,
        spool: Callable[[], Spool] = MemorySpool,
        workers: Workers = SERIAL,
    ) -> None:
        parameters.validate()
        if parameters.roster_hash != roster.digest():
            raise UsageError("roster: its hash is not the one in the parameters")
        known = suite(parameters.suite)
        self.signature: SignatureScheme = known.signature
        for party in parameters.cohort:
            if not roster.in_good_standing(party):
                raise UsageError(f"cohort: {party!r} is not in good standing in the roster")
            if self.signature.post_quantum and not roster.member(party).post_quantum_key:
                raise UsageError(f"cohort: {party!r} has no ML-DSA key in the roster, which suite {known.id} needs")
        self._parameters = parameters
        self.session_id: SessionId = parameters.session_id()
        self.roster = roster
        self.new_spool = spool
        self.workers = workers
        self._faults: list[Fault] = []
        self._faults_of_phase = 0
        self._result: Aggregate | None = None
        self._failed = False
        self._open(phase)
        self._uploads: dict[ClientId, SpooledUpload] = {}
        self._kept: dict[str, Spool] = {}
        self.faults_omitted = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id.hex()[:16]}, {self.phase or 'closed'})"

    @property
    def parameters(self) -> SessionParameters:
        """See `ServerSession.parameters`."""
        return self._parameters

    @property
    def phase(self) -> str | None:
        """See `ServerSession.phase`."""
        return None if self._over() else self._phase.name

    @property
    def answered(self) -> tuple[ClientId, ...]:
        """Who has answered in the open phase, in the order of arrival; nobody once the session is over."""
        return () if self._over() else tuple(self._phase.answered)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What was refused so far."""
        return tuple(self._faults)

    def requests(self) -> Iterator[Request]:
        """See `ServerSession.requests`."""
        self._require_open()
        return self._phase.requests(self)

    def reply_limits(self) -> MessageLimits:
        """See `ServerSession.reply_limits`."""
        self._require_open()
        phase, chunks = self._phase, self._phase.chunk_count(self)
        layouts = {phase.chunk_layout(self, index) for index in range(chunks)}
        largest = max((CHUNK_INDEX_BYTES + packed_size(*layout) for layout in layouts), default=0)
        return MessageLimits(phase.reply_limit(self), largest, chunks, self.signature.signature_bytes)

    def begin(self, header: bytes) -> Upload:
        """See `ServerSession.begin`."""
        try:
            received = self._receive(header)
        except PeerFault as fault:
            self.record(fault, "", header)
            raise
        party = ClientId(received.message.party)
        older = self._uploads.get(party)
        if older is not None:
            older.supersede()
        elif len(self._uploads) >= MAXIMUM_UPLOADS:
            next(iter(self._uploads.values())).make_room(MAXIMUM_UPLOADS)
        upload = self._uploads[party] = SpooledUpload(self, self._phase, received)
        return upload

    def ready(self) -> bool:
        """See `ServerSession.ready`."""
        self._require_open()
        return self._phase.ready(self)

    def close_phase(self) -> PhaseSummary:
        """See `ServerSession.close_phase`."""
        self._require_open()
        phase = self._phase
        for upload in list(self._uploads.values()):
            upload.abort()
        try:
            following = phase.close(self)
        except BaseException:  # it may have left a sum half unmasked: never give a wrong one
            self._fail()
            raise
        if isinstance(following, Aggregate):
            self._result = following
            self.discard_kept()
        else:
            self._open(following)
        faults = tuple(self._faults[self._faults_of_phase :])
        self._faults_of_phase = len(self._faults)
        return PhaseSummary(phase.name, phase.present(), phase.absent(), faults, self.phase)

    def result(self, out: Words | None = None) -> Aggregate:
        """See `ServerSession.result`."""
        if self._result is None:
            raise UsageError(
                f"no result: {'the session failed' if self._failed else f'phase {self._phase.name} is open'}"
            )
        if out is None:
            return self._result
        if out.shape != self._result.sum.shape or out.dtype != self._result.sum.dtype:
            raise UsageError(f"out: expected {self._result.sum.dtype}[{self._result.sum.shape[0]}]")
        out[:] = self._result.sum
        return replace(self._result, sum=out)

    def save(self) -> bytes:
        """See `ServerSession.save`.

        :raises UsageError: once the session is over.
        """
        self._require_open()
        return msgspec.msgpack.encode(
            _Saved(
                self._parameters.to_bytes(),
                msgspec.msgpack.encode(self._phase),
                self._faults,
                self._faults_of_phase,
                self.faults_omitted,
                {name: [bytes(chunk) for chunk in spool.chunks()] for name, spool in self._kept.items()},
            )
        )

    @classmethod
    def restore(
        cls,
        blob: bytes,
        roster: Roster,
        phases: Any,
        *,
        spool: Callable[[], Spool] = MemorySpool,
        workers: Workers = SERIAL,
    ) -> Self:
        """Continue a saved session.

        :param phases: union of the protocol's phases.
        :raises PeerFault: MALFORMED, this version did not save it.
        :raises UsageError: another roster.
        """
        saved = wire.decode_saved(blob, _Saved)
        phase: Phase = wire.decode_saved(saved.phase, phases)
        session = cls(SessionParameters.from_bytes(saved.parameters), roster, phase, spool=spool, workers=workers)
        session._faults, session._faults_of_phase = saved.faults, saved.faults_of_phase
        session.faults_omitted = saved.faults_omitted
        for name, chunks in saved.kept.items():
            kept = session.kept(name)
            for chunk in chunks:
                kept.append(chunk)
        return session

    # -- the machinery -------------------------------------------------------------------------------------------------

    def holds(self, phase: Phase) -> bool:
        """Whether this phase is the open one."""
        return phase is self._phase and not self._over()

    def _open(self, phase: Phase) -> None:
        self._phase = phase
        # Who is asked and who answered, again: lists are searched too slowly for thousands of clients.
        self._expected, self._answered = frozenset(phase.expected), set(phase.answered)

    def _over(self) -> bool:
        return self._result is not None or self._failed

    def _require_open(self) -> None:
        if self._over():
            raise UsageError("the session is over")

    def _receive(self, header: bytes) -> Received:
        """Check a reply's header: type, session, phase, sender."""
        phase = self._phase
        protocol, kind = wire.peek_kind(header)
        if self._over() or (protocol, kind) != (self._parameters.protocol, phase.reply.KIND):
            raise PeerFault(FaultReason.WRONG_PHASE, f"message type {kind!r}", rule="SV-1", phase=phase.name)
        message = wire.decode(header, phase.reply, limit=phase.reply_limit(self))
        if message.session_id != self.session_id or message.suite != self._parameters.suite:
            raise PeerFault(FaultReason.WRONG_SESSION, "another session id or suite", rule="SV-2", phase=phase.name)
        party = ClientId(message.party)
        if party not in self._expected:
            raise PeerFault(
                FaultReason.UNKNOWN_PARTY, f"{party!r} is not asked in this phase", rule="SV-3", phase=phase.name
            )
        if party in self._answered:
            raise PeerFault(FaultReason.ALREADY_ANSWERED, f"by {party!r}", rule="SV-4", phase=phase.name)
        return Received(message, header, self.new_spool())

    def verify(self, received: Received, phase: str, content: bytes, trailer: bytes) -> Verified:
        """Check a reply's signature.

        :raises PeerFault: BAD_SIGNATURE.
        """
        party = received.message.party
        try:
            digest = reply_digest(self.session_id, phase, received.header, content)
            self.roster.verify(party, digest, trailer, self.signature)
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="SV-5", phase=phase) from None
        return Verified(ClientId(party), received.message, trailer, received.spool, content)

    def take(self, received: Received, phase: Phase, content: bytes, trailer: bytes) -> None:
        """Verify a whole reply and fold it into its phase."""
        reply = self.verify(received, phase.name, content, trailer)
        try:
            phase.accept(self, reply)
        except PeerFault as fault:  # raised before anything is changed
            raise own_fault(reply.party, fault) from None
        except BaseException:  # it may have left a vector half added: never give a wrong sum
            self._fail()
            raise
        if phase.keeps_replies():
            self._kept[reply_name(reply.party)] = reply.spool
        phase.answered.append(reply.party)
        self._answered.add(reply.party)

    def kept(self, name: str) -> Spool:
        """A spool that lasts until the session is over, whatever the phase; empty when it is first asked for.

        `reply_name` is the name of an accepted reply's. A saved session holds the content of all of them.
        """
        if name not in self._kept:
            self._kept[name] = self.new_spool()
        return self._kept[name]

    def discard_kept(self, *names: str) -> None:
        """Forget these spools; all of them, if none is named."""
        for name in names or tuple(self._kept):
            self._kept.pop(name).discard()

    def _fail(self) -> None:
        self._failed = True
        self.discard_kept()

    def forget(self, party: ClientId) -> None:
        """Drop the party's open upload from the books."""
        self._uploads.pop(party, None)

    def record(self, fault: PeerFault, party: str, *evidence: bytes) -> None:
        """Keep a fault, up to `MAXIMUM_FAULTS`.

        :param party: who it claims to come from, unless the fault proves it.
        :param evidence: header, digest of the chunks and trailer of the reply, as far as they came in.
        """
        if len(self._faults) >= MAXIMUM_FAULTS:
            self.faults_omitted += 1
            return
        proven = isinstance(fault, ClientFault)
        self._faults.append(
            Fault(
                fault.client if isinstance(fault, ClientFault) else party,
                proven,
                fault.phase or self._phase.name,
                fault.reason,
                fault.detail,
                fault.rule,
                tuple(item if proven else item[:UNPROVEN_EVIDENCE_BYTES] for item in evidence),
            )
        )


class _Saved(msgspec.Struct, frozen=True):
    """A server session between two messages."""

    parameters: bytes
    phase: bytes
    faults: list[Fault]
    faults_of_phase: int
    faults_omitted: int
    kept: dict[str, list[bytes]]

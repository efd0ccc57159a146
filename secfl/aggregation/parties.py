"""Both ends of an aggregation in a deployment: bytes in, bytes out, no sockets. Carry the messages over anything.

A message is one bytes object or, frame by frame, a stream (`secfl.aggregation.framing`). Neither end knows who is on
the other side of a connection: use TLS with authentication in a deployment, the protocol's signatures are end to end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from protocols.errors import EncodingError, FaultReason, PolicyRefused, ServerFault, UsageError
from protocols.identity import Identity, Role, Roster
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import (
    ArraySource,
    Chunk,
    Entropy,
    Need,
    OnceStore,
    PartySession,
    PhaseSummary,
    Reply,
    ServerSession,
    Words,
)
from protocols.wire import peek_session_id
from secfl.aggregation.agreement import PROTOCOLS, Agreement
from secfl.aggregation.codecs import Value, blame
from secfl.aggregation.framing import FrameLimits, Message, write_frames
from secfl.aggregation.result import AggregationResult

__all__ = ["AggregationParty", "AggregationServer", "Outgoing"]

OPEN_SESSIONS = 2
"""Sessions that a party keeps at a time: the next may open while the last is being unmasked."""


@dataclass(frozen=True)
class Outgoing:
    """A request on its way to a party."""

    party: str
    message: bytes = field(repr=False)


class AggregationServer:
    """The server's end of one session. It learns the sum and nothing else, if at most c parties help it.

    The loop: send every :meth:`requests`, feed what comes back to :meth:`receive`, :meth:`close_phase` when
    :meth:`ready` or at a deadline, until :attr:`phase` is None; then :meth:`result`.

    :param roster: the pinned public keys of all parties.
    :param run_id: name of the run; with round and attempt it must never come twice for one set of values.
    :param context: what else all parties must agree on, for instance a query's text.
    :raises UsageError: values that no session may have.
    """

    def __init__(
        self,
        agreement: Agreement,
        roster: Roster,
        *,
        run_id: str,
        round_number: int = 1,
        attempt: int = 0,
        context: bytes = b"",
        entropy: Entropy = os.urandom,
    ) -> None:
        self.agreement = agreement
        self.parameters = agreement.parameters(
            roster, nonce=entropy(32), run_id=run_id, round_number=round_number, attempt=attempt, context=context
        )
        self.session: ServerSession = PROTOCOLS[agreement.rules.protocol].server(self.parameters, roster)

    @property
    def phase(self) -> str | None:
        """Name of the open phase; None once the result is there or the session has failed."""
        return self.session.phase

    @property
    def reply_limits(self) -> FrameLimits:
        """What a reply may hold at most, for a `FrameDecoder` on the way in."""
        return FrameLimits.of_reply(self.parameters)

    def requests(self) -> Iterator[Outgoing]:
        """The requests of the open phase, one a party."""
        for request in self.session.requests():
            yield Outgoing(str(request.party), b"".join(write_frames(request.header, request.chunks)))

    def receive(self, message: bytes) -> None:
        """Take a party's reply.

        :raises PeerFault: the reply is refused; the session is as it was.
        """
        read = Message.from_bytes(message, self.reply_limits)
        self.receive_parts(read.header, read.chunks, read.trailer)

    def receive_parts(self, header: bytes, chunks: Iterable[Chunk], trailer: bytes) -> None:
        """As :meth:`receive`, for a reply that lies in frames (a file, say): one chunk is in memory at a time."""
        incoming = self.session.begin(header)
        try:
            for chunk in chunks:
                incoming.write(chunk)
            incoming.commit(trailer)
        except BaseException:
            incoming.abort()
            raise

    def ready(self) -> bool:
        """Whether nobody is waited for in this phase."""
        return self.session.ready()

    def close_phase(self) -> PhaseSummary:
        """Close the phase; who has not answered drops out.

        :raises ThresholdNotMet: too few answered: the session is over, nothing was revealed.
        :raises PeerFault: what was answered does not fit together: likewise.
        """
        return self.session.close_phase()

    def result(self) -> AggregationResult:
        """The sum, after the last phase.

        :raises UsageError: before that.
        :raises EncodingError: a sum that the contributors cannot have sent.
        """
        return AggregationResult.of(self.agreement, self.session.result())

    def __repr__(self) -> str:
        return f"AggregationServer({self.session!r})"


class AggregationParty:
    """A party's end, over any number of sessions under one agreement.

    :param identity: name and signing key; the key stays in this process.
    :param roster: the pinned public keys, from outside the protocol.
    :param store: once-only record, on disk (`secfl.engines.FileStore`): an answer is in it before it leaves. A party
        that restarts refuses what it answered before, so a session in progress goes on without it.
    :param policy: floors; the agreement's own by default.
    :raises UsageError: the roster has another key for this party; the party is not in the agreement's cohort.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        agreement: Agreement,
        *,
        store: OnceStore,
        policy: ClientPolicy | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        if identity.id not in agreement.weights.units:
            raise UsageError(f"party {str(identity.id)!r} is not in the agreement, or has weight 0")
        self.identity = identity
        self.agreement = agreement
        self._roster = roster
        self._policy = policy or agreement.policy()
        self._store = store
        self._entropy = entropy
        self._open: dict[SessionId, PartySession] = {}
        self._session()  # refuses a roster that does not fit, now rather than at the first request

    def answer(self, message: bytes, value: Value | Callable[[], Value], context: bytes = b"") -> bytes:
        """Answer a request.

        :param value: this party's contribution, or a function that gives it; looked at when it is needed, once a
            session. Never give one value to two sessions whose contributors may differ: the sums' difference shows it.
        :raises PeerFault: a request that must not be; nothing leaves.
        :raises PolicyRefused: a session that is not the agreed one, or below this party's floors.
        :raises EncodingError: the value does not fit the agreement: names the tensor.
        """
        return b"".join(self.answer_frames(message, value, context))

    def answer_frames(
        self, message: bytes, value: Value | Callable[[], Value], context: bytes = b""
    ) -> Iterator[bytes]:
        """As :meth:`answer`, frame by frame. All checks are done, and the answer is on record, when this returns."""
        request = Message.from_bytes(message, FrameLimits.of_request())
        reply = self.reply(request.header, request.chunks, lambda: self._encoded(value), context)
        return write_frames(reply.header, reply.chunks, reply.trailer)

    def reply(self, header: bytes, chunks: Iterable[Chunk], words: Callable[[], Words], context: bytes) -> Reply:
        """Answer a request that an engine carried.

        :param words: gives the encoded value; called when it is needed.
        :raises PeerFault: as :meth:`answer`, with its other errors.
        """
        session_id = SessionId(peek_session_id(header))
        session = self._open.get(session_id) or self._session()
        need = session.inspect(header)
        self._check_agreed(need, context)
        reply = session.handle(header, chunks, vector=ArraySource(words()) if need.vector else None)
        self._open[session_id] = session
        while len(self._open) > OPEN_SESSIONS:
            self._open.pop(next(iter(self._open)))
        return reply

    def _encoded(self, value: Value | Callable[[], Value]) -> Words:
        party = str(self.identity.id)
        try:
            words, _clipped = self.agreement.codec.encode(
                value() if callable(value) else value, self.agreement.weights.units[party], self._entropy
            )
        except EncodingError as error:
            raise blame(party, error) from None
        return words

    def _check_agreed(self, need: Need, context: bytes) -> None:
        """The session is the one that this party agreed to: cohort, encoding, rules, weights, context."""
        proposed: SessionParameters = need.parameters
        if proposed.cohort != self.agreement.cohort:
            raise PolicyRefused(
                "cohort", f"{len(proposed.cohort)} parties", f"the {len(self.agreement.cohort)} agreed on"
            )
        encoding = self.agreement.codec.to_bytes()
        if proposed.encoding != encoding:
            raise PolicyRefused("encoding", proposed.encoding.hex()[:32], f"{encoding.hex()[:32]}, as agreed on")
        # In a wider modulus the sum of residues would show more than the sum: how many of the addends are negative.
        codec = self.agreement.codec
        if proposed.modulus_bits != codec.modulus_bits:
            raise PolicyRefused("modulus bits", proposed.modulus_bits, f"{codec.modulus_bits}, as agreed on")
        if proposed.vector_length != codec.vector_length:
            raise PolicyRefused("vector length", proposed.vector_length, f"{codec.vector_length}, as agreed on")
        threshold = self.agreement.rules.threshold
        if threshold is not None and proposed.threshold != threshold:
            raise PolicyRefused("threshold", proposed.threshold, f"{threshold}, as agreed on")
        if need.context_hash != self.agreement.context_hash(context):
            raise ServerFault(
                FaultReason.CONTEXT_MISMATCH,
                "weights, rules or context differ from those agreed on",
                phase=need.phase,
                session=need.session_id.hex()[:16],
            )

    def _session(self) -> PartySession:
        session: PartySession = PROTOCOLS[self.agreement.rules.protocol].party(
            Role.CLIENT, self.identity, self._roster, self._policy, entropy=self._entropy, store=self._store
        )
        return session

    def __repr__(self) -> str:
        return f"AggregationParty({str(self.identity.id)!r})"

"""Both ends of an aggregation in a deployment: bytes in, bytes out, no sockets. Carry the messages over anything.

A message is one bytes object or, frame by frame, a stream (`secfl.aggregation.framing`). Neither end knows who is on
the other side of a connection: use TLS with authentication in a deployment, the protocol's signatures are end to end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from protocols.errors import EncodingError, FaultReason, PolicyRefused, ServerFault, UsageError
from protocols.identity import Identity, Roster
from protocols.organisation import Organisation
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import (
    ArraySource,
    Chunk,
    Entropy,
    Need,
    OnceStore,
    PhaseSummary,
    Reply,
    ServerSession,
    Words,
)
from secfl.aggregation.agreement import Agreement
from secfl.aggregation.codecs import Value, blame
from secfl.aggregation.framing import FrameLimits, Message, write_frames
from secfl.aggregation.result import AggregationResult
from secfl.engines.durable import DurableServer
from secfl.engines.journal import ServerJournal
from secfl.engines.sealed_sessions import SealedSessions
from secfl.engines.workers import local_workers
from secfl.open_sessions import OpenSessions

__all__ = ["AggregationParty", "AggregationServer", "Outgoing"]


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
    :param journal: where the session outlives this process, see :meth:`restore`; None to keep it in memory alone.
    :param public_context: the key holder's (`protocols.ckks.CkksKey.public_context`), with protocol ckks.
    :param threads: that expand masks; 0 for one a core. The sum does not depend on it.
    :raises UsageError: values that no session may have.
    """

    def __init__(  # noqa: PLR0913  everything outside pure computation is passed in
        self,
        agreement: Agreement,
        roster: Roster,
        *,
        run_id: str,
        round_number: int = 1,
        attempt: int = 0,
        context: bytes = b"",
        public_context: bytes = b"",
        entropy: Entropy = os.urandom,
        journal: ServerJournal | None = None,
        threads: int = 0,
    ) -> None:
        self.agreement = agreement
        self.parameters = agreement.parameters(
            roster,
            nonce=entropy(32),
            run_id=run_id,
            round_number=round_number,
            attempt=attempt,
            context=context,
            public_context=public_context,
        )
        session = agreement.protocol.server(self.parameters, roster, workers=local_workers(threads))
        self.session: ServerSession = session if journal is None else DurableServer.adopt(journal, session)

    @classmethod
    def restore(
        cls,
        agreement: Agreement,
        roster: Roster,
        journal: ServerJournal,
        session_id: SessionId | None = None,
        *,
        threads: int = 0,
    ) -> Self:
        """Go on with a session after its process died; see `secfl.engines.DurableServer.restore`.

        :param session_id: which; may be left out where the journal holds one session.
        :raises UsageError: no such session, or one under another agreement.
        :raises ThresholdNotMet: the session had ended so; likewise `PeerFault`.
        """
        known = list(journal.sessions())
        if session_id is None and len(known) != 1:
            raise UsageError(f"{journal.path}: {len(known)} sessions; say which")
        server = cls.__new__(cls)
        server.agreement = agreement
        chosen, workers = session_id or known[0], local_workers(threads)
        server.session = DurableServer.restore(journal, agreement.protocol.package, chosen, roster, workers=workers)
        server.parameters = server.session.parameters
        agreed = (agreement.cohort, agreement.codec.to_bytes(), agreement.codec.vector_length)
        if (server.parameters.cohort, server.parameters.encoding, server.parameters.vector_length) != agreed:
            raise UsageError(f"{journal.path}: the session is one under another agreement")
        return server

    @property
    def phase(self) -> str | None:
        """Name of the open phase; None once the result is there or the session has failed."""
        return self.session.phase

    @property
    def reply_limits(self) -> FrameLimits:
        """What a reply of the open phase may hold at most, for a `FrameDecoder` on the way in."""
        return FrameLimits.of(self.session.reply_limits())

    def requests(self) -> Iterator[Outgoing]:
        """The requests of the open phase, one a party; a restored session asks only those who have not answered."""
        answered = self.session.answered if isinstance(self.session, DurableServer) else ()
        for request in self.session.requests():
            if request.party in answered:
                continue
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
    """A party's end, over any number of sessions under one agreement, in all of its roles: by the roster, a party
    without a value may still be on the committee.

    :param identity: name and signing key, with the keys that its roles need; they stay in this process.
    :param roster: the pinned public keys, from outside the protocol.
    :param store: once-only record, on disk (`secfl.engines.FileStore`): an answer is in it before it leaves. A party
        that restarts refuses what it answered before, so a session in progress goes on without it, unless it has:
    :param state: sealed files of the open sessions, written before an answer leaves; a restarted party goes on from
        them. Not on the store's disk image or backup: the two must not be brought back to an old copy together.
    :param policy: floors; the agreement's own by default.
    :param threads: that expand masks; 0 for one a core. What is sent does not depend on it.
    :raises UsageError: the roster has another key for this party; the party has no role under the agreement, or lacks
        the key for one.
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
        state: SealedSessions | None = None,
        threads: int = 0,
    ) -> None:
        self._workers = local_workers(threads)
        self._roles = agreement.protocol.roles(identity, roster, agreement.cohort)
        if not self._roles:
            raise UsageError(f"party {str(identity.id)!r} is not in the agreement, or has weight 0")
        self.identity = identity
        self.agreement = agreement
        self._roster = roster
        self._policy = policy or agreement.policy()
        self._store = store
        self._entropy = entropy
        self._open: OpenSessions[Organisation] = OpenSessions()
        for role in self._roles:
            self._session().session(role)  # refuses a roster that does not fit, now rather than at the first request
        self._state = state
        if state is not None:
            for session_id, session in state.load(self._restored).items():
                self._open.put(session_id, session)

    @property
    def request_limits(self) -> FrameLimits:
        """What a request may hold at most, for a `FrameDecoder` on the way in."""
        agreement = self.agreement
        limits = agreement.protocol.request_limits(len(agreement.cohort), agreement.codec.vector_length)
        return FrameLimits.of(limits)

    def answer(self, message: bytes, value: Value | Callable[[], Value] | None, context: bytes = b"") -> bytes:
        """Answer a request.

        :param value: this party's contribution, or a function that gives it; looked at when it is needed, once a
            session; None for a party that has none. Never give one value to two sessions whose contributors may differ:
            the sums' difference shows it.
        :raises PeerFault: a request that must not be; nothing leaves.
        :raises PolicyRefused: a session that is not the agreed one, or below this party's floors.
        :raises EncodingError: the value does not fit the agreement: names the tensor.
        """
        return b"".join(self.answer_frames(message, value, context))

    def answer_frames(
        self, message: bytes, value: Value | Callable[[], Value] | None, context: bytes = b""
    ) -> Iterator[bytes]:
        """As :meth:`answer`, frame by frame. All checks are done, and the answer is on record, when this returns."""
        request = Message.from_bytes(message, self.request_limits)
        reply = self.reply(request.header, request.chunks, lambda: self._encoded(value), context)
        return write_frames(reply.header, reply.chunks, reply.trailer)

    def reply(self, header: bytes, chunks: Iterable[Chunk], words: Callable[[], Words], context: bytes) -> Reply:
        """Answer a request that an engine carried.

        :param words: gives the encoded value; called when it is needed.
        :raises PeerFault: as :meth:`answer`, with its other errors.
        """
        session = self._open.of(header) or self._session()
        need = session.inspect(header)
        self._check_agreed(need, context)
        reply = session.handle(header, chunks, vector=ArraySource(words()) if need.vector else None)
        self._open.keep(header, session)
        if self._state is not None:
            self._state.save(need.session_id, session)
            self._state.forget_others(self._open.ids())
        return reply

    def _encoded(self, value: Value | Callable[[], Value] | None) -> Words:
        party = str(self.identity.id)
        if value is None:
            raise UsageError(f"party {party!r}: its value is needed now, and None was given")
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
        self.agreement.protocol.check_bound(proposed, codec.peak)
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

    def _restored(self, blob: bytes, key: bytes) -> Organisation:
        return Organisation.restore(
            blob,
            key,
            self.agreement.protocol.package,
            self.identity,
            self._roster,
            self._policy,
            roles=self._roles,
            entropy=self._entropy,
            store=self._store,
            workers=self._workers,
        )

    def _session(self) -> Organisation:
        return self.agreement.protocol.organisation(
            self.identity,
            self._roster,
            self._policy,
            roles=self._roles,
            entropy=self._entropy,
            store=self._store,
            workers=self._workers,
        )

    def __repr__(self) -> str:
        return f"AggregationParty({str(self.identity.id)!r})"

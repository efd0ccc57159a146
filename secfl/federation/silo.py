"""A silo's side of a run: it answers requests, and trains, charges its ledger and encodes when its vector is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protocols.errors import FaultReason, PolicyRefused, PrivacyError, ProtocolError, ServerFault, UsageError
from protocols.identity import Identity, Role, Roster
from protocols.organisation import Organisation
from protocols.primitives.labels import tagged_hash
from protocols.primitives.ring import Words
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import ArraySource, Chunk, Entropy, Need, OnceStore, PartySession, Reply
from protocols.wire import peek_session_id
from protocols.workers import SERIAL, Workers
from secfl.encoding import Encoder, EncodingScheme, TensorLayout
from secfl.engines.sealed_sessions import SealedSessions
from secfl.events import Event
from secfl.federation.randomness import Randomness, operating_system
from secfl.open_sessions import OPEN_SESSIONS, OpenSessions
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.ledger import Ledger, Reservation
from secfl.privacy.mechanism import DistributedMechanism
from secfl.registry import offered

__all__ = ["Contribution", "Inside", "LocalNote", "LocalTraining", "Scheme", "Silo", "context_hash"]

Vector = npt.NDArray[np.float32]
Scheme = EncodingScheme | DistributedMechanism
"""How vectors become words: with modes B and C a mechanism that adds noise."""


def context_hash(layout: TensorLayout, context: bytes, *bound: bytes) -> bytes:
    """Hash of the global model that a session is bound to.

    :param bound: what else all parties must have before them.
    """
    return tagged_hash("context", layout.digest, context, *bound)


@dataclass(frozen=True)
class Inside:
    """What a contribution looked like from inside. Private: it depends on the records.

    :param clipped: coordinates of the update beyond ``value_range``, which were cut to it.
    :param left_out: with noise in sums, records or whole updates that were not finite and count as zero.
    :param records: with noise in sums of gradients, records in the sum.
    """

    clipped: int = field(default=0, repr=False)
    left_out: int = field(default=0, repr=False)
    records: int = field(default=0, repr=False)


class Contribution(Protocol):
    """A silo's work when its vector is needed, all of it: train, privatise, encode."""

    @property
    def event(self) -> AnyPrivacyEvent | None:
        """What it costs; None without privacy."""

    @property
    def layout(self) -> TensorLayout:
        """Of the global state."""

    @property
    def update_layout(self) -> TensorLayout:
        """Of what is sent."""

    @property
    def bound(self) -> tuple[bytes, ...]:
        """What a session is bound to beside the global model."""

    def words(
        self, state: Vector, scheme: Scheme, weight: Callable[[], int], entropy: Entropy, session: bytes
    ) -> tuple[Words, Inside]:
        """From the global state (flat) to the words that a session sums.

        :param weight: gives the weight of the vector, asked for after training.
        :param entropy: of training, rounding and noise.
        :param session: the session's id, public.
        """


@dataclass(frozen=True)
class LocalTraining:
    """Training whose update is encoded as it is: without privacy, or with the noise of the silo alone in it (mode A).

    :param update: from the global state (flat float32 vector) and a source of randomness to the update, likewise flat.
    :param event: what one call costs; None without privacy.
    :param layout: of the global state.
    :param update_layout: of the update.
    :param bound: what a session is bound to beside the global model, such as the settings that came with it.
    """

    update: Callable[[Vector, Entropy], Vector]
    event: AnyPrivacyEvent | None
    layout: TensorLayout
    update_layout: TensorLayout
    bound: tuple[bytes, ...] = ()

    def words(
        self, state: Vector, scheme: Scheme, weight: Callable[[], int], entropy: Entropy, _session: bytes
    ) -> tuple[Words, Inside]:
        """See `Contribution`."""
        if not isinstance(scheme, EncodingScheme):
            raise UsageError("an update that is encoded as it is goes with an encoding scheme")
        encoder = Encoder(scheme, entropy, self.update_layout)
        update = self.update(state, entropy)
        words, report = encoder.encode(update, weight())
        return words, Inside(clipped=report.clipped_count)


class LocalNote(Event, frozen=True, kw_only=True):
    """What a contribution looked like from inside; see `Inside`. It stays at the silo."""

    run_id: str
    round: int
    attempt: int
    coordinates: int
    clipped: int
    left_out: int = 0
    records: int = 0


@dataclass
class _Open:
    """One session in progress."""

    party: PartySession
    sending: Reservation | None = None
    """Charged, perhaps on its way, not yet known to have arrived."""
    as_client: bytes = b""
    """Header of the last answer in the role of a client: once that, or a later one, has arrived, so has the update."""


class Silo:
    """One organisation's party in all sessions of a run.

    :param identity: name and signing key.
    :param policy: this silo's own floors.
    :param store: once-only record; a path of its own, never inside a saved session.
    :param training: from a global model to words, and what that costs.
    :param scheme: the encoding that this silo agreed to, its noise made for its own floors; another one is refused.
    :param weight: public weight of its update; where the encoding has private weights, what gives it after training.
    :param protocol: name of the protocol.
    :param roles: what this organisation does in each session: a silo may be on the committee as well.
    :param ledger: open for writing; None without privacy.
    :param randomness: source of training's and rounding's choices in each attempt.
    :param entropy: source of keys, seeds and shares.
    :param notes: told of what concerns this silo alone; it depends on private records and must not leave the silo.
    :param state: sealed files of the open sessions, written before an answer leaves, for a silo that lives in another
        process with each request. Not on the store's disk image or backup: see `secfl.engines.sealed_sessions`.
    :param workers: where the pieces of a vector are masked; what comes out does not depend on it.
    """

    def __init__(  # noqa: PLR0913  everything outside pure computation is passed in
        self,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        store: OnceStore,
        training: Contribution,
        scheme: Scheme,
        weight: int | Callable[[], int] = 1,
        protocol: str = "secagg",
        roles: Collection[Role] = (Role.CLIENT,),
        ledger: Ledger | None = None,
        randomness: Randomness = operating_system,
        entropy: Entropy = os.urandom,
        notes: Callable[[LocalNote], None] | None = None,
        state: SealedSessions | None = None,
        workers: Workers = SERIAL,
    ) -> None:
        self._workers = workers
        self._notes = notes
        self.identity = identity
        self.ledger = ledger
        self._roster = roster
        self._policy = policy
        self._store = store
        self._training = training
        self._weight: Callable[[], int] = weight if callable(weight) else lambda: weight
        self._scheme = scheme
        self._randomness = randomness
        self._entropy = entropy
        self._protocol = offered(protocol)
        self._roles = frozenset(roles)
        self._open: OpenSessions[_Open] = OpenSessions()
        self._state = state

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        """Answer a request; see `secfl.engines.base.Party`.

        :raises BudgetExceeded: the ledger refuses the training; nothing was trained or sent.
        :raises ServerFault: CONTEXT_MISMATCH, the model at hand is not the one the session is bound to.
        :raises ProtocolError: this silo's disk refused; nothing was sent.
        """
        session = self._open.of(header) or _Open(self._restored(header) or self._party())
        need = session.party.inspect(header)
        try:
            if not need.vector:
                reply = session.party.handle(header, chunks)
            else:
                reply = self._contribute(session, need, header, chunks, context)
            if self._state is not None:  # after the ledger's `sending`: what is kept here may be sent again
                self._state.save(need.session_id, session.party)
                self._state.keep_newest(OPEN_SESSIONS)
        except OSError as error:
            raise ProtocolError(f"{need.phase}: the disk of {self.identity.id!r} refused: {error.strerror}") from error
        if self._protocol.phases[need.phase] is Role.CLIENT:
            session.as_client = reply.header
        self._open.keep(header, session)
        return reply

    def delivered(self, reply: Reply) -> None:
        """Commit what the server has taken; a commit that the disk refused is tried again with the next reply."""
        session = self._open.of(reply.header)
        if session is None or session.as_client != reply.header:
            return  # what arrives from a member of the committee says nothing about its own update
        if session.sending is not None and self.ledger is not None:
            self.ledger.commit(session.sending)
            session.sending = None

    def _contribute(self, session: _Open, need: Need, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        """Reserve, train, encode, protect, record `sending`: only then does the reply leave this method."""
        self._check_agreed(need, context)
        reservation = self._reserve(need.parameters)
        # Kept again only once `sending` is on disk: until then no request, repeated or not, may get at the reply.
        self._open.forget(need.session_id)
        try:
            state = np.frombuffer(context, np.dtype("<f4")).astype(np.float32)
            entropy = self._randomness(str(self.identity.id), need.parameters.round_number, need.parameters.attempt)
            words, inside = self._training.words(state, self._scheme, self._weight, entropy, need.session_id)
            reply = session.party.handle(header, chunks, vector=ArraySource(words))
            if reservation is not None and self.ledger is not None:
                self.ledger.sending(reservation)
        except Exception as error:
            self._give_back(reservation, error)
            raise
        if self._notes is not None:
            self._notes(_note(need.parameters, inside, words.size))
        session.sending = reservation
        return reply

    def _give_back(self, reservation: Reservation | None, error: Exception) -> None:
        """Void what was reserved for a reply that will never leave."""
        if reservation is None or self.ledger is None:
            return
        try:
            self.ledger.void(reservation, "training, protection or the ledger failed; nothing was sent")
        except PrivacyError as refusal:
            # It stays charged. Opened anew, the ledger voids it, or counts it as spent if `sending` is on the disk.
            error.add_note(f"the reservation could not be given back: {refusal}")

    def _check_agreed(self, need: Need, context: bytes) -> None:
        agreed, proposed = self._scheme.to_bytes(), need.parameters
        if proposed.encoding != agreed:
            raise PolicyRefused("encoding", proposed.encoding.hex()[:32], f"{agreed.hex()[:32]}, as configured")
        # Under a wider modulus the sum of residues comes back unreduced: it would tell how many values were negative.
        bits, length = self._scheme.modulus_bits, self._scheme.word_count(self._training.update_layout.size)
        if proposed.modulus_bits != bits:
            raise PolicyRefused("modulus bits", proposed.modulus_bits, f"{bits}, as the encoding has it")
        if proposed.vector_length != length:
            raise PolicyRefused("vector length", proposed.vector_length, f"{length}, as the model has it")
        self._protocol.check_bound(proposed, self._scheme.largest_entry)
        if isinstance(self._scheme, DistributedMechanism):
            floor = self._scheme.minimum_contributors
            if proposed.minimum_contributors < floor:
                raise PolicyRefused(
                    "minimum contributors", proposed.minimum_contributors, f"{floor}, as the noise has it"
                )
        size = 4 * self._training.layout.size
        if len(context) != size or self._context_hash(context) != need.context_hash:
            raise ServerFault(
                FaultReason.CONTEXT_MISMATCH,
                "the model that came with the request is not the one that the session is bound to",
                phase=need.phase,
                session=need.session_id.hex()[:16],
            )

    def _context_hash(self, context: bytes) -> bytes:
        return context_hash(self._training.layout, context, *self._training.bound)

    def _reserve(self, parameters: SessionParameters) -> Reservation | None:
        if self.ledger is None or self._training.event is None:
            return None
        return self.ledger.reserve(
            f"{parameters.run_id}/{parameters.round_number}/{parameters.attempt}",
            self._training.event,
            run=parameters.run_id,
            round=parameters.round_number,
            attempt=parameters.attempt,
        )

    def _restored(self, header: bytes) -> PartySession | None:
        """The session that an earlier process of this silo kept."""
        if self._state is None:
            return None

        def restore(blob: bytes, key: bytes) -> Organisation:
            return Organisation.restore(
                blob,
                key,
                self._protocol.package,
                self.identity,
                self._roster,
                self._policy,
                roles=self._roles,
                entropy=self._entropy,
                store=self._store,
            )

        return self._state.find(SessionId(peek_session_id(header)), restore)

    def _party(self) -> PartySession:
        return self._protocol.organisation(
            self.identity,
            self._roster,
            self._policy,
            roles=self._roles,
            entropy=self._entropy,
            store=self._store,
            workers=self._workers,
        )

    @property
    def training(self) -> Contribution:
        """What it does when its vector is needed, for audits on made-up records."""
        return self._training

    def __repr__(self) -> str:
        return f"Silo({self.identity.id!r})"


def _note(parameters: SessionParameters, inside: Inside, coordinates: int) -> LocalNote:
    return LocalNote(
        run_id=parameters.run_id,
        round=parameters.round_number,
        attempt=parameters.attempt,
        coordinates=coordinates,
        clipped=inside.clipped,
        left_out=inside.left_out,
        records=inside.records,
    )

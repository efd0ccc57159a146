"""The key holder's side: check who contributed, decrypt one aggregate, once, release integers (rules KS-1 to KS-17).

What it cannot see: whether the aggregate is the sum of the contributions. A server that hands it one client's
ciphertext gets that client's vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols import wire
from protocols.chunked import ChunkLayout
from protocols.ckks import messages as m
from protocols.ckks.agreement import Agreement, agreed
from protocols.ckks.blocks import from_block
from protocols.ckks.keys import KeyHolderIdentity, pinned_hash
from protocols.ckks.slots import Integers, exact, to_words
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Roster
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition
from protocols.primitives.bitpack import pack, packed_size
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import Chunk, Entropy, OnceStore, Spool
from protocols.signed import frame
from protocols.suites import suite

__all__ = ["CkksKeyHolder"]


class Decrypted(SecretState, frozen=True):
    """One sum is out; no second one follows."""


States: TypeAlias = Idle | Decrypted


class CkksKeyHolder(PartyShell[States]):
    """The key holder. See `protocols.party.PartyShell` for the constructor.

    :param identity: with the CKKS key that the roster pins, and the noise to be added, if any.
    :raises UsageError: an identity without CKKS key, or the roster pins another one for this party.
    """

    PROTOCOL: ClassVar[str] = m.PROTOCOL
    STATES: ClassVar[Any] = States

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        entropy: Entropy,
        store: OnceStore,
        **options: Any,
    ) -> None:
        if not isinstance(identity, KeyHolderIdentity):
            raise UsageError(f"{identity.id!r} has no CKKS key")
        super().__init__(identity, roster, policy, entropy=entropy, store=store, **options)
        own = identity.ckks_key
        if roster.in_good_standing(identity.id):
            known = roster.member(identity.id).sealing_key
            if known and known != pinned_hash(own.public_context):
                raise UsageError(f"roster: it pins another CKKS key for {identity.id!r} than {own.version}")
        self._key = own
        self._noise = identity.noise

    def _check_parameters(self, parameters: SessionParameters) -> None:
        named = agreed(parameters, self.roster, self.policy).added.key_holder
        if self.identity.id != named:
            detail = f"{self.identity.id!r} is not the key holder {named!r}"
            raise PeerFault(FaultReason.UNKNOWN_PARTY, detail, rule="KS-10")

    # -- the one request -----------------------------------------------------------------------------------------------

    def aggregate_layout(self, request: m.DecryptionRequest) -> ChunkLayout:
        """What chunks the request carries: the blocks of the aggregate."""
        agreement = Agreement.of(self.parameters)
        return ChunkLayout(agreement.blocks, lambda _: agreement.record.block_bytes, request.aggregate)

    def decrypt(self, _state: Idle, request: m.DecryptionRequest, blocks: Iterator[memoryview]) -> Answer[States]:
        """The sum, block by block."""
        self._check_contributors(request.contributions)
        spool = self._new_spool()
        try:
            # The aggregate is whole, and on record as the one of this session, before the secret key touches any of it:
            # what a refusal tells whoever sends chunks of its choice, it tells once.
            for block in blocks:
                spool.append(bytes(block))
            self._once(
                "decryption", self.session_id, hashlib.sha256(wire.encode(request)).digest(), m.DECRYPTION, "KS-14"
            )
        except BaseException:
            spool.discard()
            raise
        named = [(item.index, item.content) for item in request.contributions]
        digest = m.contributors_hash(self.session_id, named, request.aggregate)
        fields = wire.opening_fields(self.session_id, m.DecryptionReply, self.parameters.suite)
        reply = m.DecryptionReply(*fields, self.identity.id, digest, self._noise is not None)
        return Answer(Decrypted(), reply, self._chunks(spool, len(named)))

    def _check_contributors(self, contributions: tuple[m.SignedContribution, ...]) -> None:
        """In the order of the cohort, nobody twice or unknown, enough of them, each by its own signature."""
        for before, after in pairwise(item.index for item in contributions):
            if before >= after:
                reason = FaultReason.DUPLICATE_PARTY if before == after else FaultReason.NOT_ORDERED
                raise self._refused(reason, f"index {after} after {before}", "KS-11")
        if contributions and contributions[-1].index >= len(self.parameters.cohort):
            detail = f"index {contributions[-1].index} is past the cohort's end"
            raise self._refused(FaultReason.UNKNOWN_PARTY, detail, "KS-11")
        least = self.parameters.minimum_contributors
        if len(contributions) < least:
            raise self._refused(FaultReason.TOO_FEW, f"{len(contributions)} contributors, {least} required", "KS-12")
        number = self.parameters.suite
        for item in contributions:
            client = self.parameters.client(item.index)
            digest = m.contribution_digest(self.session_id, number, client, item.content)
            with self._blame(m.DECRYPTION, "KS-13"):
                self.roster.verify(client, digest, item.signature, suite(number).signature)

    def _refused(self, reason: FaultReason, detail: str, rule: str) -> PeerFault:
        return self.server_fault(reason, detail, rule=rule, phase=m.DECRYPTION)

    def _chunks(self, spool: Spool, contributors: int) -> Iterator[Chunk]:
        """Words of the sum, one chunk for each block."""
        agreement, bits = Agreement.of(self.parameters), self.parameters.modulus_bits
        tolerance, largest = agreement.tolerance(contributors), contributors * agreement.added.value_bound
        sound = True
        try:
            for number, block in enumerate(spool.chunks()):
                slots = self._opened(agreement, block, number)
                try:
                    integers = exact(slots, agreement.entries(number), tolerance, largest)
                except PeerFault:
                    # Which block, and what was wrong with it, depends on the secret key: go on as if nothing were.
                    sound = False
                    continue
                words = to_words(self._noised(integers), bits)
                buffer, payload = frame(number, packed_size(words.size, bits))
                pack(words, bits, out=payload)
                yield buffer
        finally:
            spool.discard()
        if not sound:
            detail = (
                f"a slot is more than {tolerance:.2g} from an integer, beyond +-{largest}, or past the vector's end "
                f"and not zero: no sum of {contributors} contributions; the server or a contributor is at fault"
            )
            session = self.session_id.hex()[:16]
            raise PeerFault(FaultReason.BAD_CIPHERTEXT, detail, rule="KS-16", phase=m.DECRYPTION, session=session)

    def _opened(self, agreement: Agreement, block: Chunk, number: int) -> NDArray[np.float64]:
        """The slots of one block, not to be released."""
        scheme = self._key.scheme
        try:
            ciphertext = scheme.parse(from_block(block, agreement.record))
        except PeerFault as fault:
            raise self._refused(fault.reason, f"block {number}: {fault.detail}", "KS-15") from None
        return scheme.decrypt(ciphertext)

    def _noised(self, integers: Integers) -> Integers:
        """With this key holder's noise, if it adds any."""
        if self._noise is None:
            return integers
        drawn = self._noise(integers.size)
        if drawn.shape != integers.shape or drawn.dtype != np.int64:
            raise UsageError(f"noise: {drawn.dtype}{list(drawn.shape)}; expected int64[{integers.size}]")
        return integers + drawn

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(m.DECRYPTION, m.DecryptionRequest, Idle, decrypt, chunks=aggregate_layout),
    )

"""The client's side: one message, after which it may vanish (rules OS-1 to OS-8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeAlias

import numpy as np

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement, check_agreement, pinned_committee
from protocols.oneshot.lattice import Encryption, sample_key
from protocols.oneshot.negacyclic import BATCH_BLOCKS
from protocols.oneshot.packed_shamir import deal, pack_share
from protocols.oneshot.records import Polynomial, Words64
from protocols.oneshot.sealing import seal_share, share_label
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition, needed
from protocols.primitives.bitpack import Packer, packed_size
from protocols.primitives.merkle import root
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import Chunk, VectorSource, base_of
from protocols.signed import frame
from protocols.suites import SUITES

__all__ = ["OneShotClient", "agreed"]


def agreed(parameters: SessionParameters, roster: Roster, policy: ClientPolicy) -> Agreement:
    """Check what every party of this protocol insists on.

    :raises PeerFault: MALFORMED, rule OS-1 (suite known) or the extension.
    :raises PolicyRefused: see `ClientPolicy.check` and `check_agreement`.
    """
    policy.check(parameters, roster)
    if parameters.suite not in SUITES:
        detail = f"suite {parameters.suite}; known: {', '.join(map(str, SUITES))}"
        raise PeerFault(FaultReason.MALFORMED, detail, rule="OS-1")
    collusion = policy.required_collusion_bound(len(parameters.cohort))
    return check_agreement(parameters, roster, collusion, policy.committee_collusion)


class Contributed(SecretState, frozen=True):
    """The one message is out. No key, error or share is kept."""


States: TypeAlias = Idle | Contributed


class OneShotClient(PartyShell[States]):
    """A client of the one-shot protocol. See `protocols.party.PartyShell` for the constructor."""

    PROTOCOL: ClassVar[str] = m.PROTOCOL
    STATES: ClassVar[Any] = States

    def _check_parameters(self, parameters: SessionParameters) -> None:
        agreed(parameters, self.roster, self.policy)
        if self.identity.id not in parameters.cohort:
            detail = f"{self.identity.id!r} is not in the cohort"
            raise PeerFault(FaultReason.UNKNOWN_PARTY, detail, rule="OS-8")

    def _bases(self, parameters: SessionParameters) -> tuple[bytes, ...]:
        return Agreement.of(parameters).bases

    def contribute(self, _state: Idle, _request: m.ContributionRequest, vector: VectorSource | None) -> Answer[States]:
        """The vector encrypted under a fresh key, and the key's shares sealed for the committee."""
        agreement = Agreement.of(self.parameters)
        key = sample_key(agreement.lattice, self.entropy)
        sealed = self._sealed_shares(agreement, key)
        source = needed(vector)
        fields = m.opening_fields(self.session_id, m.ContributionReply, self.parameters.suite)
        reply = m.ContributionReply(*fields, self.identity.id, root(sealed), base_of(source, self.parameters))
        return Answer(Contributed(), reply, self._chunks(agreement, key, sealed, source))

    def _sealed_shares(self, agreement: Agreement, key: Polynomial) -> list[bytes]:
        committee = pinned_committee(self.roster)
        shares = deal(key, len(committee), self.parameters.threshold, agreement.packed, self.entropy)
        index = self.parameters.index(self.identity.id)
        sealed = [
            seal_share(member.sealing_key, pack_share(shares[position]), share_label(self.session_id, index, position))
            for position, member in enumerate(committee)
        ]
        shares.fill(0)
        return sealed

    def _chunks(
        self, agreement: Agreement, key: Polynomial, sealed: list[bytes], vector: VectorSource
    ) -> Iterator[Chunk]:
        """Sealed shares, then the ciphertext, frame by frame."""
        for index, share in enumerate(sealed):
            buffer, payload = frame(index, len(share))
            payload[:] = np.frombuffer(share, np.uint8)
            yield buffer
        try:
            encryption = Encryption(agreement.lattice, agreement.slots.layout, self.session_id, key, self.entropy)
        finally:
            key.fill(0)
        try:
            yield from self._ciphertext(agreement, encryption, len(sealed), vector)
        finally:
            encryption.erase()

    def _ciphertext(
        self, agreement: Agreement, encryption: Encryption, first_frame: int, vector: VectorSource
    ) -> Iterator[Chunk]:
        """A few blocks at a time, which stay in the cache from first step to last; the frame alone is fresh memory."""
        sent_bits = agreement.slots.layout.sent_bits
        batch = BATCH_BLOCKS * agreement.lattice.degree
        scratch = np.empty(min(batch, agreement.chunk_coefficients), np.uint64)
        packer = Packer(sent_bits, scratch.size)
        for index in range(agreement.ciphertext_chunks):
            size = agreement.coefficients_of_chunk(index)
            buffer, packed = frame(first_frame + index, packed_size(size, sent_bits))
            for low in range(0, size, batch):
                words = scratch[: min(batch, size - low)]
                start = index * agreement.chunk_coefficients + low
                _encode(agreement, vector, start, words)
                encryption.encrypt(words, start // agreement.lattice.degree, words)
                at = low * sent_bits // 8
                packer.pack(words, packed[at : at + packed_size(words.size, sent_bits)])
            yield buffer

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(m.CONTRIBUTION, m.ContributionRequest, Idle, contribute, vector=True),
    )


def _encode(agreement: Agreement, vector: VectorSource, first: int, words: Words64) -> None:
    """Plaintext coefficients from the one numbered `first` on.

    :raises UsageError: an entry that does not fit; a source that yields another length or dtype.
    """
    slots = agreement.slots.layout.slots
    start = first * slots
    stop = min(start + words.size * slots, vector.length)
    source = vector.read(start, stop)
    if source.shape != (stop - start,) or source.dtype.kind != "u":
        raise UsageError(
            f"vector: entries {start} to {stop}: {source.dtype}{list(source.shape)}; expected {stop - start} unsigned"
        )
    try:
        agreement.slots.encode(source, words)
    except UsageError as error:
        raise UsageError(f"vector: entries {start} to {stop}: {error}") from None

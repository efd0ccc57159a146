"""The server's side: one class per phase (rules OV-1 to OV-9). Its work does not depend on who dropped out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import FaultReason, PeerFault, ThresholdNotMet, UsageError
from protocols.identity import ClientId
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.lattice import decrypt_sum, longest_key_sum
from protocols.oneshot.packed_shamir import centred, decode, unpack_share
from protocols.oneshot.records import Polynomial, Words64
from protocols.primitives.bitpack import unpack
from protocols.primitives.merkle import MerkleTree
from protocols.primitives.ring import word_dtype
from protocols.server import Phase, ServerShell, Verified
from protocols.shape import Aggregate, Request
from protocols.signed import ReplyMessage

__all__ = ["PHASES", "Check", "Contribution", "Opening"]

REPLY_BYTES = 512
"""Bound on the header of a contribution: opening fields, name, root."""


class Received(msgspec.Struct, frozen=True):
    """A contribution as far as members must see it."""

    shares_root: bytes
    content: bytes
    signature: bytes
    sealed_shares: tuple[bytes, ...]


class Contribution(Phase):
    """Phase 1: add the ciphertexts up, keep the sealed shares."""

    name: ClassVar[str] = m.CONTRIBUTION
    reply: ClassVar[type[ReplyMessage]] = m.ContributionReply
    vector: ClassVar[bool] = True

    accumulator: bytearray
    """Sums of the ciphertexts without their dropped bits, uint64."""
    contributions: dict[int, Received] = msgspec.field(default_factory=dict)

    def reply_limit(self, _shell: ServerShell) -> int:
        """See `Phase.reply_limit`."""
        return REPLY_BYTES

    def chunk_count(self, shell: ServerShell) -> int:
        """One chunk a sealed share, then the ciphertext's."""
        agreement = Agreement.of(shell.parameters)
        return len(agreement.committee) + agreement.ciphertext_chunks

    def chunk_layout(self, shell: ServerShell, index: int) -> tuple[int, int]:
        """Bytes of a sealed share, or coefficients of the ciphertext."""
        agreement = Agreement.of(shell.parameters)
        members = len(agreement.committee)
        if index < members:
            return agreement.sealed_share_bytes, 8
        return agreement.coefficients_of_chunk(index - members), agreement.slots.layout.sent_bits

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The parameters, the same for all."""
        fields = m.opening_fields(shell.session_id, m.ContributionRequest)
        header = wire.encode(m.ContributionRequest(*fields, shell.parameters.to_bytes()))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Add a verified ciphertext, chunk by chunk."""
        agreement = Agreement.of(shell.parameters)
        chunks = iter(reply.spool.chunks())
        sealed = tuple(bytes(_next(chunks)) for _ in agreement.committee)
        if MerkleTree(sealed).root != reply.message.shares_root:
            raise PeerFault(FaultReason.BAD_ROOT, "not that of the sealed shares", rule="OV-1", phase=self.name)
        total: Words64 = np.frombuffer(self.accumulator, np.uint64)
        bits = agreement.slots.layout.sent_bits
        for index in range(agreement.ciphertext_chunks):
            start = index * agreement.chunk_coefficients
            part = total[start : start + agreement.coefficients_of_chunk(index)]
            try:
                np.add(part, unpack(_next(chunks), part.size, bits), out=part)
            except PeerFault:
                # All was checked as it came in: the client has no part in this, and the sum is half made.
                raise UsageError(f"spool: ciphertext chunk {index} is not what was put in") from None
        received = Received(reply.message.shares_root, reply.content, reply.signature, sealed)
        self.contributions[shell.parameters.index(reply.party)] = received

    def close(self, shell: ServerShell) -> Phase:
        """On to the committee, with whoever contributed."""
        self.require(shell.parameters.minimum_contributors)
        committee = tuple(ClientId(member) for member in Agreement.of(shell.parameters).committee)
        contributions = {index: self.contributions[index] for index in sorted(self.contributions)}
        return Check(expected=committee, contributions=contributions, accumulator=self.accumulator)


class Check(Phase):
    """Phase 2: have the members open their shares.

    The ciphertexts are added up already, so the set stays: a member that complained is not asked to open it.
    """

    name: ClassVar[str] = m.CHECK
    reply: ClassVar[type[ReplyMessage]] = m.CheckReply

    contributions: dict[int, Received]
    accumulator: bytearray
    complaints: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    """By member, if there are any."""

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """To each member the contributions and the shares that are sealed for it."""
        fields = m.opening_fields(shell.session_id, m.CheckRequest)
        parameters = shell.parameters.to_bytes()
        trees = {index: MerkleTree(item.sealed_shares) for index, item in self.contributions.items()}
        for position, member in enumerate(self.expected):
            relayed = tuple(
                m.RelayedContribution(
                    index,
                    item.shares_root,
                    item.content,
                    item.signature,
                    item.sealed_shares[position],
                    tuple(trees[index].path(position)),
                )
                for index, item in self.contributions.items()
            )
            yield Request(member, wire.encode(m.CheckRequest(*fields, parameters, relayed)))

    def accept(self, _shell: ServerShell, reply: Verified) -> None:
        """Keep a member's complaints."""
        complaints: tuple[int, ...] = reply.message.complaints
        if list(complaints) != sorted(self.contributions.keys() & set(complaints)):
            detail = "complaints are not about proposed clients, in order"
            raise PeerFault(FaultReason.NOT_A_SUBSET, detail, rule="OV-2", phase=self.name)
        if complaints:
            self.complaints[reply.party] = complaints

    def close(self, shell: ServerShell) -> Phase:
        """Ask the members that can open the set, if they are enough."""
        present = self.require(shell.parameters.threshold)
        for member, complaints in self.complaints.items():
            for index in complaints:
                client = shell.parameters.client(index)
                detail = f"{member!r} cannot open its share from {client!r}; one of the two is at fault"
                shell.record(PeerFault(FaultReason.BAD_SHARE, detail, rule="OV-3", phase=self.name), client)
        able = tuple(member for member in present if member not in self.complaints)
        if len(able) < shell.parameters.threshold:
            raise ThresholdNotMet(shell.parameters.threshold, len(able), phase=self.name)
        digests = {}
        for index, item in self.contributions.items():
            client = shell.parameters.client(index)
            digests[index] = m.contribution_digest(shell.session_id, client, item.shares_root, item.content)
        return Opening(expected=able, digests=digests, accumulator=self.accumulator)


class Opening(Phase):
    """Phase 3: collect shares of the sum of keys, rebuild it, decrypt."""

    name: ClassVar[str] = m.OPENING
    reply: ClassVar[type[ReplyMessage]] = m.OpeningReply

    digests: dict[int, bytes]
    """Of the signed contributions, by index, in the order of the cohort."""
    accumulator: bytearray
    shares: dict[str, bytes] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The contributors, the same for all."""
        fields = m.opening_fields(shell.session_id, m.OpeningRequest)
        header = wire.encode(m.OpeningRequest(*fields, tuple(self.digests)))
        return (Request(member, header) for member in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep a share of the sum over this very set."""
        message: m.OpeningReply = reply.message
        if message.contributors_hash != m.contributors_hash(shell.session_id, self.digests.items()):
            raise PeerFault(FaultReason.NOT_A_SUBSET, "another set was opened", rule="OV-4", phase=self.name)
        try:
            unpack_share(message.share, Agreement.of(shell.parameters).share_elements)
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="OV-5", phase=self.name) from None
        self.shares[reply.party] = message.share

    def close(self, shell: ServerShell) -> Aggregate:
        """Decrypt the sum.

        :raises PeerFault: BAD_SHARE or BAD_SECRET, the shares at hand give no sum of keys that fits.
        """
        self.require(shell.parameters.threshold)
        agreement = Agreement.of(shell.parameters)
        key_sum = self._key_sum(shell, agreement)
        total: Words64 = np.frombuffer(self.accumulator, np.uint64)
        contributors = len(self.digests)
        layout = agreement.slots.layout
        try:
            decrypt_sum(agreement.lattice, layout, shell.session_id, key_sum, contributors, total)
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="OV-8", phase=self.name) from None
        words = np.empty(shell.parameters.vector_length, word_dtype(shell.parameters.modulus_bits))
        agreement.slots.decode(total, contributors, words)
        return Aggregate(
            shell.session_id,
            words,
            shell.parameters.modulus_bits,
            tuple(shell.parameters.client(index) for index in self.digests),
            (
                f"{len(self.shares)} of {len(agreement.committee)} committee members opened one set of {contributors} "
                "contributors",
                "the residuals are those of the contributors' noise",
            ),
            shell.faults,
        )

    def _key_sum(self, shell: ServerShell, agreement: Agreement) -> Polynomial:
        """The sum of the contributors' keys; members whose shares are off are left out and recorded."""
        members = sorted(self.shares)
        points = [1 + agreement.committee.index(member) for member in members]
        shares = np.stack([unpack_share(self.shares[member], agreement.share_elements) for member in members])
        try:
            secrets, wrong = decode(points, shares, shell.parameters.threshold, agreement.packed)
        except PeerFault as fault:
            detail = f"{fault.detail}: {', '.join(map(repr, members))}"
            raise PeerFault(fault.reason, detail, rule="OV-6", phase=self.name) from None
        for position in wrong:
            detail = "share of the sum of keys; the member or a client that dealt to it is at fault"
            shell.record(PeerFault(FaultReason.BAD_SHARE, detail, rule="OV-7", phase=self.name), members[position])
        key_sum = centred(secrets, agreement.lattice.degree)
        norm = float(np.linalg.norm(key_sum.astype(np.float64)))
        largest = agreement.lattice.largest * len(self.digests)
        if int(np.abs(key_sum).max()) > largest or norm > longest_key_sum(agreement.lattice, len(self.digests)):
            detail = f"no sum of {len(self.digests)} keys; of members {', '.join(map(repr, members))}, or of clients"
            raise PeerFault(FaultReason.BAD_SECRET, detail, rule="OV-9", phase=self.name)
        return key_sum


PHASES = Contribution | Check | Opening


def _next(chunks: Iterator[bytes | bytearray | memoryview]) -> bytes | bytearray | memoryview:
    """Next chunk of a spool.

    :raises UsageError: there is none.
    """
    chunk = next(chunks, None)
    if chunk is None:
        raise UsageError("spool: a chunk is missing")
    return chunk

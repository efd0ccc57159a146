"""The server's side: add ciphertexts as they come in, have the sum decrypted (rules KV-1 to KV-4).

It holds the public context and nothing else: it can add, and cannot open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import numpy as np

from protocols import wire
from protocols.chunked import OutgoingChunks
from protocols.ckks import messages as m
from protocols.ckks.agreement import Agreement
from protocols.ckks.blocks import from_block, to_block
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import ClientId
from protocols.primitives.bitpack import unpack
from protocols.primitives.ring import word_dtype
from protocols.server import Phase, ServerShell, Verified
from protocols.shape import Aggregate, Request
from protocols.signed import ReplyMessage

__all__ = ["PHASES", "CkksServer", "Contribution", "Decryption"]

REPLY_BYTES = 512
"""Bound on the header of a reply: opening fields, name, hash."""


class CkksServer(ServerShell):
    """A server session that keeps the sum as ciphertexts of the library between contributions."""

    aggregate: list[Any] | None = None
    """One ciphertext a block; None before the first contribution, and after a restore until it is needed."""

    def save(self) -> bytes:
        """See `ServerSession.save`."""
        if isinstance(self._phase, Contribution) and self.aggregate is not None:
            scheme = Agreement.of(self.parameters).scheme()
            self._phase.aggregate = [scheme.dump(ciphertext) for ciphertext in self.aggregate]
        return super().save()


def _live(shell: ServerShell) -> CkksServer:
    """The session as the one that this protocol's `server` makes.

    :raises UsageError: it is another.
    """
    if not isinstance(shell, CkksServer):
        raise UsageError(f"{type(shell).__name__}: a session of the CKKS protocol is made by protocols.ckks")
    return shell


class Received(msgspec.Struct, frozen=True):
    """A contribution as far as the key holder must see it."""

    content: bytes
    signature: bytes


class Contribution(Phase):
    """Phase 1: add the ciphertexts up."""

    name: ClassVar[str] = m.CONTRIBUTION
    reply: ClassVar[type[ReplyMessage]] = m.ContributionReply
    vector: ClassVar[bool] = True

    aggregate: list[bytes] = msgspec.field(default_factory=list)
    """The sum in SEAL's serialisation, as of the last `CkksServer.save`; empty if nobody had contributed."""
    contributions: dict[int, Received] = msgspec.field(default_factory=dict)

    def reply_limit(self, _shell: ServerShell) -> int:
        """See `Phase.reply_limit`."""
        return REPLY_BYTES

    def chunk_count(self, shell: ServerShell) -> int:
        """One chunk a ciphertext."""
        return Agreement.of(shell.parameters).blocks

    def chunk_layout(self, shell: ServerShell, _index: int) -> tuple[int, int]:
        """Bytes of a block."""
        return Agreement.of(shell.parameters).record.block_bytes, 8

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The parameters, the same for all."""
        fields = wire.opening_fields(shell.session_id, m.ContributionRequest, shell.parameters.suite)
        header = wire.encode(m.ContributionRequest(*fields, shell.parameters.to_bytes()))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Parse and check the ciphertexts, add the sum so far to each, and only then put them in its place."""
        live = _live(shell)
        agreement = Agreement.of(shell.parameters)
        scheme = agreement.scheme()
        before = self._before(live)
        following = []
        for number, block in enumerate(reply.spool.chunks()):
            try:
                serialised = from_block(block, agreement.record)
            except PeerFault as fault:
                raise self._refused(fault, number, "KV-1") from None
            try:
                ciphertext = scheme.parse(serialised)
            except PeerFault as fault:
                raise self._refused(fault, number, "KV-2") from None
            if before is not None:
                try:
                    scheme.add(ciphertext, before[number])
                except PeerFault as fault:
                    raise self._refused(fault, number, "KV-3") from None
            following.append(ciphertext)
        live.aggregate = following
        self.contributions[shell.parameters.index(reply.party)] = Received(reply.content, reply.signature)

    def _refused(self, fault: PeerFault, number: int, rule: str) -> PeerFault:
        return PeerFault(fault.reason, f"block {number}: {fault.detail}", rule=rule, phase=self.name)

    def _before(self, live: CkksServer) -> list[Any] | None:
        """The sum so far; None if there is none yet."""
        if live.aggregate is None and self.aggregate:
            scheme = Agreement.of(live.parameters).scheme()
            live.aggregate = [scheme.parse(serialised) for serialised in self.aggregate]
        return live.aggregate

    def close(self, shell: ServerShell) -> Phase:
        """On to the key holder, with whoever contributed."""
        self.require(shell.parameters.minimum_contributors)
        live = _live(shell)
        agreement = Agreement.of(shell.parameters)
        scheme = agreement.scheme()
        aggregate = [scheme.dump(ciphertext) for ciphertext in self._before(live) or ()]
        live.aggregate = None
        contributions = {index: self.contributions[index] for index in sorted(self.contributions)}
        holder = ClientId(agreement.added.key_holder)
        following = Decryption(expected=(holder,), aggregate=aggregate, contributions=contributions)
        following.digest = following.chunks(shell).digest()
        return following


class Decryption(Phase):
    """Phase 2: have the sum decrypted."""

    name: ClassVar[str] = m.DECRYPTION
    reply: ClassVar[type[ReplyMessage]] = m.DecryptionReply
    vector: ClassVar[bool] = True

    aggregate: list[bytes]
    """The sum in SEAL's serialisation."""
    contributions: dict[int, Received]
    digest: bytes = b""
    """Of the aggregate's chunks."""
    words: bytearray = msgspec.field(default_factory=bytearray)
    """The sum, as the key holder gave it; empty before."""
    noised: bool = False

    def reply_limit(self, _shell: ServerShell) -> int:
        """See `Phase.reply_limit`."""
        return REPLY_BYTES

    def chunk_count(self, shell: ServerShell) -> int:
        """One chunk a ciphertext."""
        return Agreement.of(shell.parameters).blocks

    def chunk_layout(self, shell: ServerShell, index: int) -> tuple[int, int]:
        """Entries of a ciphertext, in words modulo 2^b."""
        return Agreement.of(shell.parameters).entries(index), shell.parameters.modulus_bits

    def chunks(self, shell: ServerShell) -> OutgoingChunks:
        """The aggregate's blocks."""
        record = Agreement.of(shell.parameters).record
        return OutgoingChunks(lambda: (to_block(serialised, record) for serialised in self.aggregate))

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The aggregate, and who is in it."""
        signed = tuple(m.SignedContribution(index, r.content, r.signature) for index, r in self.contributions.items())
        fields = wire.opening_fields(shell.session_id, m.DecryptionRequest, shell.parameters.suite)
        request = m.DecryptionRequest(*fields, shell.parameters.to_bytes(), signed, self.digest)
        header = wire.encode(request)
        return (Request(party, header, self.chunks(shell)) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep the sum over this very set and aggregate."""
        message: m.DecryptionReply = reply.message
        named = [(index, received.content) for index, received in self.contributions.items()]
        if message.contributors_hash != m.contributors_hash(shell.session_id, named, self.digest):
            detail = "another set or aggregate was decrypted"
            raise PeerFault(FaultReason.NOT_A_SUBSET, detail, rule="KV-4", phase=self.name)
        agreement, bits = Agreement.of(shell.parameters), shell.parameters.modulus_bits
        words = bytearray()
        for number, chunk in enumerate(reply.spool.chunks()):
            words += unpack(chunk, agreement.entries(number), bits).tobytes()
        self.words, self.noised = words, message.noised

    def close(self, shell: ServerShell) -> Aggregate:
        """The sum."""
        self.require(1)
        words = np.frombuffer(self.words, word_dtype(shell.parameters.modulus_bits))
        agreement = Agreement.of(shell.parameters)
        holder, contributors = agreement.added.key_holder, len(self.contributions)
        checks = [
            f"key holder {holder!r} checked the signatures of {contributors} contributors and decrypted one aggregate",
            f"every slot was within {agreement.tolerance(contributors):.2g} of an integer in the range of their sum, "
            f"the key holder says (CKKS record {agreement.record.id}, key {agreement.added.key_version})",
        ]
        if self.noised:
            checks.append(f"key holder {holder!r} says that it added integer noise of its own")
        return Aggregate(
            shell.session_id,
            words,
            shell.parameters.modulus_bits,
            tuple(shell.parameters.client(index) for index in self.contributions),
            tuple(checks),
            shell.faults,
        )


PHASES = Contribution | Decryption

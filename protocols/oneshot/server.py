"""The server's side: one class per phase. Its work does not depend on who dropped out.

Its rules are OV-1 to OV-14 in docs/reference/rules.md. A contribution waits in a spool until the members have opened
their shares of its key, so that one whose shares do not open can still be left out; then each is added up, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import ClassVar

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import FaultReason, PeerFault, ThresholdNotMet, UsageError
from protocols.identity import ClientId
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.complaints import Exclusion, exclusions
from protocols.oneshot.opening import Accepted, Blame, Opening
from protocols.oneshot.records import Words64
from protocols.oneshot.relay import outbox, relay, relayed
from protocols.primitives.bitpack import unpack
from protocols.primitives.merkle import MerkleTree
from protocols.server import Phase, ServerShell, Verified, reply_name
from protocols.shape import Chunk, Request
from protocols.signed import ReplyMessage

__all__ = ["PHASES", "Check", "Contribution"]

REPLY_BYTES = 512
"""Bound on the header of a contribution: opening fields, name, root; of a complaint without those it is about."""
INDEX_BYTES = 5
"""Bound on an index in a message."""


class Contribution(Phase):
    """Phase 1: add the ciphertexts up, keep the sealed shares.

    Ready at the quota; contributions beyond it are taken until the phase is closed. A client that comes later than that
    does not lose its turn: the next session's window still holds its model. But a vector that was sent once is given to
    no other session, though this one refused it: the server has the ciphertext and could fold it in all the same, and
    the difference of the two sums is open to it. Such a client trains afresh; one that has not encrypted yet may give
    its finished update to whichever session is open.
    """

    name: ClassVar[str] = m.CONTRIBUTION
    reply: ClassVar[type[ReplyMessage]] = m.ContributionReply
    vector: ClassVar[bool] = True

    fold_at_once: bool
    """Whether ciphertexts are added up as they come, and none can be left out later."""
    accumulator: bytearray
    """Sums of the ciphertexts without their dropped bits, uint64; empty unless they are added up at once."""
    contributions: dict[int, Accepted] = msgspec.field(default_factory=dict)
    """By index, in the order of arrival, which is that of the members' spools."""

    def keeps_replies(self) -> bool:
        """See `Phase.keeps_replies`."""
        return not self.fold_at_once

    def ready(self, shell: ServerShell) -> bool:
        """Whether the quota is reached."""
        return len(self.answered) >= Agreement.of(shell.parameters).quota

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
        fields = m.opening_fields(shell.session_id, m.ContributionRequest, shell.parameters.suite)
        header = wire.encode(m.ContributionRequest(*fields, shell.parameters.to_bytes()))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Put the sealed shares into the members' spools; leave the ciphertext where it is, or add it."""
        agreement = Agreement.of(shell.parameters)
        message: m.ContributionReply = reply.message
        chunks = iter(reply.spool.chunks())
        tree = MerkleTree(sealed := [bytes(_next(chunks)) for _ in agreement.committee])
        if tree.root != message.shares_root:
            raise PeerFault(FaultReason.BAD_ROOT, "not that of the sealed shares", rule="OV-1", phase=self.name)
        if message.base not in agreement.bases:
            detail = f"model {message.base.hex()[:16]} is none of the session's"
            raise PeerFault(FaultReason.CONTEXT_MISMATCH, detail, rule="OV-10", phase=self.name)
        index, header = shell.parameters.index(reply.party), wire.encode(message)
        for position, member in enumerate(agreement.committee):
            path = tuple(tree.path(position))
            item = m.RelayedContribution(index, header, reply.content, reply.signature, sealed[position], path)
            shell.kept(outbox(member)).append(wire.encode(item))
        if self.fold_at_once:
            _fold(np.frombuffer(self.accumulator, np.uint64), agreement, chunks)
        digest = m.contribution_digest(shell.session_id, header, reply.content)
        self.contributions[index] = Accepted(digest, message.base)

    def close(self, shell: ServerShell) -> Phase:
        """On to the committee, with whoever contributed."""
        self.require(shell.parameters.minimum_contributors)
        return Check(
            expected=tuple(ClientId(member) for member in Agreement.of(shell.parameters).committee),
            contributions=self.contributions,
            accumulator=self.accumulator,
        )


class Check(Phase):
    """Phase 2: have the members open their shares; settle who stays; add the ciphertexts of those up."""

    name: ClassVar[str] = m.CHECK
    reply: ClassVar[type[ReplyMessage]] = m.CheckReply

    contributions: dict[int, Accepted]
    accumulator: bytearray
    complaints: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    """By member, if there are any."""

    def reply_limit(self, _shell: ServerShell) -> int:
        """See `Phase.reply_limit`."""
        return REPLY_BYTES + INDEX_BYTES * len(self.contributions)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """To each member the contributions and the shares that are sealed for it."""
        fields = m.opening_fields(shell.session_id, m.CheckRequest, shell.parameters.suite)
        parameters = shell.parameters.to_bytes()
        for member in self.expected:
            chunks, sizes, digest = relay(partial(relayed, shell, member, self.contributions, self.contributions))
            yield Request(member, wire.encode(m.CheckRequest(*fields, parameters, sizes, digest)), chunks)

    def accept(self, _shell: ServerShell, reply: Verified) -> None:
        """Keep a member's complaints."""
        complaints: tuple[int, ...] = reply.message.complaints
        if list(complaints) != sorted(self.contributions.keys() & set(complaints)):
            detail = "complaints are not about proposed clients, in order"
            raise PeerFault(FaultReason.NOT_A_SUBSET, detail, rule="OV-2", phase=self.name)
        if complaints:
            self.complaints[reply.party] = complaints

    def close(self, shell: ServerShell) -> Phase:
        """Leave out clients or members, as few as settle the complaints, and go on with the others."""
        present = self.require(shell.parameters.threshold)
        self._record_complaints(shell)
        left_out = self._settled(shell, present)
        stays = {index: self.contributions[index] for index in sorted(self.contributions.keys() - left_out.clients)}
        agreement = Agreement.of(shell.parameters)
        if not self.accumulator:
            self.accumulator = bytearray(8 * agreement.coefficients)
            total = np.frombuffer(self.accumulator, np.uint64)
            for index in self.contributions:
                name = reply_name(shell.parameters.client(index))
                if index in stays:
                    _fold(total, agreement, islice(shell.kept(name).chunks(), len(agreement.committee), None))
                shell.discard_kept(name)
        able = tuple(member for member in present if member not in left_out.members)
        return Opening(
            expected=able,
            contributions=stays,
            arrived=tuple(self.contributions),
            complaints={member: about for member, about in self.complaints.items() if member in able},
            accumulator=self.accumulator,
        )

    def _settled(self, shell: ServerShell, present: tuple[ClientId, ...]) -> Exclusion:
        """The first way to settle the complaints that leaves enough members and enough clients."""
        parameters = shell.parameters
        lying_members = Agreement.of(parameters).committee_collusion
        if self.accumulator:  # the ciphertexts are in: no client can be left out any more
            ways = iter([Exclusion(frozenset(self.complaints), frozenset())])
        else:
            ways = exclusions(self.complaints, parameters.collusion_bound, lying_members)
        shortage: ThresholdNotMet | None = None
        for way in ways:
            members, clients = len(present) - len(way.members), len(self.contributions) - len(way.clients)
            if members >= parameters.threshold and clients >= parameters.minimum_contributors:
                return way
            if shortage is None and members < parameters.threshold:
                shortage = ThresholdNotMet(parameters.threshold, members, phase=self.name)
            elif shortage is None:
                shortage = ThresholdNotMet(parameters.minimum_contributors, clients, phase=self.name)
        raise shortage or ThresholdNotMet(parameters.threshold, 0, phase=self.name)

    def _record_complaints(self, shell: ServerShell) -> None:
        for member, about in self.complaints.items():
            if len(about) > shell.parameters.collusion_bound:
                detail = f"it cannot open its shares from {len(about)} clients, more than can be at fault"
                shell.record(PeerFault(FaultReason.BAD_SHARE, detail, rule="OV-3", phase=self.name), member)
                continue
            for index in about:
                client = shell.parameters.client(index)
                detail = f"{member!r} cannot open its share from {client!r}; one of the two is at fault"
                shell.record(PeerFault(FaultReason.BAD_SHARE, detail, rule="OV-3", phase=self.name), client)


PHASES = Contribution | Check | Opening | Blame


def _fold(total: Words64, agreement: Agreement, chunks: Iterator[Chunk]) -> None:
    """Add a ciphertext, chunk by chunk."""
    bits = agreement.slots.layout.sent_bits
    for index in range(agreement.ciphertext_chunks):
        start = index * agreement.chunk_coefficients
        part = total[start : start + agreement.coefficients_of_chunk(index)]
        try:
            np.add(part, unpack(_next(chunks), part.size, bits), out=part)
        except PeerFault:
            # All was checked as it came in: the client has no part in this, and the sum is half made.
            raise UsageError(f"spool: ciphertext chunk {index} is not what was put in") from None


def _next(chunks: Iterator[Chunk]) -> Chunk:
    """Next chunk of a spool.

    :raises UsageError: there is none.
    """
    chunk = next(chunks, None)
    if chunk is None:
        raise UsageError("spool: a chunk is missing")
    return chunk

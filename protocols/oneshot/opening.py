"""The server's last phases: open the sum; if it does not open, find out who is in the way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, NoReturn

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import ClientFault, FaultReason, PeerFault
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.blame import Findings, blame_coefficients, find_liars
from protocols.oneshot.lattice import decrypt_sum, longest_key_sum
from protocols.oneshot.packed_shamir import BLINDINGS, Elements, centred, decode, share_bytes, unpack_share
from protocols.oneshot.records import Polynomial, Words64
from protocols.oneshot.relay import relay, relayed
from protocols.primitives.ring import word_dtype
from protocols.server import Phase, ServerShell, Verified
from protocols.shape import Aggregate, Request
from protocols.signed import ReplyMessage

__all__ = ["Accepted", "Blame", "Opening"]

REPLY_BYTES = 512
"""Bound on the header of an answer beside the share or the combinations in it."""


class Accepted(msgspec.Struct, frozen=True):
    """What the server remembers of a contribution; sealed shares and ciphertext are in spools."""

    digest: bytes
    """Of what its client signed."""
    base: bytes
    """Hash of the model from which the vector starts."""


class Statement(msgspec.Struct, frozen=True):
    """A member's answer, kept as evidence."""

    header: bytes
    signature: bytes


class Opening(Phase):
    """Phase 3: collect shares of the sum of keys, rebuild it, decrypt."""

    name: ClassVar[str] = m.OPENING
    reply: ClassVar[type[ReplyMessage]] = m.OpeningReply

    contributions: dict[int, Accepted]
    """Those in the sum, by index, in the order of the cohort."""
    arrived: tuple[int, ...]
    """All that the members were shown, in the order of their spools."""
    complaints: dict[str, tuple[int, ...]]
    """About contributions that were left out, by members that stay."""
    accumulator: bytearray
    statements: dict[str, Statement] = msgspec.field(default_factory=dict)

    def reply_limit(self, shell: ServerShell) -> int:
        """See `Phase.reply_limit`."""
        return share_bytes(Agreement.of(shell.parameters).share_elements) + REPLY_BYTES

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """To each member the contributors; in chunks what it has to take off its sum."""
        fields = m.opening_fields(shell.session_id, m.OpeningRequest, shell.parameters.suite)
        left_out = set(self.arrived) - self.contributions.keys()
        for member in self.expected:
            wanted = left_out - set(self.complaints.get(member, ()))
            chunks, sizes, digest = relay(partial(relayed, shell, member, self.arrived, wanted))
            header = wire.encode(m.OpeningRequest(*fields, tuple(self.contributions), sizes, digest))
            yield Request(member, header, chunks)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep a share of the sum over this very set."""
        message: m.OpeningReply = reply.message
        if message.contributors_hash != self._contributors_hash(shell):
            raise PeerFault(FaultReason.NOT_A_SUBSET, "another set was opened", rule="OV-4", phase=self.name)
        try:
            unpack_share(message.share, Agreement.of(shell.parameters).share_elements)
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="OV-5", phase=self.name) from None
        self.statements[reply.party] = Statement(wire.encode(message), reply.signature)

    def close(self, shell: ServerShell) -> Phase | Aggregate:
        """Decrypt the sum; on to blame if the shares at hand give none that fits."""
        self.require(shell.parameters.threshold)
        try:
            return self._sum(shell, Agreement.of(shell.parameters))
        except PeerFault as fault:
            shell.record(fault, "")
            return Blame(
                expected=self.present(),
                contributors=tuple(self.contributions),
                contributors_hash=self._contributors_hash(shell),
                arrived=self.arrived,
                opened=self.statements,
                reason=fault.reason,
                detail=fault.detail,
                rule=fault.rule,
            )

    def _contributors_hash(self, shell: ServerShell) -> bytes:
        return m.contributors_hash(shell.session_id, ((i, item.digest) for i, item in self.contributions.items()))

    def _sum(self, shell: ServerShell, agreement: Agreement) -> Aggregate:
        key_sum = self._key_sum(shell, agreement)
        total: Words64 = np.frombuffer(self.accumulator, np.uint64)
        contributors = len(self.contributions)
        layout = agreement.slots.layout
        try:
            decrypt_sum(agreement.lattice, layout, shell.session_id, key_sum, contributors, total)
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="OV-8", phase=self.name) from None
        words = np.empty(shell.parameters.vector_length, word_dtype(shell.parameters.modulus_bits))
        agreement.slots.decode(total, contributors, words)
        left_out = len(self.arrived) - contributors
        bases = tuple(item.base for item in self.contributions.values())
        return Aggregate(
            shell.session_id,
            words,
            shell.parameters.modulus_bits,
            tuple(shell.parameters.client(index) for index in self.contributions),
            (
                f"{len(self.statements)} of {len(agreement.committee)} committee members opened one set of "
                f"{contributors} contributors",
                "the residuals are those of the contributors' noise",
                *([f"{left_out} contributions were left out after complaints"] if left_out else []),
            ),
            shell.faults,
            bases if agreement.asynchronous else (),
        )

    def _key_sum(self, shell: ServerShell, agreement: Agreement) -> Polynomial:
        """The sum of the contributors' keys; members whose shares are off are left out and recorded."""
        opened = _opened(self.statements, agreement)
        members = list(opened)
        points = [1 + agreement.committee.index(member) for member in members]
        shares = np.stack(list(opened.values()))[:, :-BLINDINGS]
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
        largest = agreement.lattice.largest * len(self.contributions)
        longest = longest_key_sum(agreement.lattice, len(self.contributions))
        if int(np.abs(key_sum).max()) > largest or norm > longest:
            detail = f"no sum of {len(self.contributions)} keys; of members {', '.join(map(repr, members))}"
            raise PeerFault(FaultReason.BAD_SECRET, f"{detail}, or of clients", rule="OV-9", phase=self.name)
        return key_sum


class Blame(Phase):
    """Phase 4, if the sum did not open: compare blinded combinations of all shares. It ends without a sum."""

    name: ClassVar[str] = m.BLAME
    reply: ClassVar[type[ReplyMessage]] = m.BlameReply

    contributors: tuple[int, ...]
    contributors_hash: bytes
    arrived: tuple[int, ...]
    opened: dict[str, Statement]
    reason: FaultReason
    """Why the sum did not open."""
    detail: str
    rule: str
    statements: dict[str, Statement] = msgspec.field(default_factory=dict)

    def reply_limit(self, _shell: ServerShell) -> int:
        """See `Phase.reply_limit`."""
        return share_bytes(BLINDINGS * len(self.contributors)) + REPLY_BYTES

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """To each member that opened, what it opened, once more."""
        fields = m.opening_fields(shell.session_id, m.BlameRequest, shell.parameters.suite)
        wanted = set(self.contributors)
        for member in self.expected:
            chunks, sizes, digest = relay(partial(relayed, shell, member, self.arrived, wanted))
            yield Request(member, wire.encode(m.BlameRequest(*fields, self.contributors_hash, sizes, digest)), chunks)

    def accept(self, _shell: ServerShell, reply: Verified) -> None:
        """Keep a member's combinations."""
        message: m.BlameReply = reply.message
        if message.contributors_hash != self.contributors_hash:
            raise PeerFault(FaultReason.NOT_A_SUBSET, "of another set", rule="OV-11", phase=self.name)
        try:
            unpack_share(message.combinations, BLINDINGS * len(self.contributors))
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="OV-12", phase=self.name) from None
        self.statements[reply.party] = Statement(wire.encode(message), reply.signature)

    def close(self, shell: ServerShell) -> NoReturn:
        """Name who is at fault, as far as that can be told.

        :raises ClientFault: a member contradicted itself, which is proven.
        :raises PeerFault: nobody is proven a liar; who may be is recorded.
        """
        agreement = Agreement.of(shell.parameters)
        opened = _opened(self.opened, agreement)
        shape = (len(self.contributors), BLINDINGS)
        findings = find_liars(
            {member: 1 + agreement.committee.index(member) for member in opened},
            opened,
            {
                member: unpack_share(
                    wire.decode(statement.header, m.BlameReply).combinations, shape[0] * shape[1]
                ).reshape(shape)
                for member, statement in sorted(self.statements.items())
            },
            blame_coefficients(shell.session_id, self.contributors_hash, agreement.share_elements - BLINDINGS),
            shell.parameters.threshold,
            shell.parameters.collusion_bound,
        )
        self._accuse(shell, findings)
        named = self._record(shell, findings)
        detail = f"{self.detail}; {'; '.join(named) if named else 'no dealer and no member can be named'}"
        raise PeerFault(self.reason, detail, rule=self.rule, phase=self.name)

    def _accuse(self, shell: ServerShell, findings: Findings) -> None:
        """Record, with both of its statements, who contradicted itself.

        :raises ClientFault: the first of them.
        """
        faults = []
        for member in findings.contradicted:
            detail = "its combinations do not add up to those of the share of the sum that it opened"
            parts = (self.opened[member], self.statements[member])
            evidence = tuple(part for one in parts for part in (one.header, one.signature))
            fault = ClientFault(member, FaultReason.BAD_SHARE, detail, rule="OV-13", phase=self.name, evidence=evidence)
            shell.record(fault, member, *evidence)
            faults.append(fault)
        if faults:
            self._record(shell, findings)
            raise faults[0]

    def _record(self, shell: ServerShell, findings: Findings) -> list[str]:
        """Record who may be at fault; the same in words."""
        named: list[tuple[str, str]] = []
        for member in findings.members:
            named.append((member, f"{member!r} is off the polynomials of more clients than can be at fault"))
        for place, member in findings.pairs:
            client = str(shell.parameters.client(self.contributors[place]))
            named.append(
                (client, f"the share from {client!r} to {member!r} is off its polynomial; one of the two lies")
            )
        for place in findings.clients:
            client = str(shell.parameters.client(self.contributors[place]))
            named.append((client, f"the shares from {client!r} lie on no polynomial; it or one of the members lies"))
        for member in findings.silent:
            text = f"{member!r} opened a share that is off the others', and does not answer for it"
            named.append((member, text))
        for party, detail in named:
            shell.record(PeerFault(FaultReason.BAD_SHARE, detail, rule="OV-14", phase=self.name), party)
        return [detail for _, detail in named]


def _opened(statements: dict[str, Statement], agreement: Agreement) -> dict[str, Elements]:
    """Shares of the sum, by member, in order."""
    return {
        member: unpack_share(wire.decode(statement.header, m.OpeningReply).share, agreement.share_elements)
        for member, statement in sorted(statements.items())
    }

"""The server's side of SecAgg: one class per phase (rules SS-1 to SS-9 in docs/reference/rules.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import ClientId
from protocols.primitives.bitpack import unpack
from protocols.primitives.prg import MaskStream
from protocols.primitives.ring import word_dtype
from protocols.primitives.sealing import SEAL_BYTES, SealingKeyPair, agree
from protocols.primitives.shamir import SHARE_BYTES, reconstruct, unpack_share, unpack_shares
from protocols.secagg import messages as m
from protocols.secagg.client import least_contributors, quorum
from protocols.secagg.graph import CompleteGraph
from protocols.secagg.masking import check_exchange_key, pairwise_mask_key, remove_masks, seed_commitment, self_mask_key
from protocols.server import Phase, ServerShell, Verified
from protocols.shape import Aggregate, Request, Words
from protocols.signed import ReplyMessage

__all__ = ["PHASES", "AdvertiseKeys", "ConsistencyCheck", "MaskedInput", "ShareKeys", "Unmask"]

REPLY_BYTES = 512
REPLY_BYTES_PER_CLIENT = 128
"""Bounds on the header of a reply: opening fields, names and keys; a pair of sealed shares with its framing."""
SEALED_BYTES = 2 * SHARE_BYTES + SEAL_BYTES


class Keys(msgspec.Struct, frozen=True):
    """What phase 0 fixed."""

    root: bytes
    advertisements: tuple[m.Advertisement, ...]


class Sharing(msgspec.Struct, frozen=True):
    """What phase 1 fixed."""

    keys: Keys
    commitments: dict[int, bytes]
    """Seed commitment of every client that shared, by index."""


class _Phase(Phase):
    """What the phases have in common."""

    def reply_limit(self, shell: ServerShell) -> int:
        """A reply holds at most one pair of sealed shares a client."""
        return REPLY_BYTES + REPLY_BYTES_PER_CLIENT * len(shell.parameters.cohort)


class AdvertiseKeys(_Phase):
    """Phase 0: collect everybody's fresh public keys."""

    name: ClassVar[str] = m.ADVERTISE_KEYS
    reply: ClassVar[type[ReplyMessage]] = m.AdvertiseKeysReply

    advertisements: dict[int, m.Advertisement] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The parameters, the same for all."""
        parameters = shell.parameters.to_bytes()
        header = wire.encode(
            m.AdvertiseKeysRequest(*m.opening_fields(shell.session_id, m.AdvertiseKeysRequest), parameters)
        )
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep an advertisement whose keys are good and nobody else's."""
        message: m.AdvertiseKeysReply = reply.message
        taken = {key for item in self.advertisements.values() for key in (item.masking_key, item.sealing_key)}
        own = {message.masking_key, message.sealing_key}
        if len(own) != 2 or own & taken:
            raise PeerFault(FaultReason.BAD_KEY, "an advertised key is repeated", rule="SS-1", phase=self.name)
        for key in (message.masking_key, message.sealing_key):
            try:
                check_exchange_key(key)
            except PeerFault as fault:
                raise PeerFault(fault.reason, fault.detail, rule="SS-2", phase=self.name) from None
        index = shell.parameters.index(reply.party)
        self.advertisements[index] = m.Advertisement(index, message.masking_key, message.sealing_key, reply.signature)

    def close(self, shell: ServerShell) -> Phase:
        """Fix T0."""
        present = self.require(least_contributors(shell.parameters))
        advertisements = tuple(self.advertisements[index] for index in sorted(self.advertisements))
        keys = Keys(m.advertisements_root(shell.session_id, advertisements), advertisements)
        return ShareKeys(expected=present, keys=keys)


class ShareKeys(_Phase):
    """Phase 1: collect the sealed shares."""

    name: ClassVar[str] = m.SHARE_KEYS
    reply: ClassVar[type[ReplyMessage]] = m.ShareKeysReply

    keys: Keys
    commitments: dict[int, bytes] = msgspec.field(default_factory=dict)
    shares: dict[int, tuple[m.SealedShares, ...]] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """All advertisements and T0, the same for all."""
        fields = m.opening_fields(shell.session_id, m.ShareKeysRequest)
        header = wire.encode(m.ShareKeysRequest(*fields, self.keys.root, self.keys.advertisements))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep a client's sealed shares, if they are for exactly the holders of its graph."""
        message: m.ShareKeysReply = reply.message
        index = shell.parameters.index(reply.party)
        holders = CompleteGraph(tuple(item.index for item in self.keys.advertisements)).holders(index)
        expected = [holder for holder in holders if holder != index]
        if [item.index for item in message.shares] != expected:
            raise PeerFault(FaultReason.WRONG_PARTY, "shares are not for the holders", rule="SS-3", phase=self.name)
        if any(len(item.ciphertext) != SEALED_BYTES for item in message.shares):
            detail = f"sealed shares have {SEALED_BYTES} bytes"
            raise PeerFault(FaultReason.BAD_SHARE, detail, rule="SS-9", phase=self.name)
        self.commitments[index] = message.seed_commitment
        self.shares[index] = message.shares

    def close(self, shell: ServerShell) -> Phase:
        """Turn the shares around: what was sent by each becomes what is received by each."""
        present = self.require(least_contributors(shell.parameters))
        inbox: dict[int, list[m.SealedShares]] = {index: [] for index in self.shares}
        for sender in sorted(self.shares):
            for item in self.shares[sender]:
                if item.index in inbox:
                    inbox[item.index].append(m.SealedShares(sender, item.ciphertext))
        sharing = Sharing(self.keys, self.commitments)
        accumulator = bytearray(word_dtype(shell.parameters.modulus_bits).itemsize * shell.parameters.vector_length)
        shares = {index: tuple(items) for index, items in inbox.items()}
        return MaskedInput(expected=present, sharing=sharing, inbox=shares, accumulator=accumulator)


class MaskedInput(_Phase):
    """Phase 2: fold the masked vectors into one accumulator."""

    name: ClassVar[str] = m.MASKED_INPUT
    reply: ClassVar[type[ReplyMessage]] = m.MaskedInputReply
    vector: ClassVar[bool] = True

    sharing: Sharing
    inbox: dict[int, tuple[m.SealedShares, ...]]
    accumulator: bytearray

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """To each the shares that are sealed for it."""
        fields = m.opening_fields(shell.session_id, m.MaskedInputRequest)
        for party in self.expected:
            shares = self.inbox[shell.parameters.index(party)]
            yield Request(party, wire.encode(m.MaskedInputRequest(*fields, shares)))

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Add a verified vector, chunk by chunk."""
        parameters = shell.parameters
        bits = parameters.modulus_bits
        total = _words(shell, self.accumulator)
        chunks = iter(reply.spool.chunks())
        for index in range(parameters.chunk_count()):
            start = index * parameters.chunk_length
            entries = parameters.chunk_entries(index)
            part = total[start : start + entries]
            try:
                np.add(part, unpack(next(chunks), entries, bits), out=part)
            except (PeerFault, StopIteration):
                # All was checked as it came in: the client has no part in this, and the sum is half made.
                raise UsageError(f"spool: chunk {index} is not what was put in") from None

    def close(self, shell: ServerShell) -> Phase:
        """Fix the contributors."""
        present = self.require(least_contributors(shell.parameters))
        return ConsistencyCheck(expected=present, sharing=self.sharing, accumulator=self.accumulator)


class ConsistencyCheck(_Phase):
    """Phase 3: have the contributors certified."""

    name: ClassVar[str] = m.CONSISTENCY_CHECK
    reply: ClassVar[type[ReplyMessage]] = m.ConsistencyCheckReply

    sharing: Sharing
    accumulator: bytearray
    signatures: dict[int, bytes] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The contributors, the same for all."""
        fields = m.opening_fields(shell.session_id, m.ConsistencyCheckRequest)
        header = wire.encode(m.ConsistencyCheckRequest(*fields, _indices(shell, self.expected)))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep a signature over this very set."""
        expected = m.contributors_hash(self.sharing.keys.root, _indices(shell, self.expected))
        if reply.message.contributors_hash != expected:
            raise PeerFault(FaultReason.NOT_A_SUBSET, "another set was signed", rule="SS-4", phase=self.name)
        self.signatures[shell.parameters.index(reply.party)] = reply.signature

    def close(self, shell: ServerShell) -> Phase:
        """Go on with those who signed, if they are a quorum."""
        present = self.require(quorum(shell.parameters))
        return Unmask(
            expected=present,
            sharing=self.sharing,
            accumulator=self.accumulator,
            contributors=_indices(shell, self.expected),
            signatures=self.signatures,
        )


class Unmask(_Phase):
    """Phase 4: collect shares, rebuild what is needed to take the masks out, and nothing else."""

    name: ClassVar[str] = m.UNMASK
    reply: ClassVar[type[ReplyMessage]] = m.UnmaskReply

    sharing: Sharing
    accumulator: bytearray
    contributors: tuple[int, ...]
    signatures: dict[int, bytes]
    shares: dict[int, tuple[bytes, ...]] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The contributors and the signatures over them, the same for all."""
        signatures = tuple(m.SignedSet(index, self.signatures[index]) for index in sorted(self.signatures))
        fields = m.opening_fields(shell.session_id, m.UnmaskRequest)
        header = wire.encode(m.UnmaskRequest(*fields, self.contributors, signatures))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep one share of each secret."""
        message: m.UnmaskReply = reply.message
        if len(message.shares) != len(self.sharing.commitments):
            raise PeerFault(FaultReason.BAD_SHARE, "one share a client is expected", rule="SS-5", phase=self.name)
        try:
            for share in message.shares:
                unpack_share(share)
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="SS-6", phase=self.name) from None
        self.shares[shell.parameters.index(reply.party)] = message.shares

    def close(self, shell: ServerShell) -> Aggregate:
        """Rebuild the seeds of contributors and the masking keys of dropouts; unmask.

        :raises PeerFault: BAD_SECRET, no shares at hand rebuild a secret that fits what its owner committed to.
        """
        self.require(shell.parameters.threshold)
        secrets = self._reconstruct(shell)
        total = _words(shell, self.accumulator)
        remove_masks(total, self._masks(shell, secrets), shell.parameters.modulus_bits)
        return Aggregate(
            shell.session_id,
            total,
            shell.parameters.modulus_bits,
            tuple(shell.parameters.client(index) for index in self.contributors),
            (
                f"{len(self.signatures)} clients signed one set of {len(self.contributors)} contributors",
                f"{len(secrets)} rebuilt secrets fit their commitments or public keys",
            ),
            shell.faults,
        )

    def _reconstruct(self, shell: ServerShell) -> dict[int, bytes]:
        """Secret of each client that shared: seed of a contributor, masking key of a dropout.

        With more shares than needed, one bad holder is found by leaving each out in turn.
        """
        owners = sorted(self.sharing.commitments)
        responders = sorted(self.shares)
        chosen, spare = responders[: shell.parameters.threshold], responders[shell.parameters.threshold :]
        secrets = self._rebuild(shell, owners, chosen)
        missing = [owner for owner in owners if owner not in secrets]
        if missing and spare:
            for suspect in chosen:
                others = [holder for holder in chosen if holder != suspect] + spare[:1]
                if self._rebuild(shell, missing[:1], others):
                    secrets |= self._rebuild(shell, missing, others)
                    detail = f"share of {self._names(shell, missing)}; its holder or the one who dealt it is at fault"
                    fault = PeerFault(FaultReason.BAD_SHARE, detail, rule="SS-7", phase=self.name)
                    shell.record(fault, shell.parameters.client(suspect))
                    break
        missing = [owner for owner in owners if owner not in secrets]
        if missing:
            detail = f"of {self._names(shell, missing)}; they, or one of the holders {self._names(shell, chosen)}"
            raise PeerFault(FaultReason.BAD_SECRET, detail, rule="SS-8", phase=self.name)
        return {owner: secrets[owner] for owner in owners}

    def _rebuild(self, shell: ServerShell, owners: list[int], chosen: list[int]) -> dict[int, bytes]:
        """The secrets of `owners` that these holders' shares give, as far as they fit."""
        holders = CompleteGraph(tuple(item.index for item in self.sharing.keys.advertisements)).holders(0)
        points = [1 + holders.index(holder) for holder in chosen]
        rows = [sorted(self.sharing.commitments).index(owner) for owner in owners]
        shares = np.stack(
            [unpack_shares(b"".join(self.shares[holder]), len(self.sharing.commitments)) for holder in chosen]
        )
        try:
            values = reconstruct(points, shares[:, rows])
        except PeerFault:
            # Some share is bad. Of one owner that is the answer; of several, find out whose.
            if len(owners) == 1:
                return {}
            return {owner: value for one in owners for owner, value in self._rebuild(shell, [one], chosen).items()}
        return {owner: value for owner, value in zip(owners, values, strict=True) if self._fits(shell, owner, value)}

    def _fits(self, shell: ServerShell, owner: int, secret: bytes) -> bool:
        """Whether a rebuilt secret is the one that its owner committed to, or advertised the public key of."""
        if owner in self.contributors:
            return seed_commitment(secret, shell.session_id, owner) == self.sharing.commitments[owner]
        return SealingKeyPair(secret).public == self._masking_keys()[owner]

    def _masking_keys(self) -> dict[int, bytes]:
        return {item.index: item.masking_key for item in self.sharing.keys.advertisements}

    def _names(self, shell: ServerShell, indices: list[int]) -> str:
        return ", ".join(repr(str(shell.parameters.client(index))) for index in indices)

    def _masks(self, shell: ServerShell, secrets: dict[int, bytes]) -> Iterator[tuple[MaskStream, int]]:
        """Every mask that is left in the sum, with the sign with which it went in."""
        bits, root = shell.parameters.modulus_bits, self.sharing.keys.root
        public = self._masking_keys()
        for owner, secret in secrets.items():
            if owner in self.contributors:
                yield MaskStream(self_mask_key(secret, root, owner), bits), 1
                continue
            masking = SealingKeyPair(secret)
            for peer in self.contributors:
                key = pairwise_mask_key(agree(masking, public[peer]), root, owner, peer)
                yield MaskStream(key, bits), 1 if peer < owner else -1


PHASES = AdvertiseKeys | ShareKeys | MaskedInput | ConsistencyCheck | Unmask


def _words(shell: ServerShell, accumulator: bytearray) -> Words:
    """The accumulator as words; a view."""
    return np.frombuffer(accumulator, word_dtype(shell.parameters.modulus_bits))


def _indices(shell: ServerShell, parties: tuple[ClientId, ...]) -> tuple[int, ...]:
    return tuple(sorted(shell.parameters.index(party) for party in parties))

"""The server's side of SecAgg: one class per phase (rules SS-1 to SS-9 in docs/reference/rules.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import ClientId
from protocols.primitives.bitpack import unpack
from protocols.primitives.merkle import MerkleTree
from protocols.primitives.ring import word_dtype
from protocols.primitives.sealing import SEAL_BYTES, SealingKeyPair, agree
from protocols.primitives.shamir import SHARE_BYTES, unpack_shares
from protocols.secagg import messages as m
from protocols.secagg.agreement import least_contributors, quorum
from protocols.secagg.graph import Graph, graph_of, graph_parameters
from protocols.secagg.masking import (
    Mask,
    check_exchange_key,
    pairwise_mask_key,
    remove_masks,
    self_mask_key,
)
from protocols.secagg.rebuilding import Rebuilding, needed_owners, require_holders
from protocols.server import Phase, ServerShell, Verified
from protocols.shape import Aggregate, Request, Words
from protocols.signed import ReplyMessage

__all__ = ["PHASES", "AdvertiseKeys", "ConsistencyCheck", "MaskedInput", "ShareKeys", "Unmask"]

REPLY_BYTES = 512
REPLY_BYTES_PER_NEIGHBOUR = 128
"""Bounds on the header of a reply: opening fields, names and keys; a pair of sealed shares with its framing."""
SEALED_BYTES = 2 * SHARE_BYTES + SEAL_BYTES


class Keys(msgspec.Struct, frozen=True):
    """What phase 0 fixed."""

    root: bytes
    advertisements: dict[int, m.Advertisement]
    """By index, in the order of the cohort."""


class Sharing(msgspec.Struct, frozen=True):
    """What phase 1 fixed."""

    keys: Keys
    commitments: dict[int, bytes]
    """Seed commitment of every client that shared, by index."""

    def graph(self, shell: ServerShell) -> Graph:
        """The graph that T0 fixed."""
        return graph_of(shell.parameters, self.keys.root)


class _Phase(Phase):
    """What the phases have in common."""

    def reply_limit(self, shell: ServerShell) -> int:
        """A reply holds at most one pair of sealed shares, or one share, a neighbour and one of its own."""
        return REPLY_BYTES + REPLY_BYTES_PER_NEIGHBOUR * (1 + graph_parameters(shell.parameters).degree)


class AdvertiseKeys(_Phase):
    """Phase 0: collect everybody's fresh public keys."""

    name: ClassVar[str] = m.ADVERTISE_KEYS
    reply: ClassVar[type[ReplyMessage]] = m.AdvertiseKeysReply

    advertisements: dict[int, m.Advertisement] = msgspec.field(default_factory=dict)
    taken: dict[bytes, int] = msgspec.field(default_factory=dict)
    """Advertised keys, with the index of whose they are."""

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
        own = (message.masking_key, message.sealing_key)
        if own[0] == own[1] or not self.taken.keys().isdisjoint(own):
            raise PeerFault(FaultReason.BAD_KEY, "an advertised key is repeated", rule="SS-1", phase=self.name)
        for key in own:
            try:
                check_exchange_key(key)
            except PeerFault as fault:
                raise PeerFault(fault.reason, fault.detail, rule="SS-2", phase=self.name) from None
        index = shell.parameters.index(reply.party)
        self.taken |= dict.fromkeys(own, index)
        self.advertisements[index] = m.Advertisement(index, *own, reply.signature)

    def close(self, shell: ServerShell) -> Phase:
        """Fix T0, and with it the graph.

        :raises ThresholdNotMet: too few advertised, or too few of one client's neighbours.
        """
        present = self.require(least_contributors(shell.parameters))
        advertisements = dict(sorted(self.advertisements.items()))
        keys = Keys(m.advertisements_root(shell.session_id, _tree(shell, advertisements).root), advertisements)
        graph = graph_of(shell.parameters, keys.root)
        _require_holders(shell, graph, advertisements, advertisements, self.name)
        return ShareKeys(expected=present, keys=keys)


class ShareKeys(_Phase):
    """Phase 1: collect the sealed shares."""

    name: ClassVar[str] = m.SHARE_KEYS
    reply: ClassVar[type[ReplyMessage]] = m.ShareKeysReply

    keys: Keys
    commitments: dict[int, bytes] = msgspec.field(default_factory=dict)
    shares: dict[int, tuple[m.SealedShares, ...]] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """T0, and to each the advertisements of its neighbours and the hashes that lead to T0."""
        fields = m.opening_fields(shell.session_id, m.ShareKeysRequest)
        graph, tree = self.graph(shell), _tree(shell, self.keys.advertisements)
        known = self.keys.advertisements
        before, header = None, b""
        for party in self.expected:
            neighbourhood = graph.neighbourhood(shell.parameters.index(party))
            if neighbourhood != before:  # on the complete graph all are the same
                before = neighbourhood
                listed = tuple(known[index] for index in neighbourhood if index in known)
                path = tuple(tree.joint_path(neighbourhood))
                header = wire.encode(m.ShareKeysRequest(*fields, self.keys.root, listed, path))
            yield Request(party, header)

    def graph(self, shell: ServerShell) -> Graph:
        """The graph that T0 fixed."""
        return graph_of(shell.parameters, self.keys.root)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep a client's sealed shares, if they are for exactly the holders of its graph."""
        message: m.ShareKeysReply = reply.message
        index = shell.parameters.index(reply.party)
        holders = self.graph(shell).holders(index, self.keys.advertisements)
        expected = [holder for holder in holders if holder != index]
        if [item.index for item in message.shares] != expected:
            raise PeerFault(FaultReason.WRONG_PARTY, "shares are not for the holders", rule="SS-3", phase=self.name)
        if any(len(item.ciphertext) != SEALED_BYTES for item in message.shares):
            detail = f"sealed shares have {SEALED_BYTES} bytes"
            raise PeerFault(FaultReason.BAD_SHARE, detail, rule="SS-9", phase=self.name)
        self.commitments[index] = message.seed_commitment
        self.shares[index] = message.shares

    def close(self, shell: ServerShell) -> Phase:
        """Turn the shares around: what was sent by each becomes what is received by each.

        :raises ThresholdNotMet: too few shared, or too few of one client's holders.
        """
        present = self.require(least_contributors(shell.parameters))
        _require_holders(shell, self.graph(shell), self.shares, self.shares, self.name)
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
        """Fix the contributors.

        :raises ThresholdNotMet: too few of them, or a client whose secret is needed has too few holders among them.
        """
        present = self.require(least_contributors(shell.parameters))
        contributors, graph = _indices(shell, present), self.sharing.graph(shell)
        needed = needed_owners(graph, self.sharing.commitments.keys(), set(contributors))
        _require_holders(shell, graph, needed, contributors, self.name)
        return ConsistencyCheck(
            expected=present,
            sharing=self.sharing,
            accumulator=self.accumulator,
            contributors=contributors,
            contributors_hash=m.contributors_hash(self.sharing.keys.root, contributors),
        )


class ConsistencyCheck(_Phase):
    """Phase 3: have the contributors certified."""

    name: ClassVar[str] = m.CONSISTENCY_CHECK
    reply: ClassVar[type[ReplyMessage]] = m.ConsistencyCheckReply

    sharing: Sharing
    accumulator: bytearray
    contributors: tuple[int, ...]
    contributors_hash: bytes
    signatures: dict[int, bytes] = msgspec.field(default_factory=dict)

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The contributors, the same for all."""
        fields = m.opening_fields(shell.session_id, m.ConsistencyCheckRequest)
        header = wire.encode(m.ConsistencyCheckRequest(*fields, self.contributors))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep a signature over this very set."""
        if reply.message.contributors_hash != self.contributors_hash:
            raise PeerFault(FaultReason.NOT_A_SUBSET, "another set was signed", rule="SS-4", phase=self.name)
        self.signatures[shell.parameters.index(reply.party)] = reply.signature

    def close(self, shell: ServerShell) -> Phase:
        """Go on with those who signed, if they are a quorum."""
        present = self.require(quorum(shell.parameters))
        return Unmask(
            expected=present,
            sharing=self.sharing,
            accumulator=self.accumulator,
            contributors=self.contributors,
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
        """The contributors and a quorum's signatures over them, the same for all."""
        signers = sorted(self.signatures)[: quorum(shell.parameters)]
        signatures = tuple(m.SignedSet(index, self.signatures[index]) for index in signers)
        fields = m.opening_fields(shell.session_id, m.UnmaskRequest)
        header = wire.encode(m.UnmaskRequest(*fields, self.contributors, signatures))
        return (Request(party, header) for party in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Keep one share of each secret."""
        message: m.UnmaskReply = reply.message
        index = shell.parameters.index(reply.party)
        graph = self.sharing.graph(shell)
        if len(message.shares) != len(graph.holders(index, self.sharing.commitments)):
            detail = "one share for each neighbour that shared is expected"
            raise PeerFault(FaultReason.BAD_SHARE, detail, rule="SS-5", phase=self.name)
        if any(len(share) != SHARE_BYTES for share in message.shares):
            raise PeerFault(FaultReason.BAD_SHARE, f"a share has {SHARE_BYTES} bytes", rule="SS-6", phase=self.name)
        try:
            unpack_shares(b"".join(message.shares), len(message.shares))
        except PeerFault as fault:
            raise PeerFault(fault.reason, fault.detail, rule="SS-6", phase=self.name) from None
        self.shares[index] = message.shares

    def close(self, shell: ServerShell) -> Aggregate:
        """Rebuild the seeds of contributors and the masking keys of dropouts; unmask.

        :raises ThresholdNotMet: too few answered, or too few of one client's holders.
        :raises PeerFault: BAD_SECRET, no shares at hand rebuild a secret that fits what its owner committed to.
        """
        self.require(shell.parameters.threshold)
        secrets = self._reconstruct(shell)
        total = _words(shell, self.accumulator)
        remove_masks(total, self._masks(shell, secrets), shell.parameters.modulus_bits, shell.workers)
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
        """Secret of each client whose masks are left: seed of a contributor, masking key of a dropout."""
        sharing, threshold = self.sharing, shell.parameters.threshold
        rebuilding = Rebuilding(
            shell.session_id,
            sharing.graph(shell),
            threshold,
            _masking_keys(sharing),
            sharing.commitments,
            set(self.contributors),
            self.shares,
        )
        secrets: dict[int, bytes] = {}
        spoilt: dict[int, list[int]] = {}
        for at_hand, owners in rebuilding.groups(self.name).items():
            found, suspect = rebuilding.secrets_of(owners, at_hand)
            secrets |= found
            if missing := [owner for owner in owners if owner not in found]:
                holders = _names(shell, [holder for holder, _ in at_hand[:threshold]])
                detail = f"of {_names(shell, missing)}; they, or one of the holders {holders}"
                raise PeerFault(FaultReason.BAD_SECRET, detail, rule="SS-8", phase=self.name)
            if suspect is not None:
                spoilt.setdefault(suspect, []).extend(owners)
        for holder, owners in spoilt.items():
            detail = f"share of {_names(shell, owners)}; its holder or the one who dealt it is at fault"
            fault = PeerFault(FaultReason.BAD_SHARE, detail, rule="SS-7", phase=self.name)
            shell.record(fault, shell.parameters.client(holder))
        return {owner: secrets[owner] for owner in sorted(secrets)}

    def _masks(self, shell: ServerShell, secrets: dict[int, bytes]) -> Iterator[Mask]:
        """Every mask that is left in the sum, with the sign with which it went in."""
        root, graph = self.sharing.keys.root, self.sharing.graph(shell)
        public, contributors = _masking_keys(self.sharing), set(self.contributors)
        for owner, secret in secrets.items():
            if owner in contributors:
                yield Mask(self_mask_key(secret, root, owner), 1)
                continue
            masking = SealingKeyPair(secret)
            for peer in graph.neighbours(owner):
                if peer in contributors:
                    key = pairwise_mask_key(agree(masking, public[peer]), root, owner, peer)
                    yield Mask(key, 1 if peer < owner else -1)


PHASES = AdvertiseKeys | ShareKeys | MaskedInput | ConsistencyCheck | Unmask


def _words(shell: ServerShell, accumulator: bytearray) -> Words:
    """The accumulator as words; a view."""
    return np.frombuffer(accumulator, word_dtype(shell.parameters.modulus_bits))


def _indices(shell: ServerShell, parties: tuple[ClientId, ...]) -> tuple[int, ...]:
    return tuple(sorted(shell.parameters.index(party) for party in parties))


def _names(shell: ServerShell, indices: Iterable[int]) -> str:
    return ", ".join(repr(str(client)) for client in _clients(shell, indices))


def _require_holders(
    shell: ServerShell, graph: Graph, owners: Iterable[int], present: Iterable[int], phase: str
) -> None:
    require_holders(graph, owners, set(present), shell.parameters.threshold, phase)


def _clients(shell: ServerShell, indices: Iterable[int]) -> tuple[ClientId, ...]:
    return tuple(shell.parameters.client(index) for index in indices)


def _masking_keys(sharing: Sharing) -> dict[int, bytes]:
    return {index: item.masking_key for index, item in sharing.keys.advertisements.items()}


def _tree(shell: ServerShell, advertisements: dict[int, m.Advertisement]) -> MerkleTree:
    """The tree under T0: a leaf for each position of the cohort."""
    leaves = m.advertisement_leaves(range(len(shell.parameters.cohort)), advertisements.values())
    return MerkleTree(list(leaves.values()))

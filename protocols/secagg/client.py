"""The client's side of SecAgg: one state per phase, one function per transition.

Each function checks the request (rules SA-4 to SA-36, listed in docs/reference/rules.md), then yields the next state
and the answer. Once-only answers, signatures and saving are `protocols.party`'s.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

from protocols.errors import FaultReason, PeerFault
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition, needed
from protocols.primitives.labels import encode_parts
from protocols.primitives.merkle import joint_root
from protocols.primitives.sampling import draw
from protocols.primitives.sealing import SealingKeyPair, agree, direction_key, open_sealed, seal
from protocols.primitives.secrecy import HoldsSecret
from protocols.primitives.shamir import pack_share, split, unpack_share
from protocols.secagg import messages as m
from protocols.secagg.agreement import check_graph, least_contributors, quorum
from protocols.secagg.graph import Graph, graph_of
from protocols.secagg.masking import (
    SEED_BYTES,
    Mask,
    check_exchange_key,
    masked_chunks,
    pairwise_mask_key,
    seed_commitment,
    self_mask_key,
)
from protocols.session import SessionParameters
from protocols.shape import VectorSource
from protocols.signed import NO_CHUNKS, reply_digest

__all__ = ["SecAggClient"]


class Advertised(SecretState, frozen=True):
    """Fresh keys are out."""

    masking_private: bytes
    sealing_private: bytes
    masking_key: bytes
    sealing_key: bytes


class Shared(SecretState, frozen=True):
    """Shares are out: T0 is fixed, and with it the neighbours and their keys."""

    keys: Advertised
    root: bytes
    advertisements: tuple[m.Advertisement, ...]
    """Own one included."""
    self_mask_seed: bytes
    own_shares: bytes
    """Empty where a client is none of its own holders."""


class HeldShares(SecretState, frozen=True):
    """What this client holds of another's secrets: packed share of the seed, packed share of the masking key."""

    index: int
    of_seed: bytes
    of_masking_key: bytes


class Masked(SecretState, frozen=True):
    """The vector is out. Only shares of others' secrets are kept; the own keys and seed are gone."""

    root: bytes
    received: tuple[HeldShares, ...]
    """In the order of their senders; own ones included where a client is one of its own holders."""


class Signed(SecretState, frozen=True):
    """The contributors are signed."""

    root: bytes
    received: tuple[HeldShares, ...]
    contributors: tuple[int, ...]


class Done(SecretState, frozen=True):
    """Everything is answered and erased."""


States: TypeAlias = Idle | Advertised | Shared | Masked | Signed | Done


class SecAggClient(PartyShell[States]):
    """A client of SecAgg. See `protocols.party.PartyShell` for the constructor."""

    PROTOCOL: ClassVar[str] = m.PROTOCOL
    STATES: ClassVar[Any] = States

    def _check_parameters(self, parameters: SessionParameters) -> None:
        self.policy.check(parameters, self.roster)
        if parameters.suite != m.SUITE:
            raise PeerFault(FaultReason.MALFORMED, f"suite {parameters.suite}; known: {m.SUITE}", rule="SA-4")
        check_graph(parameters, self.policy)
        if self.identity.id not in parameters.cohort:
            detail = f"{self.identity.id!r} is not in the cohort"
            raise PeerFault(FaultReason.UNKNOWN_PARTY, detail, rule="SA-26")

    @property
    def index(self) -> int:
        """This client's position in the cohort."""
        return self.parameters.index(self.identity.id)

    def _graph(self, root: bytes) -> Graph:
        return graph_of(self.parameters, root)

    # -- phase 0 -------------------------------------------------------------------------------------------------------

    def advertise_keys(
        self, _state: Idle, _request: m.AdvertiseKeysRequest, _vector: VectorSource | None
    ) -> Answer[States]:
        """Fresh X25519 keys for this session."""
        masking, sealing = SealingKeyPair.generate(self.entropy), SealingKeyPair.generate(self.entropy)
        reply = m.AdvertiseKeysReply(
            *m.opening_fields(self.session_id, m.AdvertiseKeysReply), self.identity.id, masking.public, sealing.public
        )
        state = Advertised(masking.private_bytes(), sealing.private_bytes(), masking.public, sealing.public)
        return Answer(state, reply)

    # -- phase 1 -------------------------------------------------------------------------------------------------------

    def share_keys(
        self, state: Advertised, request: m.ShareKeysRequest, _vector: VectorSource | None
    ) -> Answer[States]:
        """Shamir shares of the self mask's seed and of the masking key, sealed for their holders."""
        graph = self._graph(request.root)
        self._check_advertisements(state, request, graph)
        holders = graph.holders(self.index, {item.index for item in request.advertisements})
        seed = draw(self.entropy, SEED_BYTES)
        shares = split([seed, state.masking_private], len(holders), self.parameters.threshold, self.entropy)
        seals = _ShareSeals(self, state, request.root, request.advertisements)
        own, sealed = b"", []
        for position, holder in enumerate(holders):
            plain = b"".join(pack_share(share) for share in shares[position])
            if holder == self.index:
                own = plain
            else:
                sealed.append(m.SealedShares(holder, seals.seal(holder, plain)))
        reply = m.ShareKeysReply(
            *m.opening_fields(self.session_id, m.ShareKeysReply),
            self.identity.id,
            seed_commitment(seed, self.session_id, self.index),
            tuple(sealed),
        )
        return Answer(Shared(state, request.root, request.advertisements, seed, own), reply)

    def _check_advertisements(self, state: Advertised, request: m.ShareKeysRequest, graph: Graph) -> None:
        listed = [item.index for item in request.advertisements]
        self._check_list(listed, m.SHARE_KEYS, "SA-5")
        neighbourhood = graph.neighbourhood(self.index)
        if not set(neighbourhood).issuperset(listed):
            raise self._fault(FaultReason.WRONG_PARTY, "the keys of no neighbour", "SA-34", m.SHARE_KEYS)
        own = [item for item in request.advertisements if item.index == self.index]
        if not own or (own[0].masking_key, own[0].sealing_key) != (state.masking_key, state.sealing_key):
            raise self._fault(
                FaultReason.SELF_MISSING, "own keys are not among the advertisements", "SA-6", m.SHARE_KEYS
            )
        self._check_holders(graph, len(graph.holders(self.index, set(listed))), m.SHARE_KEYS, "SA-7")
        keys = [key for item in request.advertisements for key in (item.masking_key, item.sealing_key)]
        if len(set(keys)) != len(keys):
            raise self._fault(FaultReason.BAD_KEY, "two advertised keys are equal", "SA-8", m.SHARE_KEYS)
        for item in request.advertisements:
            party = self.parameters.client(item.index)
            header = m.advertisement_header(self.session_id, party, item)
            digest = reply_digest(self.session_id, m.ADVERTISE_KEYS, header, NO_CHUNKS)
            with self._blame(m.SHARE_KEYS, "SA-9"):
                self.roster.verify(party, digest, item.signature)
        with self._blame(m.SHARE_KEYS, "SA-11"):
            for key in keys:
                check_exchange_key(key)
        leaves = m.advertisement_leaves(neighbourhood, request.advertisements)
        with self._blame(m.SHARE_KEYS, "SA-35"):
            tree_root = joint_root(leaves, graph.size, request.path)
        if m.advertisements_root(self.session_id, tree_root) != request.root:
            raise self._fault(FaultReason.BAD_ROOT, "T0 is not theirs", "SA-10", m.SHARE_KEYS)

    # -- phase 2 -------------------------------------------------------------------------------------------------------

    def masked_input(self, state: Shared, request: m.MaskedInputRequest, vector: VectorSource | None) -> Answer[States]:
        """The vector plus the self mask plus or minus one mask for each neighbour that shared."""
        received = self._open_shares(state, request)
        masks = [Mask(self_mask_key(state.self_mask_seed, state.root, self.index), 1)]
        public = {item.index: item.masking_key for item in state.advertisements}
        masking = SealingKeyPair(state.keys.masking_private)
        for peer in (item.index for item in received if item.index != self.index):
            secret = agree(masking, public[peer])
            key = pairwise_mask_key(secret, state.root, self.index, peer)
            masks.append(Mask(key, 1 if self.index < peer else -1))
        reply = m.MaskedInputReply(*m.opening_fields(self.session_id, m.MaskedInputReply), self.identity.id)
        chunks = masked_chunks(self.parameters, needed(vector), masks, self.workers)
        return Answer(Masked(state.root, received), reply, chunks)

    def _open_shares(self, state: Shared, request: m.MaskedInputRequest) -> tuple[HeldShares, ...]:
        senders = [item.index for item in request.shares]
        self._check_list(senders, m.MASKED_INPUT, "SA-12")
        advertised = {item.index for item in state.advertisements}
        if not advertised.issuperset(senders):
            raise self._fault(FaultReason.NOT_A_SUBSET, "a sender advertised no keys", "SA-13", m.MASKED_INPUT)
        if self.index in senders:
            raise self._fault(FaultReason.WRONG_PARTY, "own shares came back", "SA-14", m.MASKED_INPUT)
        graph = self._graph(state.root)
        self._check_holders(graph, len(senders) + graph.holds_own, m.MASKED_INPUT, "SA-15")
        opened = [HeldShares(self.index, *_halves(state.own_shares))] if graph.holds_own else []
        seals = _ShareSeals(self, state.keys, state.root, state.advertisements)
        for item in request.shares:
            suspects = f"from client {self.parameters.client(item.index)!r}; it or the server is at fault"
            try:
                plain = seals.open(item.index, item.ciphertext)
            except PeerFault as fault:
                raise self._suspect(fault.reason, suspects, "SA-16") from None
            try:
                for half in _halves(plain):
                    unpack_share(half)
            except PeerFault as fault:
                raise self._suspect(fault.reason, suspects, "SA-17") from None
            opened.append(HeldShares(item.index, *_halves(plain)))
        return tuple(sorted(opened, key=lambda item: item.index))

    # -- phase 3 -------------------------------------------------------------------------------------------------------

    def consistency_check(
        self, state: Masked, request: m.ConsistencyCheckRequest, _vector: VectorSource | None
    ) -> Answer[States]:
        """A signature over T0 and the contributors."""
        self._check_list(list(request.contributors), m.CONSISTENCY_CHECK, "SA-18")
        if self.index not in request.contributors:
            raise self._fault(FaultReason.SELF_MISSING, "own vector is left out", "SA-19", m.CONSISTENCY_CHECK)
        graph, received = self._graph(state.root), {item.index for item in state.received}
        near = set(graph.neighbours(self.index)).intersection(request.contributors)
        if not near <= received:
            raise self._fault(
                FaultReason.NOT_A_SUBSET, "a contributor shared nothing with this client", "SA-20", m.CONSISTENCY_CHECK
            )
        self._check_number(len(request.contributors), m.CONSISTENCY_CHECK, "SA-21")
        self._check_holders(graph, len(near) + graph.holds_own, m.CONSISTENCY_CHECK, "SA-36")
        reply = m.ConsistencyCheckReply(
            *m.opening_fields(self.session_id, m.ConsistencyCheckReply),
            self.identity.id,
            m.contributors_hash(state.root, request.contributors),
        )
        return Answer(Signed(state.root, state.received, request.contributors), reply)

    # -- phase 4 -------------------------------------------------------------------------------------------------------

    def unmask(self, state: Signed, request: m.UnmaskRequest, _vector: VectorSource | None) -> Answer[States]:
        """For each client that shared: the seed's share of a contributor, the masking key's share of a dropout."""
        self._check_certificate(state, request)
        contributors = set(request.contributors)
        shares = []
        for item in state.received:
            shares.append(item.of_seed if item.index in contributors else item.of_masking_key)
        reply = m.UnmaskReply(*m.opening_fields(self.session_id, m.UnmaskReply), self.identity.id, tuple(shares))
        return Answer(Done(), reply)

    def _check_certificate(self, state: Signed, request: m.UnmaskRequest) -> None:
        signers = [item.index for item in request.signatures]
        self._check_list(signers, m.UNMASK, "SA-22")
        if len(signers) < quorum(self.parameters):
            detail = f"{len(signers)} signatures, {quorum(self.parameters)} required"
            raise self._fault(FaultReason.TOO_FEW, detail, "SA-23", m.UNMASK)
        digest = m.contributors_hash(state.root, request.contributors)
        signed = [(m.consistency_header(self.session_id, self.parameters.client(i), digest), i) for i in signers]
        for (header, index), item in zip(signed, request.signatures, strict=True):
            message = reply_digest(self.session_id, m.CONSISTENCY_CHECK, header, NO_CHUNKS)
            with self._blame(m.UNMASK, "SA-24"):
                self.roster.verify(self.parameters.client(index), message, item.signature)
        if request.contributors != state.contributors:
            # Both sets are signed. One other signature would prove nothing, a client in league with whoever accuses the
            # server could have made it: a quorum has more signers than colluders.
            own = m.consistency_header(
                self.session_id, self.identity.id, m.contributors_hash(state.root, state.contributors)
            )
            own_digest = reply_digest(self.session_id, m.CONSISTENCY_CHECK, own, NO_CHUNKS)
            others = [
                part
                for (header, index), item in zip(signed, request.signatures, strict=True)
                if index != self.index
                for part in (header, item.signature)
            ]
            raise self.server_fault(
                FaultReason.SPLIT_VIEW,
                "this client signed another set of contributors",
                rule="SA-25",
                phase=m.UNMASK,
                evidence=(own, self.identity.signing_key.sign(own_digest), *others),
            )

    # -- common checks -------------------------------------------------------------------------------------------------

    def _check_list(self, indices: list[int], phase: str, rule: str) -> None:
        """Strictly increasing (so nobody twice) and within the cohort."""
        for before, after in pairwise(indices):
            if before == after:
                raise self._fault(FaultReason.DUPLICATE_PARTY, f"index {after} twice", rule, phase)
            if before > after:
                raise self._fault(FaultReason.NOT_ORDERED, f"index {after} after {before}", rule, phase)
        if indices and indices[-1] >= len(self.parameters.cohort):
            raise self._fault(FaultReason.UNKNOWN_PARTY, f"index {indices[-1]} is past the cohort's end", rule, phase)

    def _check_number(self, number: int, phase: str, rule: str) -> None:
        least = least_contributors(self.parameters)
        if number < least:
            raise self._fault(FaultReason.TOO_FEW, f"{number} clients, {least} required", rule, phase)

    def _check_holders(self, graph: Graph, number: int, phase: str, rule: str) -> None:
        least = graph.least_holders(self.parameters)
        if number < least:
            raise self._fault(FaultReason.TOO_FEW, f"{number} holders of own shares, {least} required", rule, phase)

    def _fault(self, reason: FaultReason, detail: str, rule: str, phase: str) -> PeerFault:
        return self.server_fault(reason, detail, rule=rule, phase=phase)

    def _suspect(self, reason: FaultReason, detail: str, rule: str) -> PeerFault:
        """A fault of which two parties are suspect and neither is proven."""
        return PeerFault(reason, detail, rule=rule, phase=m.MASKED_INPUT, session=self.session_id.hex()[:16])

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(m.ADVERTISE_KEYS, m.AdvertiseKeysRequest, Idle, advertise_keys),
        Transition(m.SHARE_KEYS, m.ShareKeysRequest, Advertised, share_keys),
        Transition(m.MASKED_INPUT, m.MaskedInputRequest, Shared, masked_input, vector=True, check=_open_shares),
        Transition(m.CONSISTENCY_CHECK, m.ConsistencyCheckRequest, Masked, consistency_check),
        Transition(m.UNMASK, m.UnmaskRequest, Signed, unmask),
    )


class _ShareSeals(HoldsSecret):
    """Seals and opens pairs of shares, under a key of its own for each direction of each pair."""

    __slots__ = ("_client", "_own", "_peers", "_root")

    def __init__(
        self, client: SecAggClient, keys: Advertised, root: bytes, advertisements: tuple[m.Advertisement, ...]
    ) -> None:
        self._client = client
        self._own = SealingKeyPair(keys.sealing_private)
        self._peers = {item.index: item.sealing_key for item in advertisements}
        self._root = root

    def seal(self, receiver: int, plain: bytes) -> bytes:
        """Seal what goes to a peer."""
        return seal(self._key(receiver, self._client.index, receiver), plain, self._label(self._client.index, receiver))

    def open(self, sender: int, ciphertext: bytes) -> bytes:
        """Open what comes from a peer.

        :raises PeerFault: BAD_CIPHERTEXT.
        """
        key = self._key(sender, sender, self._client.index)
        return open_sealed(key, ciphertext, self._label(sender, self._client.index))

    def _key(self, peer: int, sender: int, receiver: int) -> bytes:
        secret = agree(self._own, self._peers[peer])
        return direction_key(
            secret, label="secagg/share-sealing", context=(self._root,), sender=sender, receiver=receiver
        )

    def _label(self, sender: int, receiver: int) -> bytes:
        return encode_parts("secagg/shares", self._client.session_id, self._root, sender, receiver)


def _halves(plain: bytes) -> tuple[bytes, bytes]:
    """Packed share of the seed, packed share of the masking key."""
    half = len(plain) // 2
    return plain[:half], plain[half:]

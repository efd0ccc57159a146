"""Messages of SecAgg, in the order of its phases. Parties in lists are named by their index in the cohort.

A request for a client's two kinds of share cannot be expressed: `UnmaskRequest` names the contributors, and each
client derives from them which share it gives for whom.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from protocols import wire
from protocols.primitives.labels import tagged_hash
from protocols.session import SessionId
from protocols.signed import Opening, ReplyMessage
from protocols.wire import Digest, Index, Key, Signature

__all__ = [
    "ADVERTISE_KEYS",
    "CONSISTENCY_CHECK",
    "MASKED_INPUT",
    "PROTOCOL",
    "SHARE_KEYS",
    "SUITE",
    "UNMASK",
    "AdvertiseKeysReply",
    "AdvertiseKeysRequest",
    "Advertisement",
    "ConsistencyCheckReply",
    "ConsistencyCheckRequest",
    "MaskedInputReply",
    "MaskedInputRequest",
    "SealedShares",
    "ShareKeysReply",
    "ShareKeysRequest",
    "SignedSet",
    "UnmaskReply",
    "UnmaskRequest",
    "advertisement_header",
    "advertisement_leaves",
    "advertisements_root",
    "consistency_header",
    "contributors_hash",
]

PROTOCOL = "secagg"
SUITE = 1
"""X25519, Ed25519, HKDF-SHA256, AES-256-CTR masks, AES-256-GCM sealing."""

ADVERTISE_KEYS = "AdvertiseKeys"
SHARE_KEYS = "ShareKeys"
MASKED_INPUT = "MaskedInput"
CONSISTENCY_CHECK = "ConsistencyCheck"
UNMASK = "Unmask"


class AdvertiseKeysRequest(Opening, frozen=True):
    """Phase 0, down: the parameters."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "AdvertiseKeysRequest"


class AdvertiseKeysReply(ReplyMessage, frozen=True):
    """Phase 0, up: the client's fresh X25519 public keys."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "AdvertiseKeysReply"

    masking_key: Key
    sealing_key: Key


class Advertisement(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A client's reply of phase 0 as the server relays it, with its signature."""

    index: Index
    masking_key: Key
    sealing_key: Key
    signature: Signature


class ShareKeysRequest(wire.Message, frozen=True):
    """Phase 1, down: T0, the advertisements of a client's neighbours and its own, in cohort order.

    The path holds the hashes that lead from them, and from the empty leaves of neighbours that advertised nothing, to
    T0: none on the complete graph.
    """

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ShareKeysRequest"

    root: Digest
    advertisements: tuple[Advertisement, ...]
    path: tuple[Digest, ...]


class SealedShares(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A pair of shares sealed for, or coming from, the client at `index`."""

    index: Index
    ciphertext: Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]


class ShareKeysReply(ReplyMessage, frozen=True):
    """Phase 1, up: a commitment to the self mask's seed, and sealed shares for every other holder, in their order."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ShareKeysReply"

    seed_commitment: Digest
    shares: tuple[SealedShares, ...]


class MaskedInputRequest(wire.Message, frozen=True):
    """Phase 2, down: the shares sealed for this client, in the order of their senders."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "MaskedInputRequest"

    shares: tuple[SealedShares, ...]


class MaskedInputReply(ReplyMessage, frozen=True):
    """Phase 2, up: the masked vector follows in chunks."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "MaskedInputReply"


class ConsistencyCheckRequest(wire.Message, frozen=True):
    """Phase 3, down: whose masked vectors came in."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ConsistencyCheckRequest"

    contributors: tuple[Index, ...]


class ConsistencyCheckReply(ReplyMessage, frozen=True):
    """Phase 3, up: the client's signature (the trailer) over the contributors and T0."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ConsistencyCheckReply"

    contributors_hash: Digest


class SignedSet(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A client's signature over the contributors."""

    index: Index
    signature: Signature


class UnmaskRequest(wire.Message, frozen=True):
    """Phase 4, down: the contributors and the signatures over them."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "UnmaskRequest"

    contributors: tuple[Index, ...]
    signatures: tuple[SignedSet, ...]


class UnmaskReply(ReplyMessage, frozen=True):
    """Phase 4, up: one share for each client that had shared, in their order."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "UnmaskReply"

    shares: tuple[Annotated[bytes, msgspec.Meta(min_length=1, max_length=256)], ...]


def opening_fields(session_id: SessionId, kind: type[wire.Message]) -> tuple[int, str, int, str, bytes]:
    """The five fields that open a message of this protocol."""
    return wire.opening_fields(session_id, kind, SUITE)


def advertisement_header(session_id: SessionId, party: str, advertisement: Advertisement) -> bytes:
    """The reply header that an advertisement's signature covers."""
    return wire.encode(
        AdvertiseKeysReply(
            *opening_fields(session_id, AdvertiseKeysReply),
            party,
            advertisement.masking_key,
            advertisement.sealing_key,
        )
    )


def consistency_header(session_id: SessionId, party: str, digest: bytes) -> bytes:
    """The reply header that a signature over the contributors covers."""
    return wire.encode(ConsistencyCheckReply(*opening_fields(session_id, ConsistencyCheckReply), party, digest))


def advertisement_leaves(indices: Iterable[int], advertisements: Iterable[Advertisement]) -> dict[int, bytes]:
    """Leaves of the tree under T0 at these positions of the cohort; empty where nothing was advertised."""
    known = {item.index: wire.encode(item) for item in advertisements}
    return {index: known.get(index, b"") for index in indices}


def advertisements_root(session_id: SessionId, tree_root: bytes) -> bytes:
    """T0: the hash of the session id and the Merkle root over the whole cohort, in its order."""
    return tagged_hash("secagg/advertisements", session_id, tree_root)


def contributors_hash(advertised: bytes, contributors: tuple[int, ...]) -> bytes:
    """What a client signs in phase 3: T0 and the contributors."""
    return tagged_hash("secagg/contributors", advertised, np.array(contributors, "<u4").tobytes())

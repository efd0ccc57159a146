"""Messages of the one-shot protocol, in the order of its phases.

Clients and members are named by their index, in the cohort and in the committee. A request for the key of one client
cannot be expressed: members are asked for sums over sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from protocols import wire
from protocols.primitives.labels import tagged_hash
from protocols.session import SessionId
from protocols.signed import Opening, ReplyMessage, reply_digest
from protocols.wire import Digest, Index, Signature

__all__ = [
    "CHECK",
    "CONTRIBUTION",
    "OPENING",
    "PROTOCOL",
    "SUITE",
    "CheckReply",
    "CheckRequest",
    "ContributionReply",
    "ContributionRequest",
    "OpeningReply",
    "OpeningRequest",
    "RelayedContribution",
    "contribution_digest",
    "contributors_hash",
    "opening_fields",
]

PROTOCOL = "oneshot"
SUITE = 1
"""Ed25519 signatures; HPKE with ML-KEM-768 and X25519, HKDF-SHA256, AES-256-GCM."""

CONTRIBUTION = "Contribution"
CHECK = "Check"
OPENING = "Opening"


class ContributionRequest(Opening, frozen=True):
    """Phase 1, down, to each client: the announcement, that is the parameters."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributionRequest"


class ContributionReply(ReplyMessage, frozen=True):
    """Phase 1, up: the Merkle root of the sealed shares.

    The chunks that follow are one sealed share a member, in the order of the committee, then the ciphertext.
    """

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributionReply"

    shares_root: Digest


class RelayedContribution(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A client's contribution as one member sees it: all that was signed, and the share that is sealed for it."""

    index: Index
    shares_root: Digest
    content: Digest
    """Digest of all chunks of the contribution."""
    signature: Signature
    sealed_share: Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**20)]
    path: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=24)]


class CheckRequest(Opening, frozen=True):
    """Phase 2, down, to each member: the parameters, which it may see here first, and the proposed contributors."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "CheckRequest"

    contributions: tuple[RelayedContribution, ...]


class CheckReply(ReplyMessage, frozen=True):
    """Phase 2, up: the clients whose shares do not open."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "CheckReply"

    complaints: tuple[Index, ...]


class OpeningRequest(wire.Message, frozen=True):
    """Phase 3, down, to each member: the contributors to the sum."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "OpeningRequest"

    contributors: tuple[Index, ...]


class OpeningReply(ReplyMessage, frozen=True):
    """Phase 3, up: which contributions were summed, and the member's share of the sum of their keys."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "OpeningReply"

    contributors_hash: Digest
    share: Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**20)]


def opening_fields(session_id: SessionId, kind: type[wire.Message]) -> tuple[int, str, int, str, bytes]:
    """The five fields that open a message of this protocol."""
    return wire.opening_fields(session_id, kind, SUITE)


def contribution_digest(session_id: SessionId, party: str, shares_root: bytes, content: bytes) -> bytes:
    """What a client's signature on its contribution covers."""
    header = wire.encode(ContributionReply(*opening_fields(session_id, ContributionReply), party, shares_root))
    return reply_digest(session_id, CONTRIBUTION, header, content)


def contributors_hash(session_id: SessionId, contributions: Iterable[tuple[int, bytes]]) -> bytes:
    """What a member names when it opens: indices and `contribution_digest`s, in the order of the cohort."""
    parts = [part for contribution in contributions for part in contribution]
    return tagged_hash("oneshot/contributors", session_id, *parts)

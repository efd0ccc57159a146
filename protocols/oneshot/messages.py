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
from protocols.wire import Digest, Index, SuiteSignature

__all__ = [
    "BLAME",
    "CHECK",
    "CONTRIBUTION",
    "GROUP",
    "OPENING",
    "PROTOCOL",
    "SUITE",
    "BlameReply",
    "BlameRequest",
    "CheckReply",
    "CheckRequest",
    "ContributionReply",
    "ContributionRequest",
    "OpeningReply",
    "OpeningRequest",
    "RelayedContribution",
    "RelayedGroup",
    "contribution_digest",
    "contributors_hash",
    "opening_fields",
]

PROTOCOL = "oneshot"
SUITE = 1
"""The default; the protocol knows all of `protocols.suites`."""

CONTRIBUTION = "Contribution"
CHECK = "Check"
OPENING = "Opening"
BLAME = "Blame"

GROUP = 64
"""Contributions that a chunk of a request holds at most."""
GroupSizes = Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, lt=2**28)], ...], msgspec.Meta(max_length=2**24)]
"""Bytes of each chunk that follows, one `RelayedGroup` each."""


class ContributionRequest(Opening, frozen=True):
    """Phase 1, down, to each client: the announcement, that is the parameters."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributionRequest"


class ContributionReply(ReplyMessage, frozen=True):
    """Phase 1, up: the Merkle root of the sealed shares, and from which model the vector starts.

    The chunks that follow are one sealed share a member, in the order of the committee, then the ciphertext.
    """

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributionReply"

    shares_root: Digest
    base: Digest
    """The context hash, or another model of the window."""


class RelayedContribution(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A client's contribution as one member sees it: all that was signed, and the share that is sealed for it."""

    index: Index
    header: Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**10)]
    """The client's `ContributionReply`."""
    content: Digest
    """Digest of all chunks of the contribution."""
    signature: SuiteSignature
    sealed_share: Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**20)]
    path: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=24)]


class RelayedGroup(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What one chunk of a request to a member holds, in canonical encoding; the order is the server's."""

    contributions: Annotated[tuple[RelayedContribution, ...], msgspec.Meta(min_length=1, max_length=GROUP)]


class CheckRequest(Opening, frozen=True):
    """Phase 2, down, to each member: the parameters, which it may see here first; in chunks the contributions."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "CheckRequest"

    groups: GroupSizes
    content: Digest


class CheckReply(ReplyMessage, frozen=True):
    """Phase 2, up: the clients whose shares do not open."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "CheckReply"

    complaints: tuple[Index, ...]


class OpeningRequest(wire.Message, frozen=True):
    """Phase 3, down, to each member: the contributors to the sum; in chunks, once more, what is left out of it."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "OpeningRequest"

    contributors: tuple[Index, ...]
    groups: GroupSizes
    content: Digest


class OpeningReply(ReplyMessage, frozen=True):
    """Phase 3, up: which contributions were summed, and the member's share of the sum of their keys and blindings."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "OpeningReply"

    contributors_hash: Digest
    share: Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**20)]


class BlameRequest(wire.Message, frozen=True):
    """Phase 4, if the sum failed; down, to each member that opened: in chunks, once more, what it opened."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "BlameRequest"

    contributors_hash: Digest
    groups: GroupSizes
    content: Digest


class BlameReply(ReplyMessage, frozen=True):
    """Phase 4, up: five blinded combinations of each contributor's shares, in the order of the cohort."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "BlameReply"

    contributors_hash: Digest
    combinations: Annotated[bytes, msgspec.Meta(min_length=1, max_length=2**28)]


def opening_fields(session_id: SessionId, kind: type[wire.Message], suite: int) -> tuple[int, str, int, str, bytes]:
    """The five fields that open a message of this protocol."""
    return wire.opening_fields(session_id, kind, suite)


def contribution_digest(session_id: SessionId, header: bytes, content: bytes) -> bytes:
    """What a client's signature on its contribution covers: its `ContributionReply` and the digest of its chunks."""
    return reply_digest(session_id, CONTRIBUTION, header, content)


def contributors_hash(session_id: SessionId, contributions: Iterable[tuple[int, bytes]]) -> bytes:
    """What a member names when it opens: indices and `contribution_digest`s, in the order of the cohort."""
    parts = [part for contribution in contributions for part in contribution]
    return tagged_hash("oneshot/contributors", session_id, *parts)

"""Messages of the CKKS protocol. Ciphertexts travel in chunks, one block each; see `protocols.ckks.blocks`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from protocols import wire
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SIGNATURE_BYTES, SignatureScheme
from protocols.session import SessionId
from protocols.signed import Opening, ReplyMessage, reply_digest
from protocols.wire import Digest, Index

__all__ = [
    "CONTRIBUTION",
    "DECRYPTION",
    "PROTOCOL",
    "ContributionReply",
    "ContributionRequest",
    "DecryptionReply",
    "DecryptionRequest",
    "SignedContribution",
    "contribution_digest",
    "contributors_hash",
]

PROTOCOL = "ckks"
CONTRIBUTION = "Contribution"
DECRYPTION = "Decryption"


class ContributionRequest(Opening, frozen=True):
    """Phase 1, down, to each client: the announcement, that is the parameters with the public context."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributionRequest"


class ContributionReply(ReplyMessage, frozen=True):
    """Phase 1, up: the ciphertexts follow in chunks."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributionReply"


class SignedContribution(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """That a client contributed, in its own words: what its signature covers."""

    index: Index
    content: Digest
    """Digest of its chunks."""
    signature: Annotated[
        bytes,
        msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SignatureScheme.ED25519_MLDSA65.signature_bytes),
    ]


class DecryptionRequest(Opening, frozen=True):
    """Phase 2, down, to the key holder: who contributed; the sum of their ciphertexts follows in chunks."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "DecryptionRequest"

    contributions: tuple[SignedContribution, ...]
    aggregate: Digest
    """Digest of the chunks."""


class DecryptionReply(ReplyMessage, frozen=True):
    """Phase 2, up: the sum follows in chunks, words modulo 2^b, one chunk for each ciphertext."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "DecryptionReply"

    contributors_hash: Digest
    noised: bool
    """Whether the key holder added noise of its own."""


def contribution_digest(session_id: SessionId, suite: int, party: str, content: bytes) -> bytes:
    """What a client's signature on its contribution covers."""
    header = wire.encode(ContributionReply(*wire.opening_fields(session_id, ContributionReply, suite), party))
    return reply_digest(session_id, CONTRIBUTION, header, content)


def contributors_hash(session_id: SessionId, contributions: Iterable[tuple[int, bytes]], aggregate: bytes) -> bytes:
    """What the key holder says it decrypted.

    :param contributions: indices and digests of their chunks, in the order of the cohort.
    """
    parts = [part for contribution in contributions for part in contribution]
    return tagged_hash("ckks/contributors", session_id, aggregate, *parts)

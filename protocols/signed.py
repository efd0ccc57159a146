"""The one construct by which a party vouches for a reply, and the framing of chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocols import wire
from protocols.errors import FaultReason, PeerFault
from protocols.primitives.labels import tagged_hash
from protocols.session import SessionId
from protocols.shape import Chunk

__all__ = ["NO_CHUNKS", "ContentDigest", "MemorySpool", "Opening", "ReplyMessage", "frame", "reply_digest", "unframe"]


class Opening(wire.Message, frozen=True):
    """A request that may be the first that its receiver sees: it carries the parameters."""

    parameters: Annotated[bytes, msgspec.Meta(max_length=wire.HEADER_LIMIT)]


class ReplyMessage(wire.Message, frozen=True):
    """A party's answer: it names the party, and its trailer is that party's signature over `reply_digest`."""

    party: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class ContentDigest:
    """SHA-256 over the frames of a reply's chunks, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, chunk: Chunk) -> None:
        """Take the next frame."""
        self._hash.update(chunk)

    def digest(self) -> bytes:
        """32 bytes."""
        return self._hash.digest()


NO_CHUNKS = ContentDigest().digest()


def reply_digest(session_id: SessionId, phase: str, header: bytes, content: bytes) -> bytes:
    """What a party signs: session, phase, hash of its reply's header, hash of its chunks."""
    return tagged_hash("reply", session_id, phase, hashlib.sha256(header).digest(), content)


def frame(index: int, payload: int) -> tuple[memoryview, NDArray[np.uint8]]:
    """Allocate a chunk's frame: its index, then room for ``payload`` bytes, which the caller must fill (no copy)."""
    buffer = np.empty(wire.CHUNK_INDEX_BYTES + payload, np.uint8)
    buffer[: wire.CHUNK_INDEX_BYTES] = np.frombuffer(index.to_bytes(wire.CHUNK_INDEX_BYTES, "little"), np.uint8)
    return buffer.data, buffer[wire.CHUNK_INDEX_BYTES :]


def unframe(chunk: Chunk, expected_index: int, expected_bytes: int) -> memoryview:
    """Payload of a frame.

    :raises PeerFault: CHUNK_LENGTH or CHUNK_ORDER.
    """
    view = memoryview(chunk)
    if view.nbytes != wire.CHUNK_INDEX_BYTES + expected_bytes:
        raise PeerFault(
            FaultReason.CHUNK_LENGTH,
            f"chunk {expected_index}: {view.nbytes} bytes, {wire.CHUNK_INDEX_BYTES + expected_bytes} expected",
        )
    index = int.from_bytes(view[: wire.CHUNK_INDEX_BYTES], "little")
    if index != expected_index:
        raise PeerFault(FaultReason.CHUNK_ORDER, f"chunk {index} where {expected_index} was expected")
    return view[wire.CHUNK_INDEX_BYTES :]


class MemorySpool:
    """A spool in memory; the default where a vector fits."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def append(self, chunk: Chunk) -> None:
        """Add a chunk at the end; the spool keeps it, the caller must not change it."""
        self._chunks.append(chunk)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks from the first."""
        return iter(self._chunks)

    def discard(self) -> None:
        """Forget everything."""
        self._chunks.clear()

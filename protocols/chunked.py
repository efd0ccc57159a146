"""Requests that carry chunks: how a server sends them, and how a party takes them one by one.

The header of such a request holds the digest of its chunks, so that it stands for the whole: the same header is the
same request. A party works on chunks as they come in, but nothing that follows from them leaves it, or goes on record,
before the last one has arrived and the digest fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from protocols.errors import FaultReason, PeerFault
from protocols.shape import Chunk
from protocols.signed import ContentDigest, frame, unframe
from protocols.wire import CHUNK_INDEX_BYTES

__all__ = ["ChunkLayout", "IncomingChunks", "OutgoingChunks"]


@dataclass(frozen=True)
class ChunkLayout:
    """What chunks a request must have, known from its header and the session's parameters.

    :param count: how many.
    :param payload_bytes: how many bytes the chunk of a given number holds.
    :param digest: `OutgoingChunks.digest` of all of them, from the header.
    """

    count: int
    payload_bytes: Callable[[int], int]
    digest: bytes


class OutgoingChunks:
    """The chunks of a request, framed as they are asked for; may be iterated again.

    :param payloads: makes the payloads, the same ones at every call.
    """

    def __init__(self, payloads: Callable[[], Iterable[Chunk]]) -> None:
        self._payloads = payloads

    def __iter__(self) -> Iterator[Chunk]:
        for index, payload in enumerate(self._payloads()):
            buffer, room = frame(index, memoryview(payload).nbytes)
            room[:] = np.frombuffer(payload, np.uint8)
            yield buffer

    def digest(self) -> bytes:
        """SHA-256 over all frames, for the request's header; makes every chunk once."""
        return self.measure()[1]

    def measure(self) -> tuple[tuple[int, ...], bytes]:
        """How many bytes each payload has, and `digest`; makes every chunk once."""
        content = ContentDigest()
        sizes = []
        for chunk in self:
            content.update(chunk)
            sizes.append(memoryview(chunk).nbytes - CHUNK_INDEX_BYTES)
        return tuple(sizes), content.digest()


class IncomingChunks:
    """The payloads of a request's chunks, in order, each checked against its layout; iterated once.

    :param layout: what must come.
    :param chunks: what comes.
    :param blame: context that turns a fault into the sender's.
    """

    def __init__(
        self, layout: ChunkLayout, chunks: Iterable[Chunk], blame: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._blame = blame
        self._whole = False
        self._payloads = self._read(layout, chunks)

    def __iter__(self) -> Iterator[memoryview]:
        return self._payloads

    def finish(self) -> None:
        """Take what the receiver left, and see to it that all was there.

        :raises PeerFault: a chunk that must not be, or none where one must be (PT-12); another digest (PT-13).
        """
        for _ in self._payloads:
            pass
        if not self._whole:  # a fault that was raised, and caught by the receiver, while it read
            with self._blame():
                raise PeerFault(FaultReason.CHUNK_LENGTH, "the chunks broke off", rule="PT-12")

    def _read(self, layout: ChunkLayout, chunks: Iterable[Chunk]) -> Iterator[memoryview]:
        content = ContentDigest()
        number = 0
        for chunk in chunks:
            with self._blame():
                payload = _payload(chunk, number, layout)
            content.update(chunk)
            number += 1
            yield payload
        with self._blame():
            if number < layout.count:
                raise PeerFault(FaultReason.CHUNK_LENGTH, f"{number} chunks of {layout.count}", rule="PT-12")
            if content.digest() != layout.digest:
                raise PeerFault(FaultReason.MALFORMED, "the chunks do not have the header's digest", rule="PT-13")
        self._whole = True


def _payload(chunk: Chunk, number: int, layout: ChunkLayout) -> memoryview:
    if number >= layout.count:
        raise PeerFault(FaultReason.CHUNK_LENGTH, f"more than {layout.count} chunks", rule="PT-12")
    try:
        return unframe(chunk, number, layout.payload_bytes(number))
    except PeerFault as fault:
        raise PeerFault(fault.reason, fault.detail, rule="PT-12") from None

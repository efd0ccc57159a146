"""Masks: which streams a client adds to its vector, and the keys that give them.

y_u = x_u + PRG(self_mask_seed_u) + sum over v of +-PRG(pairwise key of u and v) mod 2^b, + if u < v (Bonawitz et al.
2017, section 4.2). Every key is 256 bits and bound by its label to T0 and to the pair or client that it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.errors import UsageError
from protocols.primitives.bitpack import pack, packed_size
from protocols.primitives.labels import derive_key, tagged_hash
from protocols.primitives.prg import MaskStream, apply_masks
from protocols.primitives.ring import reduce_in_place, word_dtype
from protocols.primitives.sealing import SealingKeyPair, agree
from protocols.session import SessionId, SessionParameters
from protocols.shape import Chunk, VectorSource, Words
from protocols.signed import frame
from protocols.workers import SERIAL, Workers

__all__ = [
    "Mask",
    "check_exchange_key",
    "masked_chunks",
    "pairwise_mask_key",
    "remove_masks",
    "seed_commitment",
    "self_mask_key",
]

SEED_BYTES = 32
# Any clamped scalar sends a point of low order to zero, and only such a point: a constant serves to test for it.
_PROBE = SealingKeyPair(bytes(31) + b"\x40")
MASKS_AT_ONCE = 512
"""Bounds the cipher objects alive at a time; far more than enough to keep a chunk in cache."""
SMALLEST_PIECE = 2**17
"""Entries: setting up a mask's cipher costs as much as 10,000 words of its stream, and every piece pays it."""
PIECES_A_WORKER = 2
"""On a busy machine one worker is slower than another: it then does fewer of them."""
LARGEST_PIECE = 2**22
CUT_ENTRIES = 64
"""Entries of any width in a multiple of this fill whole bytes, and whole blocks of the cipher."""
PACKED_AT_ONCE = 2**17
"""Entries masked and packed while they are in the cache; a multiple of `CUT_ENTRIES`."""

Streams: TypeAlias = Sequence[tuple[MaskStream, int]]
PieceT = TypeVar("PieceT", "_Summed", "_Outgoing")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask in a vector: key of its stream, and the sign with which it went in, 1 or -1."""

    key: bytes = field(repr=False)
    sign: int


def check_exchange_key(public: bytes) -> None:
    """Refuse an X25519 public key with which no secret can be agreed on.

    :raises PeerFault: BAD_KEY, of low order or not canonical.
    """
    agree(_PROBE, public)


def self_mask_key(seed: bytes, advertised: bytes, index: int) -> bytes:
    """Key of a client's self mask, from its 32-byte seed."""
    return derive_key(seed, label="secagg/self-mask", context=(advertised, index))


def pairwise_mask_key(shared_secret: bytes, advertised: bytes, one: int, other: int) -> bytes:
    """Key of the mask that two clients share, from the X25519 secret of their masking keys."""
    return derive_key(
        shared_secret, label="secagg/pairwise-mask", context=(advertised, min(one, other), max(one, other))
    )


def seed_commitment(seed: bytes, session_id: SessionId, index: int) -> bytes:
    """Commitment to a self mask's seed; hiding, since the seed has 256 bits of entropy."""
    return tagged_hash("secagg/seed-commitment", session_id, index, seed)


def masked_chunks(
    parameters: SessionParameters, vector: VectorSource, masks: Sequence[Mask], workers: Workers = SERIAL
) -> Iterator[Chunk]:
    """Mask a vector and pack it to exactly b bits an entry, frame by frame.

    :raises UsageError: an entry of 2^b or more; a source that yields another length or dtype.
    """
    bits = parameters.modulus_bits
    # The pieces of a chunk may be worked on at the same time: each has streams of its own, kept for the next chunk.
    streams: list[Streams] = []
    for index in range(parameters.chunk_count()):
        start = index * parameters.chunk_length
        entries = parameters.chunk_entries(index)
        source = vector.read(start, start + entries)
        if source.shape != (entries,) or source.dtype.kind != "u":
            raise UsageError(
                f"vector: chunk {index} is {source.dtype}{list(source.shape)}; expected {entries} unsigned"
            )
        if source.dtype.itemsize * 8 > bits and int(source.max()) >> bits:
            raise UsageError(f"vector: an entry of chunk {index} does not fit into {bits} bits")
        buffer, packed = frame(index, packed_size(entries, bits))
        cuts = _cuts(entries, workers.count)
        while len(streams) < len(cuts):
            streams.append(_streams(masks, bits))
        pieces = [
            _Outgoing(packed[low * bits // 8 : packed_size(high, bits)], bits, source[low:high], own, start + low)
            for (low, high), own in zip(cuts, streams[: len(cuts)], strict=True)
        ]
        _run(workers, _mask_and_pack, pieces)
        yield buffer


def remove_masks(accumulator: Words, masks: Iterable[Mask], bits: int, workers: Workers = SERIAL) -> None:
    """Take masks out of a sum, in place; the signs are those with which the masks went in."""
    remaining = iter(masks)
    while batch := tuple(Mask(mask.key, -mask.sign) for mask in islice(remaining, MASKS_AT_ONCE)):
        pieces = [
            _Summed(accumulator[low:high], bits, batch, low) for low, high in _cuts(accumulator.size, workers.count)
        ]
        _run(workers, _add_masks, pieces)
    reduce_in_place(accumulator, bits)


@dataclass(frozen=True)
class _Summed:
    """A piece of a sum, from entry ``start`` on, and what to add to it: plain bytes and numbers, it may travel."""

    out: Words
    bits: int
    masks: tuple[Mask, ...]
    start: int


def _add_masks(piece: _Summed) -> Words:
    apply_masks(piece.out, _streams(piece.masks, piece.bits), piece.start)
    return piece.out


@dataclass(frozen=True)
class _Outgoing:
    """A piece of a client's vector, from entry ``start`` on, and the bytes that it is to be masked and packed into."""

    out: NDArray[np.uint8]
    bits: int
    source: Words
    streams: Streams
    start: int


def _mask_and_pack(piece: _Outgoing) -> NDArray[np.uint8]:
    dtype = word_dtype(piece.bits)
    if piece.bits == 8 * dtype.itemsize:  # masked where it is sent from
        apply_masks(piece.out.view(dtype), piece.streams, piece.start, source=piece.source)
        return piece.out
    scratch = np.empty(min(piece.source.size, PACKED_AT_ONCE), dtype)
    for low in range(0, piece.source.size, PACKED_AT_ONCE):
        source = piece.source[low : low + PACKED_AT_ONCE]
        words = scratch[: source.size]
        apply_masks(words, piece.streams, piece.start + low, source=source)
        reduce_in_place(words, piece.bits)
        at = low * piece.bits // 8
        pack(words, piece.bits, out=piece.out[at : at + packed_size(words.size, piece.bits)])
    return piece.out


def _run(workers: Workers, function: Callable[[PieceT], Words], pieces: Sequence[PieceT]) -> None:
    done = 0
    for piece, out in zip(pieces, workers.map(function, pieces), strict=False):
        if out is not piece.out:  # it travelled
            piece.out[:] = out
        done += 1
    if done != len(pieces):
        raise UsageError(f"workers: {done} of {len(pieces)} pieces came back")


def _streams(masks: Sequence[Mask], bits: int) -> Streams:
    return [(MaskStream(mask.key, bits), mask.sign) for mask in masks]


def _cuts(entries: int, workers: int) -> list[tuple[int, int]]:
    """Where to cut a vector: some pieces a worker, unless they became small; not at all for one worker."""
    if workers == 1:
        return [(0, entries)]
    pieces = max(1, min(PIECES_A_WORKER * workers, entries // SMALLEST_PIECE), -(-entries // LARGEST_PIECE))
    piece = -(-entries // (pieces * CUT_ENTRIES)) * CUT_ENTRIES
    return [(low, min(entries, low + piece)) for low in range(0, entries, piece)]

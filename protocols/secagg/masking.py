"""Masks: which streams a client adds to its vector, and the keys that give them.

y_u = x_u + PRG(self_mask_seed_u) + sum over v of +-PRG(pairwise key of u and v) mod 2^b, + if u < v (Bonawitz et al.
2017, section 4.2). Every key is 256 bits and bound by its label to T0 and to the pair or client that it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from protocols.errors import UsageError
from protocols.primitives.bitpack import pack, packed_size
from protocols.primitives.labels import derive_key, tagged_hash
from protocols.primitives.prg import MaskStream, apply_masks
from protocols.primitives.ring import reduce_in_place, word_dtype
from protocols.primitives.sealing import SealingKeyPair, agree
from protocols.session import SessionId, SessionParameters
from protocols.shape import Chunk, VectorSource, Words
from protocols.signed import frame

__all__ = [
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
STREAMS_AT_ONCE = 512
"""Bounds the cipher objects alive at a time; far more than enough to keep a chunk in cache."""


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
    parameters: SessionParameters, vector: VectorSource, masks: Sequence[tuple[MaskStream, int]]
) -> Iterator[Chunk]:
    """Mask a vector and pack it to exactly b bits an entry, frame by frame.

    :raises UsageError: an entry of 2^b or more; a source that yields another length or dtype.
    """
    bits = parameters.modulus_bits
    dtype = word_dtype(bits)
    # Whole words are masked where they are sent from; other widths in one scratch buffer, then packed.
    whole = bits == 8 * dtype.itemsize
    scratch = np.empty(0 if whole else parameters.chunk_entries(0), dtype)
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
        words = packed.view(dtype) if whole else scratch[:entries]
        np.copyto(words, source, casting="same_kind")
        apply_masks(words, masks, start)
        if not whole:
            reduce_in_place(words, bits)
            pack(words, bits, out=packed)
        yield buffer


def remove_masks(accumulator: Words, masks: Iterable[tuple[MaskStream, int]], bits: int) -> None:
    """Take masks out of a sum, in place; the signs are those with which the masks went in."""
    remaining = iter(masks)
    while batch := [(stream, -sign) for stream, sign in islice(remaining, STREAMS_AT_ONCE)]:
        apply_masks(accumulator, batch, 0)
    reduce_in_place(accumulator, bits)

"""Vectors of words at exactly b bits an entry, in little-endian bit order.

Entry i takes bits [i b, (i + 1) b) of the buffer, bit k of the buffer being bit k mod 8 of byte k // 8; the unused bits
of the last byte are zero. Chunks of a vector whose entry counts are multiples of 8 pack to whole bytes: packed apart
and concatenated they are the packed vector.

Words of 8, 16, 32 and 64 bits are their own packing. Others are merged, by contiguous steps, into 64-bit words that
hold 1, 2, 4 or 8 entries (c bits in all). Eight of those fill c whole bytes: each of the eight positions in such a
group is one vectorised step over all groups, in a scratch buffer that stays in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.ring import Words, check_words, word_dtype

__all__ = ["Packer", "pack", "packed_size", "unpack"]

Bytes = npt.NDArray[np.uint8]

_GROUP = 8
_CHUNK_BYTES = 256 * 1024  # of words; a multiple of eight 64-bit words
_SPARE_BYTES = 8  # the last group's last 64-bit load and store pass its end by less than this
_LOAD = np.dtype("<u8")


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` entries of ``bits`` bits take.

    :raises UsageError: bits not in 1..64, negative count.
    """
    word_dtype(bits)
    if count < 0:
        raise UsageError(f"a number of entries is not negative, as {count} is")
    return (count * bits + 7) // 8


def pack(words: Words, bits: int, *, out: Bytes | None = None) -> Bytes:
    """Pack words into ``packed_size(len(words), bits)`` bytes.

    :param words: 1-d array of ``word_dtype(bits)``, each below 2^bits.
    :param out: 1-d contiguous writable uint8 array of exactly that size.
    :returns: ``out``; or without it a new array, at 8, 16, 32 and 64 bits a view of contiguous words (no copy).
    :raises UsageError: another kind of array, a word of 2^bits or more, or ``out`` is not as stated.
    """
    check_words(words, bits)
    size = packed_size(words.size, bits)
    if out is not None:
        _check_output(out, size)
    if bits == 8 * words.itemsize:
        packed: Bytes = np.ascontiguousarray(words).view(np.uint8)
        if out is None:
            return packed
        out[:] = packed
        return out
    if out is None:
        out = np.empty(size, np.uint8)
    Packer(bits, words.size).pack(words, out)
    return out


class Packer:
    """Packs arrays of one width, one after the other, in scratch space that is allocated once.

    What was packed last stays in that space.

    :param bits: 1..64.
    :param entries: most entries of an array; less saves space.
    :raises UsageError: bits out of range.
    """

    def __init__(self, bits: int, entries: int) -> None:
        dtype = word_dtype(bits)
        self._bits = bits
        self._entries = max(1, min(entries, _CHUNK_BYTES // dtype.itemsize))
        self._scratch = None if bits == 8 * dtype.itemsize else _Chunk(bits, self._entries)

    def pack(self, words: Words, out: Bytes) -> None:
        """Pack words into ``out``; both as for :func:`pack`.

        :raises UsageError: see :func:`pack`.
        """
        check_words(words, self._bits)
        _check_output(out, packed_size(words.size, self._bits))
        if self._scratch is None:
            out[:] = np.ascontiguousarray(words).view(np.uint8)
            return
        step = self._entries if words.size <= self._entries else self._entries // _GROUP * _GROUP
        if not step:
            raise UsageError(f"{words.size} entries for a packer of {self._entries}")
        for low in range(0, words.size, step):
            chunk = words[low : low + step]
            if int(chunk.max()) >> self._bits:
                raise UsageError(f"a word does not fit into {self._bits} bits: reduce before packing")
            at = low * self._bits // 8
            size = packed_size(chunk.size, self._bits)
            out[at : at + size] = self._scratch.pack(chunk)[:size]


def unpack(buffer: bytes | bytearray | memoryview | Bytes, count: int, bits: int) -> Words:
    """Read ``count`` entries of ``bits`` bits.

    :param buffer: exactly ``packed_size(count, bits)`` bytes.
    :returns: 1-d array of ``word_dtype(bits)``; at 8, 16, 32 and 64 bits a view of the buffer (no copy, read-only if
        the buffer is).
    :raises UsageError: bits not in 1..64, negative count.
    :raises PeerFault: ``CHUNK_LENGTH`` for another length, ``MALFORMED`` for unused bits that are not zero.
    """
    dtype = word_dtype(bits)
    size = packed_size(count, bits)
    packed = np.frombuffer(buffer, np.uint8)
    if packed.size != size:
        raise PeerFault(
            FaultReason.CHUNK_LENGTH, f"{count} entries of {bits} bits take {size} bytes, not {packed.size}"
        )
    if bits == 8 * dtype.itemsize:
        return packed.view(dtype)
    used = count * bits % 8
    if used and int(packed[-1]) >> used:
        raise PeerFault(FaultReason.MALFORMED, "unused bits of the last byte are not zero")
    words = np.empty(count, dtype)
    entries = _CHUNK_BYTES // words.itemsize
    scratch = _Chunk(bits, min(count, entries))
    for low in range(0, count, entries):
        chunk = words[low : low + entries]
        at = low * bits // 8
        scratch.unpack(packed[at : at + packed_size(chunk.size, bits)], chunk)
    return words


def _check_output(out: Bytes, size: int) -> None:
    if out.dtype != np.uint8 or out.shape != (size,) or not out.flags.c_contiguous:
        raise UsageError(f"the output is a contiguous uint8 array of {size} bytes, not {out.dtype} {out.shape}")
    if not out.flags.writeable:
        raise UsageError("the output is read-only")


def _merge(words: Words, bits: int) -> None:
    """Move neighbours together, in place, until each 64-bit word holds all its entries in its low bits."""
    while words.itemsize < _LOAD.itemsize:
        width = 8 * words.itemsize
        words = words.view(f"<u{2 * words.itemsize}")
        low = words.dtype.type((1 << bits) - 1)
        upper = np.right_shift(words, width - bits)
        np.bitwise_and(upper, ~low, out=upper)
        np.bitwise_and(words, low, out=words)
        np.bitwise_or(words, upper, out=words)
        bits *= 2


def _split(words: Words, bits: int, dtype: np.dtype[Any]) -> None:
    """Undo :func:`_merge`, in place: ``bits`` is what the 64-bit words hold, ``dtype`` that of an entry."""
    while words.itemsize > dtype.itemsize:
        width, bits = 4 * words.itemsize, bits // 2
        low = words.dtype.type((1 << bits) - 1)
        upper = np.bitwise_and(words, ~low)
        np.left_shift(upper, width - bits, out=upper)
        np.bitwise_and(words, low, out=words)
        np.bitwise_or(words, upper, out=words)
        words = words.view(f"<u{words.itemsize // 2}")


class _Chunk:
    """Scratch space, and the views into it, to pack or unpack chunks of up to ``entries`` entries of one width."""

    def __init__(self, bits: int, entries: int) -> None:
        self._bits = bits
        self._merged_bits = bits * _LOAD.itemsize // word_dtype(bits).itemsize
        multiple = _GROUP * _LOAD.itemsize // word_dtype(bits).itemsize
        groups = max(1, -(-entries // multiple))
        self._words = np.zeros(groups * multiple, word_dtype(bits))
        self._packed = np.zeros(groups * self._merged_bits + _SPARE_BYTES, np.uint8)
        self._column = np.empty(groups, _LOAD)
        self._loaded = np.empty(groups, _LOAD)
        self._positions = [self._views(position, groups) for position in range(_GROUP)]

    def _views(self, position: int, groups: int) -> tuple[Words, int, Words, Bytes | None]:
        """Of one position in every group: entries, shift, the (unaligned) 64 bits where they start, the byte after."""
        entries = self._words.view(_LOAD)[position::_GROUP]
        offset, shift = divmod(position * self._merged_bits, 8)
        first = np.ndarray((groups,), _LOAD, self._packed.data, offset, (self._merged_bits,))
        if self._merged_bits + shift <= 64:
            return entries, shift, first, None
        return entries, shift, first, self._packed[offset + 8 :: self._merged_bits][:groups]

    def pack(self, chunk: Words) -> Bytes:
        """Pack a chunk; the array is overwritten by the next call and ends with spare bytes."""
        self._words[: chunk.size] = chunk
        self._words[chunk.size :] = 0
        _merge(self._words, self._bits)
        self._packed.fill(0)
        column, loaded = self._column, self._loaded
        for entries, shift, first, after in self._positions:
            np.left_shift(entries, shift, out=column)
            loaded[:] = first
            np.bitwise_or(loaded, column, out=loaded)
            first[:] = loaded
            if after is not None:
                np.right_shift(entries, 64 - shift, out=column)
                after[:] = column  # nothing is there yet
        return self._packed

    def unpack(self, packed: Bytes, chunk: Words) -> None:
        """Unpack bytes into a chunk."""
        self._packed[: packed.size] = packed
        column, loaded = self._column, self._loaded
        mask = _LOAD.type((1 << self._merged_bits) - 1)
        for entries, shift, first, after in self._positions:
            column[:] = first
            np.right_shift(column, shift, out=column)
            if after is not None:
                loaded[:] = after
                np.left_shift(loaded, 64 - shift, out=loaded)
                np.bitwise_or(column, loaded, out=column)
            np.bitwise_and(column, mask, out=entries)
        _split(self._words.view(_LOAD), self._merged_bits, chunk.dtype)
        chunk[:] = self._words[: chunk.size]

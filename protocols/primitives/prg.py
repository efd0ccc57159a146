"""Mask generator: AES-256 in counter mode (NIST SP 800-38A, section 6.5), read as little-endian words.

The counter block of a stream starts at zero and its key is used for nothing else, so a key determines one stream of
words; any word is found by setting the counter. Expanding a mask into fresh memory costs several times the cipher
itself in page faults: masks are expanded and added in chunks that stay in the cache, all masks to one chunk before
the next.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from protocols.errors import UsageError
from protocols.primitives.labels import KEY_BYTES
from protocols.primitives.ring import Words, check_words, word_dtype
from protocols.primitives.secrecy import HoldsSecret

__all__ = ["MaskStream", "apply_masks"]

_BLOCK_BYTES = 16
# Zeros, keystream and accumulator chunk together fit a second-level cache of 1 MiB. Less would hand the interpreter's
# lock from thread to thread more often.
_CHUNK_BYTES = 256 * 1024
_ZEROS = bytes(_CHUNK_BYTES)
_FROM_THE_START = CTR(bytes(_BLOCK_BYTES))


class _Scratch(threading.local):
    """One chunk of keystream a thread, allocated once: fresh memory would cost its page faults at every call."""

    def __init__(self) -> None:
        self.keystream = np.empty(_CHUNK_BYTES, np.uint8)


_scratch = _Scratch()


class MaskStream(HoldsSecret):
    """The stream of mask words under one key.

    Words are uniform modulo 2^w, w the width of ``word_dtype(bits)``; w >= bits, and reducing modulo 2^bits after the
    sum is the caller's. An object serves one thread at a time. Reading on from the last position is cheapest.

    :param key: 32 bytes, derived with a label of its own for this stream alone.
    :param bits: 1..64.
    :raises UsageError: another length of key, or bits out of range.
    """

    __slots__ = ("_encryptor", "_position", "bits", "dtype")

    def __init__(self, key: bytes, bits: int) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"a mask key has {KEY_BYTES} bytes, not {len(key)}")
        self.bits = bits
        self.dtype = word_dtype(bits)
        self._encryptor = Cipher(AES(key), _FROM_THE_START).encryptor()
        self._position = 0  # of the next keystream byte

    def words(self, start: int, count: int) -> Words:
        """Words [start, start + count) of the stream, a new array of ``word_dtype(bits)``.

        :raises UsageError: a negative start or count.
        """
        if count < 0:
            raise UsageError(f"a number of words is not negative, as {count} is")
        words = np.zeros(count, self.dtype)
        self.add_into(words, start)
        return words

    def add_into(self, accumulator: Words, start: int, *, subtract: bool = False) -> None:
        """Add (or subtract) words [start, start + length of accumulator) of the stream, in place, modulo 2^w.

        :param accumulator: 1-d writable array of ``word_dtype(bits)``.
        :raises UsageError: another kind of array, a negative start.
        """
        apply_masks(accumulator, [(self, -1 if subtract else 1)], start)

    def fill(self, out: Words, start: int) -> None:
        """Overwrite an array with words [start, start + its length) of the stream.

        :param out: 1-d contiguous writable array of ``word_dtype(bits)``.
        :raises UsageError: another kind of array, a negative start.
        """
        check_words(out, self.bits)
        if start < 0:
            raise UsageError(f"a word index is not negative, as {start} is")
        if not out.flags.c_contiguous or not out.flags.writeable:
            raise UsageError("the array is not contiguous, or read-only")
        view = out.view(np.uint8).data
        for low in range(0, len(view), _CHUNK_BYTES):
            self._fill(start + low // self.dtype.itemsize, view[low : low + _CHUNK_BYTES])

    def _fill(self, start: int, keystream: memoryview) -> None:
        """Overwrite ``keystream``, of at most one chunk, with the keystream from word ``start`` on."""
        position = start * self.dtype.itemsize
        if position != self._position:
            block, offset = divmod(position, _BLOCK_BYTES)
            self._encryptor.reset_nonce(block.to_bytes(_BLOCK_BYTES, "big"))
            self._encryptor.update(bytes(offset))
        length = len(keystream)
        self._encryptor.update_into(_ZEROS if length == _CHUNK_BYTES else bytes(length), keystream)
        self._position = position + length


def apply_masks(
    accumulator: Words, masks: Sequence[tuple[MaskStream, int]], start: int, *, source: Words | None = None
) -> None:
    """Add each mask's words [start, start + length of accumulator), times its sign, in place, modulo 2^w.

    :param accumulator: 1-d writable array of the ``word_dtype`` of all the streams.
    :param masks: streams with sign 1 or -1.
    :param source: what to start from instead of the accumulator's content: as many words of any unsigned dtype. Copying
        them chunk by chunk saves one way through memory.
    :raises UsageError: another kind of array, a negative start, another sign. The accumulator is then unchanged.
    """
    if start < 0:
        raise UsageError(f"a word index is not negative, as {start} is")
    for bits in {stream.bits for stream, _ in masks}:
        check_words(accumulator, bits)
    for sign in {sign for _, sign in masks} - {1, -1}:
        raise UsageError(f"the sign of a mask is 1 or -1, not {sign}")
    if not accumulator.flags.writeable:
        raise UsageError("the accumulator is read-only")
    if source is not None and (source.shape != accumulator.shape or source.dtype.kind != "u"):
        raise UsageError(f"the source is {accumulator.size} unsigned words, not {source.dtype}{list(source.shape)}")
    chunk_words = _CHUNK_BYTES // accumulator.itemsize
    keystream = _scratch.keystream.view(accumulator.dtype)[: accumulator.size]
    for low in range(0, accumulator.size, chunk_words):
        chunk = accumulator[low : low + chunk_words]
        if source is not None:
            np.copyto(chunk, source[low : low + chunk_words], casting="same_kind")
        mask = keystream[: chunk.size]
        mask_bytes = mask.view(np.uint8).data
        for stream, sign in masks:
            stream._fill(start + low, mask_bytes)
            if sign == 1:
                np.add(chunk, mask, out=chunk)
            else:
                np.subtract(chunk, mask, out=chunk)
    keystream.fill(0)  # the buffer outlives the call, a mask does not

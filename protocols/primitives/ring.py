"""Words modulo 2^bits: how they are stored, reduced and read as signed numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError

__all__ = ["MAXIMAL_BITS", "Words", "centre", "check_words", "reduce_in_place", "word_dtype"]

Words = npt.NDArray[np.unsignedinteger[Any]]

MAXIMAL_BITS = 64
# By number of bits; one object each, since a dtype made from text costs as much as a tenth of a mask's cipher.
_DTYPES = tuple(np.dtype(f"<u{1 << max(0, (bits - 1).bit_length() - 3)}") for bits in range(1, MAXIMAL_BITS + 1))


def word_dtype(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Smallest unsigned little-endian dtype of 8, 16, 32 or 64 bits that holds ``bits`` bits.

    :raises UsageError: ``bits`` is not in 1..64.
    """
    if not 1 <= bits <= MAXIMAL_BITS:
        raise UsageError(f"a word has 1 to {MAXIMAL_BITS} bits, not {bits}")
    return _DTYPES[bits - 1]


def check_words(words: Words, bits: int) -> None:
    """Refuse what is not a one-dimensional array of ``word_dtype(bits)``.

    :raises UsageError: another dtype or number of dimensions, or ``bits`` out of range.
    """
    expected = word_dtype(bits)
    if words.dtype != expected or words.ndim != 1:
        raise UsageError(f"words of {bits} bits are 1-d {expected}, not {words.ndim}-d {words.dtype}")


def reduce_in_place(words: Words, bits: int) -> None:
    """Reduce each word modulo 2^bits, in place.

    :param words: 1-d array of ``word_dtype(bits)``.
    :raises UsageError: see :func:`check_words`.
    """
    check_words(words, bits)
    if bits < 8 * words.itemsize:
        np.bitwise_and(words, words.dtype.type((1 << bits) - 1), out=words)


def centre(words: Words, bits: int) -> npt.NDArray[np.int64]:
    """Read words modulo 2^bits as integers in [-2^(bits-1), 2^(bits-1)): two's complement; a new int64 array.

    Bits above ``bits`` are ignored.

    :param words: 1-d array of ``word_dtype(bits)``.
    :raises UsageError: see :func:`check_words`.
    """
    check_words(words, bits)
    signed = words.astype(np.uint64).view(np.int64)
    unused = MAXIMAL_BITS - bits
    np.left_shift(signed, unused, out=signed)
    np.right_shift(signed, unused, out=signed)
    return signed

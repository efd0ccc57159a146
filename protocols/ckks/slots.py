"""Integers in the slots of ciphertexts, and back: what leaves the key holder is exact integers and nothing finer.

The error of an approximate decryption depends on the secret key. Whoever sees enough of it finds the key (Li and
Micciancio, "On the security of homomorphic encryption on approximate numbers", Eurocrypt 2021), so it is rounded away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.ring import Words, centre, word_dtype

__all__ = ["Integers", "exact", "signed", "to_words"]

Integers = NDArray[np.int64]


def signed(words: Words, bits: int, value_bound: int, slots: int) -> Integers:
    """Words modulo 2^bits as signed integers, followed by zeros up to `slots`.

    :param words: 1-d array of an unsigned dtype.
    :raises UsageError: a word of 2^bits or more, or a value beyond the bound.
    """
    if words.size and int(words.max()) >> bits:
        raise UsageError(f"an entry does not fit into {bits} bits")
    values = np.zeros(slots, np.int64)
    values[: words.size] = centre(words.astype(word_dtype(bits), copy=False), bits)
    if max(int(values.max()), -int(values.min())) > value_bound:
        raise UsageError(f"an entry is beyond +-{value_bound}")
    return values


def exact(slots: NDArray[np.float64], entries: int, tolerance: float, largest: int) -> Integers:
    """The integers that decrypted slots stand for.

    :param entries: how many slots are used; the others must hold zero.
    :param tolerance: proven error of the sum: an honest one is never further from an integer.
    :param largest: largest absolute value of a sum.
    :raises PeerFault: BAD_CIPHERTEXT: this is no sum of integers in that range.
    """
    rounded = np.rint(slots)
    with np.errstate(invalid="ignore"):  # infinite less infinite: not a number, which passes no comparison
        close = np.abs(slots - rounded) <= tolerance
    if not bool(close.all()):
        raise PeerFault(FaultReason.BAD_CIPHERTEXT, f"a slot is more than {tolerance:.2g} from an integer")
    if not bool((np.abs(rounded) <= largest).all()):
        raise PeerFault(FaultReason.BAD_CIPHERTEXT, f"a slot is beyond +-{largest}")
    if rounded[entries:].any():
        raise PeerFault(FaultReason.BAD_CIPHERTEXT, "a slot past the vector's end is not zero")
    return rounded[:entries].astype(np.int64)


def to_words(integers: Integers, bits: int) -> Words:
    """Signed integers as words modulo 2^bits, of ``word_dtype(bits)``."""
    words = integers.view(np.uint64) & np.uint64((1 << bits) - 1)
    return words.astype(word_dtype(bits))

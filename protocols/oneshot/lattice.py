"""Add-only encryption from ring-LWE, one key for a vector of any length.

Key-homomorphic masks as in ACORN (eprint 2022/1461): block j of a ciphertext is c_j = a_j s + e_j + Delta m_j in
Z[X]/(X^N + 1) modulo 2^Q. s and e_j are centred binomials, popcount(64 random bits) - 32; the public a_j come from
AES-256-CTR keyed by a hash of the session id; coefficients are in the order of `negacyclic`. The sum of ciphertexts
opens under the sum of keys. That this sum is revealed is covered by Hint-RLWE (Kim, Lee, Seo, Song 2023), stated for
Gaussian errors; for centred binomials it is an assumption.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.oneshot.negacyclic import BATCH_BLOCKS, NegacyclicProduct
from protocols.oneshot.records import WORD_BITS, LatticeRecord, Polynomial, Words64
from protocols.oneshot.slots import Layout
from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.secrecy import HoldsSecret
from protocols.session import SessionId

__all__ = ["Encryption", "decrypt_sum", "longest_key_sum", "public_stream", "sample_key"]

_ERROR_KEY_BYTES = 32
FALSE_ALARM_EXPONENT = 72
"""Residuals of a block, or a sum of keys, fail against honest parties with probability below exp(-72) = 2^-103."""
RESIDUAL_DEVIATIONS = 12


def public_stream(session_id: SessionId) -> MaskStream:
    """The public polynomials of a session, one after the other: words j N to (j + 1) N, modulo 2^Q, are a_j."""
    return MaskStream(tagged_hash("oneshot/public-polynomials", session_id), WORD_BITS)


def sample_key(lattice: LatticeRecord, entropy: Entropy) -> Polynomial:
    """A fresh secret polynomial s, int64 array [N] of values -32..32, for one contribution."""
    stream = MaskStream(draw(entropy, _ERROR_KEY_BYTES), WORD_BITS)
    return np.bitwise_count(stream.words(0, lattice.degree)).astype(np.int64) - lattice.largest


def longest_key_sum(lattice: LatticeRecord, contributors: int) -> float:
    """Norm that the sum of so many honest keys exceeds with probability below exp(-72)."""
    return math.sqrt(contributors * lattice.variance * _tail(lattice.degree))


class Encryption(HoldsSecret):
    """Encrypts the blocks of one vector under one fresh key.

    :param key: what `sample_key` gave, used for this vector alone.
    :param entropy: keys the stream of the errors.
    """

    __slots__ = (
        "_above",
        "_blocks",
        "_degree",
        "_drawn",
        "_dropped",
        "_errors",
        "_offset",
        "_product",
        "_public",
        "_shift",
    )

    def __init__(
        self, lattice: LatticeRecord, layout: Layout, session_id: SessionId, key: Polynomial, entropy: Entropy
    ) -> None:
        self._degree = lattice.degree
        self._product = NegacyclicProduct(key, layout.modulus_bits)
        self._public = public_stream(session_id)
        self._errors = MaskStream(draw(entropy, _ERROR_KEY_BYTES), WORD_BITS)
        above = WORD_BITS - layout.modulus_bits
        self._shift, self._above = np.uint64(layout.delta_bits), np.uint64(above)
        self._dropped = np.uint64(above + layout.dropped_bits)
        # Popcounts are centred, and the bits that do not travel rounded, by one addition.
        self._offset = np.uint64(((1 << layout.dropped_bits >> 1) - lattice.largest) % 2**WORD_BITS)
        self._drawn = np.empty((BATCH_BLOCKS, lattice.degree), np.uint64)
        self._blocks = np.empty((BATCH_BLOCKS, lattice.degree), np.uint64)

    def encrypt(self, plain: Words64, first_block: int, out: Words64) -> None:
        """Encrypt coefficients from the start of a block on; each block once.

        :param plain: uint64 plaintext coefficients, before the multiplication by Delta.
        :param first_block: number of the block that they open.
        :param out: uint64 array of the same length: the ciphertext without its dropped bits; may be `plain` itself.
        """
        size = self._degree * BATCH_BLOCKS
        for low in range(0, plain.size, size):
            part = plain[low : low + size]
            count = -(-part.size // self._degree)
            blocks, drawn = self._blocks[:count], self._drawn[:count]
            start = first_block * self._degree + low
            flat = blocks.reshape(-1)
            np.left_shift(part, self._shift, out=flat[: part.size])
            flat[part.size :] = 0
            self._errors.fill(drawn.reshape(-1), start)
            np.add(blocks, np.bitwise_count(drawn), out=blocks)
            np.add(blocks, self._offset, out=blocks)
            self._public.fill(drawn.reshape(-1), start)
            self._product.add_into(blocks, drawn)
            np.left_shift(flat, self._above, out=flat)
            np.right_shift(flat[: part.size], self._dropped, out=out[low : low + size])
        self._blocks.fill(0)
        self._drawn.fill(0)

    def erase(self) -> None:
        """Overwrite the key's image, errors and plaintext; the object is of no use afterwards."""
        self._product.erase()
        self._blocks.fill(0)
        self._drawn.fill(0)


def decrypt_sum(
    lattice: LatticeRecord,
    layout: Layout,
    session_id: SessionId,
    key_sum: Polynomial,
    contributors: int,
    total: Words64,
) -> None:
    """Decrypt the sum of ciphertexts, in place, and check its residuals.

    The residuals of a block are what is left below Delta: the summed noise if the key fits, uniform if not. Their sum
    of squares must stay below what noise exceeds with probability exp(-72) (Hsu, Kakade, Zhang 2012, for subgaussian
    noise), and each within twelve deviations. The check notices a wrong sum of keys and damage below Delta; it cannot
    notice multiples of Delta.

    :param key_sum: int64 array [N], the sum of the contributors' keys.
    :param contributors: how many.
    :param total: uint64 sums of the ciphertexts without their dropped bits; overwritten by plaintext coefficients.
    :raises PeerFault: BAD_SECRET, the residuals are not those of the contributors' noise.
    :raises UsageError: a key sum of another shape, or longer than that of so many keys can be.
    """
    if key_sum.shape != (lattice.degree,):
        raise UsageError(f"a key sum has {lattice.degree} coefficients, not {key_sum.shape}")
    product = NegacyclicProduct(-key_sum, layout.modulus_bits)
    public = public_stream(session_id)
    size = lattice.degree * BATCH_BLOCKS
    drawn = np.empty((BATCH_BLOCKS, lattice.degree), np.uint64)
    blocks = np.empty((BATCH_BLOCKS, lattice.degree), np.uint64)
    half_delta = np.uint64(1 << (layout.delta_bits - 1))
    for low in range(0, total.size, size):
        part = total[low : low + size]
        count = -(-part.size // lattice.degree)
        flat = blocks[:count].reshape(-1)
        np.left_shift(part, np.uint64(layout.dropped_bits), out=flat[: part.size])
        flat[part.size :] = 0
        public.fill(drawn[:count].reshape(-1), low)
        product.add_into(blocks[:count], drawn[:count])
        words = flat[: part.size]
        np.add(words, half_delta, out=words)
        np.left_shift(words, np.uint64(WORD_BITS - layout.modulus_bits), out=part)
        np.right_shift(part, np.uint64(WORD_BITS - layout.slots * layout.width), out=part)
        np.bitwise_and(words, np.uint64((1 << layout.delta_bits) - 1), out=words)
        residuals = words.astype(np.float64)
        residuals -= float(half_delta)
        for at in range(0, part.size, lattice.degree):
            block = (low + at) // lattice.degree
            _check_residuals(residuals[at : at + lattice.degree], layout, contributors, block)


def _check_residuals(residuals: npt.NDArray[np.float64], layout: Layout, contributors: int, block: int) -> None:
    if layout.dropped_bits:
        residuals -= contributors / 2  # rounding halves up is off by half a unit on average
    variance = contributors * layout.variance
    squares = float(np.dot(residuals, residuals)) / variance
    largest = max(float(residuals.max()), -float(residuals.min())) / math.sqrt(variance)
    if squares > _tail(residuals.size) or largest > RESIDUAL_DEVIATIONS:
        raise PeerFault(
            FaultReason.BAD_SECRET, f"block {block}: the residuals are not the noise of {contributors} contributors"
        )


def _tail(count: int) -> float:
    """What the squares of so many subgaussian numbers of variance 1 sum to at most, but with probability exp(-72)."""
    return count + 2 * math.sqrt(count * FALSE_ALARM_EXPONENT) + 2 * FALSE_ALARM_EXPONENT

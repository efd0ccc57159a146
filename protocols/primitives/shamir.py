"""Shamir secret sharing of 32-byte secrets, vectorised (A. Shamir, How to share a secret, CACM 22, 1979).

A secret is 16 little-endian limbs of 16 bits, each shared by a polynomial of degree threshold - 1 over the field of
p = 65537 elements; the share of holder i (from 0) is the polynomials' values at the point 1 + i. With this prime a limb
is any 16-bit number, and up to 65536 holders have points of their own. A share limb is 0..65536; the share of a secret
packs into 34 bytes.

Sharing and reconstruction are matrix products in float64, exact in any order of summation and with or without fused
multiply-add: both factors are integers in 0..p-1 = 0..2^16, a sum has at most ``threshold`` <= 2^16 terms, so that
every partial sum is an integer of at most 2^16 * 2^32 = 2^48 < 2^53.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.sampling import Entropy, uniform_below

__all__ = [
    "LIMBS",
    "MAXIMAL_HOLDERS",
    "PRIME",
    "SECRET_BYTES",
    "SHARE_BYTES",
    "Shares",
    "pack_share",
    "reconstruct",
    "split",
    "unpack_share",
    "unpack_shares",
]

Shares = npt.NDArray[np.uint32]

PRIME = 65537
MAXIMAL_HOLDERS = PRIME - 1
SECRET_BYTES = 32
LIMBS = 16
_LIMB = np.dtype("<u2")
SHARE_BYTES = SECRET_BYTES + LIMBS // 8
_BLOCK_ENTRIES = 1 << 17  # of shares converted to float64 at a time: 1 MiB


def split(secrets: Sequence[bytes], holders: int, threshold: int, entropy: Entropy) -> Shares:
    """Share secrets among holders: any ``threshold`` of them reconstruct, fewer learn nothing.

    :param secrets: k secrets of 32 bytes, each shared by polynomials of its own.
    :param holders: 2..65536.
    :param threshold: 2..holders.
    :returns: uint32 array [holders, k, 16] of values 0..65536; row i belongs to the point 1 + i.
    :raises UsageError: any of these out of range.
    """
    if not 2 <= threshold <= holders <= MAXIMAL_HOLDERS:
        raise UsageError(f"2 <= threshold <= holders <= {MAXIMAL_HOLDERS} does not hold: {threshold}, {holders}")
    if any(len(secret) != SECRET_BYTES for secret in secrets):
        raise UsageError(f"a secret to share has {SECRET_BYTES} bytes")
    columns = len(secrets) * LIMBS
    coefficients = np.empty((threshold, columns))
    coefficients[0] = np.frombuffer(b"".join(secrets), _LIMB)
    coefficients[1:] = uniform_below(PRIME, (threshold - 1) * columns, entropy).reshape(threshold - 1, columns)
    shares = _modulo_prime(_powers(holders, threshold) @ coefficients)
    return shares.reshape(holders, len(secrets), LIMBS)


def reconstruct(points: Sequence[int], shares: Shares) -> list[bytes]:
    """Reconstruct k secrets from the shares of the same ``threshold`` holders.

    Fewer shares than the threshold, or altered ones, yield wrong secrets: check the result against a commitment.

    :param points: distinct points 1..65536, one a holder.
    :param shares: uint32 array [len(points), k, 16].
    :raises UsageError: fewer than two points, points that are repeated, zero or out of range, another shape or dtype.
    :raises PeerFault: ``BAD_SHARE`` for a share limb above 65536; ``BAD_SECRET`` if a limb of a secret comes out as
        65536, which no 16-bit limb is.
    """
    if len(points) < 2 or len(set(points)) != len(points):
        raise UsageError("reconstruction needs at least two points, none twice")
    if not all(1 <= point <= MAXIMAL_HOLDERS for point in points):
        raise UsageError(f"a holder's point is in 1..{MAXIMAL_HOLDERS}")
    if shares.dtype != np.uint32 or shares.ndim != 3 or shares.shape[::2] != (len(points), LIMBS):
        raise UsageError(f"shares are uint32 of shape ({len(points)}, k, {LIMBS}), not {shares.dtype} {shares.shape}")
    _check_limbs(shares)
    weights = _lagrange_weights_at_zero(points)
    flat = shares.reshape(len(points), -1)
    limbs = np.empty(flat.shape[1], np.uint32)
    block = max(1, _BLOCK_ENTRIES // len(points))
    for low in range(0, limbs.size, block):
        limbs[low : low + block] = _modulo_prime(weights @ flat[:, low : low + block].astype(np.float64))
    if limbs.size and int(limbs.max()) == PRIME - 1:
        raise PeerFault(FaultReason.BAD_SECRET, "the shares do not lie on the polynomials of a secret")
    secrets = limbs.astype(_LIMB).tobytes()
    return [secrets[low : low + SECRET_BYTES] for low in range(0, len(secrets), SECRET_BYTES)]


def pack_share(share: Shares) -> bytes:
    """Encode one holder's share of a secret, or its shares of several: 34 bytes each.

    32 bytes hold the limbs modulo 2^16, little-endian; two more a bit for each limb, set where it is 65536.

    :param share: uint32 array [16] or [k, 16] of values 0..65536.
    :raises UsageError: another shape, dtype or value.
    """
    if share.dtype != np.uint32 or share.ndim not in {1, 2} or share.shape[-1] != LIMBS:
        raise UsageError(f"a share is uint32 of shape ({LIMBS},) or (k, {LIMBS}), not {share.dtype} {share.shape}")
    if share.size and int(share.max()) >= PRIME:
        raise UsageError(f"a share limb is below {PRIME}")
    limbs = share.reshape(-1, LIMBS)
    packed = np.empty((len(limbs), SHARE_BYTES), np.uint8)
    packed[:, :SECRET_BYTES] = limbs.astype(_LIMB).view(np.uint8)
    packed[:, SECRET_BYTES:] = np.packbits(limbs == PRIME - 1, axis=1, bitorder="little")
    return packed.tobytes()


def unpack_shares(packed: bytes, count: int) -> Shares:
    """Decode one holder's shares of ``count`` secrets into a uint32 array [count, 16].

    :raises UsageError: negative count.
    :raises PeerFault: ``BAD_SHARE`` for another length than 34 bytes a secret or a limb above 65536.
    """
    if count < 0:
        raise UsageError(f"a number of shares is not negative, as {count} is")
    if len(packed) != count * SHARE_BYTES:
        raise PeerFault(FaultReason.BAD_SHARE, f"{len(packed)} bytes, not {count * SHARE_BYTES}")
    rows = np.frombuffer(packed, np.uint8).reshape(count, SHARE_BYTES)
    limbs = np.ascontiguousarray(rows[:, :SECRET_BYTES]).view(_LIMB).astype(np.uint32)
    limbs += np.unpackbits(rows[:, SECRET_BYTES:], axis=1, bitorder="little").astype(np.uint32) << np.uint32(16)
    _check_limbs(limbs)
    return limbs


def unpack_share(packed: bytes) -> Shares:
    """Decode one holder's share of one secret into a uint32 array [16]; see :func:`unpack_shares`."""
    return unpack_shares(packed, 1).reshape(LIMBS)


def _check_limbs(shares: Shares) -> None:
    if shares.size and int(shares.max()) >= PRIME:
        raise PeerFault(FaultReason.BAD_SHARE, f"a share limb is not below {PRIME}")


def _modulo_prime(products: npt.NDArray[np.float64]) -> Shares:
    """Reduce exact non-negative integers below 2^53 modulo p."""
    integers = products.astype(np.uint64)
    # Division by a constant is vectorised in numpy, its remainder is not.
    quotients = integers // np.uint64(PRIME)
    np.multiply(quotients, np.uint64(PRIME), out=quotients)
    np.subtract(integers, quotients, out=integers)
    return integers.astype(np.uint32)


@lru_cache(maxsize=4)
def _powers(holders: int, threshold: int) -> npt.NDArray[np.float64]:
    """Vandermonde matrix [holders, threshold] of the points modulo p: the same for all the clients of a session."""
    powers = np.ones((holders, threshold), np.uint32)
    filled, factor = 1, np.arange(1, holders + 1, dtype=np.uint64)[:, np.newaxis]
    while filled < threshold:
        # Columns [filled, 2 filled) are the first ones times points^filled.
        new = powers[:, filled : 2 * filled]
        new[:] = powers[:, : new.shape[1]] * factor % PRIME
        factor = factor * factor % PRIME
        filled *= 2
    matrix = powers.astype(np.float64)
    matrix.flags.writeable = False
    return matrix


def _lagrange_weights_at_zero(points: Sequence[int]) -> npt.NDArray[np.float64]:
    """Weight of each point's share: the product over the other points m of m / (m - point), modulo p."""
    every = np.array(points, np.int64)
    numerator = int(_row_products(every[np.newaxis])[0])
    weights: list[int] = []
    block = max(1, _BLOCK_ENTRIES // every.size)
    for low in range(0, every.size, block):
        own = every[low : low + block]
        factors = (every - own[:, np.newaxis]) % PRIME
        factors[np.arange(own.size), np.arange(low, low + own.size)] = own  # cancels its part of the numerator
        weights += [numerator * pow(int(product), -1, PRIME) % PRIME for product in _row_products(factors)]
    return np.array(weights, np.float64)


def _row_products(factors: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Product of each row modulo p, pairwise."""
    while factors.shape[1] > 1:
        half = factors.shape[1] // 2
        halved = factors[:, :half] * factors[:, half : 2 * half] % PRIME
        factors = np.concatenate([halved, factors[:, 2 * half :]], axis=1)
    return factors[:, 0]

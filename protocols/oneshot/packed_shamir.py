"""Packed Shamir sharing of short polynomials (Franklin, Yung 1992) over the field of p = 2^31 - 1 elements.

A polynomial of degree t - 1 holds l secrets at the points p - 1 ... p - l; member i's share is its value at 1 + i. Any
t members reconstruct, any t - l learn nothing. Coefficients of a key are taken modulo p and read back centred, so that
sums of shares are shares of the sum as long as it stays within (p - 1) / 2. Arithmetic is exact in uint64: four
products below p^2 fit a word, then the sum is reduced.

Among r > t shares, wrong ones are located by the decoder of Berlekamp and Welch: up to (r - t) / 2 of them. One share
more than t shows that some are wrong, not whose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.bitpack import pack, packed_size, unpack
from protocols.primitives.sampling import Entropy, uniform_below

__all__ = [
    "BLINDINGS",
    "PRIME",
    "add_shares",
    "centred",
    "combine",
    "deal",
    "decode",
    "evaluate",
    "inconsistent_columns",
    "locate",
    "pack_share",
    "share_bytes",
    "share_length",
    "split",
    "subtract_shares",
    "unpack_share",
]

Elements = npt.NDArray[np.uint64]
"""Field elements 0..p-1."""

PRIME = 2**31 - 1
_P = np.uint64(PRIME)
ELEMENT_BITS = 31
BLINDINGS = 5
"""Blinded combinations by which shares that lie on no polynomial are found: each misses them with probability 1 / p."""
_PRODUCTS_IN_A_WORD = 4


def share_length(values: int, packed: int) -> int:
    """Field elements of one member's share of so many values, l = `packed` to a polynomial."""
    return -(-values // packed)


def share_bytes(elements: int) -> int:
    """Bytes of so many encoded elements."""
    return packed_size(elements, ELEMENT_BITS)


def split(values: npt.NDArray[np.int64], members: int, threshold: int, packed: int, entropy: Entropy) -> Elements:
    """Share small signed integers.

    :param values: int64 array of values within +-(p - 1) / 2.
    :param members: m, below p - l.
    :param threshold: t, from l + 1 to m.
    :param packed: l, secrets to a polynomial.
    :returns: uint64 array [m, share_length]; row i is member i's.
    :raises UsageError: any of these out of range.
    """
    if not 1 <= packed < threshold <= members < PRIME - packed:
        raise UsageError(f"1 <= l < t <= m does not hold: {packed}, {threshold}, {members}")
    if values.size and int(np.abs(values).max()) > PRIME // 2:
        raise UsageError(f"a value to share is within +-{PRIME // 2}")
    length = share_length(values.size, packed)
    known = np.zeros((threshold, length), np.uint64)
    flat = np.zeros(length * packed, np.uint64)
    flat[: values.size] = values % PRIME
    known[:packed] = flat.reshape(length, packed).T
    # Uniform values at the first t - l members' points, with the secrets, fix a uniform polynomial.
    free = threshold - packed
    known[packed:] = uniform_below(PRIME, free * length, entropy).reshape(free, length)
    shares = np.empty((members, length), np.uint64)
    shares[:free] = known[packed:]
    points = [*_secret_points(packed), *range(1, 1 + free)]
    shares[free:] = evaluate(points, known, range(1 + free, 1 + members))
    return shares


def deal(key: npt.NDArray[np.int64], members: int, threshold: int, packed: int, entropy: Entropy) -> Elements:
    """Share a key together with five blindings, each of them uniform polynomials: see `combine`.

    :returns: uint64 array [m, share_length + BLINDINGS]; row i is member i's.
    :raises UsageError: as `split`.
    """
    whole = share_length(key.size, packed) * packed
    values = np.zeros(whole + BLINDINGS * packed, np.int64)
    values[: key.size] = key
    values[whole:] = uniform_below(PRIME, BLINDINGS * packed, entropy).astype(np.int64) - PRIME // 2
    try:
        return split(values, members, threshold, packed, entropy)
    finally:
        values.fill(0)


def combine(coefficients: Elements, share: Elements) -> Elements:
    """Linear combinations of a dealt share's elements, or of a sum's, each plus a blinding of its own.

    They are the values of combinations of the polynomials, so that those of honest members lie on polynomials again;
    which ones is hidden by the blindings.

    :param coefficients: uint64 array [BLINDINGS, k].
    :param share: uint64 array [k + BLINDINGS].
    :returns: uint64 array [BLINDINGS].
    """
    products = coefficients * share[:-BLINDINGS]
    _reduce(products)
    total: Elements = products.sum(axis=1) + share[-BLINDINGS:]
    _reduce(total)
    return total


def add_shares(total: Elements, share: Elements) -> None:
    """Add a share to a sum of shares, in place."""
    np.add(total, share, out=total)
    _reduce(total)


def subtract_shares(total: Elements, share: Elements) -> None:
    """Take a share off a sum of shares, in place."""
    np.add(total, _P - share, out=total)
    _reduce(total)


def decode(points: Sequence[int], shares: Elements, threshold: int, packed: int) -> tuple[Elements, tuple[int, ...]]:
    """Reconstruct from at least t shares, leaving out wrong ones as far as they can be located.

    :param points: distinct points 1..m, one a member.
    :param shares: uint64 array [len(points), k] of values below p.
    :returns: the k polynomials' secrets, uint64 array [k * l], and the positions in `points` of the wrong shares.
    :raises UsageError: fewer than t points.
    :raises PeerFault: BAD_SHARE, the shares lie on no polynomial and too many are wrong to be located.
    """
    wrong = locate(points, shares, threshold)
    chosen = [i for i in range(len(points)) if i not in wrong][:threshold]
    secrets = evaluate([points[i] for i in chosen], shares[chosen], _secret_points(packed))
    return np.ascontiguousarray(secrets.T).reshape(-1), wrong


def locate(points: Sequence[int], shares: Elements, threshold: int) -> tuple[int, ...]:
    """Find wrong shares among at least t, as far as that can be done.

    :param points, shares: as for `decode`.
    :returns: the positions in `points` of the wrong shares.
    :raises UsageError: fewer than t points.
    :raises PeerFault: BAD_SHARE, the shares lie on no polynomial and too many are wrong to be located.
    """
    if len(points) < threshold:
        raise UsageError(f"{len(points)} shares, {threshold} needed")
    left, wrong = list(range(len(points))), []
    while (columns := inconsistent_columns([points[i] for i in left], shares[left], threshold)).size:
        values = [int(shares[i, columns[0]]) for i in left]
        located = _wrong_positions([points[i] for i in left], values, threshold)
        wrong += [left[position] for position in located]
        left = [i for i in left if i not in wrong]
    return tuple(sorted(wrong))


def inconsistent_columns(points: Sequence[int], shares: Elements, threshold: int) -> npt.NDArray[np.intp]:
    """Columns whose values lie on no polynomial of degree < t, in order; none with t points or fewer."""
    predicted = evaluate(points[:threshold], shares[:threshold], points[threshold:])
    return np.nonzero((predicted != shares[threshold:]).any(axis=0))[0]


def evaluate(points: Sequence[int], values: Elements, at: Sequence[int]) -> Elements:
    """Values at other points of the polynomials of degree < len(points) through `values` [len(points), k]."""
    result = np.zeros((len(at), values.shape[1]), np.uint64)
    scratch = np.empty(values.shape[1], np.uint64)
    for row, point in zip(result, at, strict=True):
        weights = _lagrange_weights(points, point)
        for position, weight in enumerate(weights):
            np.multiply(values[position], np.uint64(weight), out=scratch)
            np.add(row, scratch, out=row)
            if position % (_PRODUCTS_IN_A_WORD - 1) == 2:  # three products and what is left of the sum before
                _reduce(row)
        _reduce(row)
    return result


def centred(secrets: Elements, count: int) -> npt.NDArray[np.int64]:
    """The first `count` secrets as signed integers within +-(p - 1) / 2."""
    values = secrets[:count].astype(np.int64)
    values[values > PRIME // 2] -= PRIME
    return values


def pack_share(share: Elements) -> bytes:
    """Encode a share at 31 bits an element."""
    return pack(share.astype(np.uint32), ELEMENT_BITS).tobytes()


def unpack_share(encoded: bytes, length: int) -> Elements:
    """Decode a share of `length` elements.

    :raises PeerFault: BAD_SHARE for another number of bytes, or an element that is not below p.
    """
    try:
        share = unpack(encoded, length, ELEMENT_BITS).astype(np.uint64)
    except PeerFault as fault:
        raise PeerFault(FaultReason.BAD_SHARE, fault.detail) from None
    if share.size and int(share.max()) >= PRIME:
        raise PeerFault(FaultReason.BAD_SHARE, "an element is not below p")
    return share


def _secret_points(packed: int) -> range:
    return range(PRIME - 1, PRIME - 1 - packed, -1)


def _reduce(elements: Elements) -> None:
    """Reduce any 64-bit words modulo p, in place: 2^31 is 1 modulo p."""
    for _ in range(2):
        upper = np.right_shift(elements, np.uint64(ELEMENT_BITS))
        np.bitwise_and(elements, _P, out=elements)
        np.add(elements, upper, out=elements)
    np.subtract(elements, _P, out=elements, where=elements >= _P)  # they are at most p + 8


def _lagrange_weights(points: Sequence[int], at: int) -> list[int]:
    """Weight of each point's value in the value at another point, modulo p."""
    weights = []
    for own in points:
        numerator = denominator = 1
        for other in points:
            if other != own:
                numerator = numerator * (at - other) % PRIME
                denominator = denominator * (own - other) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return weights


def _wrong_positions(points: Sequence[int], values: Sequence[int], threshold: int) -> list[int]:
    """Positions of the wrong values of one word of the Reed-Solomon code (Berlekamp-Welch).

    With e = (r - t) // 2 there are polynomials E, monic of degree e, and Q of degree < t + e with
    Q(x_i) = y_i E(x_i) for all i; then Q = f E, and whoever is off f is wrong.

    :raises PeerFault: BAD_SHARE, more than e are wrong.
    """
    errors = (len(points) - threshold) // 2
    unlocated = PeerFault(FaultReason.BAD_SHARE, f"some of {len(points)} shares are wrong; too many to say whose")
    system = []
    for x, y in zip(points, values, strict=True):
        powers = [pow(x, degree, PRIME) for degree in range(threshold + errors)]
        row = powers + [-y * power % PRIME for power in powers[:errors]]
        system.append([*row, y * pow(x, errors, PRIME) % PRIME])
    solution = _solve(system)
    if solution is None:
        raise unlocated
    locator = [*solution[threshold + errors :], 1]
    located = [i for i, x in enumerate(points) if _value(locator, x) == 0]
    good = [i for i in range(len(points)) if i not in located]
    # The locator may name right ones too: only who is off the polynomial through the others is wrong.
    chosen = np.array([[values[i]] for i in good[:threshold]], np.uint64)
    expected = evaluate([points[i] for i in good[:threshold]], chosen, points)[:, 0]
    wrong = [i for i, value in enumerate(values) if int(expected[i]) != value]
    if not 1 <= len(wrong) <= errors:
        raise unlocated
    return wrong


def _value(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


def _solve(system: list[list[int]]) -> list[int] | None:
    """One solution of a linear system modulo p, free unknowns zero; None if there is none."""
    unknowns = len(system[0]) - 1
    pivots: list[int] = []
    for column in range(unknowns):
        pivot = next((i for i in range(len(pivots), len(system)) if system[i][column]), None)
        if pivot is None:
            continue
        rank = len(pivots)
        system[rank], system[pivot] = system[pivot], system[rank]
        inverse = pow(system[rank][column], -1, PRIME)
        system[rank] = [value * inverse % PRIME for value in system[rank]]
        for i, row in enumerate(system):
            if i != rank and row[column]:
                factor = row[column]
                system[i] = [(a - factor * b) % PRIME for a, b in zip(row, system[rank], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in system[len(pivots) :]):
        return None
    solution = [0] * unknowns
    for row, column in zip(system, pivots, strict=False):
        solution[column] = row[-1]
    return solution

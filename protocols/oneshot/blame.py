"""Whose shares lie on no polynomial, found without seeing a share (docs/explanation/oneshot-blame.md).

A member answers with five combinations of each client's share, r_a v + b_a: r_a is the same for all, drawn from the set
that was opened; b_a is the member's value of a blinding that the client shared with its key. Values of honest members
lie on the polynomials r_a f + b_a, which are uniform whatever f is. Shares that lie on no polynomial give combinations
that do, with probability p^-5 = 2^-155 over the coefficients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protocols.errors import PeerFault
from protocols.oneshot.packed_shamir import (
    BLINDINGS,
    PRIME,
    Elements,
    combine,
    evaluate,
    inconsistent_columns,
    locate,
)
from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from protocols.primitives.sampling import uniform_below
from protocols.session import SessionId

__all__ = ["Findings", "blame_coefficients", "find_liars"]

EXAMINED = 1000
"""Clients looked at one by one; who is off for more is named with the first of them."""


def blame_coefficients(session_id: SessionId, contributors_hash: bytes, columns: int) -> Elements:
    """Coefficients of the combinations, uint64 array [BLINDINGS, columns], fixed by the set that was opened."""
    stream = MaskStream(tagged_hash("oneshot/blame", session_id, contributors_hash), 32)
    position = 0

    def keystream(count: int) -> bytes:
        nonlocal position
        words = stream.words(position, count // 4)
        position += count // 4
        return words.tobytes()

    return uniform_below(PRIME, BLINDINGS * columns, keystream).astype(np.uint64).reshape(BLINDINGS, columns)


@dataclass(frozen=True)
class Findings:
    """What answers show: members by name, clients by their place among the contributors."""

    contradicted: tuple[str, ...] = ()
    """Members whose combinations do not add up to those of the share of the sum that they signed: proven liars."""
    members: tuple[str, ...] = ()
    """Members off the polynomials of more clients than can lie."""
    pairs: tuple[tuple[int, str], ...] = ()
    """Of each pair one lies."""
    clients: tuple[int, ...] = ()
    """Clients whose shares lie on no polynomial, too many of them off to say at which members."""
    silent: tuple[str, ...] = ()
    """Members without answer whose share of the sum is off the polynomials of the others."""


def find_liars(
    points: Mapping[str, int],
    opened: Mapping[str, Elements],
    combinations: Mapping[str, Elements],
    coefficients: Elements,
    threshold: int,
    lying_clients: int,
) -> Findings:
    """Compare what members answered with each other, and with what they opened.

    :param points: of the members.
    :param opened: each member's share of the sum, uint64 array [k + BLINDINGS].
    :param combinations: of those that answered, uint64 array [contributors, BLINDINGS].
    :param lying_clients: clients that may be in league.
    """
    sums = {member: _summed(values) for member, values in combinations.items()}
    expected = {member: combine(coefficients, share) for member, share in opened.items()}
    contradicted = tuple(member for member, total in sums.items() if (total != expected[member]).any())
    left = [member for member in combinations if member not in contradicted]
    members: list[str] = []
    while len(left) > threshold:
        pairs, clients, liar = _off([points[one] for one in left], left, combinations, threshold, lying_clients)
        if liar is None:
            if pairs or clients:
                return Findings(contradicted, tuple(members), pairs, clients)
            break
        members.append(liar)
        left.remove(liar)
    silent = [member for member in opened if member not in combinations]
    return Findings(contradicted, tuple(members), silent=_off_sum(points, left, sums, expected, silent, threshold))


def _summed(values: Elements) -> Elements:
    total: Elements = values.sum(axis=0) % np.uint64(PRIME)
    return total


def _off(
    points: Sequence[int], left: Sequence[str], combinations: Mapping[str, Elements], threshold: int, lying_clients: int
) -> tuple[tuple[tuple[int, str], ...], tuple[int, ...], str | None]:
    """Pairs, clients, and a member that is off for more clients than can lie, upon which the rest means nothing."""
    values = np.stack([combinations[member] for member in left])
    columns = inconsistent_columns(points, values.reshape(len(left), -1), threshold)
    pairs: list[tuple[int, str]] = []
    clients: list[int] = []
    times: Counter[str] = Counter()
    for client in map(int, np.unique(columns // BLINDINGS)[:EXAMINED]):
        try:
            wrong = locate(points, values[:, client], threshold)
        except PeerFault:  # too many are off to be told apart: the client is named alone
            clients.append(client)
            continue
        for member in (left[position] for position in wrong):
            pairs.append((client, member))
            times[member] += 1
            if times[member] > lying_clients:
                return (), (), member
    return tuple(pairs), tuple(clients), None


def _off_sum(
    points: Mapping[str, int],
    left: Sequence[str],
    sums: Mapping[str, Elements],
    expected: Mapping[str, Elements],
    silent: Sequence[str],
    threshold: int,
) -> tuple[str, ...]:
    """Silent members whose share of the sum is not on the sum of the polynomials that the others lie on."""
    if len(left) <= threshold or not silent:  # with exactly t, one of them off would make all others look so
        return ()
    known = np.stack([sums[member] for member in left[:threshold]])
    predicted = evaluate([points[member] for member in left[:threshold]], known, [points[one] for one in silent])
    return tuple(one for one, value in zip(silent, predicted, strict=True) if (value != expected[one]).any())

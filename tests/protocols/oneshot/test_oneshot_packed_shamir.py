"""Packed sharing, sums of shares, detection and location of wrong ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.oneshot import packed_shamir
from protocols.oneshot.packed_shamir import (
    PRIME,
    add_shares,
    centred,
    decode,
    pack_share,
    share_bytes,
    share_length,
    split,
    unpack_share,
)
from protocols.testing.randomness import DeterministicEntropy

ENTROPY = DeterministicEntropy("packed shamir")
HALF = PRIME // 2


def values(seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(-HALF, HALF + 1, count)


@st.composite
def sharings(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """m, t, l and the number of values."""
    packed = draw(st.integers(1, 5))
    threshold = draw(st.integers(packed + 1, packed + 6))
    return draw(st.integers(threshold, threshold + 6)), threshold, packed, draw(st.integers(1, 23))


@given(sharings(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_any_threshold_of_shares_reconstructs(sharing, random) -> None:
    members, threshold, packed, count = sharing
    secret = values(count, count)
    shares = split(secret, members, threshold, packed, ENTROPY)
    assert shares.shape == (members, share_length(count, packed))
    assert int(shares.max()) < PRIME
    chosen = random.sample(range(members), random.randint(threshold, members))
    secrets, wrong = decode([1 + i for i in chosen], shares[chosen], threshold, packed)
    assert wrong == ()
    assert (centred(secrets, count) == secret).all()


@pytest.mark.parametrize("extreme", [HALF, -HALF, 0, 1, -1])
def test_extreme_values_come_back(extreme: int) -> None:
    secret = np.full(9, extreme, np.int64)
    shares = split(secret, 5, 4, 2, ENTROPY)
    secrets, _ = decode([1, 2, 3, 4, 5], shares, 4, 2)
    assert (centred(secrets, 9) == secret).all()


def test_shares_are_values_of_the_stated_polynomial() -> None:
    """Secrets at p - 1 ... p - l, member i at 1 + i: Lagrange by Python integers."""
    secret = np.array([5, -7], np.int64)
    shares = split(secret, 6, 4, 2, ENTROPY)[:, 0]
    points = [PRIME - 1, PRIME - 2, 1, 2]
    known = [5, PRIME - 7, int(shares[0]), int(shares[1])]
    for member in range(6):
        x, expected = member + 1, 0
        for i, own in enumerate(points):
            weight = 1
            for other in points[:i] + points[i + 1 :]:
                weight = weight * (x - other) * pow(own - other, -1, PRIME) % PRIME
            expected += known[i] * weight
        assert int(shares[member]) == expected % PRIME


def test_arithmetic_is_exact_at_the_largest_elements() -> None:
    """Sums of products of p - 1 with p - 1, whatever the number of points."""
    for count in range(1, 20):
        shares = np.full((count, 3), PRIME - 1, np.uint64)
        constant = packed_shamir.evaluate(range(1, 1 + count), shares, [PRIME - 1, 1000])
        assert (constant == PRIME - 1).all()
    words = np.array([0, PRIME - 1, PRIME, PRIME + 1, 2 * PRIME, 2**62, 2**63, 2**64 - 1], np.uint64)
    expected = [int(word) % PRIME for word in words]
    packed_shamir._reduce(words)
    assert words.tolist() == expected


def test_sums_of_shares_are_shares_of_the_sum() -> None:
    secrets = [values(seed) // 8 for seed in range(8)]
    total = np.zeros((7, share_length(40, 2)), np.uint64)
    for secret in secrets:
        for member, share in enumerate(split(secret, 7, 5, 2, ENTROPY)):
            add_shares(total[member], share)
    opened, _ = decode([2, 3, 5, 6, 7], total[[1, 2, 4, 5, 6]], 5, 2)
    assert (centred(opened, 40) == np.sum(secrets, axis=0)).all()


def test_fewer_shares_than_hide_the_secret_fit_every_secret() -> None:
    """t - l shares: for any other secret there is a polynomial through them, so that they say nothing."""
    secret, threshold, packed = values(1, 2), 4, 2
    shares = split(secret, 6, threshold, packed, ENTROPY)
    for seen in itertools.combinations(range(6), threshold - packed):
        for other in ([0, 0], [1, -1]):
            points = [PRIME - 1, PRIME - 2, *(1 + i for i in seen)]
            through = np.array([[v % PRIME] for v in other] + [[int(shares[i, 0])] for i in seen], np.uint64)
            completed = packed_shamir.evaluate(points, through, range(1, 7))
            opened, wrong = decode(range(1, 7), completed, threshold, packed)
            assert centred(opened, 2).tolist() == other
            assert wrong == ()
            assert all(completed[i] == shares[i] for i in seen)


def test_shares_of_one_secret_are_uniform_and_never_repeat() -> None:
    rows = split(np.zeros(40_000, np.int64), 3, 2, 1, ENTROPY)
    for row in rows:
        counts = np.bincount((row >> np.uint64(23)).astype(np.int64), minlength=256)
        statistic = float(((counts - row.size / 256) ** 2).sum() / (row.size / 256))
        assert 140 < statistic < 380
    assert not (rows[0] == split(np.zeros(40_000, np.int64), 3, 2, 1, ENTROPY)[0]).all()


@pytest.mark.parametrize(("members", "threshold", "packed", "liars"), [(5, 3, 1, 1), (9, 5, 2, 2), (12, 4, 1, 4)])
def test_wrong_shares_up_to_half_of_the_surplus_are_located(members, threshold, packed, liars) -> None:
    secret = values(3)
    shares = split(secret, members, threshold, packed, ENTROPY)
    for who in itertools.islice(itertools.combinations(range(members), liars), 12):
        changed = shares.copy()
        for position, liar in enumerate(who):  # each in a column of its own
            changed[liar, position] = (changed[liar, position] + np.uint64(1 + position)) % np.uint64(PRIME)
        opened, wrong = decode(range(1, members + 1), changed, threshold, packed)
        assert wrong == who
        assert (centred(opened, 40) == secret).all()
        together = shares.copy()
        for liar in who:
            together[liar] = (together[liar] + np.uint64(7)) % np.uint64(PRIME)
        opened, wrong = decode(range(1, members + 1), together, threshold, packed)
        assert wrong == who
        assert (centred(opened, 40) == secret).all()


@pytest.mark.parametrize("surplus", [1, 2, 3])
def test_wrong_shares_past_half_of_the_surplus_are_noticed_not_named(surplus: int) -> None:
    shares = split(values(4), 3 + surplus, 3, 1, ENTROPY)
    for liar in range(surplus // 2 + 1):
        shares[liar] = (shares[liar] + np.uint64(12345 + liar)) % np.uint64(PRIME)
    with pytest.raises(PeerFault) as caught:
        decode(range(1, 4 + surplus), shares, 3, 1)
    assert caught.value.reason is FaultReason.BAD_SHARE
    assert "too many to say whose" in caught.value.detail


def test_exactly_the_threshold_of_shares_hides_a_wrong_one() -> None:
    """What decoding cannot see; the residual check does."""
    secret = values(5)
    shares = split(secret, 3, 3, 1, ENTROPY)
    shares[0, 0] = (shares[0, 0] + np.uint64(1)) % np.uint64(PRIME)
    opened, wrong = decode([1, 2, 3], shares, 3, 1)
    assert wrong == ()
    assert (centred(opened, 40) != secret).sum() == 1


def test_shares_survive_encoding_at_31_bits() -> None:
    share = split(values(6, 4096), 4, 3, 1, ENTROPY)[2]
    encoded = pack_share(share)
    assert len(encoded) == share_bytes(4096) == 15_872
    assert (unpack_share(encoded, 4096) == share).all()


def test_encoded_share_of_another_length_or_outside_the_field_is_refused() -> None:
    encoded = pack_share(np.zeros(8, np.uint64))
    outside = pack_share(np.full(8, PRIME, np.uint64))
    for bad in (encoded[:-1], encoded + b"\0", b"", outside):
        with pytest.raises(PeerFault) as caught:
            unpack_share(bad, 8)
        assert caught.value.reason is FaultReason.BAD_SHARE


@pytest.mark.parametrize(
    ("members", "threshold", "packed"), [(3, 4, 1), (3, 1, 1), (5, 2, 2), (4, 3, 0), (PRIME, 3, 1)]
)
def test_sharing_out_of_range_is_refused(members: int, threshold: int, packed: int) -> None:
    with pytest.raises(UsageError, match="1 <= l < t <= m"):
        split(values(7), members, threshold, packed, ENTROPY)


def test_value_too_large_to_share_and_too_few_shares_are_refused() -> None:
    with pytest.raises(UsageError, match="within"):
        split(np.array([HALF + 1]), 3, 2, 1, ENTROPY)
    with pytest.raises(UsageError, match="3 needed"):
        decode([1, 2], np.zeros((2, 1), np.uint64), 3, 1)
    assert split(np.empty(0, np.int64), 3, 2, 1, ENTROPY).shape == (3, 0)

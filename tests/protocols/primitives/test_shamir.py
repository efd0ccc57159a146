"""Secret sharing."""

from __future__ import annotations

import os
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives import shamir
from protocols.primitives.shamir import (
    LIMBS,
    MAXIMAL_HOLDERS,
    PRIME,
    SHARE_BYTES,
    pack_share,
    reconstruct,
    split,
    unpack_share,
    unpack_shares,
)


def evaluate(coefficients: list[int], point: int) -> int:
    """A polynomial's value in Python integers."""
    return sum(coefficient * point**power for power, coefficient in enumerate(coefficients)) % PRIME


def interpolate_at_zero(points: list[int], values: list[int]) -> int:
    """Lagrange interpolation in Python integers."""
    total = 0
    for point, value in zip(points, values, strict=True):
        term = value
        for other in points:
            if other != point:
                term = term * other * pow(other - point, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def rows(shares, points):
    return np.ascontiguousarray(shares[[point - 1 for point in points]])


def test_the_modulus_is_prime_and_float64_products_stay_exact():
    assert all(PRIME % divisor for divisor in range(2, 257))
    assert PRIME == 2**16 + 1
    assert MAXIMAL_HOLDERS * (PRIME - 1) ** 2 < 2**53


def test_shares_are_the_polynomials_of_the_drawn_coefficients():
    words = [5, 65536, 65537 * 3 + 2, *range(100, 100 + 2 * LIMBS - 3)]
    tape = b"".join(word.to_bytes(4, "little") for word in words)
    secret = bytes(range(32))
    shares = split([secret], 5, 3, lambda length: tape[:length])
    assert shares.shape == (5, 1, LIMBS)
    assert shares.dtype == np.uint32
    for limb in range(LIMBS):
        first = int.from_bytes(secret[2 * limb : 2 * limb + 2], "little")
        coefficients = [first, words[limb] % PRIME, words[LIMBS + limb] % PRIME]
        assert shares[:, 0, limb].tolist() == [evaluate(coefficients, point) for point in range(1, 6)]


PUBLISHED = {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}
"""Points of 1234 + 166 x + 94 x^2, the example over the integers of Wikipedia's page on Shamir's secret sharing; all
are below our modulus, so they are its points here as well."""


def test_shares_are_those_of_a_published_example():
    words = [166, *range(1, LIMBS), 94, *range(100, 100 + LIMBS - 1)]
    tape = b"".join(word.to_bytes(4, "little") for word in words)
    secret = (1234).to_bytes(2, "little") + bytes(30)
    shares = split([secret], 6, 3, lambda length: tape[:length])
    assert {1 + holder: int(shares[holder, 0, 0]) for holder in range(6)} == PUBLISHED


@pytest.mark.parametrize("points", [[2, 4, 5], [1, 2, 3], [6, 3, 1], [5, 4, 2]])
def test_secret_of_a_published_example_is_rebuilt(points):
    shares = np.zeros((3, 1, LIMBS), np.uint32)
    shares[:, 0, 0] = [PUBLISHED[point] for point in points]
    assert reconstruct(points, shares) == [(1234).to_bytes(2, "little") + bytes(30)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_threshold_holders_reconstruct_in_any_order(data):
    holders = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, holders))
    secrets = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=0, max_size=4))
    points = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
    shares = split(secrets, holders, threshold, os.urandom)
    assert reconstruct(points, rows(shares, points)) == secrets


def test_every_subset_of_threshold_holders_reconstructs_and_more_do_as_well():
    secrets = [bytes(32), b"\xff" * 32]
    shares = split(secrets, 6, 4, os.urandom)
    for size in (4, 5, 6):
        for points in combinations(range(1, 7), size):
            assert reconstruct(points, rows(shares, points)) == secrets


def test_one_share_less_than_the_threshold_fits_every_secret():
    """For any t - 1 shares and any other secret there is a polynomial: built here, for one limb."""
    shares = split([os.urandom(32)], 5, 3, os.urandom)
    known = [(1, int(shares[0, 0, 0])), (2, int(shares[1, 0, 0]))]
    weight_of_third = interpolate_at_zero([1, 2, 3], [0, 0, 1])
    for secret in (0, 1, 40_000, 65_535):
        partial = interpolate_at_zero([1, 2, 3], [known[0][1], known[1][1], 0])
        third = (secret - partial) * pow(weight_of_third, -1, PRIME) % PRIME
        assert interpolate_at_zero([1, 2, 3], [known[0][1], known[1][1], third]) == secret


@pytest.mark.parametrize(("holders", "threshold"), [(300, 257), (65536, 2), (65536, 3), (1500, 1500)])
def test_large_holder_sets_agree_with_integer_arithmetic(holders, threshold):
    secrets = [os.urandom(32), b"\xff" * 32]
    shares = split(secrets, holders, threshold, os.urandom)
    points = list(range(holders, holders - threshold, -1))
    assert reconstruct(points, rows(shares, points)) == secrets
    if threshold <= 300:
        values = [int(shares[point - 1, 1, 7]) for point in points]
        assert interpolate_at_zero(points, values) == 0xFFFF


def test_the_largest_products_do_not_round():
    """All coefficients and powers at their largest: the last bit of a sum near 2^41 decides."""
    threshold = 501
    largest = (PRIME - 1).to_bytes(4, "little")
    shares = split([b"\xff" * 32], 700, threshold, lambda length: largest * (length // 4))
    coefficients = [0xFFFF] + [PRIME - 1] * (threshold - 1)
    for point in (1, 2, 350, 700):
        assert set(shares[point - 1, 0].tolist()) == {evaluate(coefficients, point)}


def test_reconstruction_in_several_blocks_equals_one():
    count = shamir._BLOCK_ENTRIES // (70 * LIMBS) + 3
    secrets = [os.urandom(32) for _ in range(count)]
    shares = split(secrets, 80, 70, os.urandom)
    points = list(range(11, 81))
    assert reconstruct(points, rows(shares, points)) == secrets


def test_lagrange_weights_are_those_of_integer_arithmetic():
    for points in ([1, 2], [3, 65536, 1], list(range(1, 800)), [9, 2, 77, 5]):
        weights = shamir._lagrange_weights_at_zero(points)
        for index in {0, 1, len(points) - 1}:
            unit = [int(place == index) for place in range(len(points))]
            assert weights[index] == interpolate_at_zero(points, unit)


def test_shares_of_one_secret_are_different_at_each_split():
    secret = [os.urandom(32)]
    assert not np.array_equal(split(secret, 3, 2, os.urandom), split(secret, 3, 2, os.urandom))


@pytest.mark.parametrize(("holders", "threshold"), [(5, 1), (5, 0), (5, 6), (1, 1), (0, 0), (65537, 2), (65537, 65537)])
def test_thresholds_and_holders_out_of_range_are_refused(holders, threshold):
    with pytest.raises(UsageError, match="threshold <= holders"):
        split([bytes(32)], holders, threshold, os.urandom)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_secrets_of_another_length_are_refused(length):
    with pytest.raises(UsageError, match="32 bytes"):
        split([bytes(32), bytes(length)], 3, 2, os.urandom)


@pytest.mark.parametrize(
    ("points", "match"),
    [([1, 1], "none twice"), ([1], "two points"), ([], "two points"), ([0, 1], "1..65536"), ([1, 65537], "1..65536")],
)
def test_points_that_are_repeated_zero_or_out_of_range_are_refused(points, match):
    with pytest.raises(UsageError, match=match):
        reconstruct(points, np.zeros((len(points), 1, LIMBS), np.uint32))


@pytest.mark.parametrize(
    "shares",
    [
        np.zeros((2, 1, LIMBS), np.uint16),
        np.zeros((2, LIMBS), np.uint32),
        np.zeros((3, 1, LIMBS), np.uint32),
        np.zeros((2, 1, LIMBS + 1), np.uint32),
    ],
)
def test_share_arrays_of_another_shape_or_dtype_are_refused(shares):
    with pytest.raises(UsageError, match="shares are uint32"):
        reconstruct([1, 2], shares)


def test_a_share_limb_above_the_field_is_a_fault_of_its_sender():
    shares = split([bytes(32)], 2, 2, os.urandom)
    shares[1, 0, 15] = PRIME
    with pytest.raises(PeerFault) as caught:
        reconstruct([1, 2], shares)
    assert caught.value.reason is FaultReason.BAD_SHARE


def test_a_limb_that_comes_out_as_65536_is_no_secret():
    """Shares of the constant polynomial 65536 are in range, what they share is not."""
    shares = np.zeros((2, 2, LIMBS), np.uint32)
    shares[:, 1, 3] = PRIME - 1
    with pytest.raises(PeerFault) as caught:
        reconstruct([1, 2], shares)
    assert caught.value.reason is FaultReason.BAD_SECRET
    assert "65536" not in str(caught.value)


def test_an_altered_share_alters_that_limb_of_the_secret_alone():
    secret = bytes(range(32))
    shares = split([secret], 3, 3, os.urandom)
    shares[2, 0, 4] = (int(shares[2, 0, 4]) + 1) % PRIME
    # The weight of the point 3 among 1, 2, 3 is 1 * 2 / ((1 - 3) (2 - 3)) = 1: the limb 0x0908 becomes 0x0909.
    assert reconstruct([1, 2, 3], shares) == [secret[:8] + b"\x09\x09" + secret[10:]]


LIMB = st.sampled_from([0, 1, 65535, 65536]) | st.integers(0, PRIME - 1)


@given(st.lists(st.lists(LIMB, min_size=LIMBS, max_size=LIMBS), max_size=4))
def test_packed_shares_unpack_to_themselves(limbs):
    shares = np.array(limbs, np.uint32).reshape(len(limbs), LIMBS)
    packed = pack_share(shares)
    assert len(packed) == SHARE_BYTES * len(limbs)
    assert np.array_equal(unpack_shares(packed, len(limbs)), shares)
    assert packed == b"".join(pack_share(share) for share in shares)
    for share in shares:
        assert np.array_equal(unpack_share(pack_share(share)), share)


def test_the_packing_of_a_share_is_pinned():
    share = np.array([65536, 1, 2, 3, 4, 5, 6, 7, 8, 65536, 10, 11, 12, 13, 14, 65535], np.uint32)
    assert pack_share(share).hex() == ("00000100020003000400050006000700080000000a000b000c000d000e00ffff0102")


@pytest.mark.parametrize("length", [0, 33, 35, 68])
def test_a_packed_share_of_another_length_is_a_fault(length):
    with pytest.raises(PeerFault) as caught:
        unpack_share(bytes(length))
    assert caught.value.reason is FaultReason.BAD_SHARE


@pytest.mark.parametrize("limb", range(LIMBS))
def test_a_packed_limb_above_the_field_is_a_fault(limb):
    packed = bytearray(2 * SHARE_BYTES)
    packed[SHARE_BYTES + 2 * limb] = 1
    packed[SHARE_BYTES + 32 + limb // 8] = 1 << limb % 8
    with pytest.raises(PeerFault) as caught:
        unpack_shares(bytes(packed), 2)
    assert caught.value.reason is FaultReason.BAD_SHARE


def test_unpacking_a_negative_number_of_shares_is_refused():
    with pytest.raises(UsageError, match="negative"):
        unpack_shares(b"", -1)


@pytest.mark.parametrize(
    "share",
    [
        np.zeros(LIMBS, np.uint16),
        np.zeros(LIMBS + 1, np.uint32),
        np.zeros((2, 1, LIMBS), np.uint32),
        np.array(7, np.uint32),
        np.full(LIMBS, PRIME, np.uint32),
    ],
)
def test_packing_something_else_than_shares_is_refused(share):
    with pytest.raises(UsageError, match="share"):
        pack_share(share)

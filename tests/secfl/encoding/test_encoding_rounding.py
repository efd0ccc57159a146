"""Rounding: the law of stochastic rounding on crafted dither, its bounds, and a statistical test on real dither."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import UsageError
from secfl.encoding.rounding import NearestRounder, StochasticRounder, dither_bits
from secfl.encoding.vectors import CHUNK

FULL = 2**32


def rounded(value: float, word: int, *, factor: float = 1.0, peak: int = 2**20) -> int:
    rounder = StochasticRounder(factor, peak, lambda start, count: np.full(count, word, np.uint32))
    return int(rounder.round(np.array([value]), 0)[0])


@given(st.integers(-(2**51), 2**51))
def test_exactly_the_fraction_of_all_dither_words_rounds_up(numerator: int):
    # The value is numerator / 2^32, and rounding is monotone in the word: the two sides of one boundary decide the law.
    below, fraction = divmod(numerator, FULL)
    value = numerator / FULL
    assert rounded(value, 0) == below
    assert rounded(value, FULL - fraction - 1) == below
    if fraction:
        assert rounded(value, FULL - fraction) == below + 1
        assert rounded(value, FULL - 1) == below + 1


@pytest.mark.parametrize("value", [0.0, 3.0, -7.0, 2.0**20, -(2.0**20)])
@pytest.mark.parametrize("word", [0, 1, FULL - 1])
def test_an_integer_stays_whatever_the_dither(value: float, word: int):
    assert rounded(value, word) == value


def test_mean_over_all_dither_is_the_value_when_few_bits_are_left():
    peak = 2**53
    assert dither_bits(peak) == 8
    words = (np.arange(256, dtype=np.uint64) << 24).astype(np.uint32)
    rounder = StochasticRounder(1.0, peak, lambda start, count: words[start : start + count].copy())
    for sixteenths in (-33, -16, -1, 0, 1, 5, 15, 16, 12345):
        integers = rounder.round(np.full(256, sixteenths / 16), 0)
        assert Fraction(int(integers.sum()), 256) == Fraction(sixteenths, 16)


@given(st.floats(-1, 1), st.sampled_from([0, 1, 2**31, FULL - 1]), st.integers(1, 2**29 - 1), st.integers(0, 24))
def test_result_is_a_neighbour_of_the_value_within_the_peak(value: float, word: int, weight: int, bits: int):
    factor = math.ldexp(weight, bits)
    peak = weight * 2**bits
    exact = Fraction(value * factor)  # one rounding to float64, as the rounder does
    result = rounded(value, word, factor=factor, peak=peak)
    assert abs(result) <= peak
    assert result in (math.floor(exact), math.ceil(exact))


@given(st.integers(1, 2**53))
def test_fixed_point_never_leaves_64_bits(peak: int):
    bits = dither_bits(peak)
    assert peak * 2**bits + 2**bits - 1 <= 2**63 - 1
    assert bits >= 8


def test_float32_is_scaled_in_float64():
    # 3 * (2^24 - 1) has 26 bits: in float32 the product would be another integer.
    value = np.array([2.0**24 - 1], np.float32)
    assert NearestRounder(3.0).round(value, 0).tolist() == [3 * (2**24 - 1)]


def test_nearest_rounds_ties_to_even():
    integers = NearestRounder(2.0).round(np.array([0.25, 0.75, 1.25, -0.25, -0.75, 0.3]), 0)
    assert integers.tolist() == [0, 2, 2, 0, -2, 1]


def test_dither_key_is_drawn_once_and_must_have_32_bytes():
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    StochasticRounder.keyed(1.0, 1, entropy)
    assert asked == [32]
    with pytest.raises(UsageError):
        StochasticRounder.keyed(1.0, 1, lambda count: bytes(count - 1))


def test_chunks_and_keys_do_not_share_dither():
    halves = np.full(CHUNK, 0.5)

    def outcome(rounder: StochasticRounder, start: int) -> bytes:
        return rounder.round(halves, start).tobytes()

    one, other = (StochasticRounder.keyed(1.0, 1, os.urandom) for _ in range(2))
    assert len({outcome(one, 0), outcome(one, CHUNK), outcome(other, 0), outcome(other, CHUNK)}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [2.0**-10, 0.1, 0.5, 0.9, -0.3])
def test_rounding_is_unbiased_and_independent_between_coordinates(fraction: float):
    count = 500 * CHUNK
    rounder = StochasticRounder.keyed(1.0, 1, os.urandom)
    chunk = np.full(CHUNK, fraction)
    ups = np.concatenate([rounder.round(chunk, start).copy() for start in range(0, count, CHUNK)])
    deviation = math.sqrt((fraction % 1) * (1 - fraction % 1))
    # Two-sided 1e-9 of a normal: 6.1 standard deviations.
    assert abs(ups.mean() - fraction) < 6.1 * deviation / math.sqrt(count)
    centred = ups - fraction
    for lag in (1, 2, CHUNK):
        correlation = float(np.mean(centred[:-lag] * centred[lag:])) / deviation**2
        assert abs(correlation) < 6.1 / math.sqrt(count - lag)

from __future__ import annotations

import os
import struct
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfl.training.sampling import poisson_sample, shuffled_batches


def words(*values: int):
    return lambda count: struct.pack(f"<{len(values)}Q", *values)[:count]


@given(rate=st.floats(min_value=1e-12, max_value=1.0, exclude_max=True))
def test_record_is_in_exactly_below_the_64_bit_threshold(rate: float) -> None:
    threshold = int(Fraction(rate) * 2**64)
    entropy = words(0, threshold - 1, threshold, 2**64 - 1)
    assert poisson_sample(4, rate, entropy).tolist() == [0, 1]
    # The probability that this gives is the rate or less, by less than one part in 2^64.
    assert 0 <= Fraction(rate) - Fraction(threshold, 2**64) < Fraction(1, 2**64)


def test_rate_one_takes_every_record() -> None:
    assert poisson_sample(5, 1.0, lambda count: b"\xff" * count).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_no_records_give_an_empty_sample(rate: float) -> None:
    assert poisson_sample(0, rate, os.urandom).tolist() == []


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        poisson_sample(3, rate, os.urandom)


def test_every_record_has_its_own_word_across_chunks() -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return b"\x00" * count

    records = 2 * (1 << 14) + 3
    assert np.array_equal(poisson_sample(records, 0.1, entropy), np.arange(records))
    assert sum(asked) == 8 * records
    assert max(asked) == 8 << 14


@pytest.mark.slow
def test_sample_is_independent_bernoulli_from_the_operating_system() -> None:
    records, rate, draws = 40, 0.3, 20_000
    taken = np.zeros((draws, records))
    for row in taken:
        row[poisson_sample(records, rate, os.urandom)] = 1
    # Each bound is met by chance but for 1e-9 or so a test: six standard errors and more.
    assert np.abs(taken.mean(0) - rate).max() < 6 * np.sqrt(rate * (1 - rate) / draws)
    correlation = np.corrcoef(taken.T)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 6 / np.sqrt(draws)
    # The size is Binomial, not fixed: variance n q (1 - q).
    variance = records * rate * (1 - rate)
    assert taken.sum(1).var() == pytest.approx(variance, rel=6 * np.sqrt(2 / draws))


def test_shuffled_batches_go_through_all_records_each_pass(make_entropy) -> None:
    batches = list(islice(shuffled_batches(7, 3, make_entropy(1)), 6))
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3, 1]
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(7))
    assert first.tolist() != second.tolist()

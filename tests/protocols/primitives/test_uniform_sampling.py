"""Uniform sampling by rejection."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.primitives.sampling import draw, uniform_below


class Tape:
    """Entropy from a prepared list of answers; notes what was asked for."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    def __call__(self, length: int) -> bytes:
        self.asked.append(length)
        return self.answers.pop(0)


def words(*values: int, size: int = 4) -> bytes:
    return b"".join(value.to_bytes(size, "little") for value in values)


def test_candidates_from_the_incomplete_last_interval_are_drawn_again():
    bound = 65537
    largest = 2**32 - 2**32 % bound - 1
    tape = Tape(words(largest, largest + 1, 5, 2**32 - 1), words(2**32 - 1, 65537), words(65538 * 3))
    samples = uniform_below(bound, 4, tape)
    # Accepted in order: largest, 5, 65537, 65538 * 3.
    assert samples.tolist() == [largest % bound, 5, 0, 3]
    assert largest % bound == bound - 1
    assert tape.asked == [16, 8, 4]
    assert samples.dtype == np.uint32


def test_bounds_above_2_to_the_32_take_64_bit_candidates():
    bound = 2**32 + 1
    largest = 2**64 - 2**64 % bound - 1
    tape = Tape(words(largest + 1, largest, size=8), words(bound + 7, size=8))
    assert uniform_below(bound, 2, tape).tolist() == [bound - 1, 7]
    assert tape.asked == [16, 8]


@pytest.mark.parametrize(("bound", "size"), [(2**32, 4), (2**64, 8)])
def test_a_bound_that_is_the_whole_space_refuses_nothing(bound, size):
    tape = Tape(words(bound - 1, 0, size=size))
    assert uniform_below(bound, 2, tape).tolist() == [bound - 1, 0]


def test_below_one_there_is_only_zero_and_of_nothing_nothing_is_drawn():
    assert uniform_below(1, 3, os.urandom).tolist() == [0, 0, 0]
    assert uniform_below(10, 0, Tape()).size == 0


@given(st.integers(1, 2**64), st.integers(0, 50))
def test_samples_are_below_their_bound(bound, count):
    samples = uniform_below(bound, count, os.urandom)
    assert samples.shape == (count,)
    assert all(sample < bound for sample in samples.tolist())


@pytest.mark.parametrize(("bound", "count"), [(0, 1), (-1, 1), (2**64 + 1, 1), (5, -1)])
def test_bounds_and_counts_out_of_range_are_refused(bound, count):
    with pytest.raises(UsageError):
        uniform_below(bound, count, os.urandom)


def test_a_source_stuck_on_refused_candidates_is_an_error_not_an_endless_loop():
    with pytest.raises(UsageError, match="broken"):
        uniform_below(65537, 1, lambda length: b"\xff" * length)


def test_the_last_attempt_counts():
    refused = [words(2**32 - 1)] * 127
    assert uniform_below(65537, 1, Tape(*refused, words(9))).tolist() == [9]


@pytest.mark.parametrize("answer", [b"", bytes(31), bytes(33), bytearray(32)])
def test_a_source_that_returns_another_number_of_bytes_is_refused(answer):
    with pytest.raises(UsageError, match="32 bytes"):
        draw(lambda _: answer, 32)


def test_drawn_bytes_are_those_of_the_source():
    assert draw(Tape(b"abc"), 3) == b"abc"


@pytest.mark.slow
@pytest.mark.parametrize("bound", [3, 1000, 65537, 2**31 + 2**30])
def test_samples_are_uniform(bound):
    """Chi-square over at most 1000 cells of equal width, against its normal approximation at 5 standard deviations."""
    count, cells = 4_000_000, min(bound, 1000)
    samples = uniform_below(bound, count, os.urandom).astype(np.uint64)
    edges = [-(-cell * bound // cells) for cell in range(cells + 1)]
    observed = np.bincount((samples * np.uint64(cells) // np.uint64(bound)).astype(np.int64), minlength=cells)
    expected = count * np.diff(edges) / bound
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert abs(statistic - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5 + 20

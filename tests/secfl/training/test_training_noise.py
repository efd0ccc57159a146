from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from scipy import stats

from secfl.training.noise import add_gaussian


def test_smallest_and_largest_word_give_finite_noise_of_opposite_sign() -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    # Word 0: quantile 2^-65 of the half-tail, four such draws over sqrt(4).
    extreme = 2 * stats.norm.ppf(2.0**-65)
    low = add_gaussian(zeros, 1.0, lambda count: b"\x00" * count)
    high = add_gaussian(zeros, 1.0, lambda count: (b"\x01" + b"\x00" * 7) * (count // 8))
    assert low.numpy() == pytest.approx(np.full(3, extreme), rel=1e-9)
    assert high.numpy() == pytest.approx(np.full(3, -extreme), rel=1e-9)


def test_middle_word_gives_no_noise() -> None:
    values = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert torch.equal(add_gaussian(values, 5.0, lambda count: b"\xff" * count), values)


def test_every_value_draws_four_words_of_its_own() -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    noisy = add_gaussian(torch.zeros(3, 5000), 1.0, entropy)
    assert sum(asked) == 8 * 4 * 15_000
    assert len(torch.unique(noisy)) > 14_900  # no draw is used twice (float32 values may coincide)


def test_input_stays_and_a_transposed_one_keeps_its_places() -> None:
    values = torch.arange(6.0).view(2, 3).t()
    noisy = add_gaussian(values, 1e-12, os.urandom)
    assert torch.allclose(noisy, values, atol=1e-9)
    assert torch.equal(values, torch.arange(6.0).view(2, 3).t())


@pytest.mark.slow
def test_noise_is_gaussian_with_the_given_standard_deviation() -> None:
    noisy = add_gaussian(torch.full((400_000,), 7.0, dtype=torch.float64), 2.5, os.urandom).numpy()
    assert stats.kstest(noisy, stats.norm(7.0, 2.5).cdf).pvalue > 1e-6  # false alarm: one run in a million
    lagged = np.corrcoef(noisy[:-1], noisy[1:])[0, 1]
    assert abs(lagged) < 6 / np.sqrt(len(noisy))

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from scipy import stats

from protocols.testing.randomness import DeterministicEntropy
from secfl.training.noise import GridNoise


@pytest.mark.parametrize(("multiplier", "clip", "dimension"), [(1.0, 1.0, 10), (0.7, 3.5, 10**6), (4.0, 1e-3, 1)])
def test_the_noise_is_that_of_the_rounded_sum_and_never_less_than_planned(
    multiplier: float, clip: float, dimension: int
) -> None:
    noise = GridNoise(multiplier, clip, dimension)
    assert math.frexp(noise.step)[0] == 0.5  # a power of two
    assert 2**26 <= min(1.0, multiplier) * clip / noise.step < 2**27
    expected = multiplier * (clip + math.sqrt(dimension) * noise.step)
    assert noise.standard_deviation == pytest.approx(expected, rel=1e-11)
    assert multiplier * clip < noise.standard_deviation < 1.0001 * multiplier * clip


def test_noisy_values_lie_on_the_grid() -> None:
    noise = GridNoise(1.0, 1.0, 4)
    values = torch.tensor([[0.1, -2.0], [3.0, 1 / 3]], dtype=torch.float64)
    noisy = noise.add(values, os.urandom)
    steps = noisy / noise.step
    assert torch.equal(steps, steps.round())
    assert noisy.shape == values.shape


def test_what_is_added_is_the_sampler_s_draws_on_the_rounded_values() -> None:
    noise = GridNoise(2.0, 1.0, 3)
    values = torch.tensor([0.25, 1.0, -1.0], dtype=torch.float64)
    drawn = noise._sampler.sample(3, DeterministicEntropy("noise"))
    noisy = noise.add(values, DeterministicEntropy("noise"))
    assert torch.equal(noisy, values + torch.from_numpy(drawn).double() * noise.step)
    assert noise.add(values.float(), DeterministicEntropy("noise")).dtype == torch.float32


def test_input_stays_and_a_transposed_one_keeps_its_places() -> None:
    values = torch.arange(6.0).view(2, 3).t() * 1e9
    noisy = GridNoise(1.0, 1e-3, 6).add(values, os.urandom)
    assert torch.allclose(noisy, values, atol=1)
    assert torch.equal(values, torch.arange(6.0).view(2, 3).t() * 1e9)


def test_no_two_steps_draw_alike() -> None:
    noise = GridNoise(1.0, 1.0, 5000)
    one, other = (noise.add(torch.zeros(5000, dtype=torch.float64), os.urandom) for _ in range(2))
    assert len(torch.unique(torch.cat([one, other]))) > 9_900


@pytest.mark.slow
def test_noise_is_gaussian_with_the_given_standard_deviation() -> None:
    noise = GridNoise(2.5, 1.0, 400_000)
    noisy = noise.add(torch.full((400_000,), 7.0, dtype=torch.float64), os.urandom).numpy()
    deviation = noise.standard_deviation
    assert stats.kstest(noisy, stats.norm(7.0, deviation).cdf).pvalue > 1e-6  # false alarm: one run in a million
    lagged = np.corrcoef(noisy[:-1], noisy[1:])[0, 1]
    assert abs(lagged) < 6 / np.sqrt(len(noisy))

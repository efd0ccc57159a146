from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from secfl.privacy.audit.bounds import (
    clopper_pearson_mu,
    gaussian_epsilon,
    one_run_epsilon,
    one_run_p_value,
    split_guesses,
)
from secfl.privacy.crosscheck import pld_epsilon
from secfl.privacy.events import SampledGaussian


def test_one_run_bound_without_delta_is_the_binomial_tail() -> None:
    rate = math.e / (1 + math.e)
    assert one_run_p_value(100, 50, 45, 1.0, 0.0) == pytest.approx(binom.sf(44, 50, rate))


@pytest.mark.parametrize(("canaries", "guesses", "correct", "delta"), [(100, 50, 45, 1e-3), (40, 40, 31, 1e-2)])
def test_one_run_bound_is_the_theorem_written_out(canaries: int, guesses: int, correct: int, delta: float) -> None:
    rate = math.exp(0.7) / (1 + math.exp(0.7))
    tail = sum(math.comb(guesses, k) * rate**k * (1 - rate) ** (guesses - k) for k in range(correct, guesses + 1))
    largest = max(
        sum(math.comb(guesses, k) * rate**k * (1 - rate) ** (guesses - k) for k in range(correct - i, correct)) / i
        for i in range(1, correct + 1)
    )
    assert one_run_p_value(canaries, guesses, correct, 0.7, delta) == pytest.approx(
        tail + 2 * canaries * delta * largest, rel=1e-9
    )


def test_all_right_guesses_give_the_epsilon_of_the_confidence() -> None:
    # (e^eps / (1 + e^eps))^r = .05 at the bound.
    epsilon = one_run_epsilon(100, 100, 100, 0.0, 0.95)
    assert (1 / (1 + math.exp(-epsilon))) ** 100 == pytest.approx(0.05, rel=1e-4)
    assert one_run_epsilon(100, 100, 50, 0.0, 0.95) == 0.0
    assert one_run_epsilon(100, 100, 0, 0.0, 0.95) == 0.0


def test_randomised_response_is_refuted_no_more_often_than_stated() -> None:
    # The mechanism that the theorem is tight for: each bit is told truly with probability e^eps / (1 + e^eps).
    epsilon, runs = 1.0, 2000
    right = np.random.default_rng(1).binomial(200, 1 / (1 + math.exp(-epsilon)), runs)
    least = next(v for v in range(201) if one_run_epsilon(200, 200, v, 0.0, 0.9) > epsilon)
    refuted = int((right >= least).sum())
    assert 0 < refuted <= 0.1 * runs + 4 * math.sqrt(0.09 * runs)


def test_gaussian_mechanism_is_refuted_no_more_often_than_stated_and_comes_near() -> None:
    mu, number, runs = 1.5, 2000, 300
    generator = np.random.default_rng(2)
    wrong = generator.binomial(number, norm.cdf(-mu / 2), (runs, 2))
    found = [clopper_pearson_mu(int(one), number, int(other), number, 0.9) for one, other in wrong]
    assert sum(value > mu for value in found) <= 0.1 * runs
    assert 1.3 < np.median(found) < mu


def test_guesses_that_tell_nothing_bound_nothing() -> None:
    assert clopper_pearson_mu(50, 100, 50, 100, 0.95) == 0.0
    assert clopper_pearson_mu(100, 100, 100, 100, 0.95) == 0.0
    assert clopper_pearson_mu(0, 0, 0, 0, 0.95) == 0.0


@pytest.mark.parametrize("mu", [0.3, 1.0])
def test_epsilon_of_a_gaussian_mechanism_is_that_of_the_accountant(mu: float) -> None:
    # Sampling rate 1, one step: mu-GDP with mu = 1 / z.
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(pld_epsilon([SampledGaussian(1.0, 1 / mu, 1)], 1e-5), rel=2e-3)


def test_guesses_are_the_highest_and_the_lowest_scores() -> None:
    scores = np.array([0.1, 5.0, -3.0, 2.0, 0.0, 7.0])
    included = np.array([True, True, False, False, True, True])
    assert split_guesses(scores, included, 4) == (4, 3)  # out: -3 (right), 0 (wrong); in: 5, 7 (right)
    assert split_guesses(scores, included, 0) == (0, 0)

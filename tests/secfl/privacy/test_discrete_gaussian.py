"""The sampler against exact probabilities, an independent exact sampler, and sources of bytes that hit its corners."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from protocols.errors import PrivacyError
from protocols.testing.randomness import DeterministicEntropy
from secfl.privacy.discrete_gaussian import DiscreteGaussian


def bin_probabilities(sigma: float, edges: list[int]) -> np.ndarray:
    """Of the bins that end at each edge, and of the last, to 12 digits."""
    reach = int(14 * sigma) + 2
    weights = np.exp(-np.square(np.arange(-reach, reach + 1) / sigma) / 2)
    below = np.concatenate([[0.0], np.cumsum(weights)])
    ends = [0, *(edge + reach + 1 for edge in edges), below.size - 1]
    return np.diff(below[ends]) / below[-1]


class CanonneKamathSteinke:
    """Algorithms 1 to 3 of their paper in integers and fractions alone: slow, exact, nothing in common with ours."""

    def __init__(self, variance: Fraction, entropy: Callable[[int], bytes]) -> None:
        self.variance, self.entropy = variance, entropy
        self.scale = math.isqrt(math.floor(variance)) + 1

    def below(self, bound: int) -> int:
        size = (bound.bit_length() + 7) // 8 + 1
        limit = 256**size - 256**size % bound
        while (candidate := int.from_bytes(self.entropy(size), "big")) >= limit:
            continue
        return candidate % bound

    def bernoulli(self, probability: Fraction) -> bool:
        return self.below(probability.denominator) < probability.numerator

    def bernoulli_exp(self, exponent: Fraction) -> bool:
        while exponent > 1:
            if not self.bernoulli_exp(Fraction(1)):
                return False
            exponent -= 1
        turn = 1
        while self.bernoulli(exponent / turn):
            turn += 1
        return turn % 2 == 1

    def laplace(self) -> int:
        while True:
            offset = self.below(self.scale)
            if not self.bernoulli_exp(Fraction(offset, self.scale)):
                continue
            turns = 0
            while self.bernoulli_exp(Fraction(1)):
                turns += 1
            magnitude, negative = offset + self.scale * turns, self.below(2) == 1
            if not (negative and magnitude == 0):
                return -magnitude if negative else magnitude

    def draw(self) -> int:
        while True:
            candidate = self.laplace()
            distance = abs(candidate) - self.variance / self.scale
            if self.bernoulli_exp(distance * distance / (2 * self.variance)):
                return candidate


def chi_square(draws: np.ndarray, sigma: float) -> float:
    """p-value of the draws over bins of about equal probability."""
    edges = sorted({round(sigma * float(stats.norm.ppf(k / 24))) for k in range(1, 24)})
    counts = np.histogram(draws, bins=[-(10**18), *(edge + 0.5 for edge in edges), 10**18])[0]
    return float(stats.chisquare(counts, bin_probabilities(sigma, edges) * draws.size).pvalue)


@pytest.mark.parametrize("sigma", [2.0**-4, 0.3, 1.0, 4.0, 300.5])
def test_the_table_is_the_exact_cumulative_distribution(sigma: float) -> None:
    boundaries = DiscreteGaussian(sigma)._table.boundaries
    assert list(boundaries) == sorted(boundaries)
    with mpmath.workdps(80):
        weights = [mpmath.exp(-(mpmath.mpf(y) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for y in range(len(boundaries) + 1)]
        more = range(len(weights), len(weights) + 20 + int(4 * sigma))
        rest = mpmath.fsum(mpmath.exp(-(mpmath.mpf(y) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for y in more)
        total = mpmath.fsum(weights) + rest
        assert rest / total < mpmath.mpf(2) ** -128
        below = mpmath.mpf(0)
        for boundary, weight in zip(boundaries, weights, strict=False):
            below += weight
            assert abs(boundary - below / total * 2**128) <= 2


@pytest.mark.parametrize(("sigma", "stretch"), [(6.0, 2), (6.0, 3), (40.0, 5)])
def test_stretching_a_smaller_table_gives_the_same_distribution(sigma: float, stretch: int) -> None:
    """Table, offset and acceptance in exact arithmetic: the identity that the sampler for large sigma rests on."""
    with mpmath.workdps(50):
        s = mpmath.mpf(sigma)
        small = s / stretch
        mass: Counter[int] = Counter()
        for y in range(int(14 * small) + 2):
            for u in range(stretch):
                table = mpmath.exp(-(mpmath.mpf(y) ** 2) / (2 * small**2))
                mass[stretch * y + u] += table * mpmath.exp(-u * (2 * stretch * y + mpmath.mpf(u)) / (2 * s**2))
        for x in (0, 1, 5, 2 * stretch, 3 * stretch - 1):
            expected = mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * s**2))
            assert abs(mass[x] / mass[0] - expected) < mpmath.mpf(10) ** -45


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0, 3.7, 64.0, 2048.0, 2049.0, 5000.5])
def test_draws_have_the_exact_distribution(sigma: float) -> None:
    draws = DiscreteGaussian(sigma).sample(200_000, DeterministicEntropy(f"chi-square/{sigma}"))
    assert chi_square(draws, sigma) > 1e-4  # the source is fixed: this holds or it does not


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 256.0, 2048.0, 2100.0, 65536.0 + 1 / 3, 3e6])
def test_ten_million_fresh_draws_have_the_exact_distribution(sigma: float) -> None:
    """False alarm once in 10^6 runs of one case."""
    draws = DiscreteGaussian(sigma).sample(10_000_000, os.urandom)
    if sigma <= 4096:
        assert chi_square(draws, sigma) > 1e-6
    # Bins of the continuous Gaussian: off by less than 1e-6 of a probability from sigma = 2000 on.
    else:
        uniform = stats.norm.cdf((draws + np.random.default_rng(1).random(draws.size) - 0.5) / sigma)
        counts = np.histogram(uniform, bins=64, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-6
    if sigma >= 2:  # below, the variance is not sigma squared
        assert abs(np.mean(np.square(draws / sigma)) - 1) < 5 * math.sqrt(2 / draws.size)
    assert abs(draws.mean()) < 5 * sigma / math.sqrt(draws.size)


@pytest.mark.parametrize("sigma", [0.7, 5.0])
def test_an_independent_exact_sampler_agrees(sigma: float) -> None:
    oracle = CanonneKamathSteinke(Fraction(sigma) ** 2, DeterministicEntropy(f"oracle/{sigma}"))
    theirs = np.array([oracle.draw() for _ in range(6000)])
    ours = DiscreteGaussian(sigma).sample(60_000, DeterministicEntropy(f"ours/{sigma}"))
    assert chi_square(theirs, sigma) > 1e-4
    reach = round(2 * sigma)
    clipped = [np.clip(draws, -reach, reach) + reach for draws in (theirs, ours)]
    counts = np.array([np.bincount(draws, minlength=2 * reach + 1) for draws in clipped])
    assert stats.chi2_contingency(counts).pvalue > 1e-4


def scripted(*answers: bytes) -> Callable[[int], bytes]:
    queue = list(answers)
    return lambda size: queue.pop(0) if queue and len(queue[0]) == size else bytes(size)


def test_a_word_on_a_boundary_is_decided_by_a_second_word() -> None:
    sampler = DiscreteGaussian(3.0)
    boundary = sampler._table.boundaries[4]
    high, low = boundary >> 64, boundary & (2**64 - 1)
    for second, expected in [(low - 1, 4), (low, 5), (low + 1, 5)]:
        entropy = scripted(high.to_bytes(8, "little"), second.to_bytes(8, "little"))
        assert sampler._magnitudes(1, entropy).tolist() == [expected]


def test_the_smallest_and_the_largest_word_stay_in_the_table() -> None:
    sampler = DiscreteGaussian(3.0)
    assert sampler._magnitudes(1, scripted(bytes(8))).tolist() == [0]
    largest = sampler._magnitudes(1, scripted(b"\xff" * 8, b"\xff" * 8)).tolist()[0]
    assert 38 <= largest <= len(sampler._table.boundaries)


@pytest.mark.parametrize(("base", "offset"), [(0, 1), (3906 * 17, 3905), (3906 * 3000, 1234)])
def test_a_word_too_close_to_the_threshold_is_decided_exactly(base: int, offset: int) -> None:
    sampler = DiscreteGaussian(1e6)
    assert sampler._stretch == 3906
    with mpmath.workdps(60):
        t = mpmath.mpf(offset) * (2 * base + offset) / (2 * mpmath.mpf(10) ** 12)
        threshold = int(mpmath.floor(-mpmath.expm1(-t) * mpmath.mpf(2) ** 128))
    for whole, kept in [
        (threshold, False),
        (threshold + 1, True),
        (threshold - 2**74, False),
        (threshold + 2**74, True),
    ]:
        entropy = scripted((whole >> 64).to_bytes(8, "little"), (whole & (2**64 - 1)).to_bytes(8, "little"))
        assert sampler._accepted(np.array([base]), np.array([offset]), entropy).tolist() == [kept]


def test_minus_zero_is_drawn_again() -> None:
    """Words of zeros and an odd sign byte: every candidate is minus zero until the source relents."""
    sampler = DiscreteGaussian(1.0)
    calls = []

    def source(size: int) -> bytes:
        calls.append(size)
        return b"\x01" * size if len(calls) == 2 else bytes(size)

    assert sampler.sample(3, source).tolist() == [0, 0, 0]
    assert len(calls) == 4


@given(st.floats(2.0**-4, 2.0**48), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_any_allowed_sigma_gives_as_many_integers_as_asked_for(sigma: float, count: int) -> None:
    draws = DiscreteGaussian(sigma).sample(count, os.urandom)
    assert draws.dtype == np.int64
    assert draws.shape == (count,)
    assert np.abs(draws).max(initial=0) < 14 * sigma + 14


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 2.0**-5, 2.0**49, "1", True])
def test_any_other_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(PrivacyError, match="sigma"):
        DiscreteGaussian(sigma)


def test_two_samplers_never_draw_alike_from_the_operating_system() -> None:
    one, other = (DiscreteGaussian(1e6).sample(64, os.urandom) for _ in range(2))
    assert not np.array_equal(one, other)


def test_the_distance_from_the_exact_distribution_is_stated() -> None:
    assert DiscreteGaussian(4.0).total_variation < 2.0**-119
    assert DiscreteGaussian(1e6).total_variation < 2.0**-113


def test_nothing_of_numpy_or_torch_draws_noise() -> None:
    source = (__import__("secfl.privacy.discrete_gaussian", fromlist=["__file__"]).__file__) or ""
    text = open(source, encoding="utf-8").read()  # noqa: PTH123, SIM115
    assert "random." not in text.replace("random sign", "")
    assert "torch" not in text.replace("numpy or torch", "")

"""Distributed discrete Gaussian noise: bounds against exact divergences, calibration against every set of dropouts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import PrivacyError
from secfl.privacy.accounting import ORDERS, distributed_gaussian, epsilon, pld_epsilon, prv_epsilon, rdp_curve
from secfl.privacy.distributed import NoisePlan, rounded_l2_bound
from secfl.privacy.events import DistributedGaussian, SampledGaussian


def pmf_of_sum(sigma: float, shares: int, reach: int = 60) -> np.ndarray:
    """In 80-bit floats, whose exponents reach where the divergence of a high order lies; ``reach`` in sigma a share."""
    reach = int(reach * sigma) + 4
    one = np.exp(-np.square(np.arange(-reach, reach + 1).astype(np.longdouble) / sigma) / 2)
    one /= one.sum()
    whole = one
    for _ in range(shares - 1):
        whole = np.convolve(whole, one)
    return whole


def exact_divergence(order: float, pmf: np.ndarray, shift: int) -> float:
    """Rényi divergence of the sum of shares from itself moved by ``shift`` steps, where neither is negligible."""
    moved, still = pmf[shift:], pmf[: pmf.size - shift]
    tiny = np.longdouble("1e-4900")
    safe = (moved > tiny) & (still > tiny)
    logs = order * np.log(moved[safe]) + (1 - order) * np.log(still[safe])
    top = logs.max()
    return float((top + math.log(np.exp(logs - top).sum())) / (order - 1))


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("shares", [1, 2, 3, 5])
@pytest.mark.parametrize("shift", [(1,), (3,), (1, 1), (2, 1, 1)])
def test_the_bound_dominates_the_exact_divergence(sigma: float, shares: int, shift: tuple[int, ...]) -> None:
    orders = np.array([2.0, 3.0, 4.0, 8.0, 16.0])
    sensitivity = math.sqrt(sum(x * x for x in shift))
    bound = distributed_gaussian(orders, sensitivity, len(shift), sigma, shares)
    pmf = pmf_of_sum(sigma, shares)
    for order, rho in zip(orders, bound, strict=True):
        exact = sum(exact_divergence(float(order), pmf, x) for x in shift)
        assert exact <= rho * (1 + 1e-9)


def exact_sampled_divergences(
    order: float, rate: float, pmf: np.ndarray, shift: tuple[int, ...]
) -> tuple[float, float]:
    """Both ways between q moved + (1 - q) still and still, over all coordinates at once: one sample moves them all."""
    moved = still = np.ones((), np.longdouble)
    for steps in shift:
        padding = np.zeros(steps, np.longdouble)
        moved = np.multiply.outer(moved, np.concatenate([padding, pmf]))
        still = np.multiply.outer(still, np.concatenate([pmf, padding]))
    mixed = rate * moved + (1 - rate) * still
    tiny = np.longdouble("1e-4900")
    safe = (mixed > tiny) & (still > tiny)
    logs = np.log(mixed[safe]), np.log(still[safe])
    return tuple(_divergence(order, *pair) for pair in (logs, logs[::-1]))


def _divergence(order: float, first: np.ndarray, second: np.ndarray) -> float:
    logs = order * first + (1 - order) * second
    top = logs.max()
    return float((top + np.log(np.exp(logs - top).sum())) / (order - 1))


SAMPLED_CASES = [
    (sigma, shares, shift)
    for shift, sigmas in (((1,), (0.5, 1.0, 4.0)), ((3,), (1.0, 4.0)), ((1, 1), (0.5, 1.0)), ((2, 1, 1), (0.5,)))
    for sigma in sigmas
    for shares in (1, 2, 5)
]


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize(("sigma", "shares", "shift"), SAMPLED_CASES)
def test_the_sampled_bound_dominates_the_exact_divergences_both_ways(
    sigma: float, shares: int, shift: tuple[int, ...], rate: float
) -> None:
    """Adding the record and removing it, at every integer order up to 8; never below, and close above."""
    event = DistributedGaussian(rate, math.sqrt(sum(x * x for x in shift)), len(shift), sigma, shares, 1)
    pmf = pmf_of_sum(sigma, shares, reach=30 if len(shift) == 1 else 12)
    for order in (2, 3, 5, 8):
        bound = float(rdp_curve(event)[ORDERS.index(order)])
        adding, removing = exact_sampled_divergences(order, rate, pmf, shift)
        assert max(adding, removing) <= bound * (1 + 1e-9)
        if sigma >= 1.0 and shares == 1:  # then the base bound is that of one discrete Gaussian, which is tight
            assert adding == pytest.approx(bound, rel=1e-3)


def test_the_bound_is_tight_where_shares_are_wide() -> None:
    pmf = pmf_of_sum(4.0, 3)
    bound = float(distributed_gaussian(np.array([4.0]), 5.0, 1, 4.0, 3)[0])
    assert exact_divergence(4.0, pmf, 5) == pytest.approx(bound, rel=1e-6)
    assert bound == pytest.approx(4 / 2 * 25 / (3 * 16), rel=1e-12)


def test_narrow_shares_cost_more_than_one_gaussian_of_their_variance() -> None:
    narrow, gaussian = distributed_gaussian(np.array([4.0]), 1.0, 1, 0.5, 5)[0], 4 / 2 / (5 * 0.25)
    assert narrow > 1.01 * gaussian


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.1, 2.0, 200), (1.0, 5.0, 50)])
def test_wide_shares_cost_what_the_sampled_gaussian_costs(rate: float, noise: float, steps: int) -> None:
    central = rdp_curve(SampledGaussian(rate, noise, steps))
    shares = DistributedGaussian(rate, 1000.0, 100, noise * 1000.0 / math.sqrt(7), 7, steps)
    np.testing.assert_allclose(rdp_curve(shares), central, rtol=1e-9)
    assert epsilon(rdp_curve(shares), 1e-5)[0] == pytest.approx(epsilon(central, 1e-5)[0], rel=1e-9)
    assert shares.noise_multiplier == pytest.approx(noise)


def test_no_numerical_accountant_claims_to_know_the_distributed_gaussian() -> None:
    event = DistributedGaussian(1.0, 1.0, 1, 4.0, 2, 1)
    for accountant in (prv_epsilon, pld_epsilon):
        with pytest.raises(PrivacyError, match="DistributedGaussian"):
            accountant([event], 1e-5)


@given(
    clip=st.floats(0.1, 100),
    bits=st.integers(6, 20),
    dimension=st.integers(1, 2000),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_no_rounding_makes_a_clipped_vector_longer_than_the_bound(
    clip: float, bits: int, dimension: int, seed: int
) -> None:
    choice = np.random.default_rng(seed)
    vector = choice.standard_normal(dimension)
    vector *= clip / np.linalg.norm(vector)
    scaled = np.ldexp(vector, bits)
    away = np.sign(scaled) * np.ceil(np.abs(scaled))  # the worst that unconditional rounding can do
    assert np.linalg.norm(away) <= rounded_l2_bound(math.ldexp(clip, bits), dimension, "unconditional")
    assert rounded_l2_bound(math.ldexp(clip, bits), dimension, "conditional") <= rounded_l2_bound(
        math.ldexp(clip, bits), dimension, "unconditional"
    )


def test_conditional_rounding_is_the_published_formula() -> None:
    got = rounded_l2_bound(1000.0, 10_000, "conditional")
    assert got == pytest.approx(math.sqrt(1000.0**2 + 2500 + 1.0 * (1000.0 + 50)), rel=1e-9)


PLAN = NoisePlan(
    clip_norm=1.0, fraction_bits=10, dimension=650, noise_multiplier=2.0, minimum_contributors=7, colluding=3
)


def test_every_set_that_may_be_opened_keeps_the_planned_noise() -> None:
    """All sizes from T_min to n, all numbers of colluders up to c: the honest shares add up to the plan's."""
    for contributors, colluding in itertools.product(range(7, 12), range(4)):
        honest = contributors - colluding
        assert math.sqrt(honest) * PLAN.share_sigma >= PLAN.total_sigma * (1 - 1e-12)
    assert math.sqrt(7 - 3) * PLAN.share_sigma == pytest.approx(PLAN.total_sigma)
    assert PLAN.total_sigma == pytest.approx(2.0 * (1024 + math.sqrt(650)), rel=1e-9)


def test_shares_that_count_against_each_adversary() -> None:
    assert PLAN.unknown_shares("outsider") == PLAN.unknown_shares("server") == 7
    assert PLAN.unknown_shares("another party") == 6
    assert PLAN.unknown_shares("server and colluding parties") == 4
    assert [PLAN.unknown_shares("server and colluding parties", c) for c in range(4)] == [7, 6, 5, 4]
    with pytest.raises(PrivacyError, match="leave no noise"):
        PLAN.unknown_shares("server and colluding parties", 7)


def test_epsilon_falls_with_the_adversary_s_knowledge() -> None:
    costs = {
        adversary: epsilon(rdp_curve(PLAN.event(10, adversary=adversary)), 1e-5)[0]
        for adversary in ("outsider", "server", "another party", "server and colluding parties")
    }
    assert costs["outsider"] == costs["server"] < costs["another party"] < costs["server and colluding parties"]
    planned = epsilon(rdp_curve(SampledGaussian(1.0, 2.0, 10)), 1e-5)[0]
    assert costs["server and colluding parties"] == pytest.approx(planned, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"colluding": 7}, "colluding"), ({"colluding": -1}, "colluding"), ({"noise_multiplier": 0.001}, "fraction_bits")],
)
def test_plans_that_no_bound_covers_are_refused(changes: dict[str, int], named: str) -> None:
    fields = {name: getattr(PLAN, name) for name in PLAN.__dataclass_fields__}
    with pytest.raises(PrivacyError, match=named):
        NoisePlan(**(fields | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_rate", 0.0),
        ("l2_sensitivity", 0.0),
        ("l2_sensitivity", math.inf),
        ("share_sigma", 0.49),  # below, theorem 1 says nothing
        ("share_sigma", math.nan),
        ("dimension", 0),
        ("dimension", 1.0),
        ("shares", 0),
        ("steps", 0),
        ("steps", True),
        ("known_shares", -1),
    ],
)
def test_events_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    fields = {"sampling_rate": 1.0, "l2_sensitivity": 1.0, "dimension": 1, "share_sigma": 4.0, "shares": 2, "steps": 1}
    with pytest.raises(PrivacyError, match=field):
        DistributedGaussian(**(fields | {field: value}))


def test_many_shares_are_accounted_in_no_time_and_not_below_few() -> None:
    few = distributed_gaussian(np.array(ORDERS, float), 1.0, 10, 0.6, 1001)
    many = distributed_gaussian(np.array(ORDERS, float), math.sqrt(10**6 / 1001), 10, 0.6, 10**6)
    assert (many >= few * (1 - 1e-9)).all()

"""Rényi accounting against 60-digit arithmetic, dp-accounting and published values; the filter and planning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import BudgetExceeded, PrivacyError
from secfl.privacy import accounting
from secfl.privacy.accounting import (
    ORDERS,
    RdpFilter,
    SampledGaussian,
    choose_order,
    compose,
    epsilon,
    noise_multiplier_for,
    order_within_budget,
    rdp_curve,
    rdp_epsilon,
    steps_left,
)
from secfl.privacy.events import PrivacyEvent

DELTA = 1e-5
CONFIGURATIONS = [
    (0.01, 1.0),
    (0.1, 2.0),
    (1e-4, 0.5),
    (0.5, 10.0),
    (1e-9, 30.0),
    (0.999, 0.3),
    (0.3, 1e-3),
    (0.2, 1e5),
]


def test_orders_of_version_1_never_change() -> None:
    assert accounting.ORDERS_VERSION == 1
    assert len(ORDERS) == 143
    assert ORDERS[:3] == (2, 3, 4)
    assert ORDERS[60:66] == (62, 63, 64, 68, 72, 76)
    assert ORDERS[-3:] == (1920, 1984, 2048)
    assert sum(ORDERS) == 50687
    assert list(ORDERS) == sorted(set(ORDERS))


@pytest.mark.parametrize(("rate", "noise"), CONFIGURATIONS)
@pytest.mark.parametrize("order", [2, 3, 17, 64, 512, 2048])
def test_curve_is_the_exact_divergence_rounded_up(rate: float, noise: float, order: int) -> None:
    import mpmath

    with mpmath.workdps(60):
        q, z = mpmath.mpf(rate), mpmath.mpf(noise)
        total = mpmath.fsum(
            mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * mpmath.exp((k * k - k) / (2 * z * z))
            for k in range(order + 1)
        )
        exact = mpmath.log(total) / (order - 1)
        found = mpmath.mpf(float(rdp_curve(SampledGaussian(rate, noise, 1))[ORDERS.index(order)]))
        excess = float(found / exact - 1)
    assert 0 < excess < 2e-11


GRID = [(rate, noise) for rate in (0.001, 0.01, 0.1, 0.5, 0.999, 1.0) for noise in (0.3, 1.0, 3.0, 10.0)]


@pytest.mark.parametrize(("rate", "noise"), GRID)
def test_curve_agrees_with_dp_accounting_at_integer_orders(rate: float, noise: float) -> None:
    from dp_accounting import dp_event
    from dp_accounting.rdp import rdp_privacy_accountant as module

    accountant = module.RdpAccountant(list(ORDERS))
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), 7)
    # Both at full precision where the divergence is not tiny; where it is, the oracle's 1 + x has lost digits of x.
    np.testing.assert_allclose(rdp_curve(SampledGaussian(rate, noise, 7)), accountant.rdp, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("rate", "noise"), GRID)
def test_curve_agrees_with_opacus_at_integer_orders(rate: float, noise: float) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp

    orders = [2, 3, 8, 32, 64, 128]
    expected = compute_rdp(q=rate, noise_multiplier=noise, steps=7, orders=orders)
    found = rdp_curve(SampledGaussian(rate, noise, 7))[[ORDERS.index(order) for order in orders]]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_plain_gaussian_is_alpha_over_two_sigma_squared() -> None:
    expected = 50 * np.array(ORDERS) / (2 * 5.0**2)
    np.testing.assert_allclose(rdp_curve(SampledGaussian(1, 5, 50)), expected, rtol=2e-11)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (SampledGaussian(0.01, 1, 1000), 2.11),
        (SampledGaussian(0.1, 2, 200), 3.68),
        (SampledGaussian(1, 5, 50), 7.09),
    ],
)
def test_epsilon_has_the_reference_value(event: SampledGaussian, expected: float) -> None:
    found = rdp_epsilon([event], DELTA)
    assert math.ceil(found * 100) / 100 == expected


def test_epsilon_of_an_exact_gaussian_follows_the_conversion_by_hand() -> None:
    # rho = 50 * 4 / 50 = 4 at the best order, 4: 4 + ln(3/4) - ln(4e-5) / 3.
    found, order = epsilon(rdp_curve(SampledGaussian(1, 5, 50)), DELTA)
    assert order == 4
    assert found == pytest.approx(4 + math.log(0.75) - math.log(4e-5) / 3, rel=1e-10)


def test_epsilon_of_nothing_is_zero() -> None:
    assert epsilon(compose([]), DELTA)[0] == 0.0


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan])
def test_epsilon_at_a_meaningless_delta_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"^delta: "):
        epsilon(compose([]), delta)


@pytest.mark.parametrize("curve", [np.zeros(3), np.full(len(ORDERS), -1.0), np.full(len(ORDERS), np.nan)])
def test_curve_of_another_shape_or_with_negative_values_is_refused(curve: np.ndarray) -> None:
    with pytest.raises(PrivacyError, match=r"^curve: "):
        epsilon(curve, DELTA)
    with pytest.raises(PrivacyError, match=r"^curve: "):
        RdpFilter(8, 3, DELTA).rho(curve)


def test_event_of_a_kind_without_a_curve_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no Rényi curve for the kind PrivacyEvent"):
        rdp_curve(PrivacyEvent())


def test_curve_cannot_be_changed_by_its_reader() -> None:
    curve = rdp_curve(SampledGaussian(0.01, 1, 1))
    with pytest.raises(ValueError, match="read-only"):
        curve[0] = 0.0


def test_each_configuration_is_computed_once_however_many_rounds_have_it() -> None:
    """Speed is shown by benchmarks/accounting.py; this is what it rests on."""
    accounting._sampled_gaussian_step.cache_clear()
    found = rdp_epsilon([SampledGaussian(0.01 + (i % 100) * 1e-5, 1.0, 10) for i in range(500)], DELTA)
    assert accounting._sampled_gaussian_step.cache_info().misses == 100
    assert accounting._sampled_gaussian_step.cache_info().hits == 400
    assert found == pytest.approx(rdp_epsilon([SampledGaussian(0.0105, 1.0, 5000)], DELTA), rel=0.01)


@given(st.lists(st.sampled_from(CONFIGURATIONS[:4]), min_size=1, max_size=8), st.randoms())
@settings(max_examples=30, deadline=None)
def test_composition_is_bitwise_the_same_in_any_order(
    configurations: list[tuple[float, float]], random: object
) -> None:
    curves = [rdp_curve(SampledGaussian(rate, noise, 3)) for rate, noise in configurations]
    forward = compose(curves)
    random.shuffle(curves)  # type: ignore[attr-defined]
    assert compose(curves).tobytes() == forward.tobytes()


class TestFilter:
    def test_limit_is_that_of_the_formula(self) -> None:
        found = RdpFilter(8, 3.0, DELTA)
        assert found.limit == pytest.approx(3 - math.log(1 - 1 / 8) + math.log(8 * DELTA) / 7, rel=1e-14)

    def test_spend_at_the_limit_is_admitted_and_one_bit_more_refused(self) -> None:
        budget = RdpFilter(8, 3.0, DELTA)
        index = ORDERS.index(8)
        at, above = np.zeros(len(ORDERS)), np.zeros(len(ORDERS))
        at[index], above[index] = budget.limit, np.nextafter(budget.limit, np.inf)
        budget.check([], at)
        with pytest.raises(BudgetExceeded) as caught:
            budget.check([], above)
        assert caught.value.requested == pytest.approx(3.0)
        assert caught.value.remaining == 3.0

    def test_refusal_says_what_was_asked_and_what_is_left(self) -> None:
        budget = RdpFilter(8, 3.0, DELTA)
        spent = rdp_curve(SampledGaussian(0.01, 1, 1000))
        with pytest.raises(BudgetExceeded) as caught:
            budget.check([spent], rdp_curve(SampledGaussian(0.01, 1, 5000)))
        both = rdp_curve(SampledGaussian(0.01, 1, 6000))
        assert caught.value.requested == pytest.approx(budget.epsilon_of(both), rel=1e-9)
        assert caught.value.remaining == pytest.approx(3 - budget.epsilon_of(spent), rel=1e-9)

    def test_ten_thousand_single_steps_exceed_exactly_when_one_event_of_as_many_does(self) -> None:
        noise = noise_multiplier_for(2.0, DELTA, 0.01, 10_000)
        budget = RdpFilter(choose_order([SampledGaussian(0.01, noise, 10_000)], DELTA), 2.0, DELTA)
        step = rdp_curve(SampledGaussian(0.01, noise, 1))
        assert budget.admits([step] * 9_999, step)
        assert not budget.admits([step] * 10_000, step)

    @pytest.mark.parametrize("order", [1, 65, 4096, 2.5])
    def test_order_that_is_not_fixed_in_the_version_is_refused(self, order: int) -> None:
        with pytest.raises(PrivacyError, match=r"^order: "):
            RdpFilter(order, 3, DELTA)

    def test_order_that_leaves_nothing_of_the_budget_is_refused(self) -> None:
        with pytest.raises(PrivacyError, match=r"^order: 2 leaves nothing of epsilon 1 "):
            RdpFilter(2, 1.0, DELTA)


class TestPlanning:
    @pytest.mark.parametrize("budget", [0.1, 1.0, 3.0, 8.0])
    @pytest.mark.parametrize(("rate", "steps"), [(0.01, 1000), (0.1, 200), (1.0, 50), (0.05, 1), (1e-3, 100_000)])
    def test_noise_multiplier_admits_exactly_the_planned_steps(self, budget: float, rate: float, steps: int) -> None:
        noise = noise_multiplier_for(budget, DELTA, rate, steps)
        plan = SampledGaussian(rate, noise, steps)
        filter_of_plan = RdpFilter(choose_order([plan], DELTA), budget, DELTA)
        assert filter_of_plan.admits([], rdp_curve(plan))
        assert steps_left(filter_of_plan, [], rate, noise) == steps
        assert rdp_epsilon([plan], DELTA) <= budget
        assert rdp_epsilon([SampledGaussian(rate, noise - 2e-8, steps)], DELTA) > budget

    def test_steps_left_counts_what_is_spent(self) -> None:
        noise = noise_multiplier_for(3.0, DELTA, 0.01, 1000)
        budget = RdpFilter(choose_order([SampledGaussian(0.01, noise, 1000)], DELTA), 3.0, DELTA)
        spent = [rdp_curve(SampledGaussian(0.01, noise, 400))]
        assert steps_left(budget, spent, 0.01, noise) == 600
        assert steps_left(budget, [*spent, *spent, *spent], 0.01, noise) == 0

    def test_steps_left_of_nearly_free_steps_ends_at_the_largest_event(self) -> None:
        assert steps_left(RdpFilter(2048, 8.0, DELTA), [], 1e-9, 1e6) == 10**9

    def test_budget_that_no_noise_reaches_is_refused(self) -> None:
        with pytest.raises(PrivacyError, match=r"^epsilon: 0.0001 .* is too little for 50 steps"):
            noise_multiplier_for(1e-4, DELTA, 1.0, 50)

    def test_order_of_an_empty_plan_is_refused(self) -> None:
        with pytest.raises(PrivacyError, match=r"^planned: no events"):
            choose_order([], DELTA)

    @pytest.mark.parametrize(
        ("arguments", "culprit"),
        [((0, DELTA, 0.1, 5), "epsilon"), ((1, 0, 0.1, 5), "delta"), ((1, DELTA, 0, 5), "sampling_rate"),
         ((1, DELTA, 0.1, 0), "steps")],
    )  # fmt: skip
    def test_plan_with_a_bad_parameter_is_refused_by_name(
        self, arguments: tuple[float, float, float, int], culprit: str
    ) -> None:
        with pytest.raises(PrivacyError, match=rf"^{culprit}: "):
            noise_multiplier_for(*arguments)


class TestOrderWithinBudget:
    def test_plan_that_fits_has_the_order_of_the_whole(self) -> None:
        event = SampledGaussian(0.05, noise_multiplier_for(2.0, DELTA, 0.05, 400), 10)
        assert order_within_budget(event, 40, 2.0, DELTA) == choose_order([event] * 40, DELTA)

    def test_longer_plan_has_an_order_under_which_as_many_fit_as_can(self) -> None:
        event = SampledGaussian(0.5, 2.0, 2)
        order = order_within_budget(event, 1000, 2.2, DELTA)
        one, two = rdp_epsilon([event], DELTA), rdp_epsilon([event, event], DELTA)
        assert one <= 2.2 < two
        assert order == choose_order([event], DELTA)
        assert RdpFilter(order, 2.2, DELTA).admits([], rdp_curve(event))

    def test_event_that_never_fits_leaves_a_filter_that_refuses_it(self) -> None:
        event = SampledGaussian(1.0, 0.5, 1)
        budget = RdpFilter(order_within_budget(event, 5, 0.5, DELTA), 0.5, DELTA)
        with pytest.raises(BudgetExceeded):
            budget.check([], rdp_curve(event))

"""One contract for every accountant: what holds for epsilon whoever computes it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from scipy import optimize, stats

from protocols.errors import MissingExtra, PrivacyError
from secfl.privacy.accountants import Accountant, Pld, Prv, RdpAtBestOrder, RdpAtFixedOrder
from secfl.privacy.accounting import pld_epsilon, prv_epsilon
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian, PrivacyEvent, SampledGaussian

DELTA = 1e-5
RDP = (RdpAtFixedOrder(12), RdpAtBestOrder())
ALL = (*RDP, Pld(), Prv())
EVENT = SampledGaussian(0.05, 1.5, 100)
SHARES = DistributedGaussian(0.05, 1000.0, 20, 1500.0, 4, 100, 3)


def exact_gaussian_epsilon(mu: float, delta: float) -> float:
    """Of the Gaussian mechanism whose sensitivity is mu standard deviations (Balle, Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        lower = stats.norm.cdf(-mu / 2 - epsilon / mu)
        return float(stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * lower - delta)

    return float(optimize.brentq(excess, 0, 200))


def exact_shares_delta(epsilon: float, event: DistributedGaussian, shift: int) -> float:
    """delta(epsilon) of one sum of shares on one coordinate, moved by ``shift``: from the exact probabilities."""
    reach = int(40 * event.share_sigma)
    one = np.exp(-np.square(np.arange(-reach, reach + 1) / event.share_sigma) / 2)
    one /= one.sum()
    pmf = one
    for _ in range(event.shares - 1):
        pmf = np.convolve(pmf, one)
    padded = np.concatenate([pmf, np.zeros(shift)])
    moved = np.concatenate([np.zeros(shift), pmf])
    return float(np.maximum(moved - math.exp(epsilon) * padded, 0).sum())


@pytest.mark.parametrize("accountant", ALL, ids=lambda accountant: type(accountant).__name__)
class TestContract:
    def test_nothing_released_is_epsilon_zero(self, accountant: Accountant) -> None:
        assert accountant.epsilon([], DELTA) == 0.0

    @pytest.mark.parametrize(("noise", "steps"), [(5.0, 50), (1.0, 1), (10.0, 3), (0.7, 4)])
    @pytest.mark.parametrize("delta", [1e-5, 1e-8])
    def test_never_below_the_exact_epsilon_of_the_gaussian_mechanism(
        self, accountant: Accountant, noise: float, steps: int, delta: float
    ) -> None:
        exact = exact_gaussian_epsilon(math.sqrt(steps) / noise, delta)
        assert accountant.epsilon([SampledGaussian(1, noise, steps)], delta) >= exact

    def test_grows_with_steps(self, accountant: Accountant) -> None:
        found = [accountant.epsilon([SampledGaussian(0.05, 1.5, steps)], DELTA) for steps in (50, 51, 200, 800)]
        assert all(first < second for first, second in pairwise(found))

    def test_grows_with_the_sampling_rate(self, accountant: Accountant) -> None:
        found = [accountant.epsilon([SampledGaussian(rate, 1.5, 100)], DELTA) for rate in (0.02, 0.05, 0.2, 1.0)]
        assert all(first < second for first, second in pairwise(found))

    def test_falls_with_noise(self, accountant: Accountant) -> None:
        found = [accountant.epsilon([SampledGaussian(0.05, noise, 100)], DELTA) for noise in (0.8, 1.2, 2.0, 4.0)]
        assert all(first > second for first, second in pairwise(found))

    def test_falls_with_delta(self, accountant: Accountant) -> None:
        assert accountant.epsilon([EVENT], 1e-7) > accountant.epsilon([EVENT], 1e-5)

    def test_order_of_composition_does_not_show(self, accountant: Accountant) -> None:
        other = SampledGaussian(0.1, 3, 50)
        assert accountant.epsilon([EVENT, other], DELTA) == accountant.epsilon([other, EVENT], DELTA)

    def test_splitting_an_event_does_not_show(self, accountant: Accountant) -> None:
        parts = [SampledGaussian(0.05, 1.5, 60), SampledGaussian(0.05, 1.5, 40)]
        assert accountant.epsilon(parts, DELTA) == pytest.approx(accountant.epsilon([EVENT], DELTA), rel=1e-12)

    def test_two_events_cost_more_than_either(self, accountant: Accountant) -> None:
        other = SampledGaussian(0.1, 3, 50)
        both = accountant.epsilon([EVENT, other], DELTA)
        assert both > max(accountant.epsilon([EVENT], DELTA), accountant.epsilon([other], DELTA))

    def test_an_event_read_back_from_its_record_costs_the_same_to_the_bit(self, accountant: Accountant) -> None:
        stored = msgspec.json.encode([EVENT, SampledGaussian(0.1, 3, 50)])
        read = msgspec.json.decode(stored, type=tuple[AnyPrivacyEvent, ...])
        assert accountant.epsilon(read, DELTA) == accountant.epsilon([EVENT, SampledGaussian(0.1, 3, 50)], DELTA)

    @pytest.mark.parametrize("delta", [0, 1, -1e-9, float("nan")])
    def test_meaningless_delta_is_refused_by_name(self, accountant: Accountant, delta: float) -> None:
        with pytest.raises(PrivacyError, match=r"^delta: "):
            accountant.epsilon([EVENT], delta)

    def test_unknown_kind_of_event_is_refused_by_name(self, accountant: Accountant) -> None:
        with pytest.raises(PrivacyError, match="for the kind PrivacyEvent"):
            accountant.epsilon([EVENT, PrivacyEvent()], DELTA)

    def test_distributed_noise_is_accounted_as_a_bound_or_refused_by_name(self, accountant: Accountant) -> None:
        if accountant not in RDP:
            with pytest.raises(PrivacyError, match="for the kind DistributedGaussian"):
                accountant.epsilon([SHARES], DELTA)
            return
        # Wide shares: the Gaussian of the same variance, and never less than its exact epsilon.
        event = DistributedGaussian(1.0, 1000.0, 20, 2500.0, 4, 50, 3)
        assert accountant.epsilon([event], DELTA) >= exact_gaussian_epsilon(math.sqrt(50) / 5, DELTA)
        assert accountant.epsilon([SHARES], DELTA) == pytest.approx(
            accountant.epsilon([SampledGaussian(0.05, 3.0, 100)], DELTA), rel=1e-9
        )
        assert accountant.epsilon([msgspec.structs.replace(SHARES, known_shares=0)], DELTA) == accountant.epsilon(
            [SHARES], DELTA
        )


@pytest.mark.parametrize("accountant", RDP, ids=lambda accountant: type(accountant).__name__)
@pytest.mark.parametrize(("sigma", "shares", "shift"), [(4.0, 1, 8), (4.0, 3, 5), (1.0, 2, 1), (0.5, 5, 1)])
def test_shares_are_accounted_no_lower_than_their_exact_delta(
    accountant: Accountant, sigma: float, shares: int, shift: int
) -> None:
    event = DistributedGaussian(1.0, float(shift), 1, sigma, shares, 1)
    assert 0 < exact_shares_delta(accountant.epsilon([event], DELTA), event, shift) <= DELTA


@pytest.mark.parametrize(
    ("accountant", "expected", "rounded"),
    [
        (RdpAtBestOrder(), (2.11, 3.68, 7.09), math.ceil),
        (Prv(), (1.84, 3.37, 6.58), round),
        (Pld(), (1.83, 3.36, 6.57), round),
    ],
    ids=["RDP", "PRV", "PLD"],
)
def test_reference_values(accountant: Accountant, expected: tuple[float, ...], rounded: Callable[[float], int]) -> None:
    """At delta 1e-5. PRV and PLD to nearest: the last pair is 6.5833 and 6.5730, see decision 0010."""
    events = (SampledGaussian(0.01, 1, 1000), SampledGaussian(0.1, 2, 200), SampledGaussian(1, 5, 50))
    assert tuple(rounded(100 * accountant.epsilon([event], DELTA)) / 100 for event in events) == expected


@pytest.mark.parametrize("noise", [0.8, 3.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.01, 500), (0.1, 100), (1.0, 20)])
def test_numerical_accountants_agree_with_each_other_and_lie_below_renyi(noise: float, rate: float, steps: int) -> None:
    event = [SampledGaussian(rate, noise, steps)]
    pld, prv, rdp = (accountant.epsilon(event, DELTA) for accountant in (Pld(), Prv(), RdpAtBestOrder()))
    # PRV's answer is its estimate, which may be 0.01 too high, and 0.01 on top: an upper bound.
    assert pld == pytest.approx(prv, abs=0.021)
    assert pld < rdp < 1.35 * pld


@pytest.mark.parametrize(
    ("accountant", "module"),
    [(prv_epsilon, "opacus.accountants"), (pld_epsilon, "dp_accounting")],
)
def test_accountant_without_its_library_names_the_extra(
    accountant: Callable[..., float], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"secfl\[train\]"):
        accountant([EVENT], DELTA)

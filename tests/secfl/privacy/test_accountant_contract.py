"""One contract for every accountant: what holds for epsilon whoever computes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest
from scipy import optimize, stats

from protocols.errors import MissingExtra, PrivacyError
from secfl.privacy.accounting import SampledGaussian, pld_epsilon, prv_epsilon, rdp_epsilon
from secfl.privacy.events import PrivacyEvent

DELTA = 1e-5
Accountant = Callable[[Sequence[PrivacyEvent], float], float]


class AccountantContract:
    accountant: Accountant
    reference: tuple[float, float, float]

    def epsilon(self, *events: PrivacyEvent, delta: float = DELTA) -> float:
        return type(self).accountant(events, delta)

    def test_nothing_released_is_epsilon_zero(self) -> None:
        assert self.epsilon() == 0.0

    def test_reference_values(self) -> None:
        events = (SampledGaussian(0.01, 1, 1000), SampledGaussian(0.1, 2, 200), SampledGaussian(1, 5, 50))
        assert tuple(round(self.epsilon(event), 2) for event in events) == self.reference

    def test_never_below_the_exact_epsilon_of_the_gaussian_mechanism(self) -> None:
        # 50 releases at noise multiplier 5 are one at mu = sqrt(50) / 5; delta(epsilon): Balle, Wang 2018.
        mu = 50**0.5 / 5

        def excess(epsilon: float) -> float:
            upper = stats.norm.cdf(mu / 2 - epsilon / mu)
            return float(upper - stats.norm.cdf(-mu / 2 - epsilon / mu) * 2.718281828459045**epsilon - DELTA)

        exact = optimize.brentq(excess, 1, 20)
        assert exact <= self.epsilon(SampledGaussian(1, 5, 50)) < exact * 1.1

    def test_grows_with_steps(self) -> None:
        found = [self.epsilon(SampledGaussian(0.05, 1.5, steps)) for steps in (50, 200, 800)]
        assert found[0] < found[1] < found[2]

    def test_grows_with_the_sampling_rate(self) -> None:
        found = [self.epsilon(SampledGaussian(rate, 1.5, 100)) for rate in (0.02, 0.05, 0.2, 1.0)]
        assert found == sorted(set(found))

    def test_falls_with_noise(self) -> None:
        found = [self.epsilon(SampledGaussian(0.05, noise, 100)) for noise in (0.8, 1.2, 2.0, 4.0)]
        assert found == sorted(set(found), reverse=True)

    def test_falls_with_delta(self) -> None:
        event = SampledGaussian(0.05, 1.5, 100)
        assert self.epsilon(event, delta=1e-7) > self.epsilon(event, delta=1e-5)

    def test_order_of_composition_does_not_show(self) -> None:
        first, second = SampledGaussian(0.05, 1.5, 100), SampledGaussian(0.1, 3, 50)
        assert self.epsilon(first, second) == self.epsilon(second, first)

    def test_splitting_an_event_does_not_show(self) -> None:
        whole = self.epsilon(SampledGaussian(0.05, 1.5, 100))
        parts = self.epsilon(SampledGaussian(0.05, 1.5, 60), SampledGaussian(0.05, 1.5, 40))
        assert parts == pytest.approx(whole, rel=1e-12)

    def test_two_events_cost_more_than_either(self) -> None:
        first, second = SampledGaussian(0.05, 1.5, 100), SampledGaussian(0.1, 3, 50)
        assert self.epsilon(first, second) > max(self.epsilon(first), self.epsilon(second))

    @pytest.mark.parametrize("delta", [0, 1, -1e-9, float("nan")])
    def test_meaningless_delta_is_refused_by_name(self, delta: float) -> None:
        with pytest.raises(PrivacyError, match=r"^delta: "):
            self.epsilon(SampledGaussian(0.05, 1.5, 100), delta=delta)

    def test_unknown_kind_of_event_is_refused_by_name(self) -> None:
        with pytest.raises(PrivacyError, match="for the kind PrivacyEvent"):
            self.epsilon(PrivacyEvent())


class TestRdp(AccountantContract):
    accountant = staticmethod(rdp_epsilon)
    reference = (2.11, 3.68, 7.09)


class TestPrv(AccountantContract):
    accountant = staticmethod(prv_epsilon)
    reference = (1.84, 3.37, 6.58)


class TestPld(AccountantContract):
    accountant = staticmethod(pld_epsilon)
    reference = (1.83, 3.36, 6.57)


@pytest.mark.parametrize(
    ("accountant", "module"),
    [(prv_epsilon, "opacus.accountants"), (pld_epsilon, "dp_accounting")],
)
def test_accountant_without_its_library_names_the_extra(
    accountant: Accountant, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"secfl\[train\]"):
        accountant([SampledGaussian(0.05, 1.5, 100)], DELTA)

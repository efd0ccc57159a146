"""Planning: the smallest noise that fits, against every adversary that the plan is made for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocols.errors import PrivacyError
from secfl.privacy.accounting import RdpFilter, choose_order, noise_multiplier_for, rdp_curve, rdp_epsilon
from secfl.privacy.distributed import NoisePlan
from secfl.privacy.planning import distributed_noise_multiplier_for

DELTA = 1e-5
PLAN = NoisePlan(
    clip_norm=1.0, fraction_bits=16, dimension=650, noise_multiplier=1.0, minimum_contributors=7, colluding=3
)


def with_noise(multiplier: float) -> NoisePlan:
    return replace(PLAN, noise_multiplier=multiplier)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.05, 200), (1.0, 20)])
def test_distributed_noise_admits_the_planned_sums_one_by_one_and_less_noise_does_not(
    epsilon: float, rate: float, steps: int
) -> None:
    found = distributed_noise_multiplier_for(epsilon, DELTA, with_noise, steps, rate)
    plan = with_noise(found).event(steps, sampling_rate=rate)
    step = rdp_curve(with_noise(found).event(1, sampling_rate=rate))
    budget = RdpFilter(choose_order([plan], DELTA), epsilon, DELTA)
    assert budget.admits([step] * (steps - 1), step)
    assert not budget.admits([step] * steps, step)
    assert rdp_epsilon([with_noise(found * (1 - 1e-7)).event(steps, sampling_rate=rate)], DELTA) > epsilon
    # Shares this wide add up to one Gaussian: the multiplier is that of central DP-SGD.
    assert found == pytest.approx(noise_multiplier_for(epsilon, DELTA, rate, steps), rel=1e-6)


def test_the_ledger_is_charged_against_whoever_knows_most() -> None:
    assert (PLAN.event(1).shares, PLAN.event(1).known_shares) == (4, 3)
    alone = replace(PLAN, colluding=0)
    assert (alone.event(1).shares, alone.event(1).known_shares) == (6, 1)  # another party knows its own share
    assert (alone.event(1, adversary="server").shares, alone.event(1, adversary="server").known_shares) == (7, 0)


def test_without_colluders_the_noise_makes_up_for_the_share_that_another_party_knows() -> None:
    found = distributed_noise_multiplier_for(3.0, DELTA, lambda z: replace(PLAN, colluding=0, noise_multiplier=z), 20)
    assert found == pytest.approx(noise_multiplier_for(3.0, DELTA, 1.0, 20) * (7 / 6) ** 0.5, rel=1e-6)


def test_a_coarse_scale_gets_the_noise_that_makes_a_share_wide_enough() -> None:
    def coarse(multiplier: float) -> NoisePlan:
        return replace(PLAN, fraction_bits=0, dimension=1, noise_multiplier=multiplier)

    found = distributed_noise_multiplier_for(8.0, DELTA, coarse, 1)
    assert coarse(found).share_sigma == pytest.approx(4.0, rel=1e-6)
    assert found > 3 * noise_multiplier_for(8.0, DELTA, 1.0, 1)


def test_a_plan_that_no_noise_makes_possible_is_refused_in_its_own_words() -> None:
    with pytest.raises(PrivacyError, match=r"^colluding: 7 of 7"):
        distributed_noise_multiplier_for(3.0, DELTA, lambda z: replace(PLAN, colluding=7, noise_multiplier=z), 20)


def test_a_budget_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"^epsilon: 0.0001 .* is too little for 20 sums"):
        distributed_noise_multiplier_for(1e-4, DELTA, with_noise, 20)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [((0, DELTA, 20, 0.1), "epsilon"), ((1, 1, 20, 0.1), "delta"), ((1, DELTA, 0, 0.1), "steps"),
     ((1, DELTA, 20, 1.1), "sampling_rate")],
)  # fmt: skip
def test_a_parameter_out_of_range_is_refused_by_name(arguments: tuple[float, float, int, float], culprit: str) -> None:
    epsilon, delta, steps, rate = arguments
    with pytest.raises(PrivacyError, match=rf"^{culprit}: "):
        distributed_noise_multiplier_for(epsilon, delta, with_noise, steps, rate)

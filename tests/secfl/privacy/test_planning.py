"""Planning: the smallest noise that fits, against every adversary that the plan is made for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from protocols.errors import PrivacyError
from secfl.privacy.accounting import (
    RdpFilter,
    choose_order,
    noise_multiplier_for,
    pld_epsilon,
    rdp_curve,
    rdp_epsilon,
)
from secfl.privacy.claims import Mode
from secfl.privacy.distributed import NoisePlan
from secfl.privacy.events import DistributedGaussian, SampledGaussian
from secfl.privacy.planning import (
    TrainingPlan,
    compare_modes,
    distributed_noise_multiplier_for,
    dropout_costs,
    epsilon_by_colluders,
    epsilon_of_plan,
    opinions_of_plan,
    rounds_left,
    with_noise_for,
)

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


def planned(mode: Mode = "distributed-dp-sgd", **changes: object) -> TrainingPlan:
    fields: dict[str, object] = {
        "mode": mode, "sampling_rate": 0.05, "noise_multiplier": 2.0, "rounds": 100, "steps_per_round": 1,
        "delta": DELTA, "silos": 20, "minimum_contributors": 18, "colluding": 6, "records": 20_000, "dimension": 650,
    }  # fmt: skip
    return TrainingPlan(**(fields | changes))  # type: ignore[arg-type]


LOCAL = planned("local-dp-sgd", rounds=20, steps_per_round=5)
MODES = (LOCAL, planned(), planned("client-level", steps_per_round=5, noise_multiplier=20.0))


class TestPlan:
    @pytest.mark.parametrize("plan", MODES, ids=lambda plan: plan.mode)
    def test_noise_for_an_epsilon_gives_that_epsilon_back_against_the_strongest(self, plan: TrainingPlan) -> None:
        fitted = with_noise_for(plan, 2.5)
        event = fitted.event(fitted.rounds)
        assert rdp_epsilon([event], DELTA) == pytest.approx(2.5, rel=1e-6)
        assert rdp_epsilon([event], DELTA) <= 2.5
        (*others, strongest) = epsilon_of_plan(fitted)
        assert strongest.epsilon == pytest.approx(min(2.5, strongest.epsilon or 9), rel=1e-6)
        assert all((claim.epsilon or 9) <= (strongest.epsilon or 0) for claim in others)

    def test_local_noise_is_claimed_by_pld_since_a_plan_is_fixed_in_advance(self) -> None:
        assert LOCAL.event(20) == SampledGaussian(0.05, 2.0, 100)
        for claim in epsilon_of_plan(LOCAL):
            assert claim.epsilon == pld_epsilon([SampledGaussian(0.05, 2.0, 100)], DELTA)
        names = [opinion.standing for opinion in opinions_of_plan(LOCAL)]
        assert names == ["bound", "bound", "bound"]

    def test_distributed_noise_is_planned_at_the_floors(self) -> None:
        event = planned().event(100)
        assert isinstance(event, DistributedGaussian)
        assert (event.shares, event.known_shares, event.steps, event.sampling_rate) == (12, 6, 100, 0.05)
        assert event.noise_multiplier == pytest.approx(2.0)
        assert [opinion.standing for opinion in opinions_of_plan(planned())] == ["bound", "bound", "approximation"]

    def test_who_takes_part_is_visible_so_a_client_is_never_amplified(self) -> None:
        event = MODES[2].event(100)
        assert (event.sampling_rate, event.steps) == (1.0, 100)
        assert MODES[2].event(100) == replace(MODES[2], sampling_rate=0.9).event(100)

    def test_noise_in_the_mean_is_the_noise_of_all_over_the_public_divisor(self) -> None:
        alone = 2.0 * 1.0 / (0.05 * 1000)
        assert LOCAL.noise_in_mean() == pytest.approx(alone / 20**0.5)
        share = 2.0 / 12**0.5  # of the clip; rounding inflates it by less than a thousandth here
        assert planned().noise_in_mean() == pytest.approx(share * 20**0.5 / (0.05 * 20_000), rel=1e-3)
        assert planned().noise_in_mean(18) == pytest.approx(share * 18**0.5 / (0.05 * 18_000), rel=1e-3)
        assert MODES[2].noise_in_mean() == pytest.approx(20.0 / 12**0.5 * 20**0.5 / 20, rel=1e-3)

    def test_a_protocol_that_may_fail_is_charged_for_every_sum(self) -> None:
        sparse = planned(protocol_failure=2.0**-40)
        for claim in epsilon_of_plan(sparse):
            assert claim.epsilon is not None
            part = claim.delta_parts["statistical failure of the protocol"]
            assert part == pytest.approx((1 + math.exp(claim.epsilon)) * 100 * 2.0**-40, rel=1e-12)

    def test_epsilon_by_colluders_ends_where_the_protocol_does(self) -> None:
        points = epsilon_by_colluders(planned())
        assert [point.epsilon is None for point in points] == [False] * 7 + [True] * 12
        assert points[6].epsilon == pytest.approx(epsilon_of_plan(planned())[3].epsilon)

    @pytest.mark.parametrize(
        ("changes", "culprit"),
        [({"rounds": 0}, "rounds"), ({"steps_per_round": 2}, "steps_per_round"), ({"silos": 1}, "silos"),
         ({"minimum_contributors": 21}, "minimum_contributors"), ({"colluding": 18}, "colluding"),
         ({"records": 0}, "records"), ({"delta": 1.0}, "delta"), ({"sampling_rate": 0.0}, "sampling_rate"),
         ({"noise_multiplier": 0.0}, "noise_multiplier"), ({"clip_norm": -1.0}, "clip_norm"),
         ({"dimension": 0}, "dimension")],
    )  # fmt: skip
    def test_a_value_out_of_range_is_refused_by_name(self, changes: dict[str, object], culprit: str) -> None:
        with pytest.raises(PrivacyError, match=rf"^{culprit}: "):
            planned(**changes)


class TestDropouts:
    def test_each_dropout_takes_noise_down_to_the_plan_s_and_then_no_sum_is_opened(self) -> None:
        rows = dropout_costs(planned())
        assert [(row.contributors, row.dropped) for row in rows] == [(20, 0), (19, 1), (18, 2), (17, 3)]
        assert [row.noise_over_planned for row in rows] == [
            pytest.approx((14 / 12) ** 0.5), pytest.approx((13 / 12) ** 0.5), 1.0, None
        ]  # fmt: skip
        epsilons = [row.epsilon for row in rows[:3]]
        assert epsilons == sorted(epsilons)
        assert rows[2].epsilon == epsilon_of_plan(planned())[3].epsilon
        assert rows[0].noise == planned().noise_in_mean()
        assert (rows[3].epsilon, rows[3].noise) == (None, None)

    def test_local_noise_stays_and_only_the_mean_gets_noisier(self) -> None:
        rows = dropout_costs(LOCAL)
        assert {row.epsilon for row in rows[:-1]} == {epsilon_of_plan(LOCAL)[0].epsilon}
        assert [row.noise for row in rows[:-1]] == [pytest.approx(2.0 / 50 / count**0.5) for count in (20, 19, 18)]

    def test_of_many_silos_some_rows_are_left_out_and_both_ends_kept(self) -> None:
        rows = dropout_costs(planned(silos=1000, minimum_contributors=500, colluding=300))
        assert len(rows) <= 13
        assert [row.contributors for row in rows][:1] + [row.contributors for row in rows][-2:] == [1000, 500, 499]


class TestModes:
    def test_shared_noise_leaves_less_in_the_mean_than_noise_of_each(self) -> None:
        local, shared, client = compare_modes(planned(), 3.0)
        assert local.noise_multiplier == pytest.approx(shared.noise_multiplier, rel=1e-6)
        assert local.noise is not None
        assert shared.noise is not None
        # sqrt(20) silos' noise against that of 20 / 12: the floors' price.
        assert local.noise / shared.noise == pytest.approx(12**0.5, rel=1e-3)
        assert (local.releases, shared.releases, client.releases) == (100, 100, 100)
        assert client.protects.startswith("replace one silo's update by zero")

    def test_a_mode_that_no_noise_fits_says_so_and_leaves_the_others(self) -> None:
        local, shared, client = compare_modes(planned(rounds=10**9), 0.006)
        for cost in (local, shared, client):
            assert (cost.noise is None) == bool(cost.refusal)
        assert local.noise is not None
        assert client.noise is None
        assert "too little" in client.refusal

    def test_several_local_steps_become_as_many_sums(self) -> None:
        local, shared, client = compare_modes(LOCAL, 3.0)
        assert (local.releases, shared.releases, client.releases) == (100, 100, 20)


def test_rounds_left_are_those_that_the_filter_admits_and_no_more() -> None:
    fitted = with_noise_for(planned(), 3.0)
    budget = RdpFilter(choose_order([fitted.event(100)], DELTA), 3.0, DELTA)
    spent = [rdp_curve(fitted.event(1))] * 40
    assert rounds_left(budget, spent, fitted.event(1)) == 60
    assert rounds_left(budget, [rdp_curve(fitted.event(100))], fitted.event(1)) == 0
    assert rounds_left(budget, [], SampledGaussian(1e-9, 1e6, 1)) == 10**9

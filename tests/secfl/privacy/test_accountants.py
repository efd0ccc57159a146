"""Which accountant may be claimed for what, and that the tightest of those is chosen."""

from __future__ import annotations

import sys

import pytest

from protocols.errors import PrivacyError
from secfl.privacy.accountants import Opinion, opinions, tightest, within_plan
from secfl.privacy.accounting import RdpFilter, pld_epsilon, prv_epsilon, rdp_curve, rdp_epsilon
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian, SampledGaussian

DELTA = 1e-5
ORDER = 6
EVENT = SampledGaussian(0.1, 2.0, 50)
PLAN = (EVENT, EVENT)
SHARES = DistributedGaussian(0.1, 1000.0, 20, 1000.0, 4, 50, 3)


def all_of(events: tuple[AnyPrivacyEvent, ...], plan: tuple[AnyPrivacyEvent, ...] | None = None) -> tuple[Opinion, ...]:
    return opinions(events, DELTA, order=ORDER, plan=plan)


def test_within_a_plan_the_others_speak_of_the_whole_of_it() -> None:
    fixed, best, pld, prv = all_of((EVENT,), PLAN)
    assert (fixed.standing, fixed.epsilon) == ("bound", RdpFilter(ORDER, 9.0, DELTA).epsilon_of(rdp_curve(EVENT)))
    assert (best.standing, best.epsilon) == ("bound", rdp_epsilon(PLAN, DELTA))
    assert (pld.standing, pld.epsilon) == ("bound", pld_epsilon(PLAN, DELTA))
    assert (prv.standing, prv.epsilon) == ("cross-check", prv_epsilon(PLAN, DELTA))


def test_without_a_plan_only_the_filter_binds_and_the_others_say_why_not() -> None:
    for plan in (None, (), (SampledGaussian(0.1, 2.0, 49),), (SampledGaussian(0.1, 2.1, 500),)):
        fixed, *others = all_of((EVENT,), plan)
        assert fixed.standing == "bound"
        assert [opinion.standing for opinion in others] == ["not valid here", "not valid here", "cross-check"]
        assert others[0].note == others[1].note == "valid only for a plan fixed before its first release"
        assert [opinion.epsilon for opinion in others] == [
            rdp_epsilon([EVENT], DELTA), pld_epsilon([EVENT], DELTA), prv_epsilon([EVENT], DELTA)
        ]  # fmt: skip
        assert tightest((fixed, *others)) is fixed  # though the others say less


def test_distributed_noise_has_a_loss_distribution_only_by_a_gaussian_in_its_place() -> None:
    fixed, best, pld, prv = all_of((SHARES,), (SHARES, SHARES))
    assert (fixed.standing, best.standing) == ("bound", "bound")
    gaussian = [SampledGaussian(0.1, 2.0, 100)]
    for opinion, epsilon in ((pld, pld_epsilon(gaussian, DELTA)), (prv, prv_epsilon(gaussian, DELTA))):
        assert opinion == Opinion(
            opinion.accountant, epsilon, "approximation", "a Gaussian in the place of the sum of discrete shares"
        )
    assert tightest((fixed, best, pld, prv)).epsilon == min(fixed.epsilon or 0, best.epsilon or 0)


def test_a_plan_is_counted_in_steps_of_each_kind() -> None:
    other = SampledGaussian(0.1, 2.0, 1)
    assert within_plan((), ())
    assert within_plan((other,) * 100, PLAN)
    assert not within_plan((other,) * 101, PLAN)
    assert not within_plan((SampledGaussian(0.1, 2.0000001, 1),), PLAN)
    assert not within_plan((SHARES,), PLAN)


def test_too_many_configurations_are_left_to_renyi_accounting() -> None:
    many = tuple(SampledGaussian(0.1, 2.0 + i / 10, 1) for i in range(9))
    assert [opinion.standing for opinion in all_of(many)[2:]] == ["not available", "not available"]


def test_a_library_that_is_not_installed_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    found = opinions(PLAN, DELTA, order=ORDER, plan=PLAN, accountants=("pld",))
    assert [opinion.standing for opinion in found] == ["bound", "bound", "not available"]
    assert "secfl[train]" in found[2].note
    assert tightest(found).accountant.startswith("RDP at the best")


def test_no_bound_among_the_opinions_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"^opinions: none of them is a bound"):
        tightest([Opinion("PRV", 1.0, "cross-check")])

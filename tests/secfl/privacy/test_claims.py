"""Claims: the share count against each adversary, what delta is made of, and no word that promises more."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ledger_workshop import EVENT, KEY, finish, new_ledger, reserve

from protocols.errors import PrivacyError
from secfl.privacy.accounting import ORDERS, RdpFilter, epsilon, pld_epsilon, rdp_curve, rdp_epsilon
from secfl.privacy.claims import AdversaryClaim, Charged, Floors, Mode, claims, epsilon_by_colluders
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.distributed import NoisePlan
from secfl.privacy.events import DistributedGaussian, PrivacyEvent, SampledGaussian
from secfl.privacy.ledger import verify

DELTA = 1e-5
ORDER = 12
PLAN = NoisePlan(
    clip_norm=1.0, fraction_bits=16, dimension=650, noise_multiplier=2.0, minimum_contributors=7, colluding=3
)
FLOORS = Floors(7, 3, "secagg")
EVENT_B = PLAN.event(40, sampling_rate=0.1)
CHARGED_B = Charged((EVENT_B, EVENT_B), DELTA, ORDER)
CHARGED_A = Charged((SampledGaussian(0.1, 2.0, 40),), DELTA, ORDER)
CHARGED_C = Charged((PLAN.event(10),), DELTA, ORDER)
ADVERSARIES = ("outsider", "server", "another silo", "server with colluding silos")


def by_adversary(found: Iterable[AdversaryClaim]) -> dict[str, AdversaryClaim]:
    return {claim.adversary: claim for claim in found}


def filter_epsilon(*events: PrivacyEvent) -> float:
    return RdpFilter(ORDER, 1e3, DELTA).epsilon_of(np.sum([rdp_curve(event) for event in events], axis=0))


def test_each_adversary_faces_the_shares_that_it_does_not_know() -> None:
    found = by_adversary(claims("distributed-dp-sgd", [CHARGED_B], FLOORS))
    assert tuple(found) == ADVERSARIES
    assert [found[name].shares for name in ADVERSARIES] == [7, 7, 6, 4]
    for name in ADVERSARIES:
        seen = replace_shares(EVENT_B, found[name].shares or 0)
        assert found[name].epsilon == pytest.approx(filter_epsilon(seen, seen), rel=1e-12)
        assert found[name].computational
    assert found["outsider"].epsilon == found["server"].epsilon
    assert found["server"].epsilon < found["another silo"].epsilon < found["server with colluding silos"].epsilon


def replace_shares(event: DistributedGaussian, shares: int) -> DistributedGaussian:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return DistributedGaussian(**(fields | {"shares": shares}))


def test_the_strongest_claim_is_what_the_ledger_was_charged() -> None:
    strongest = by_adversary(claims("distributed-dp-sgd", [CHARGED_B], FLOORS))["server with colluding silos"]
    assert strongest.epsilon == pytest.approx(filter_epsilon(EVENT_B, EVENT_B), rel=1e-12)


def test_the_claim_of_several_silos_is_the_weakest_of_them() -> None:
    more = replace(CHARGED_B, events=(EVENT_B,) * 3)
    found = claims("distributed-dp-sgd", [CHARGED_B, more], FLOORS)
    assert [claim.epsilon for claim in found] == [
        claim.epsilon for claim in claims("distributed-dp-sgd", [more], FLOORS)
    ]


def test_local_noise_stands_alike_against_everybody_and_rests_on_no_protocol() -> None:
    found = claims("local-dp-sgd", [CHARGED_A], FLOORS)
    assert {claim.epsilon for claim in found} == {filter_epsilon(*CHARGED_A.events)}
    for claim in found:
        assert claim.shares is None
        assert not claim.computational
        assert claim.sentence.endswith("every silo's noise stands by itself.")
        assert "secagg" not in claim.sentence
    assert [claim.colluding for claim in found] == [0, 0, 0, None]


def test_local_releases_count_alike_in_a_ledger_that_also_has_distributed_ones() -> None:
    both = replace(CHARGED_B, events=(*CHARGED_B.events, *CHARGED_A.events))
    found = by_adversary(claims("distributed-dp-sgd", [both], FLOORS))
    seven = replace_shares(EVENT_B, 7)
    assert found["server"].epsilon == pytest.approx(filter_epsilon(seven, seven, *CHARGED_A.events), rel=1e-12)
    assert found["server"].computational


def test_each_release_is_counted_under_the_floors_of_its_own_run() -> None:
    earlier = replace(PLAN, minimum_contributors=5, colluding=1).event(40, sampling_rate=0.1)
    assert (earlier.shares, earlier.known_shares) == (4, 1)
    mixed = Charged((EVENT_B, earlier), DELTA, ORDER)
    found = by_adversary(claims("distributed-dp-sgd", [mixed], FLOORS))["server with colluding silos"]
    assert found.epsilon == pytest.approx(filter_epsilon(EVENT_B, replace_shares(earlier, 2)), rel=1e-12)
    assert found.shares == 2


class TestColluders:
    def test_epsilon_grows_with_their_number_and_is_void_where_no_noise_or_no_protocol_is_left(self) -> None:
        floors = replace(FLOORS, protocol_holds_to=5)
        points = epsilon_by_colluders([CHARGED_B], floors)
        assert [point.colluding for point in points] == list(range(8))
        assert [point.shares for point in points] == [7, 6, 5, 4, 3, 2, 1, 0]
        assert [point.assumed for point in points] == [True] * 4 + [False] * 4
        values = [point.epsilon for point in points[:6]]
        assert values == sorted(set(values))
        assert [point.void for point in points[:6]] == [""] * 6
        assert points[6].epsilon is None
        assert points[6].void == "secagg hides single vectors from the server and at most 5 silos"
        assert points[7].epsilon is None
        assert points[7].void == "they know all the noise that the smallest sum holds"

    def test_beyond_the_assumption_nothing_is_known_of_what_was_inherited(self) -> None:
        inherited = rdp_curve(SampledGaussian(0.1, 2.0, 10))
        points = epsilon_by_colluders(
            [replace(CHARGED_B, inherited=inherited)], replace(FLOORS, protocol_holds_to=5), highest=4
        )
        seen = [replace_shares(EVENT_B, 4)] * 2
        assert points[3].epsilon == pytest.approx(filter_epsilon(*seen, SampledGaussian(0.1, 2.0, 10)), rel=1e-12)
        assert (points[4].epsilon, points[4].void) == (
            None, "what the lineage inherited was counted against fewer colluders"
        )  # fmt: skip

    def test_local_noise_does_not_depend_on_them(self) -> None:
        points = epsilon_by_colluders([CHARGED_A], FLOORS, highest=20)
        assert {point.epsilon for point in points} == {filter_epsilon(*CHARGED_A.events)}
        assert {point.void for point in points} == {""}

    def test_an_earlier_sum_with_fewer_contributors_ends_the_claim(self) -> None:
        earlier = replace(PLAN, minimum_contributors=4, colluding=1).event(1)
        points = epsilon_by_colluders([Charged((EVENT_B, earlier), DELTA, ORDER)], replace(FLOORS, protocol_holds_to=6))
        assert points[3].epsilon is not None
        assert (points[4].epsilon, points[4].void) == (None, "they know all the noise that an earlier sum holds")

    def test_without_assumed_colluders_none_is_promised_and_the_reason_is_said(self) -> None:
        alone = Charged((replace(PLAN, colluding=0).event(10),), DELTA, ORDER)
        found = by_adversary(claims("client-level", [alone], Floors(7, 0, "secagg")))
        last = found["server with colluding silos"]
        assert (last.epsilon, last.delta) == (None, None)
        assert last.sentence.startswith("Nothing is claimed against the server together with silos")
        assert found["another silo"].epsilon == pytest.approx(filter_epsilon(*alone.events), rel=1e-12)


class TestDelta:
    def test_parts_add_up_and_each_is_that_of_its_formula(self) -> None:
        floors = replace(FLOORS, protocol_failure=2.0**-40, sample_failure=1e-12)
        claim = by_adversary(claims("distributed-dp-sgd", [CHARGED_B], floors))["server"]
        assert claim.epsilon is not None
        factor = 1 + math.exp(claim.epsilon)
        distance = DiscreteGaussian(PLAN.share_sigma).total_variation + 2 * math.exp(-72)  # a share is cut at 12 sigma
        assert claim.delta_parts == {
            "accountant": DELTA,
            "noise sampler": pytest.approx(factor * 7 * 650 * 80 * distance, rel=1e-12),
            "samples larger than planned": pytest.approx(factor * 80 * 1e-12, rel=1e-12),
            "statistical failure of the protocol": pytest.approx(factor * 80 * 2.0**-40, rel=1e-12),
        }
        assert claim.delta == pytest.approx(sum(claim.delta_parts.values()), rel=1e-15)
        assert claim.delta > DELTA + 80 * 2.0**-40

    def test_the_sampler_costs_next_to_nothing(self) -> None:
        claim = by_adversary(claims("distributed-dp-sgd", [CHARGED_B], FLOORS))["server"]
        assert 0 < claim.delta_parts["noise sampler"] < 1e-14 * DELTA

    def test_what_a_sentence_shows_of_it_is_rounded_up(self) -> None:
        claim = claims("distributed-dp-sgd", [CHARGED_B], replace(FLOORS, protocol_failure=2.0**-40))[0]
        assert claim.delta is not None
        (shown,) = re.findall(r", ([0-9.e-]+)\)-differential privacy", claim.sentence)
        assert 0 <= float(shown) / claim.delta - 1 < 1e-5
        assert float(shown) > DELTA

    def test_a_failing_protocol_costs_local_noise_nothing(self) -> None:
        floors = replace(FLOORS, protocol_failure=0.5, local_dimension=650)
        for claim in claims("local-dp-sgd", [CHARGED_A], floors):
            assert set(claim.delta_parts) == {"accountant", "noise sampler"}
            assert claim.delta == DELTA

    def test_a_delta_of_one_promises_nothing(self) -> None:
        claim = claims("distributed-dp-sgd", [CHARGED_B], replace(FLOORS, protocol_failure=0.1))[0]
        assert (claim.epsilon, claim.delta) == (None, None)
        assert claim.sentence == "Nothing is promised against this adversary (outsider): delta would be 1."


@pytest.mark.parametrize(
    ("mode", "charged", "protected"),
    [
        ("local-dp-sgd", CHARGED_A, "any single record of a silo"),
        ("distributed-dp-sgd", CHARGED_B, "any single record of a silo"),
        ("client-level", CHARGED_C, "any silo's whole update"),
    ],
)
def test_sentences_name_adversary_unit_bound_and_ground_and_never_promise_more(
    mode: Mode, charged: Charged, protected: str
) -> None:
    found = claims(mode, [charged], FLOORS)
    assert len({claim.sentence for claim in found}) == 4
    for claim in found:
        assert claim.epsilon is not None
        shown = math.ceil(claim.epsilon * 1000) / 1000
        assert (
            f"learns about {protected} no more than ({shown:.3f}, 1e-05)-differential privacy allows" in claim.sentence
        )
        assert not any(word in claim.sentence.lower() for word in ("person", "anonym", "proven", "guarantee"))
        if mode != "local-dp-sgd":
            assert f"the noise of at least {claim.shares} silos that it does not know" in claim.sentence
            assert "This is computational: it holds as long as secagg hides single vectors" in claim.sentence
    assert "up to 3 of the other silos" in found[3].sentence or mode == "local-dp-sgd"


class TestPlannedInAdvance:
    PLAN_A = (SampledGaussian(0.1, 2.0, 40),) * 5

    def claim(self, *events: SampledGaussian, plan: tuple[SampledGaussian, ...] | None) -> AdversaryClaim:
        return claims("local-dp-sgd", [Charged(events, DELTA, ORDER, plan=plan)], FLOORS)[0]

    def test_the_whole_of_a_fixed_plan_is_claimed_by_the_tightest_bound_which_is_named(self) -> None:
        claim = self.claim(*self.PLAN_A, plan=self.PLAN_A)
        assert claim.epsilon == pld_epsilon(self.PLAN_A, DELTA)
        assert claim.epsilon < filter_epsilon(*self.PLAN_A)
        assert claim.accountant == "PLD of the plan (dp-accounting)"

    def test_a_part_of_it_costs_the_filter_s_or_the_whole_plan_s_whichever_is_less(self) -> None:
        (first, *_) = self.PLAN_A
        whole = pld_epsilon(self.PLAN_A, DELTA)
        start, late = self.claim(first, plan=self.PLAN_A), self.claim(*self.PLAN_A[:4], plan=self.PLAN_A)
        assert start.epsilon == filter_epsilon(first) < whole
        assert start.accountant == "RDP filter at a fixed integer order"
        assert late.epsilon == whole < filter_epsilon(*self.PLAN_A[:4])

    def test_without_a_plan_or_beyond_it_only_the_filter_binds(self) -> None:
        more = (*self.PLAN_A, self.PLAN_A[0])
        for events, plan in ((self.PLAN_A, None), (more, self.PLAN_A), (more, ())):
            claim = self.claim(*events, plan=plan)
            assert claim.epsilon == filter_epsilon(*events)
            assert claim.accountant == "RDP filter at a fixed integer order"

    def test_what_was_inherited_was_in_no_plan(self) -> None:
        charged = Charged(self.PLAN_A, DELTA, ORDER, inherited=rdp_curve(self.PLAN_A[0]), plan=self.PLAN_A)
        claim = claims("local-dp-sgd", [charged], FLOORS)[0]
        assert claim.epsilon == pytest.approx(filter_epsilon(*self.PLAN_A, self.PLAN_A[0]), rel=1e-12)
        assert claim.accountant == "RDP filter at a fixed integer order"

    def test_distributed_noise_is_never_claimed_by_a_gaussian_s_loss_distribution(self) -> None:
        charged = replace(CHARGED_B, plan=CHARGED_B.events)
        for claim in claims("distributed-dp-sgd", [charged], FLOORS):
            assert claim.accountant.startswith("RDP ")
            assert claim.shares is not None
            seen = [replace_shares(EVENT_B, claim.shares)] * 2
            assert claim.epsilon == pytest.approx(min(filter_epsilon(*seen), rdp_epsilon(seen, DELTA)), rel=1e-12)


def test_an_empty_ledger_promises_epsilon_zero() -> None:
    for claim in claims("distributed-dp-sgd", [Charged((), DELTA, ORDER)], FLOORS):
        assert claim.epsilon == 0.0
        assert "(0, 1e-05)-differential privacy" in claim.sentence


def test_what_is_charged_is_what_left_the_silo_or_may_have(tmp_path: Path) -> None:
    path = tmp_path / "records.ledger"
    with new_ledger(path) as ledger:
        finish(ledger, "r1")
        ledger.sending(reserve(ledger, "r2"))
        ledger.void(reserve(ledger, "r3"))
        reserve(ledger, "r4")
        summary = ledger.summary()
    charged = Charged.of(summary)
    assert charged == Charged((EVENT, EVENT), 1e-5, summary.order)
    (*_, claim) = claims("local-dp-sgd", [charged], FLOORS)
    assert claim.epsilon == pytest.approx(summary.spent.filter_epsilon, rel=1e-12)


def test_a_plan_counts_only_where_the_ledger_holds_its_run_alone(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "records.ledger") as ledger:
        finish(ledger, "r1")
        only = ledger.summary()
        other = ledger.reserve("other", EVENT, run="run-2", round=1, attempt=0)
        reserved = ledger.summary()
        ledger.sending(other)
        both = ledger.summary()
    plan = (EVENT,) * 10
    assert Charged.of(only, plan, run="run-1").plan == plan
    assert Charged.of(reserved, plan, run="run-1").plan == plan
    assert Charged.of(only, plan, run="run-2").plan is None
    assert Charged.of(both, plan, run="run-1").plan is None
    assert Charged.of(both, plan, run="run-2").plan is None


def test_inherited_spend_is_part_of_the_claim(tmp_path: Path) -> None:
    from ledger_workshop import LINEAGE

    with new_ledger(tmp_path / "old.ledger") as ledger:
        finish(ledger, "r1")
        parent = ledger.hand_over("new")
    with new_ledger(tmp_path / "new.ledger", lineage=replace(LINEAGE, name="new", parents=(parent,))) as ledger:
        finish(ledger, "r1")
    summary = verify(tmp_path / "new.ledger", KEY.public)
    claim = claims("local-dp-sgd", [Charged.of(summary)], FLOORS)[0]
    assert claim.epsilon == pytest.approx(summary.spent.filter_epsilon, rel=1e-12)
    assert claim.epsilon > epsilon(rdp_curve(EVENT), 1e-5)[0]
    assert len(ORDERS) == summary.inherited_curve.size


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [({"colluding": 7}, "colluding"), ({"colluding": -1}, "colluding"), ({"protocol_failure": 1.0}, "protocol_failure"),
     ({"sample_failure": -0.1}, "sample_failure")],
)  # fmt: skip
def test_floors_that_no_session_can_have_are_refused(changes: dict[str, float], culprit: str) -> None:
    with pytest.raises(PrivacyError, match=rf"^{culprit}: "):
        replace(FLOORS, **changes)


def test_claims_about_no_ledger_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"^charged: no ledgers"):
        claims("local-dp-sgd", [], FLOORS)

"""A small committee of a large cohort: a bound of its own, which each party's own policy must allow."""

from __future__ import annotations

import numpy as np
import pytest
from oneshot_cohort import POLICY, OneShotCohort, announcement, policy_refused, reannounced

from protocols.errors import PolicyRefused, UsageError
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement, check_agreement
from protocols.session import ClientPolicy
from protocols.testing.network import Drop

ME = "c02"


def allowing(members: int) -> ClientPolicy:
    return ClientPolicy(protocols=frozenset({"oneshot"}), committee_collusion=members)


def of_thirty(policy: ClientPolicy = POLICY, **options) -> OneShotCohort:
    """Thirty clients, c = 10 of them in league; five members, one of them."""
    return OneShotCohort(30, members=5, length=9, policy=policy, **({"committee_collusion": 1} | options))


def test_small_committee_of_a_large_cohort_has_no_threshold_for_as_many_liars_as_clients() -> None:
    with pytest.raises(UsageError, match=r"OS-5.*at most m - k = -5"):
        of_thirty(committee_collusion=None)


def test_small_committee_opens_with_a_bound_of_its_own() -> None:
    cohort = of_thirty(allowing(1))
    assert (cohort.parameters.collusion_bound, cohort.parameters.minimum_contributors) == (10, 12)
    assert cohort.parameters.threshold == 4
    assert Agreement.of(cohort.parameters).committee_collusion == 1
    aggregate = cohort.dropping([Drop("c00", "Check")]).run()
    assert len(aggregate.contributors) == 30
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


@pytest.mark.parametrize("role", [Role.CLIENT, Role.COMMITTEE])
@pytest.mark.parametrize(("policy", "required"), [(POLICY, 10), (allowing(2), 2)])
def test_os_23_bound_below_my_own_is_refused(role: Role, policy: ClientPolicy, required: int) -> None:
    """Who has not said otherwise assumes that all of the c clients in league may sit on the committee."""
    cohort = of_thirty(allowing(1))
    if role is Role.COMMITTEE:
        cohort.advance("Check")
        header = reannounced(cohort, cohort.request(ME).header, m.CheckRequest)
    else:
        header = announcement(cohort)
    cohort.policy = policy
    refusal = policy_refused(cohort, role, ME, header, "OS-23")
    assert (refusal.what, refusal.proposed, refusal.required) == ("committee collusion", 1, f"at least {required}")


def test_thresholds_are_held_against_the_proposed_bound_when_it_is_the_larger_one() -> None:
    cohort = of_thirty(allowing(0))
    for threshold, rule in ((3, "OS-4"), (5, "OS-5")):
        policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, threshold=threshold), rule)


def test_lower_bound_of_my_own_does_not_lower_what_is_not_proposed() -> None:
    """Without a proposal k is c: my readiness for less changes nothing."""
    cohort = OneShotCohort(7)
    assert check_agreement(cohort.parameters, cohort.roster, 2, 0).committee_collusion == 2
    header = announcement(cohort, threshold=4)
    cohort.policy = allowing(0)
    policy_refused(cohort, Role.CLIENT, ME, header, "OS-4")
    with pytest.raises(PolicyRefused) as caught:
        check_agreement(cohort.parameters, cohort.roster, 2, 3)
    assert caught.value.rule == "OS-4"

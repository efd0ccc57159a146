"""Each party holds thresholds and minimum against its own collusion bound, whatever bound the server proposes."""

from __future__ import annotations

import msgspec
import pytest
from oneshot_cohort import OneShotCohort, announcement, policy_refused, reannounced

from protocols.errors import PolicyRefused
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import check_agreement
from protocols.session import ClientPolicy

ME = "c02"


def strict(cohort: OneShotCohort, collusion_bound: int) -> OneShotCohort:
    """From here on every fresh session assumes so many colluders itself."""
    cohort.policy = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=collusion_bound)
    return cohort


@pytest.fixture
def cohort() -> OneShotCohort:
    """Seven silos, all of them the committee, for c = 1: t = 5 (2 t >= 7 + 1 + 1), minimum 3; the parties assume 2."""
    lax = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)
    return strict(OneShotCohort(7, policy=lax, collusion_bound=1), 2)


def header_for(cohort: OneShotCohort, role: Role, **fields) -> bytes:
    if role is Role.CLIENT:
        return announcement(cohort, **fields)
    cohort.advance("Check")
    return reannounced(cohort, cohort.request(ME).header, m.CheckRequest, **fields)


ROLES = pytest.mark.parametrize("role", [Role.CLIENT, Role.COMMITTEE])


@ROLES
def test_sp_6_bound_below_my_own_is_refused(cohort: OneShotCohort, role: Role) -> None:
    refusal = policy_refused(cohort, role, ME, header_for(cohort, role), "SP-6")
    assert (refusal.proposed, refusal.required) == (1, "at least 2")


@ROLES
def test_sp_7_minimum_that_my_colluders_leave_one_honest_client_in_is_refused(
    cohort: OneShotCohort, role: Role
) -> None:
    header = header_for(cohort, role, collusion_bound=2)
    refusal = policy_refused(cohort, role, ME, header, "SP-7")
    assert (refusal.proposed, refusal.required) == (3, "4 to 7")


@ROLES
def test_os_4_threshold_that_two_colluders_open_two_sums_with_is_refused(cohort: OneShotCohort, role: Role) -> None:
    """2 t >= 7 + 2 + 1 asks for t = 5."""
    header = header_for(cohort, role, collusion_bound=2, minimum_contributors=4, threshold=4)
    policy_refused(cohort, role, ME, header, "OS-4")


@ROLES
def test_os_5_threshold_that_my_silent_colluders_keep_from_opening_is_refused(
    cohort: OneShotCohort, role: Role
) -> None:
    """t <= 7 - 2; t = 6 would do for c = 1."""
    header = header_for(cohort, role, collusion_bound=2, minimum_contributors=4, threshold=6)
    policy_refused(cohort, role, ME, header, "OS-5")


def test_thresholds_are_checked_with_the_larger_of_both_bounds(cohort: OneShotCohort) -> None:
    """`check_agreement` alone: a server that claims c = 1 is held to the party's 2, and one that claims 3 to its 3."""
    proposed = cohort.parameters
    assert check_agreement(proposed, cohort.roster, 0).committee == tuple(cohort.members)
    assert check_agreement(proposed, cohort.roster, 2).committee == tuple(cohort.members)
    claimed = msgspec.structs.replace(proposed, collusion_bound=3)
    for parameters, own in ((proposed, 3), (proposed, 4), (claimed, 0), (claimed, 2)):
        with pytest.raises(PolicyRefused, match="at least 6") as caught:
            check_agreement(parameters, cohort.roster, own)
        assert caught.value.rule == "OS-4"


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"threshold": 5}, ""),
        ({"threshold": 4}, "OS-4"),
        ({"threshold": 6}, "OS-5"),
        ({"minimum_contributors": 3}, "SP-7"),
        ({"collusion_bound": 1}, "SP-6"),
    ],
)
def test_exactly_what_my_bound_asks_for_is_taken(cohort: OneShotCohort, fields: dict[str, int], rule: str) -> None:
    enough = {"collusion_bound": 2, "minimum_contributors": 4, "threshold": 5}
    header = announcement(cohort, **(enough | fields))
    if rule:
        policy_refused(cohort, Role.CLIENT, ME, header, rule)
    else:
        assert cohort.fresh_party(Role.CLIENT, ME).inspect(header).vector

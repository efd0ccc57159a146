"""Complaints about shares that do not open: as few as possible are left out, and c liars stop nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oneshot_cohort import OneShotCohort, deal_rubbish

from protocols.errors import ThresholdNotMet
from protocols.oneshot import messages as m
from protocols.oneshot.complaints import Exclusion, exclusions, smallest_cover
from protocols.session import ClientPolicy
from protocols.testing.malformed import changed, signed_reply
from protocols.testing.network import Drop, deliver

GRAPHS = st.dictionaries(st.integers(0, 4), st.sets(st.integers(10, 14), min_size=1).map(sorted), max_size=5)


def covers(edges: dict[int, list[int]], left: set[int], right: set[int]) -> bool:
    return all(one in left or other in right for one, others in edges.items() for other in others)


def best(edges: dict[int, list[int]]) -> tuple[int, int]:
    """By trial of all sets: the size of a smallest cover, and the fewest on the right among those."""
    rights = sorted({other for others in edges.values() for other in others})
    found = []
    for size in range(len(rights) + 1):
        for right in itertools.combinations(rights, size):
            left = {one for one, others in edges.items() if set(others) - set(right)}
            found.append((len(left) + size, size))
    return min(found)


@given(GRAPHS)
@settings(max_examples=300)
def test_cover_is_smallest_and_has_the_fewest_on_the_right(edges: dict[int, list[int]]) -> None:
    left, right = smallest_cover(edges)
    assert covers(edges, set(left), set(right))
    assert (len(left) + len(right), len(right)) == best(edges)


@st.composite
def assaults(draw: st.DrawFn) -> tuple[int, int, int, dict[str, set[int]]]:
    """m members and n clients; c liars of both kinds; who complains about whom: each complaint has a liar at an end."""
    members, clients = draw(st.integers(4, 9)), draw(st.integers(4, 9))
    bound = draw(st.integers(0, (members - 1) // 3))
    liars = draw(st.integers(0, bound))
    lying_members = draw(st.sets(st.integers(0, members - 1), max_size=liars))
    lying_clients = draw(st.sets(st.integers(0, clients - 1), max_size=liars - len(lying_members)))
    complaints: dict[str, set[int]] = {}
    for member in range(members):
        about = range(clients) if member in lying_members else sorted(lying_clients)
        chosen = draw(st.sets(st.sampled_from(about))) if about else set()
        if chosen:
            complaints[f"m{member}"] = chosen
    return members, clients, bound, complaints


@given(assaults())
@settings(max_examples=400)
def test_liars_up_to_the_bound_cost_no_more_parties_than_there_are(assault) -> None:
    members, _, bound, complaints = assault
    for way in exclusions(complaints, bound, bound):
        kept = {member: about for member, about in complaints.items() if member not in way.members}
        assert all(not set(about) - way.clients for about in kept.values())
    first = next(exclusions(complaints, bound, bound))
    assert len(first.members) + len(first.clients) <= bound
    assert members - len(first.members) >= members - bound


@pytest.mark.parametrize(
    ("complaints", "expected"),
    [
        ({}, Exclusion(frozenset(), frozenset())),
        ({"a": {1}}, Exclusion(frozenset("a"), frozenset())),
        ({"a": {1}, "b": {1}}, Exclusion(frozenset(), frozenset({1}))),
        ({"a": {1, 2, 3}}, Exclusion(frozenset("a"), frozenset())),
        ({"a": {1, 2}, "b": {1}, "d": {1, 3}}, Exclusion(frozenset("ad"), frozenset({1}))),
        ({"a": {1}, "b": {1}, "d": {1}, "e": {2}}, Exclusion(frozenset("e"), frozenset({1}))),
    ],
)
def test_known_complaints_are_settled_in_known_ways(complaints, expected) -> None:
    assert next(exclusions(complaints, 2, 2)) == expected


def test_all_ways_in_order() -> None:
    """One pair: without the member, without the client; the last leaves no credible member out."""
    assert list(exclusions({"a": {7}}, 1, 1)) == [
        Exclusion(frozenset("a"), frozenset()),
        Exclusion(frozenset(), frozenset({7})),
        Exclusion(frozenset(), frozenset({7})),
    ]


def complain(cohort: OneShotCohort, complaints: dict[str, tuple[int, ...]]) -> None:
    cohort.advance("Check")
    for member, about in complaints.items():
        forged = changed(cohort.answer(member).header, m.CheckReply, complaints=about)
        deliver(cohort.server, signed_reply(cohort.identities[member], cohort.server.session_id, m.CHECK, forged, ()))


def test_lone_complaint_leaves_the_client_out_when_every_member_is_needed() -> None:
    """Three of four members are there, three are needed: without the complaining one there would be no sum."""
    cohort = OneShotCohort()
    cohort.dropping([Drop("c03", "Check")])
    deal_rubbish(cohort, "c00", ["c02"])
    aggregate = cohort.network.run()
    assert aggregate.contributors == ("c01", "c02", "c03")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_member_that_could_not_open_what_is_left_out_is_not_asked_to_take_it_off() -> None:
    """c00 deals badly to all but itself: it is left out, and the one share that opened is taken off again."""
    cohort = OneShotCohort()
    deal_rubbish(cohort, "c00", ["c01", "c02", "c03"])
    cohort.advance("Opening")
    chunks = {request.party: len(list(request.chunks)) for request in cohort.server.requests()}
    assert chunks == {"c00": 1, "c01": 0, "c02": 0, "c03": 0}
    aggregate = cohort.network.run()
    assert aggregate.contributors == ("c01", "c02", "c03")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


@pytest.mark.parametrize("complaints", [{}, {"c02": (0,)}])
def test_contributions_added_at_once_all_stay(complaints) -> None:
    """The server holds no ciphertext; it can do without a member, not without a client."""
    cohort = OneShotCohort(fold_at_once=True)
    complain(cohort, complaints)
    assert sorted(cohort.server._kept) == [f"outbox/{member}" for member in cohort.members]
    cohort.restore_server()
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_too_many_left_out_is_named_as_too_few_contributors() -> None:
    cohort = OneShotCohort(minimum_contributors=4)
    complain(cohort, {"c01": (0,), "c02": (0,)})
    with pytest.raises(ThresholdNotMet) as caught:
        cohort.network.run()
    assert (caught.value.required, caught.value.present, caught.value.phase) == (4, 3, m.CHECK)


def test_too_many_complaining_members_are_named_as_too_few_members() -> None:
    cohort = OneShotCohort()
    complain(cohort, dict.fromkeys(("c01", "c02"), (0, 1, 2, 3)))
    with pytest.raises(ThresholdNotMet) as caught:
        cohort.network.run()
    assert (caught.value.required, caught.value.present, caught.value.phase) == (3, 2, m.CHECK)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[OneShotCohort, dict[str, set[str]], dict[str, tuple[int, ...]], list[Drop]]:
    """Seven silos, c = 2: up to two of them lie, as clients, as members, or by silence."""
    cohort = OneShotCohort(
        7, length=9, collusion_bound=2, policy=ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=2)
    )
    liars = draw(st.lists(st.sampled_from(cohort.members), max_size=2, unique=True))
    dealers, complaints, silent = {}, {}, []
    for liar in liars:
        kind = draw(st.sampled_from(["deals", "complains", "silent"]))
        if kind == "deals":
            dealers[liar] = draw(st.sets(st.sampled_from(cohort.members), min_size=1))
        elif kind == "complains":
            complaints[liar] = tuple(sorted(draw(st.sets(st.integers(0, 6), min_size=1))))
        else:
            silent.append(Drop(liar, draw(st.sampled_from(["Check", "Opening"]))))
    return cohort, dealers, complaints, silent


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(sessions())
def test_sum_is_exact_whatever_liars_up_to_the_bound_do(session) -> None:
    cohort, dealers, complaints, silent = session
    cohort.dropping(silent)
    for dealer, members in dealers.items():
        deal_rubbish(cohort, dealer, members)
    complain(cohort, complaints)
    aggregate = cohort.network.run()
    assert len(aggregate.contributors) >= 7 - len(dealers) - len(complaints)
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))

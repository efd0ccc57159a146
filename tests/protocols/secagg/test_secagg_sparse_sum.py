"""The Harary graph: the sum is exact for every pattern of drops up to the limit; past it there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparse_cohort import graph, party, root_of, sparse

from protocols.errors import ThresholdNotMet
from protocols.secagg.agreement import quorum
from protocols.secagg.graph import Graph, graph_of
from protocols.testing.cohort import Cohort
from protocols.testing.network import Drop

PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")


def outcome(cohort: Cohort, drops: list[Drop], near: Graph) -> tuple[str, int, int] | tuple[int, ...]:
    """What the specification says: who contributes, or in which phase how many are too few."""
    parameters = cohort.parameters
    everybody, gone = set(range(len(parameters.cohort))), set()
    answered: dict[str, set[int]] = {}
    asked = everybody
    for phase in PHASES:
        leaving = {parameters.index(drop.party): drop for drop in drops if drop.phase == phase}
        answered[phase] = {i for i in asked - gone if i not in leaving or leaving[i].answered}
        gone |= set(leaving)
        present = answered[phase]
        least = {"ConsistencyCheck": quorum(parameters), "Unmask": parameters.threshold}.get(
            phase, parameters.minimum_contributors
        )
        if len(present) < least:
            return phase, least, len(present)
        owners = present
        if phase in {"MaskedInput", "Unmask"}:
            contributors = answered["MaskedInput"]
            owners = {
                item
                for item in answered["ShareKeys"]
                if item in contributors or contributors & set(near.neighbours(item))
            }
        for owner in sorted(owners) if phase != "ConsistencyCheck" else ():
            holders = len(present & set(near.neighbours(owner)))
            if holders < parameters.threshold:
                return phase, parameters.threshold, holders
        asked = present
    return tuple(sorted(answered["MaskedInput"]))


def check(cohort: Cohort, drops: list[Drop]) -> tuple[str, int, int] | tuple[int, ...]:
    network = cohort.dropping(drops)
    error = None
    roots = set() if cohort.server.phase == "AdvertiseKeys" else {root_of(cohort)}
    try:
        while cohort.server.phase is not None:
            network.run_phase()
            if cohort.server.phase is not None:
                roots.add(root_of(cohort))
    except ThresholdNotMet as caught:
        error = caught
    assert len(roots) <= 1
    expected = outcome(cohort, drops, graph_of(cohort.parameters, roots.pop() if roots else bytes(32)))
    assert network.refusals == []  # nobody is asked for what it would refuse
    if error is not None:
        assert (error.phase, error.required, error.present) == expected
        assert cohort.server.phase is None
    else:
        aggregate = cohort.server.result()
        assert aggregate.contributors == tuple(cohort.parameters.client(index) for index in expected)
        np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    return expected


NAMES = sorted(sparse().identities)


@st.composite
def patterns(draw: st.DrawFn) -> list[Drop]:
    """Up to 5 are lost before the vectors are in, and up to 44 after."""
    order = draw(st.permutations(NAMES))
    early, late = draw(st.integers(0, 6)), draw(st.integers(0, 44))
    fates = [draw(st.sampled_from(PHASES[:3])) for _ in range(early)]
    fates += [draw(st.sampled_from(PHASES[3:])) for _ in range(late)]
    return [Drop(name, fate, draw(st.booleans())) for name, fate in zip(order, fates, strict=False)]


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(patterns(), st.sampled_from(["one", "two"]))
def test_sparse_sum_is_exact_up_to_the_limit_and_refused_past_it(drops: list[Drop], name: str) -> None:
    check(sparse(name=name), drops)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(patterns(), st.sampled_from(["one", "two"]))
def test_sparse_sum_is_exact_up_to_the_limit_and_refused_past_it_at_length(drops: list[Drop], name: str) -> None:
    check(sparse(name=name), drops)


@pytest.mark.parametrize("answered", [False, True])
def test_one_lost_in_each_phase_leaves_an_exact_sparse_sum(answered: bool) -> None:
    cohort = sparse(claim="fully active", bits=33, length=200)
    contributors = check(cohort, [Drop(name, phase, answered) for name, phase in zip(NAMES[::20], PHASES, strict=True)])
    assert len(contributors) == 97 + answered


@pytest.mark.parametrize("phase", PHASES[:3])
@pytest.mark.parametrize(("number", "contributors"), [(5, 95), (6, None)])
def test_five_of_a_hundred_may_be_missing_and_no_sixth(phase: str, number: int, contributors: int | None) -> None:
    expected = check(sparse(), [Drop(name, phase) for name in NAMES[:number]])
    assert len(expected) == contributors if contributors else expected == (phase, 95, 94)


@pytest.mark.parametrize("phase", ["ConsistencyCheck", "Unmask"])
@pytest.mark.parametrize("lost", [5, 6])
def test_client_whose_neighbours_are_lost_is_still_unmasked_by_eleven_and_not_by_ten(phase: str, lost: int) -> None:
    cohort = sparse()
    cohort.advance("ShareKeys")
    near = graph(cohort).neighbours(42)
    assert len(near) == 16
    expected = check(cohort, [Drop(party(cohort, index), phase) for index in near[:lost]])
    assert expected == (tuple(range(100)) if lost == 5 else ("Unmask", 11, 10))


@pytest.mark.parametrize("phase", ["ShareKeys", "MaskedInput"])
def test_client_that_loses_its_holders_before_the_check_ends_the_session(phase: str) -> None:
    """300 clients, 15 of whom may be missing, of 38 neighbours of whom 27 are needed: 12 are lost around one."""
    cohort = sparse(300)
    assert (cohort.parameters.threshold, cohort.parameters.minimum_contributors) == (27, 285)
    cohort.advance("ShareKeys")
    near = graph(cohort).neighbours(42)
    assert len(near) == 38
    ended, required, present = check(cohort, [Drop(party(cohort, index), phase) for index in near[:12]])
    assert (ended, required) == (phase, 27)
    assert 25 <= present <= 26
    assert cohort.server.phase is None


def test_two_hundred_clients_on_the_sparse_graph_with_drops_in_every_phase() -> None:
    cohort = sparse(200, bits=16, length=70, adversary_rate=1 / 3)
    lost = sorted(cohort.identities)[::25]
    check(cohort, [Drop(name, PHASES[i % 5], i % 2 == 0) for i, name in enumerate(lost)])
    assert len(cohort.server.result().contributors) == 195

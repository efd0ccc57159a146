"""The sum is exact for every pattern of drops of clients and members up to the limits; past them there is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oneshot_cohort import OneShotCohort

from protocols.errors import ThresholdNotMet
from protocols.session import ClientPolicy
from protocols.testing.network import Drop

PHASES = ("Contribution", "Check", "Opening")


def outcome(cohort: OneShotCohort, drops: list[Drop]) -> tuple[str, int, int] | tuple[str, ...]:
    """What the specification says: who contributes, or in which phase how many are too few."""
    parameters = cohort.parameters
    contributors = [
        party
        for party in parameters.cohort
        if not any(drop.party == party and drop.phase == "Contribution" and not drop.answered for drop in drops)
    ]
    if len(contributors) < parameters.minimum_contributors:
        return "Contribution", parameters.minimum_contributors, len(contributors)
    gone = {drop.party for drop in drops if drop.phase == "Contribution"}
    for phase in PHASES[1:]:
        leaving = {drop.party for drop in drops if drop.phase == phase and not drop.answered}
        present = [member for member in cohort.members if member not in gone | leaving]
        if len(present) < parameters.threshold:
            return phase, parameters.threshold, len(present)
        gone |= {drop.party for drop in drops if drop.phase == phase}
    return tuple(contributors)


def check(cohort: OneShotCohort, drops: list[Drop]) -> None:
    expected = outcome(cohort, drops)
    network = cohort.dropping(drops)
    if expected[0] in PHASES:
        with pytest.raises(ThresholdNotMet) as caught:
            network.run()
        assert (caught.value.phase, caught.value.required, caught.value.present) == expected
        assert cohort.server.phase is None
    else:
        aggregate = network.run()
        assert aggregate.contributors == expected
        np.testing.assert_array_equal(aggregate.sum, cohort.total(expected))
        assert aggregate.sum.dtype == cohort.total(expected).dtype
    assert network.refusals == []


@st.composite
def sessions(draw: st.DrawFn) -> tuple[OneShotCohort, list[Drop]]:
    size = draw(st.integers(4, 7))
    members = draw(st.integers(4, size))  # three members have no threshold: 2 t >= 3 + c + 1 and t <= 3 - c
    collusion = draw(st.integers(1, (members - 1) // 3))
    bits = draw(st.integers(8, 40))
    cohort = OneShotCohort(
        size,
        members=members,
        bits=bits,
        length=draw(st.sampled_from([1, 2, 127, 129, 300])),
        chunk_length=draw(st.sampled_from([64, 2**20])),
        value_bound=draw(st.sampled_from([0, 1, 2 ** (bits - 1) - 1])),
        collusion_bound=collusion,
        minimum_contributors=draw(st.integers(collusion + 2, size)),
        policy=ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=collusion),
    )
    lost = draw(st.lists(st.sampled_from(sorted(cohort.identities)), unique=True, max_size=4))
    return cohort, [Drop(party, draw(st.sampled_from(PHASES)), draw(st.booleans())) for party in lost]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions())
def test_sum_is_exact_up_to_the_limits_and_refused_past_them(session: tuple[OneShotCohort, list[Drop]]) -> None:
    check(*session)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions())
def test_sum_is_exact_up_to_the_limits_and_refused_past_them_at_length(
    session: tuple[OneShotCohort, list[Drop]],
) -> None:
    check(*session)


@pytest.mark.slow
def test_every_pattern_of_drops_of_four_silos() -> None:
    """Each never lost, or lost in one of three phases before or after its answer: every multiset of these fates."""
    fates = [None, *itertools.product(PHASES, (False, True))]
    for pattern in itertools.combinations_with_replacement(fates, 4):
        cohort = OneShotCohort(4, length=3)
        drops = [Drop(party, *fate) for party, fate in zip(cohort.members, pattern, strict=True) if fate is not None]
        check(cohort, drops)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_one_silo_of_four_lost_in_each_phase_leaves_an_exact_sum(phase: str, answered: bool) -> None:
    cohort = OneShotCohort()
    check(cohort, [Drop("c01", phase, answered)])
    assert cohort.server.result().contributors


@pytest.mark.parametrize("phase", PHASES)
def test_two_silos_of_four_lost_in_each_phase_give_no_sum(phase: str) -> None:
    cohort = OneShotCohort()
    drops = [Drop("c01", phase), Drop("c02", phase)]
    assert outcome(cohort, drops)[0] == phase
    check(cohort, drops)


def test_every_client_outside_the_committee_may_vanish_after_its_message() -> None:
    cohort = OneShotCohort(
        9,
        members=4,
        collusion_bound=1,
        policy=ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1),
    )
    drops = [Drop(party, "Contribution", answered=True) for party in cohort.identities if party not in cohort.members]
    check(cohort, drops)
    assert len(cohort.server.result().contributors) == 9


@pytest.mark.parametrize("bits", range(8, 55))
def test_every_width_that_fits_wraps_modulo_two_to_the_bits(bits: int) -> None:
    cohort = OneShotCohort(bits=bits, length=70)
    for vector in cohort.vectors.values():
        vector[:] = vector.dtype.type((1 << bits) - 1)  # the largest word: the sum wraps
    aggregate = cohort.dropping([]).run()
    assert (aggregate.sum == ((4 * ((1 << bits) - 1)) & ((1 << bits) - 1))).all()


@pytest.mark.parametrize("length", [8191, 8192, 8193, 40_000])
@pytest.mark.parametrize("chunk_length", [64, 8192, 24_576, 2**20])
def test_vectors_of_several_blocks_and_chunks(length: int, chunk_length: int) -> None:
    cohort = OneShotCohort(length=length, chunk_length=chunk_length, bits=16)
    check(cohort, [Drop("c03", "Contribution")])


def test_packed_secrets_shorten_the_shares() -> None:
    policy = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)
    lengths = {}
    for packed in (1, 2):
        cohort = OneShotCohort(8, packed=packed, collusion_bound=1, policy=policy)
        check(cohort, [Drop("c07", "Check")])
        lengths[packed] = len(cohort.answer("c00", announcement_of(cohort)).chunks[0])
    assert lengths == {1: 8 + 15_892 + 1136, 2: 8 + 7_956 + 1136}


def announcement_of(cohort: OneShotCohort) -> bytes:
    """The request that was answered first; it is repeated from the spool."""
    return next(part for way, phase, party, part in cohort.network.transcript if (way, party) == ("down", "c00"))

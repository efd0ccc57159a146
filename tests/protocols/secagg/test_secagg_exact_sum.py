"""The sum is exact for every pattern of drops up to the limit; past it there is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.errors import ThresholdNotMet
from protocols.secagg.agreement import quorum
from protocols.testing.cohort import Cohort
from protocols.testing.network import Drop

PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")


def outcome(cohort: Cohort, drops: list[Drop]) -> tuple[str, int, int] | tuple[str, ...]:
    """What the specification says: who contributes, or in which phase how many are too few."""
    answered: dict[str, set[str]] = {}
    gone: set[str] = set()
    parameters = cohort.parameters
    for phase in PHASES:
        leaving = {drop.party: drop for drop in drops if drop.phase == phase}
        answered[phase] = {
            party
            for party in cohort.identities
            if party not in gone and (party not in leaving or leaving[party].answered)
        }
        gone |= set(leaving)
        least = {
            "ConsistencyCheck": quorum(parameters),
            "Unmask": parameters.threshold,
        }.get(phase, max(parameters.threshold, parameters.minimum_contributors))
        if len(answered[phase]) < least:
            return phase, least, len(answered[phase])
    return tuple(sorted(answered["MaskedInput"]))


def check(cohort: Cohort, drops: list[Drop]) -> None:
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
def sessions(draw: st.DrawFn) -> tuple[Cohort, list[Drop]]:
    size = draw(st.integers(3, 8))
    cohort = Cohort(
        size,
        bits=draw(st.one_of(st.sampled_from([8, 16, 32, 64]), st.integers(8, 64))),
        length=draw(st.sampled_from([1, 2, 63, 64, 65, 127, 128, 129, 200, 333])),
        chunk_length=draw(st.sampled_from([64, 128, 2**20])),
        threshold=draw(st.one_of(st.none(), st.integers((size + size // 3) // 2 + 1, size))),
        minimum_contributors=draw(st.one_of(st.none(), st.integers(size // 3 + 2, size))),
        name=draw(st.sampled_from(["one", "two", "three"])),
    )
    lost = draw(st.lists(st.sampled_from(sorted(cohort.identities)), unique=True, max_size=4))
    drops = [Drop(party, draw(st.sampled_from(PHASES)), draw(st.booleans())) for party in lost]
    return cohort, drops


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions())
def test_sum_is_exact_up_to_the_limit_and_refused_past_it(session: tuple[Cohort, list[Drop]]) -> None:
    check(*session)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions())
def test_sum_is_exact_up_to_the_limit_and_refused_past_it_at_length(session: tuple[Cohort, list[Drop]]) -> None:
    check(*session)


@pytest.mark.slow
def test_every_pattern_of_drops_of_four_clients() -> None:
    """Each never lost, or lost in one of 5 phases before or after its answer: every multiset of 4 of these 11 fates."""
    fates = [None, *itertools.product(PHASES, (False, True))]
    for pattern in itertools.combinations_with_replacement(fates, 4):
        cohort = Cohort(4, length=3)
        drops = [
            Drop(party, *fate)
            for party, fate in zip(sorted(cohort.identities), pattern, strict=True)
            if fate is not None
        ]
        check(cohort, drops)


@pytest.mark.parametrize("bits", range(8, 65))
def test_every_width_wraps_modulo_two_to_the_bits(bits: int) -> None:
    cohort = Cohort(3, bits=bits, length=70)
    for vector in cohort.vectors.values():
        vector[:] = vector.dtype.type((1 << bits) - 1)  # the largest word: the sum wraps
    aggregate = cohort.dropping([]).run()
    assert (aggregate.sum == ((3 * ((1 << bits) - 1)) & ((1 << bits) - 1))).all()
    assert aggregate.modulus_bits == bits


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("answered", [False, True])
def test_drops_at_the_limit_in_each_phase_leave_an_exact_sum(phase: str, answered: bool) -> None:
    cohort = Cohort(7, length=150)
    limit = 7 - cohort.parameters.threshold
    assert limit == 2
    drops = [Drop(party, phase, answered) for party in ("c00", "c06")]
    check(cohort, drops)
    assert cohort.server.result().contributors


@pytest.mark.parametrize("phase", PHASES)
def test_one_drop_past_the_limit_in_each_phase_gives_no_sum(phase: str) -> None:
    cohort = Cohort(7, length=150)
    drops = [Drop(party, phase) for party in ("c00", "c03", "c06")]
    assert outcome(cohort, drops)[0] == phase
    check(cohort, drops)


@pytest.mark.slow
def test_two_hundred_clients_with_drops_in_every_phase() -> None:
    cohort = Cohort(200, length=1000, bits=33, chunk_length=128)
    lost = sorted(cohort.identities)[::4]
    check(cohort, [Drop(party, PHASES[i % 5], i % 2 == 0) for i, party in enumerate(lost)])


def test_parameters_have_the_designs_defaults() -> None:
    parameters = Cohort(10).parameters
    assert (parameters.collusion_bound, parameters.threshold, parameters.minimum_contributors) == (3, 7, 5)
    assert quorum(parameters) == 7

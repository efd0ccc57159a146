"""Degree and threshold of sparse graphs: published answers, scipy's tails, exact rational arithmetic, brute force."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from protocols.errors import UsageError
from protocols.secagg import find_fully_active_graph_parameters, find_graph_parameters
from protocols.secagg.degrees import Claim, Requirements, _counts, requirements

HONEST, SEMI, ACTIVE = Claim.HONEST_BUT_CURIOUS, Claim.SEMI_MALICIOUS, Claim.FULLY_ACTIVE

# Expected degree and threshold in the tests of the reference implementation (federated-compute,
# fcp/secagg/server/graph_parameter_finder_test.cc), for 10^2, 10^3, ... clients; its tests bound the threshold.
PUBLISHED = {
    (0.45, 0.45, False): [(92, 46), (822, 417), (3494, 1771), (5508, 2788), (6240, 3156)],
    (0.33, 0.33, False): [(68, 34), (286, 150), (422, 221), (480, 251), (518, 270)],
    (0.30, 0.30, True): [(92, 62), (872, 584), (4822, 3230), (9388, 6286), (11136, 7454)],
    (0.05, 0.33, False): [(28, 6), (72, 24), (86, 29), (96, 32), (102, 34)],
    (0.05, 0.33, True): [(72, 39), (398, 223), (746, 420), (882, 496), (970, 545)],
    (0.33, 0.05, False): [(34, 29), (78, 60), (92, 70), (102, 77), (110, 83)],
    (0.33, 0.05, True): [(42, 37), (132, 109), (178, 146), (196, 160), (212, 173)],
    (0.05, 0.05, False): [(12, 6), (30, 17), (34, 20), (36, 21), (38, 22)],
    (0.05, 0.05, True): [(16, 11), (52, 37), (62, 44), (68, 48), (74, 52)],
    (0.33, 0.00, False): [(26, 25), (38, 36), (42, 40), (46, 44), (50, 47)],
    (0.33, 0.00, True): [(26, 26), (38, 37), (42, 41), (46, 45), (50, 49)],
    (0.00, 0.33, False): [(26, 2), (38, 2), (42, 2), (46, 2), (50, 2)],
    (0.00, 0.33, True): [(68, 35), (228, 115), (326, 164), (372, 187), (410, 206)],
    (0.00, 0.00, False): [(2, 2)] * 5,
    (0.00, 0.00, True): [(2, 2)] * 5,
}


@pytest.mark.parametrize(("rates", "answers"), PUBLISHED.items(), ids=str)
def test_published_answers_for_a_hundred_to_a_million_clients(rates, answers) -> None:
    found = [find_graph_parameters(10**power, *rates) for power in range(2, 7)]
    assert [degree for degree, _ in found] == [degree for degree, _ in answers]
    assert all(threshold <= expected for (_, threshold), (_, expected) in zip(found, answers, strict=True))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((1000, 0.05, 0.05, True), (52, 37)),
        ((10**4, 0.05, 0.33, False), (86, 29)),
        ((10**6, 0.33, 0.05, True), (212, 173)),
        ((1000, 0.05, 0.05, True, 104), (74, 56)),
    ],
)
def test_known_degree_and_threshold(arguments, answer) -> None:
    assert find_graph_parameters(*arguments) == answer


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((100, 0.05, 0.05), (24, 19)),
        ((1000, 0.05, 0.05), (84, 65)),
        ((10**4, 0.05, 0.05), (100, 77)),
        ((1000, 1 / 3, 0.05), (226, 196)),
    ],
)
def test_fully_active_parameters_are_as_recorded(arguments, answer) -> None:
    """The condition on cut arcs asks for more than 104 bits alone, which give (74, 56) for a thousand clients."""
    assert find_fully_active_graph_parameters(*arguments) == answer


def test_a_million_clients_take_less_than_two_seconds() -> None:
    began = time.process_time()
    find_graph_parameters(10**6, 0.3, 0.3, True)
    assert time.process_time() - began < 2


# -- tails -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", [10, 100, 1000, 10**4, 10**6])
@pytest.mark.parametrize("rate", [0.01, 0.05, 1 / 3, 0.5, 0.95])
@pytest.mark.parametrize("drawn", [2, 8, 50, 300])
def test_probabilities_and_quantiles_are_those_of_scipy(population: int, rate: float, drawn: int) -> None:
    marked = int(rate * population)
    drawn = min(drawn, population - 1)
    mine, theirs = _counts(population, marked, drawn), hypergeom(population, marked, drawn)
    counts = mine.first + np.arange(mine.probabilities.size)
    np.testing.assert_allclose(mine.probabilities, theirs.pmf(counts), rtol=1e-6, atol=1e-48)
    for bits in (2, 20, 41, 61, 100):
        limit = 2.0**-bits
        over = mine.least_with_tail_at_most(limit)
        assert theirs.sf(over) <= limit * (1 + 1e-6)
        assert over == 0 or theirs.sf(over - 1) >= limit * (1 - 1e-6)
        least = mine.least_with_mass_of(limit)
        assert theirs.cdf(least) >= limit * (1 - 1e-6)
        assert least == 0 or theirs.cdf(least - 1) <= limit * (1 + 1e-6)


def exact_counts(population: int, marked: int, drawn: int) -> list[Fraction]:
    whole = math.comb(population, drawn)
    return [Fraction(math.comb(marked, x) * math.comb(population - marked, drawn - x), whole) for x in range(drawn + 1)]


def exact_thresholds(asked: Requirements, degree: int) -> tuple[int, int] | None:
    """The definition, in rational numbers."""
    n, sigma = asked.clients, asked.security_bits
    adversary, dropout = (
        Fraction(asked.adversary_rate).limit_denominator(100),
        Fraction(asked.dropout_rate).limit_denominator(100),
    )
    colluding, surviving = math.floor(adversary * n), math.ceil((1 - dropout) * n)
    bad = colluding + math.floor(dropout * n)
    allowed = Fraction(1, 2 ** (sigma + 1))
    if degree <= bad:
        pairs = Fraction(n * (n - degree - 1), 2)
        if pairs * Fraction(math.comb(n - degree, bad - degree), math.comb(n, bad)) >= allowed:
            return None
    near, left = exact_counts(n, colluding, degree), exact_counts(n, surviving, degree)
    t1 = next(x for x in range(degree + 1) if sum(near[x + 1 :]) <= allowed / n)
    t2 = next(x for x in range(degree + 1) if sum(left[: x + 1]) >= Fraction(1, 2**20 * n))
    if asked.claim is not HONEST:
        t1 = math.ceil(Fraction(4 * (t1 + degree) - 5, 8))
    least = max(t1 + 1, 2)
    if asked.claim is ACTIVE:
        beside = exact_counts(n, colluding, degree // 2)

        def cut(threshold: int) -> Fraction:
            return (n * sum(beside[max(0, threshold - degree // 2 - 1) :])) ** 2 / 2

        least = next(t for t in range(least, 3 * degree) if cut(t) < Fraction(1, 2**105))
    return (least, t2) if least <= t2 else None


ASKED = st.builds(
    Requirements,
    st.integers(5, 60),
    st.integers(0, 40).map(lambda hundredths: hundredths / 100),
    st.integers(0, 24).map(lambda hundredths: hundredths / 100),
    st.sampled_from([HONEST, SEMI]),
    st.sampled_from([4, 8, 12, 40]),
)


@settings(max_examples=80, deadline=None)
@given(ASKED)
def test_thresholds_and_smallest_degree_are_those_of_exact_arithmetic(asked: Requirements) -> None:
    degrees = range(2, asked.clients - 1, 2)
    exact = [exact_thresholds(asked, degree) for degree in degrees]
    assert [asked.thresholds(degree) for degree in degrees] == exact
    good = [(degree, allowed[0]) for degree, allowed in zip(degrees, exact, strict=True) if allowed]
    if good:
        assert asked.smallest() == good[0]
    else:
        with pytest.raises(UsageError, match="no degree below"):
            asked.smallest()


@pytest.mark.parametrize("rates", [(0.05, 0.05), (0.2, 0.1), (0.3, 0.02)])
def test_condition_on_cut_arcs_is_that_of_exact_arithmetic(rates) -> None:
    asked = requirements(120, *rates, ACTIVE)
    assert asked.security_bits == 104
    for degree in range(2, 119, 2):
        assert asked.thresholds(degree) == exact_thresholds(asked, degree)


def test_no_degree_is_enough_that_is_odd_or_out_of_range() -> None:
    asked = Requirements(1000, 0.05, 0.05, SEMI)
    assert asked.thresholds(52) == (37, 37)
    assert [asked.thresholds(degree) for degree in (0, 50, 51, 53, 999, 1000, 2000)] == [None] * 7


RATES = st.tuples(st.floats(0, 0.4), st.floats(0, 0.2))


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 3000), RATES, st.floats(0, 0.05), st.sampled_from(list(Claim)), st.sampled_from([8, 40]))
def test_more_colluders_dropouts_or_bits_never_need_fewer_neighbours(n, rates, more, claim, bits) -> None:
    def degree(adversaries: float, dropouts: float, security_bits: int = bits) -> float:
        try:
            return Requirements(n, adversaries, dropouts, claim, security_bits).smallest()[0]
        except UsageError:
            return math.inf

    base = degree(*rates)
    assert degree(rates[0] + more, rates[1]) >= base
    assert degree(rates[0], rates[1] + more) >= base
    assert degree(*rates, security_bits=bits + 10) >= base


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 3000), RATES)
def test_stronger_claims_never_need_fewer_neighbours(n, rates) -> None:
    found = []
    for claim in Claim:
        try:
            found.append(requirements(n, *rates, claim).smallest()[0])
        except UsageError:
            found.append(math.inf)
    assert found == sorted(found)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 0.1, 0.1, True), "clients: 2"),
        ((1000, -0.1, 0.1, True), "adversary_rate: -0.1; allowed: 0 to below 1"),
        ((1000, 0.1, 1.0, False), "dropout_rate: 1.0; allowed"),
        ((1000, math.nan, 0.1, False), "adversary_rate: nan"),
        ((1000, 0.1, 0.1, False, 0), "security_bits: 0"),
        ((1000, 0.5, 0.5, False), r"0\.5 \+ 0\.5 is more than 0\.9.*feasible: dropout_rate up to 0\.4 at this"),
        ((1000, 0.33, 0.33, True), r"0\.33 \+ 2 \* 0\.33 is more.*feasible: dropout_rate up to 0\.285 at this"),
        ((1000, 0.95, 0.0, True), "feasible: adversary_rate up to 0.9"),
    ],
)
def test_values_out_of_range_and_infeasible_rates_are_refused_with_what_is_allowed(arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        find_graph_parameters(*arguments)


def test_infeasible_cohort_is_told_what_would_be_feasible() -> None:
    with pytest.raises(
        UsageError, match=r"no degree below 19 .*feasible: dropout_rate up to about 0\.\d\d at this"
    ) as error:
        find_graph_parameters(20, 0.3, 0.3, True)
    feasible = float(str(error.value).split("up to about ")[1][:4])
    assert find_graph_parameters(20, 0.3, feasible, True)
    with pytest.raises(UsageError, match="feasible: a lower adversary_rate, more clients, or the complete graph"):
        find_graph_parameters(10, 0.8, 0.01, True)

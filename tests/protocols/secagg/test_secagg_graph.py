"""Graphs: the ring, who holds whose shares, and what sessions agree on about them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from protocols.errors import FaultReason, PeerFault, ThresholdNotMet, UsageError
from protocols.primitives.prg import MaskStream
from protocols.secagg import graph as graph_module
from protocols.secagg.graph import (
    CompleteGraph,
    GraphParameters,
    HararyGraph,
    HararyGraphParameters,
    graph_of,
    graph_parameters,
)
from protocols.secagg.rebuilding import needed_owners, require_holders
from protocols.session import ClientPolicy, default_collusion_bound, rate_bound
from protocols.testing.cohort import Cohort


@settings(max_examples=60)
@given(st.integers(4, 200), st.integers(1, 20), st.binary(min_size=32, max_size=32))
def test_ring_neighbourhoods_are_regular_mutual_and_in_cohort_order(size: int, half: int, root: bytes) -> None:
    degree = min(2 * half, (size - 1) // 2 * 2)
    graph = HararyGraph(size, degree, root)
    near = [graph.neighbours(index) for index in range(size)]
    for index, neighbours in enumerate(near):
        assert len(neighbours) == degree
        assert list(neighbours) == sorted(set(neighbours))
        assert index not in neighbours
        assert all(index in near[neighbour] for neighbour in neighbours)
        assert graph.neighbourhood(index) == tuple(sorted((*neighbours, index)))
        assert graph.holders(index, range(0, size, 2)) == tuple(item for item in neighbours if item % 2 == 0)


def test_neighbours_are_the_nearest_on_the_ring() -> None:
    order, place = graph_module._ring(50, b"\x07" * 32)
    graph = HararyGraph(50, 6, b"\x07" * 32)
    for index in range(50):
        at = int(place[index])
        assert order[at] == index
        around = {int(order[(at + step) % 50]) for step in (-3, -2, -1, 1, 2, 3)}
        assert set(graph.neighbours(index)) == around


def test_another_root_gives_another_ring() -> None:
    rings = {tuple(graph_module._ring(100, bytes([number]) * 32)[0].tolist()) for number in range(50)}
    assert len(rings) == 50


def test_every_order_of_a_small_ring_is_as_likely() -> None:
    """Chi-square at 10^-6 on either side; the roots are fixed, so never flaky."""
    seen = Counter(
        tuple(graph_module._ring.__wrapped__(4, number.to_bytes(32, "big"))[0].tolist()) for number in range(6000)
    )
    assert len(seen) == 24
    statistic = sum((count - 250) ** 2 / 250 for count in seen.values())
    assert chi2.ppf(1e-6, 23) < statistic < chi2.ppf(1 - 1e-6, 23)


def test_ring_is_drawn_again_if_two_clients_get_the_same_number(monkeypatch) -> None:
    class Tied(MaskStream):
        def words(self, start: int, count: int):
            words = super().words(start, count)
            if start < 20:
                words[3] = words[7]
            return words

    monkeypatch.setattr(graph_module, "MaskStream", Tied)
    order, _ = graph_module._ring.__wrapped__(10, bytes(32))
    monkeypatch.undo()
    key = graph_module.tagged_hash("secagg/ring", bytes(32))
    np.testing.assert_array_equal(order, np.argsort(MaskStream(key, 64).words(20, 10)))


def test_complete_graph_has_everybody_as_neighbour_and_oneself_as_holder() -> None:
    graph = CompleteGraph(5)
    assert graph.neighbours(2) == (0, 1, 3, 4)
    assert graph.neighbourhood(2) == (0, 1, 2, 3, 4)
    assert graph.holders(2, {1, 2, 4}) == (1, 2, 4)


# -- who can be unmasked -----------------------------------------------------------------------------------------------


def ring_of(size: int, degree: int) -> HararyGraph:
    """A ring in the order of the cohort."""
    graph = HararyGraph(size, degree, bytes(32))
    graph._order = graph._place = np.arange(size)
    return graph


def test_to_leave_out_a_client_with_too_few_holders_leaves_its_neighbours_with_too_few() -> None:
    """Why a session ends there: 3 of 4 neighbours are needed, and two are lost beside client 5."""
    graph, present = ring_of(20, 4), set(range(20)) - {4, 7}
    while thin := [index for index in sorted(present) if len(graph.holders(index, present)) < 3]:
        present.discard(thin[0])
    assert present == set()


def test_masking_key_is_needed_only_of_dropouts_beside_a_contributor() -> None:
    graph = ring_of(20, 4)
    contributors = set(range(10, 20))
    assert needed_owners(graph, set(range(20)), contributors) == [0, 1, *range(8, 20)]
    assert needed_owners(graph, set(range(5, 20)), contributors) == list(range(8, 20))


def test_client_with_too_few_holders_among_the_contributors_is_noticed() -> None:
    graph = ring_of(20, 4)
    require_holders(graph, set(range(20)), set(range(19)), 3, "MaskedInput")
    with pytest.raises(ThresholdNotMet) as caught:
        require_holders(graph, set(range(20)), set(range(20)) - {4, 7}, 3, "MaskedInput")
    assert (caught.value.required, caught.value.present, caught.value.phase) == (3, 2, "MaskedInput")


# -- what a session agrees on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (99, {"graph": "harary"}, GraphParameters("complete", 98)),
        (100, {}, GraphParameters("complete", 99)),
        (200, {}, GraphParameters("complete", 199)),
        (201, {}, HararyGraphParameters("harary", 68, 1 / 3, 0.05, "semi-malicious")),
        (201, {"graph": "complete"}, GraphParameters("complete", 200)),
        (
            100,
            {"graph": "harary", "adversary_rate": 0.05},
            HararyGraphParameters("harary", 16, 0.05, 0.05, "semi-malicious"),
        ),
        (
            100,
            {"graph": "harary", "collusion_bound": 5, "dropout_rate": 0.1},
            HararyGraphParameters("harary", 26, 0.05, 0.1, "semi-malicious"),
        ),
        (
            100,
            {"graph": "harary", "adversary_rate": 0.05, "claim": "fully active"},
            HararyGraphParameters("harary", 24, 0.05, 0.05, "fully active"),
        ),
    ],
)
def test_graph_is_the_one_that_size_and_caller_ask_for(size, options, expected) -> None:
    parameters = Cohort(size, length=1, **options).parameters
    assert graph_parameters(parameters) == expected
    assert graph_of(parameters, bytes(32)).size == size


def test_sparse_session_has_threshold_minimum_and_bound_of_its_rates() -> None:
    parameters = Cohort(100, length=1, graph="harary", adversary_rate=0.05, claim="fully active").parameters
    assert (parameters.threshold, parameters.minimum_contributors, parameters.collusion_bound) == (19, 95, 5)
    parameters = Cohort(9, length=1, collusion_bound=2).parameters
    assert (parameters.threshold, parameters.minimum_contributors, parameters.collusion_bound) == (6, 4, 2)
    parameters = Cohort(90, length=1, graph="harary", adversary_rate=0.1).parameters  # complete
    assert (parameters.threshold, parameters.minimum_contributors, parameters.collusion_bound) == (50, 11, 9)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (5, {"graph": "tree"}, "graph: 'tree'; allowed: 'complete', 'harary'"),
        (100, {"graph": "harary", "claim": "none"}, "claim: 'none'; allowed: 'semi-malicious', 'fully active'"),
        (100, {"adversary_rate": 0.1, "collusion_bound": 10}, "give one of them"),
        (10, {"adversary_rate": 1.0}, "adversary_rate: 1.0; allowed"),
        (100, {"graph": "harary", "dropout_rate": 0.4}, r"feasible: dropout_rate up to 0\.283"),
        (100, {"graph": "harary", "threshold": 30}, "threshold: proposed 30, this party requires 37 to 37"),
        (100, {"graph": "harary", "minimum_contributors": 94}, "minimum contributors: proposed 94"),
    ],
)
def test_what_no_session_may_have_is_refused_when_it_is_proposed(size, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Cohort(size, length=1, **options)


def test_garbage_in_the_place_of_a_graph_is_malformed() -> None:
    parameters = Cohort(3, length=1).parameters
    from msgspec.structs import replace

    for raw in (b"", b"\x95\xa6harary", b"\x92\xa8complete", HararyGraphParameters("harary", 5, 0, 0, "x").to_bytes()):
        with pytest.raises(PeerFault) as caught:
            graph_parameters(replace(parameters, extension=raw))
        assert caught.value.reason is FaultReason.MALFORMED


@given(st.integers(0, 10**6))
def test_default_rate_stands_for_a_third(clients: int) -> None:
    assert rate_bound(ClientPolicy().adversary_rate, clients) == default_collusion_bound(clients)
    assert ClientPolicy().required_collusion_bound(clients) == default_collusion_bound(clients)


@pytest.mark.parametrize(
    ("rate", "clients", "bound"), [(0.05, 1000, 50), (0.29, 100, 29), (0.1, 39, 3), (0.0, 10**6, 0)]
)
def test_rate_stands_for_the_number_that_it_was_written_for(rate, clients, bound) -> None:
    assert rate_bound(rate, clients) == bound
    assert ClientPolicy(adversary_rate=rate).required_collusion_bound(clients) == bound
    assert ClientPolicy(adversary_rate=rate, collusion_bound=7).required_collusion_bound(clients) == 7

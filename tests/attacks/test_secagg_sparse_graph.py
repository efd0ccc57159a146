"""A server that does what it likes on the Harary graph: a hundred real sessions, some in league with it."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from protocols import secagg, wire
from protocols.errors import FaultReason, PolicyRefused, ProtocolError, ServerFault
from protocols.identity import Role
from protocols.secagg import messages as m
from protocols.secagg.agreement import quorum
from protocols.secagg.graph import _ring, graph_of, graph_parameters
from protocols.session import ClientPolicy
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import decoded

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols" / "secagg"))
from sparse_cohort import certificate, check_request, graph, party, root_of, sparse, unmask_request, view

EVERYBODY = tuple(range(100))


def checked(cohort: Cohort, contributors: tuple[int, ...], asked: list[int]) -> dict[int, bytes]:
    """Signatures of those honest clients that sign this set."""
    signed = {}
    for index in asked:
        try:
            signed[index] = cohort.parties[party(cohort, index)].handle(check_request(cohort, contributors)).trailer
        except ProtocolError:
            continue
    return signed


def test_sparse_cohort_that_is_split_has_no_quorum_for_both_sets() -> None:
    """Five colluders sign both: 2 * 53 > 100 + 5, so the larger half is certified and the smaller is not."""
    cohort = sparse()
    cohort.advance("ConsistencyCheck")
    root, without = root_of(cohort), tuple(index for index in EVERYBODY if index != 7)
    colluders = [0, 1, 2, 3, 4]
    one, other = list(EVERYBODY[5:52]), list(EVERYBODY[52:])
    first, second = checked(cohort, EVERYBODY, one), checked(cohort, without, other)
    assert (quorum(cohort.parameters), len(first), len(second)) == (53, 47, 48)
    sets = {
        contributors: (
            *certificate(cohort, root, contributors, colluders),
            *(m.SignedSet(i, by[i]) for i in sorted(by)),
        )
        for contributors, by in ((EVERYBODY, first), (without, second))
    }
    assert [len(signatures) for signatures in sets.values()] == [52, 53]
    given = dict.fromkeys(sets, 0)
    for contributors, signatures in sets.items():
        for index in EVERYBODY[5:]:
            try:
                cohort.parties[party(cohort, index)].handle(unmask_request(cohort, contributors, signatures))
            except ServerFault:
                continue
            given[contributors] += 1
    # With all colluders' help one set is opened: client 7 counts as a dropout. Its seed stays closed.
    assert given == {EVERYBODY: 0, without: 48}


def test_neighbourhood_that_is_all_in_league_certifies_nothing() -> None:
    """Every neighbour of client 42 signs that 42 and its neighbours alone are the set: 17 of 53 signatures."""
    cohort = sparse()
    cohort.advance("Unmask")
    me = party(cohort, 42)
    around = graph(cohort).neighbourhood(42)
    for contributors in (around, EVERYBODY):
        header = unmask_request(cohort, contributors, certificate(cohort, root_of(cohort), contributors, around))
        with pytest.raises(ServerFault) as caught:
            cohort.parties[me].handle(header)
        assert (caught.value.rule, caught.value.reason) == ("SA-23", FaultReason.TOO_FEW)


def test_set_of_a_neighbourhood_alone_is_not_signed() -> None:
    """A set around one client, even with all its holders, is smaller than the dropout rate allows."""
    cohort = sparse()
    cohort.advance("ConsistencyCheck")
    with pytest.raises(ServerFault) as caught:
        cohort.parties[party(cohort, 42)].handle(check_request(cohort, graph(cohort).neighbourhood(42)))
    assert (caught.value.rule, caught.value.reason) == ("SA-21", FaultReason.TOO_FEW)


def test_two_views_of_who_advertised_are_two_rings_that_do_not_meet() -> None:
    """Half of the cohort gets a T0 without client 7: no share of one half opens in the other, no set is certified."""
    cohort = sparse()
    cohort.advance("ShareKeys")
    advertised = dict(cohort.server._phase.keys.advertisements)
    without = {index: item for index, item in advertised.items() if index != 7}
    requests = {index: view(cohort, index, (advertised if index < 50 else without).values()) for index in EVERYBODY}
    roots = {requests[0].root, requests[99].root}
    assert len(roots) == 2
    replies = {
        index: decoded(
            cohort.parties[party(cohort, index)].handle(wire.encode(requests[index])).header, m.ShareKeysReply
        )
        for index in (0, 1, 98, 99)
    }
    sent = {sender: {item.index: item.ciphertext for item in reply.shares} for sender, reply in replies.items()}
    refusals = set()
    for receiver in (0, 99):
        near = [item.index for item in requests[receiver].advertisements if item.index != receiver]
        foreign = 99 if receiver == 0 else 0
        # A ciphertext of the other half in the place of each neighbour's.
        fields = m.opening_fields(cohort.server.session_id, m.MaskedInputRequest)
        ciphertext = next(iter(sent[foreign].values()))
        header = wire.encode(m.MaskedInputRequest(*fields, tuple(m.SealedShares(index, ciphertext) for index in near)))
        name = party(cohort, receiver)
        with pytest.raises(ProtocolError) as caught:
            cohort.parties[name].handle(header, vector=cohort.sources()[name])
        refusals.add(caught.value.rule)
    assert refusals == {"SA-16"}


def test_ring_follows_from_t0_alone_and_one_more_or_less_advertisement_changes_it_all() -> None:
    """What a server can do is to try sets: each gives an unrelated ring. Nothing else moves a client's neighbours."""
    cohort = sparse()
    cohort.advance("ShareKeys")
    advertised = dict(cohort.server._phase.keys.advertisements)
    first = view(cohort, 42, advertised.values())
    assert view(cohort, 42, reversed(advertised.values())) == first
    near = [set(graph(cohort).neighbours(42))]
    for missing in range(20):
        other = view(cohort, 42, [item for index, item in advertised.items() if index != missing])
        near.append(set(graph_of(cohort.parameters, other.root).neighbours(42)))
    overlaps = [len(near[0] & other) for other in near[1:]]
    assert len({frozenset(item) for item in near}) == 21
    assert 1 < np.mean(overlaps) < 5  # 16 * 16 / 99 = 2.6 if they have nothing to do with each other


def test_degree_below_the_clients_own_floor_is_refused_by_each_of_them() -> None:
    """The server claims a rate of 1 % and takes the degree that is right for it."""
    cohort = sparse(adversary_rate=0.01)
    assert graph_parameters(cohort.parameters).degree < graph_parameters(sparse().parameters).degree
    fields = m.opening_fields(cohort.server.session_id, m.AdvertiseKeysRequest)
    header = wire.encode(m.AdvertiseKeysRequest(*fields, cohort.parameters.to_bytes()))
    for identity in list(cohort.identities.values())[:10]:
        for policy, rule in ((ClientPolicy(), "SP-6"), (ClientPolicy(collusion_bound=1), "SA-29")):
            session = secagg.party(
                Role.CLIENT,
                identity,
                cohort.roster,
                policy,
                entropy=cohort.entropies[str(identity.id)],
                store=cohort.stores[str(identity.id)],
            )
            with pytest.raises(PolicyRefused) as caught:
                session.handle(header)
            assert caught.value.rule == rule


@pytest.mark.parametrize("claim", ["semi-malicious", "fully active"])
@pytest.mark.parametrize("size", [100, 300, 1000])
def test_client_cannot_be_survivor_to_some_holders_and_dropout_to_others(claim: str, size: int) -> None:
    """2 t exceeds the k holders and the colluders that any client has among them, ring after ring."""
    parameters = sparse(size, claim=claim).parameters
    degree, threshold = graph_parameters(parameters).degree, parameters.threshold
    colluders = np.zeros(size, bool)
    colluders[: parameters.collusion_bound] = True
    most = 0
    for number in range(20):
        ring = graph_of(parameters, bytes([number]) * 32)
        most = max(most, *(int(colluders[list(ring.neighbours(index))].sum()) for index in range(size)))
    assert 2 * threshold > degree + most
    assert most < threshold


def test_fully_active_ring_leaves_no_arc_to_cut_out() -> None:
    """With every honest client beside an arc dropped, its end has k / 2 neighbours in the arc and too few outside."""
    parameters = sparse(1000, claim="fully active").parameters
    degree, threshold = graph_parameters(parameters).degree, parameters.threshold
    assert (degree, threshold) == (84, 65)
    colluders = np.zeros(1000, bool)
    colluders[:50] = True
    for number in range(50):
        order, _ = _ring(1000, bytes([number]) * 32)
        on_ring = np.concatenate([colluders[order], colluders[order]])
        beside = max(int(on_ring[start : start + degree // 2].sum()) for start in range(1000))
        assert degree // 2 + beside < threshold


def test_request_for_a_complete_graph_cannot_be_passed_off_on_a_sparse_session() -> None:
    """Without the path, with everybody's keys: refused like any keys of no neighbour."""
    cohort = sparse()
    cohort.advance("ShareKeys")
    honest = decoded(cohort.request(party(cohort, 42)).header, m.ShareKeysRequest)
    everybody = tuple(cohort.server._phase.keys.advertisements.values())
    header = wire.encode(msgspec.structs.replace(honest, advertisements=everybody, path=()))
    with pytest.raises(ServerFault) as caught:
        cohort.parties[party(cohort, 42)].handle(header)
    assert caught.value.rule == "SA-34"

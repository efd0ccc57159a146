"""Each rule of the client that the Harary graph adds (SA-27 to SA-36), and those that it changes, broken alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from sparse_cohort import (
    certificate,
    check_request,
    encoded,
    graph,
    party,
    root_of,
    sparse,
    unmask_request,
    view,
)

from protocols import secagg, wire
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault
from protocols.identity import Role
from protocols.secagg import messages as m
from protocols.secagg.graph import HararyGraphParameters, graph_parameters
from protocols.session import ClientPolicy
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import changed, decoded

MY_INDEX = 42


# -- parameters --------------------------------------------------------------------------------------------------------

PROPOSED = sparse(120, dropout_rate=0.1)


def refused_by_policy(rule: str, what: str, *, policy: ClientPolicy | None = None, **fields: Any) -> PolicyRefused:
    """The announcement with these fields changed is refused; the one that it was is not."""
    graph_fields = {name: fields.pop(name) for name in tuple(fields) if name in HararyGraphParameters.__struct_fields__}
    honest = PROPOSED.parameters
    extension = msgspec.structs.replace(graph_parameters(honest), **graph_fields).to_bytes()
    bad = msgspec.structs.replace(honest, **({"extension": extension} | fields))
    name = str(honest.client(0))
    caught: PolicyRefused | None = None
    for parameters in (bad, honest):
        session = secagg.party(
            Role.CLIENT,
            PROPOSED.identities[name],
            PROPOSED.roster,
            (policy or PROPOSED.policy) if parameters is bad else PROPOSED.policy,
            entropy=PROPOSED.entropies[name],
            store=PROPOSED.stores[name],
        )
        opening = m.opening_fields(parameters.session_id(), m.AdvertiseKeysRequest)
        header = wire.encode(m.AdvertiseKeysRequest(*opening, parameters.to_bytes()))
        if parameters is honest:
            assert session.inspect(header).phase == "AdvertiseKeys"
            continue
        with pytest.raises(PolicyRefused) as refusal:
            session.handle(header)
        caught = refusal.value
        assert session._session_id is None
    assert caught is not None
    assert (caught.rule, caught.what) == (rule, what)
    return caught


def test_sa_27_sparse_graph_of_fewer_than_a_hundred_clients_is_refused() -> None:
    cohort = PROPOSED.parameters.cohort[:99]
    refused_by_policy("SA-27", "cohort size", cohort=cohort, minimum_contributors=90)


def test_sa_28_claim_that_this_party_does_not_accept_is_refused() -> None:
    policy = ClientPolicy(adversary_rate=0.05, claims=frozenset({"fully active"}))
    refused_by_policy("SA-28", "claim", policy=policy)


@pytest.mark.parametrize("floor", [7 / len(PROPOSED.parameters.cohort), 1 / 3])  # the rate stands for 6 clients
def test_sa_29_adversary_rate_below_this_partys_is_refused(floor: float) -> None:
    refused_by_policy("SA-29", "adversary rate", policy=ClientPolicy(collusion_bound=6, adversary_rate=floor))


@pytest.mark.parametrize("bound", [7, 50])
def test_sa_30_collusion_bound_that_is_not_the_rates_is_refused(bound: int) -> None:
    assert PROPOSED.parameters.collusion_bound == 6
    refused_by_policy("SA-30", "collusion bound", collusion_bound=bound)


@pytest.mark.parametrize(
    "fields",
    [
        {"degree": 30},  # 32 is the smallest
        {"degree": 2},
        {"degree": 65536},
        {"claim": "fully active"},  # needs more than 32
        {"dropout_rate": 0.2},
    ],
)
def test_sa_31_degree_that_is_not_enough_for_the_rates_is_refused(fields) -> None:
    assert graph_parameters(PROPOSED.parameters).degree == 32
    refused_by_policy("SA-31", "degree", **fields)


def test_sa_31_rates_that_no_degree_satisfies_are_refused() -> None:
    refusal = refused_by_policy("SA-31", "rates", dropout_rate=0.43)
    assert "0.9" in str(refusal)


@pytest.mark.parametrize("threshold", [1, 2, 19, 21, 33])
def test_sa_32_threshold_that_is_not_right_for_the_rates_is_refused(threshold: int) -> None:
    assert PROPOSED.parameters.threshold == 20
    refused_by_policy("SA-32", "threshold", threshold=threshold)


def test_sa_32_threshold_that_is_too_low_for_a_larger_degree_is_refused() -> None:
    refusal = refused_by_policy("SA-32", "threshold", degree=118)
    assert refusal.required == "63 to 106, by the rates"


@pytest.mark.parametrize("minimum", [107, 8])
def test_sa_33_fewer_contributors_than_the_dropout_rate_leaves_are_refused(minimum: int) -> None:
    """The ring stays connected only while no more than the announced rate is missing."""
    assert PROPOSED.parameters.minimum_contributors == 108
    refused_by_policy("SA-33", "minimum contributors", minimum_contributors=minimum)


# -- requests: one cohort, which goes on as if nothing had happened ----------------------------------------------------


@pytest.fixture(scope="module")
def stages() -> Iterator[dict[str, Cohort]]:
    """The same cohort at three phases; each runs to its exact sum once it has refused everything."""
    cohorts = {}
    for phase in ("ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"):
        cohorts[phase] = sparse()
        cohorts[phase].advance(phase)
    yield cohorts
    for cohort in cohorts.values():
        aggregate = cohort.network.run()
        assert len(aggregate.contributors) == 100
        np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
        assert cohort.network.refusals == []


def refused(
    cohort: Cohort, header: bytes, rule: str, reason: FaultReason, *, kind: type[PeerFault] = ServerFault
) -> PeerFault:
    session = cohort.parties[party(cohort, MY_INDEX)]
    before, records = session._state, dict(session._store._records)
    wanted = type(before).__name__ == "Shared"
    vector = cohort.sources()[party(cohort, MY_INDEX)] if wanted else None
    with pytest.raises(PeerFault) as caught:
        session.handle(header, vector=vector)
    assert type(caught.value) is kind
    assert (caught.value.rule, caught.value.reason) == (rule, reason)
    assert session._state is before
    assert session._store._records == records
    return caught.value


def request(cohort: Cohort) -> m.ShareKeysRequest:
    return decoded(cohort.request(party(cohort, MY_INDEX)).header, m.ShareKeysRequest)


def everybodys(cohort: Cohort) -> dict[int, m.Advertisement]:
    return dict(cohort.server._phase.keys.advertisements)


def test_request_names_own_and_the_neighbours_keys_and_what_is_forged_from_all_of_them_is_the_same(stages) -> None:
    cohort = stages["ShareKeys"]
    honest = request(cohort)
    assert tuple(item.index for item in honest.advertisements) == graph(cohort).neighbourhood(MY_INDEX)
    assert len(honest.advertisements) == 17
    assert 0 < len(honest.path) < 17 * 7
    assert view(cohort, MY_INDEX, everybodys(cohort).values()) == honest


def test_sa_34_keys_of_a_foreign_client_among_the_neighbours_are_refused(stages) -> None:
    cohort = stages["ShareKeys"]
    honest, all_of_them = request(cohort), everybodys(cohort)
    near = graph(cohort).neighbourhood(MY_INDEX)
    foreign = next(item for index, item in sorted(all_of_them.items()) if index not in near)
    listed = tuple(sorted((*honest.advertisements, foreign), key=lambda item: item.index))
    refused(cohort, encoded(honest, advertisements=listed), "SA-34", FaultReason.WRONG_PARTY)
    instead = tuple(sorted((*honest.advertisements[1:], foreign), key=lambda item: item.index))
    refused(cohort, encoded(honest, advertisements=instead), "SA-34", FaultReason.WRONG_PARTY)


@pytest.mark.parametrize("change", [lambda path: path[:-1], lambda path: (*path, bytes(32)), lambda _: ()])
def test_sa_35_path_of_another_length_is_refused(stages, change) -> None:
    honest = request(stages["ShareKeys"])
    refused(stages["ShareKeys"], encoded(honest, path=change(honest.path)), "SA-35", FaultReason.BAD_PATH)


def test_sa_10_path_with_a_wrong_hash_or_two_that_changed_places_is_refused(stages) -> None:
    honest = request(stages["ShareKeys"])
    for path in (
        (bytes(32), *honest.path[1:]),
        (*honest.path[:-1], bytes(32)),
        (honest.path[1], honest.path[0], *honest.path[2:]),
    ):
        refused(stages["ShareKeys"], encoded(honest, path=path), "SA-10", FaultReason.BAD_ROOT)


def test_sa_10_neighbour_that_is_hidden_from_this_client_alone_is_refused(stages) -> None:
    honest = request(stages["ShareKeys"])
    hidden = tuple(item for item in honest.advertisements if item.index != honest.advertisements[0].index)
    assert MY_INDEX in {item.index for item in hidden}
    refused(stages["ShareKeys"], encoded(honest, advertisements=hidden), "SA-10", FaultReason.BAD_ROOT)


def test_sa_10_leaves_at_other_positions_than_their_clients_are_refused(stages) -> None:
    """T0 over the cohort in another order: the ring follows from it, the leaves are not where they must be."""
    cohort = stages["ShareKeys"]
    advertised = everybodys(cohort)
    shifted = [msgspec.structs.replace(advertised[(index + 1) % 100], index=index) for index in range(100)]
    false = view(cohort, MY_INDEX, shifted)
    near = [item.index for item in false.advertisements]
    header = encoded(false, advertisements=tuple(advertised[index] for index in near))
    refused(cohort, header, "SA-10", FaultReason.BAD_ROOT)


def test_sa_9_keys_under_t0_that_a_neighbour_did_not_sign_are_refused(stages) -> None:
    cohort = stages["ShareKeys"]
    advertised = everybodys(cohort)
    forged = [
        item if index == MY_INDEX else msgspec.structs.replace(item, signature=bytes(64))
        for index, item in advertised.items()
    ]
    refused(cohort, encoded(view(cohort, MY_INDEX, forged)), "SA-9", FaultReason.BAD_SIGNATURE)


def test_sa_7_fewer_neighbours_with_keys_than_the_threshold_are_refused(stages) -> None:
    """The server leaves out half of the cohort: T0 fits, and so does the ring, but nobody could unmask this client."""
    cohort = stages["ShareKeys"]
    advertised = everybodys(cohort)
    few = view(cohort, MY_INDEX, [item for index, item in advertised.items() if index % 2 == 0])
    assert len(few.advertisements) - 1 < 11
    refused(cohort, encoded(few), "SA-7", FaultReason.TOO_FEW)


def test_sa_13_shares_of_a_client_that_is_no_neighbour_are_refused(stages) -> None:
    cohort = stages["MaskedInput"]
    me = party(cohort, MY_INDEX)
    shares = decoded(cohort.request(me).header, m.MaskedInputRequest).shares
    near = graph(cohort).neighbourhood(MY_INDEX)
    foreign = next(index for index in range(100) if index not in near)
    items = sorted((*shares[1:], msgspec.structs.replace(shares[0], index=foreign)), key=lambda item: item.index)
    header = changed(cohort.request(me).header, m.MaskedInputRequest, shares=tuple(items))
    refused(cohort, header, "SA-13", FaultReason.NOT_A_SUBSET)


def test_sa_15_fewer_holders_that_shared_than_the_threshold_are_refused(stages) -> None:
    cohort = stages["MaskedInput"]
    header = cohort.request(party(cohort, MY_INDEX)).header
    shares = decoded(header, m.MaskedInputRequest).shares
    assert len(shares) == 16
    refused(cohort, changed(header, m.MaskedInputRequest, shares=shares[:10]), "SA-15", FaultReason.TOO_FEW)


def test_sa_21_fewer_contributors_than_the_dropout_rate_leaves_are_refused(stages) -> None:
    cohort = stages["ConsistencyCheck"]
    near = graph(cohort).neighbourhood(MY_INDEX)
    left_out = [index for index in range(100) if index not in near][:6]
    contributors = [index for index in range(100) if index not in left_out]
    refused(cohort, check_request(cohort, contributors), "SA-21", FaultReason.TOO_FEW)


def test_sa_20_contributing_neighbour_whose_shares_i_never_got_is_refused() -> None:
    """The server cuts the edge between two honest clients: neither can be in one set of contributors with the other."""
    cohort = sparse()
    cohort.advance("MaskedInput")
    me = party(cohort, MY_INDEX)
    header = cohort.request(me).header
    shares = decoded(header, m.MaskedInputRequest).shares
    session = cohort.parties[me]
    session.handle(changed(header, m.MaskedInputRequest, shares=shares[1:]), vector=cohort.sources()[me])
    refused(cohort, check_request(cohort, range(100)), "SA-20", FaultReason.NOT_A_SUBSET)
    assert session.handle(check_request(cohort, [index for index in range(100) if index != shares[0].index]))


def test_sa_36_set_with_fewer_of_my_holders_than_the_threshold_is_refused() -> None:
    """300 clients, of whom 15 may be missing: the server names as missing 12 of my 38 neighbours, 27 are needed."""
    cohort = sparse(300)
    cohort.advance("MaskedInput")
    me = party(cohort, MY_INDEX)
    cohort.answer(me)
    near = graph(cohort).neighbours(MY_INDEX)
    for missing, good in ((12, False), (11, True)):
        contributors = [index for index in range(300) if index not in near[:missing]]
        assert len(contributors) >= cohort.parameters.minimum_contributors
        header = check_request(cohort, contributors)
        if good:
            assert cohort.parties[me].handle(header)
        else:
            session = cohort.parties[me]
            with pytest.raises(ServerFault) as caught:
                session.handle(header)
            assert (caught.value.rule, caught.value.reason) == ("SA-36", FaultReason.TOO_FEW)
            assert "26 holders" in caught.value.detail


# -- the certificate is of the whole cohort ----------------------------------------------------------------------------


def test_sa_23_certificate_by_all_neighbours_alone_is_refused(stages) -> None:
    cohort = stages["Unmask"]
    root, everybody = root_of(cohort), tuple(range(100))
    near = graph(cohort).neighbourhood(MY_INDEX)
    header = unmask_request(cohort, everybody, certificate(cohort, root, everybody, near))
    refused(cohort, header, "SA-23", FaultReason.TOO_FEW)
    header = unmask_request(cohort, everybody, certificate(cohort, root, everybody, range(52)))
    refused(cohort, header, "SA-23", FaultReason.TOO_FEW)  # (100 + 5) / 2 < 53


def test_sa_22_quorum_that_counts_a_signature_twice_is_refused(stages) -> None:
    cohort = stages["Unmask"]
    signed = certificate(cohort, root_of(cohort), tuple(range(100)), range(52))
    header = unmask_request(cohort, tuple(range(100)), (*signed, signed[-1]))
    refused(cohort, header, "SA-22", FaultReason.DUPLICATE_PARTY)


def test_sa_24_quorum_over_another_t0_is_refused(stages) -> None:
    cohort = stages["Unmask"]
    everybody = tuple(range(100))
    header = unmask_request(cohort, everybody, certificate(cohort, bytes(32), everybody, range(53)))
    refused(cohort, header, "SA-24", FaultReason.BAD_SIGNATURE)


def test_sa_25_quorum_over_another_set_is_refused_and_proven(stages) -> None:
    cohort = stages["Unmask"]
    other = tuple(range(99))
    header = unmask_request(cohort, other, certificate(cohort, root_of(cohort), other, range(53)))
    fault = refused(cohort, header, "SA-25", FaultReason.SPLIT_VIEW)
    assert len(fault.evidence) == 2 * 53  # its own over the one set, those of the 52 others over the other

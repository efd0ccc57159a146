"""Rules of every party session (PT-1 to PT-11) and floors of a client's policy (SP-1 to SP-9, SA-1 to SA-4, SA-26)."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest

from protocols import secagg, wire
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault, UsageError
from protocols.identity import Identity, Member, Role, Roster
from protocols.party import Idle
from protocols.primitives.signing import SigningKey
from protocols.secagg import messages as m
from protocols.secagg.graph import GraphParameters
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import ArraySource
from protocols.testing.cohort import STORAGE_KEY, Cohort
from protocols.testing.malformed import changed, raw_fields

ME = "c02"


def announcement(parameters: SessionParameters, *, session_id: bytes | None = None) -> bytes:
    """What a malicious server sends first: any parameters, under the id that is their hash."""
    session_id = parameters.session_id() if session_id is None else session_id
    fields = m.opening_fields(SessionId(session_id), m.AdvertiseKeysRequest)
    message = m.AdvertiseKeysRequest(*fields, parameters.to_bytes())
    return wire.encode(msgspec.structs.replace(message, suite=parameters.suite))


def proposed(cohort: Cohort, /, **fields: object) -> bytes:
    return announcement(msgspec.structs.replace(cohort.parameters, **fields))


def refuses_proposal(cohort: Cohort, header: bytes, rule: str, what: str, party: str = ME) -> PolicyRefused:
    """Refused by inspect and by handle alike; nothing is bound; the honest announcement is answered afterwards."""
    session = cohort.parties[party]
    for ask in (session.inspect, session.handle):
        with pytest.raises(PolicyRefused) as caught:
            ask(header)
        assert (caught.value.rule, caught.value.what) == (rule, what)
        assert isinstance(session._state, Idle)
        assert session._session_id is None
        assert session._store._records == {}
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    return caught.value


# -- floors of the policy ------------------------------------------------------------------------------------------


def test_sp_1_protocol_that_the_party_takes_no_part_in_is_refused(cohort) -> None:
    cohort.parties[ME].policy = ClientPolicy(protocols=frozenset({"oneshot"}))
    header = cohort.request(ME).header
    with pytest.raises(PolicyRefused) as caught:
        cohort.parties[ME].handle(header)
    assert (caught.value.rule, caught.value.what, caught.value.proposed) == ("SP-1", "protocol", "secagg")
    assert cohort.parties[ME]._session_id is None
    cohort.parties[ME].policy = ClientPolicy()
    cohort.parties[ME].handle(header)


def test_sp_2_suite_below_the_floor_is_refused(cohort) -> None:
    refusal = refuses_proposal(cohort, proposed(cohort, suite=2), "SP-2", "suite")
    assert refusal.proposed == 2


def test_sp_3_another_roster_is_refused(cohort) -> None:
    sybils = [Identity(f"s{number}", SigningKey.generate(os.urandom)) for number in range(9)]
    roster = Roster([*cohort.roster, *(sybil.member() for sybil in sybils)])
    parameters = secagg.parameters(
        roster,
        [ME, *(sybil.id for sybil in sybils)],
        nonce=bytes(32),
        run_id="run",
        round_number=1,
        modulus_bits=21,
        vector_length=100,
        context_hash=bytes(32),
    )
    refuses_proposal(cohort, announcement(parameters), "SP-3", "roster hash")


def test_sp_4_cohort_of_sybils_is_refused(cohort) -> None:
    header = proposed(cohort, cohort=(ME, "s00", "s01", "s02", "s03"))
    assert refuses_proposal(cohort, header, "SP-4", "cohort").proposed == "s00"


def test_sp_4_revoked_client_in_the_cohort_is_refused(cohort) -> None:
    revoked = Roster([Member(line.id, line.identity_key, b"", line.id == "c04") for line in cohort.roster])
    session = secagg.party(
        Role.CLIENT, cohort.identities[ME], revoked, ClientPolicy(), entropy=os.urandom, store=cohort.stores[ME]
    )
    with pytest.raises(PolicyRefused) as caught:
        session.handle(proposed(cohort, roster_hash=revoked.digest()))
    assert (caught.value.rule, caught.value.proposed) == ("SP-4", "c04")


def test_sp_5_cohort_of_one_is_refused(cohort) -> None:
    extension = GraphParameters("complete", 1).to_bytes()
    header = proposed(cohort, cohort=(ME,), extension=extension, collusion_bound=0, threshold=1, minimum_contributors=1)
    assert refuses_proposal(cohort, header, "SP-5", "cohort size").proposed == 1


def test_sp_5_cohort_of_two_is_refused(cohort) -> None:
    header = proposed(cohort, cohort=("c00", ME))
    assert refuses_proposal(cohort, header, "SP-5", "cohort size").proposed == 2


def test_sp_6_collusion_bound_below_a_third_is_refused(cohort) -> None:
    refuses_proposal(cohort, proposed(cohort, collusion_bound=0), "SP-6", "collusion bound")


@pytest.mark.parametrize("proposed_number", [1, 2, 6])
def test_sp_7_minimum_of_contributors_out_of_range_is_refused(cohort, proposed_number) -> None:
    header = proposed(cohort, minimum_contributors=proposed_number)
    refuses_proposal(cohort, header, "SP-7", "minimum contributors")


@pytest.mark.parametrize("bits", [1, 2, 7])
def test_sp_8_modulus_that_hides_nothing_is_refused(cohort, bits) -> None:
    assert (
        refuses_proposal(cohort, proposed(cohort, modulus_bits=bits), "SP-8", "modulus bits").required == "at least 8"
    )


def test_sp_8_modulus_that_the_sum_may_exceed_is_refused_and_the_next_larger_is_not() -> None:
    # The sum of 5 entries in [-1000, 1000] takes 10 001 values: 14 bits hold 16 384, 13 bits 8 192.
    cohort = Cohort(policy=ClientPolicy(value_range=1000), bits=14)
    refuses_proposal(cohort, proposed(cohort, modulus_bits=13), "SP-8", "modulus bits")


def test_sp_9_vector_longer_than_the_bound_on_memory_is_refused() -> None:
    cohort = Cohort(policy=ClientPolicy(maximum_vector_length=100))
    refuses_proposal(cohort, proposed(cohort, vector_length=101), "SP-9", "vector length")


# -- floors of SecAgg ----------------------------------------------------------------------------------------------


def test_sa_1_degree_that_is_not_the_complete_graphs_is_refused(cohort) -> None:
    header = proposed(cohort, extension=GraphParameters("complete", 2).to_bytes())
    assert refuses_proposal(cohort, header, "SA-1", "degree").proposed == 2


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_sa_2_threshold_that_lets_two_sets_be_opened_is_refused(cohort, threshold) -> None:
    # 2 t > n + c: 2 * 4 > 5 + 1
    assert refuses_proposal(cohort, proposed(cohort, threshold=threshold), "SA-2", "threshold").proposed == threshold


def test_sa_2_threshold_is_held_against_my_own_collusion_bound() -> None:
    # SP-6 would refuse the smaller bound first; a larger one has to be met as well.
    cohort = Cohort(policy=ClientPolicy(collusion_bound=1))
    header = proposed(cohort, collusion_bound=3, minimum_contributors=5, threshold=4)
    refuses_proposal(cohort, header, "SA-2", "threshold")


def test_sa_3_threshold_above_the_cohort_is_refused(cohort) -> None:
    refuses_proposal(cohort, proposed(cohort, threshold=6), "SA-3", "threshold")


def fault_on_announcement(cohort: Cohort, header: bytes, rule: str, reason: FaultReason, party: str = ME) -> None:
    session = cohort.parties[party]
    for ask in (session.inspect, session.handle):
        with pytest.raises(ServerFault) as caught:
            ask(header)
        assert (caught.value.rule, caught.value.reason) == (rule, reason)
        assert session._session_id is None
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))


def test_sa_4_suite_that_no_code_knows_is_refused_even_if_the_policy_allows_it() -> None:
    cohort = Cohort(policy=ClientPolicy(suites=frozenset({1, 2})))
    fault_on_announcement(cohort, proposed(cohort, suite=2), "SA-4", FaultReason.MALFORMED)


def test_sa_26_cohort_without_me_is_refused(cohort) -> None:
    extension = GraphParameters("complete", 3).to_bytes()
    header = proposed(cohort, cohort=("c00", "c01", "c03", "c04"), extension=extension)
    fault_on_announcement(cohort, header, "SA-26", FaultReason.UNKNOWN_PARTY)


def test_unreadable_graph_parameters_are_the_servers_fault(cohort) -> None:
    fault_on_announcement(cohort, proposed(cohort, extension=b"\x93"), "", FaultReason.MALFORMED)


# -- what every party checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [("c01", "c00", ME, "c03", "c04"), ("c00", "c00", ME, "c03", "c04")])
def test_pt_1_cohort_that_is_not_strictly_increasing_is_refused(cohort, clients) -> None:
    fault_on_announcement(cohort, proposed(cohort, cohort=clients), "PT-1", FaultReason.NOT_ORDERED)


def test_pt_2_more_chunks_than_can_be_numbered_are_refused(cohort) -> None:
    header = proposed(cohort, vector_length=2**39, chunk_length=64)
    fault_on_announcement(cohort, header, "PT-2", FaultReason.TOO_LARGE)


@pytest.mark.parametrize(("position", "value"), [(1, "oneshot"), (3, "UnmaskReply"), (3, "x")])
def test_pt_3_message_of_another_type_is_refused(cohort, position, value) -> None:
    fields = raw_fields(cohort.request(ME).header)
    fields[position] = value
    fault_on_announcement(cohort, msgspec.msgpack.encode(fields), "PT-3", FaultReason.MALFORMED)


def test_pt_4_first_request_without_parameters_is_refused(cohort) -> None:
    late = Cohort()
    late.advance("ShareKeys")
    fault_on_announcement(cohort, late.request(ME).header, "PT-4", FaultReason.WRONG_PHASE)


def test_pt_5_suite_that_differs_from_the_parameters_is_refused(cohort) -> None:
    header = changed(cohort.request(ME).header, m.AdvertiseKeysRequest, suite=2)
    fault_on_announcement(cohort, header, "PT-5", FaultReason.MALFORMED)


def test_pt_6_session_id_that_is_not_the_hash_of_the_parameters_is_refused(cohort) -> None:
    parameters = msgspec.structs.replace(cohort.parameters, vector_length=99)
    header = announcement(parameters, session_id=cohort.server.session_id)
    fault_on_announcement(cohort, header, "PT-6", FaultReason.WRONG_SESSION)


def test_pt_6_parameters_that_differ_from_those_agreed_on_are_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    parameters = msgspec.structs.replace(cohort.parameters, vector_length=99)
    header = announcement(parameters, session_id=cohort.server.session_id)
    refused.by_party(ME, header, "PT-6", FaultReason.WRONG_SESSION)


def test_pt_7_request_of_another_session_is_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    header = changed(cohort.request(ME).header, m.ShareKeysRequest, session_id=b"\x07" * 32)
    refused.by_party(ME, header, "PT-7", FaultReason.WRONG_SESSION)


def test_pt_7_request_of_another_suite_is_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    header = changed(cohort.request(ME).header, m.ShareKeysRequest, suite=2)
    refused.by_party(ME, header, "PT-7", FaultReason.WRONG_SESSION)


def test_pt_8_request_of_a_later_phase_is_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    fields = m.opening_fields(cohort.server.session_id, m.ConsistencyCheckRequest)
    header = wire.encode(m.ConsistencyCheckRequest(*fields, (0, 1, 2, 3, 4)))
    refused.by_party(ME, header, "PT-8", FaultReason.WRONG_PHASE)


def test_pt_8_inspect_wants_no_vector_for_a_request_out_of_phase(cohort) -> None:
    cohort.advance("MaskedInput")
    header = cohort.request(ME).header
    session = cohort.parties[ME]
    assert session.inspect(header).vector
    session.handle(header, vector=cohort.sources()[ME])
    assert not session.inspect(header).vector  # a repetition gets the same bytes, without a vector
    items = m.wire.decode(header, m.MaskedInputRequest).shares
    other = changed(header, m.MaskedInputRequest, shares=items[:-1])
    with pytest.raises(ServerFault) as caught:
        session.inspect(other)
    assert (caught.value.rule, caught.value.reason) == ("PT-8", FaultReason.WRONG_PHASE)


def test_pt_9_request_with_chunks_is_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    refused.by_party(ME, cohort.request(ME).header, "PT-9", FaultReason.CHUNK_LENGTH, chunks=(b"x",))


def test_pt_10_vector_for_a_second_session_of_one_round_is_refused(cohort) -> None:
    """Otherwise a server opens a round twice with two cohorts, and subtracts."""
    cohort.network.run()
    again = Cohort(nonce=b"\x01" * 32)
    again.stores[ME] = again.parties[ME]._store = cohort.stores[ME]
    again.advance("MaskedInput")
    session = again.parties[ME]
    before = session._state
    with pytest.raises(PeerFault) as caught:
        session.handle(again.request(ME).header, vector=again.sources()[ME])
    assert type(caught.value) is PeerFault
    assert (caught.value.rule, caught.value.reason) == ("PT-10", FaultReason.ALREADY_ANSWERED)
    assert session._state is before
    aggregate = again.network.run()  # the others go on, this client has dropped out
    assert ME not in aggregate.contributors
    np.testing.assert_array_equal(aggregate.sum, again.total(aggregate.contributors))


def test_pt_10_next_attempt_at_a_round_is_answered(cohort) -> None:
    cohort.network.run()
    retry = Cohort(nonce=b"\x01" * 32, attempt=1)
    retry.parties[ME]._store = cohort.stores[ME]
    assert retry.network.run().contributors == retry.parameters.clients()


def test_pt_11_second_answer_of_a_phase_is_refused_although_the_process_forgot_the_first(cohort) -> None:
    header = cohort.request(ME).header
    cohort.parties[ME].handle(header)
    restarted = cohort.fresh_party(ME)
    with pytest.raises(PeerFault) as caught:
        restarted.handle(header)  # would be other keys
    assert type(caught.value) is PeerFault
    assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)
    assert isinstance(restarted._state, Idle)
    assert restarted._session_id is None


# -- what the caller may do wrong ----------------------------------------------------------------------------------


def test_vector_that_is_missing_not_wanted_too_long_or_too_large_is_a_usage_error(cohort) -> None:
    session = cohort.parties[ME]
    source = cohort.sources()[ME]
    with pytest.raises(UsageError, match="AdvertiseKeys: no vector is wanted now"):
        session.handle(cohort.request(ME).header, vector=source)
    cohort.advance("MaskedInput")
    header = cohort.request(ME).header
    with pytest.raises(UsageError, match="MaskedInput: the vector is needed now"):
        session.handle(header)
    with pytest.raises(UsageError, match="99 entries, 100 agreed on"):
        session.handle(header, vector=ArraySource(source.array[:99]))
    large = source.array.copy()
    large[70] = 1 << 21
    with pytest.raises(UsageError, match="entry of chunk 1 does not fit into 21 bits"):
        session.handle(header, vector=ArraySource(large))
    assert type(session._state).__name__ == "Shared"
    assert len(session._store._records) == 2  # the answers of the first two phases
    with pytest.raises(UsageError, match="expected one axis of unsigned"):
        ArraySource(np.zeros(100))
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))


class LyingSource:
    """A source whose pieces are not what it says."""

    length = 100

    def __init__(self, piece: np.ndarray) -> None:
        self.piece = piece

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.piece


@pytest.mark.parametrize("piece", [np.zeros(63, np.uint32), np.zeros(64, np.int32), np.zeros((64, 1), np.uint32)])
def test_source_that_yields_another_shape_or_dtype_is_a_usage_error(cohort, piece) -> None:
    cohort.advance("MaskedInput")
    with pytest.raises(UsageError, match="chunk 0"):
        cohort.parties[ME].handle(cohort.request(ME).header, vector=LyingSource(piece))
    assert type(cohort.parties[ME]._state).__name__ == "Shared"
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))


def test_party_without_a_session_has_no_parameters(cohort) -> None:
    with pytest.raises(UsageError, match="no request"):
        _ = cohort.parties[ME].parameters
    with pytest.raises(UsageError, match="no request"):
        _ = cohort.parties[ME].session_id


def test_identity_whose_key_is_not_the_rosters_is_a_usage_error(cohort) -> None:
    stranger = Identity(ME, SigningKey.generate(os.urandom))
    with pytest.raises(UsageError, match="another identity key for 'c02'"):
        secagg.party(Role.CLIENT, stranger, cohort.roster, ClientPolicy(), entropy=os.urandom, store=cohort.stores[ME])


@pytest.mark.parametrize("role", [Role.COMMITTEE, Role.KEY_HOLDER])
def test_secagg_has_clients_only(cohort, role) -> None:
    with pytest.raises(UsageError, match="no role"):
        secagg.party(
            role, cohort.identities[ME], cohort.roster, ClientPolicy(), entropy=os.urandom, store=cohort.stores[ME]
        )


def test_repeated_request_gets_the_same_bytes_in_every_phase(cohort) -> None:
    while cohort.server.phase is not None:
        first = cohort.answer(ME)
        again = cohort.answer(ME)
        assert (first.header, first.chunks, first.trailer) == (again.header, again.chunks, again.trailer)
        if cohort.server.phase == "MaskedInput":
            with pytest.raises(UsageError, match="second vector under the same masks"):
                cohort.parties[ME].handle(cohort.request(ME).header, vector=cohort.sources()[ME])
        cohort.network.run_phase()
    assert cohort.server.result().contributors == cohort.parameters.clients()


def test_saved_party_of_another_roster_is_refused(cohort) -> None:
    cohort.advance("MaskedInput")
    blob = cohort.parties[ME].save(STORAGE_KEY)
    other = Roster([*cohort.roster, Identity("zz", SigningKey.generate(os.urandom)).member()])
    with pytest.raises(PolicyRefused) as caught:
        secagg.restore_party(
            blob, STORAGE_KEY, cohort.identities[ME], other, ClientPolicy(), entropy=os.urandom, store=cohort.stores[ME]
        )
    assert caught.value.rule == "SP-3"

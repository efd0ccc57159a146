"""Sessions saved and restored between any two messages; old blobs brought back."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from protocols import secagg
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.secagg import messages as m
from protocols.shape import ArraySource
from protocols.testing.cohort import STORAGE_KEY, Cohort
from protocols.testing.malformed import changed, decoded
from protocols.testing.network import Drop, deliver

ME = "c02"
PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")


def restored(cohort: Cohort, party: str) -> None:
    cohort.restore_party(party, cohort.parties[party].save(STORAGE_KEY))


def test_sum_is_exact_with_everybody_restored_after_every_single_message() -> None:
    cohort = Cohort(7, length=130)
    cohort.dropping([Drop("c01", "MaskedInput"), Drop("c04", "ConsistencyCheck", answered=True)])
    while cohort.server.phase is not None:
        phase = cohort.server.phase
        for request in list(cohort.server.requests()):
            for party in cohort.identities:
                restored(cohort, party)
            cohort.restore_server()
            again = [item.header for item in cohort.server.requests()]
            assert request.header in again
            cohort.network.parties = cohort.parties
            cohort.network._carry(phase, request)
        cohort.restore_server()
        cohort.server.close_phase()
    aggregate = cohort.server.result()
    assert aggregate.contributors == ("c00", "c02", "c03", "c04", "c05", "c06")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert cohort.network.refusals == []


@pytest.mark.parametrize("phase", PHASES)
def test_server_restored_within_a_phase_issues_the_same_requests_and_keeps_what_came_in(phase) -> None:
    cohort = Cohort()
    cohort.advance(phase)
    before = [(item.party, item.header) for item in cohort.server.requests()]
    first = cohort.answer("c00")
    deliver(cohort.server, first)
    with pytest.raises(PeerFault):
        deliver(cohort.server, first)
    faults, summary_faults = cohort.server.faults, cohort.server._faults_of_phase
    cohort.restore_server()
    assert [(item.party, item.header) for item in cohort.server.requests()] == before
    assert cohort.server.faults == faults
    assert cohort.server._faults_of_phase == summary_faults
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, first)
    assert caught.value.rule == "SV-4"
    assert not cohort.server.ready()
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_server_is_ready_when_all_have_answered() -> None:
    cohort = Cohort()
    for party in cohort.identities:
        assert not cohort.server.ready()
        deliver(cohort.server, cohort.answer(party))
    assert cohort.server.ready()


@pytest.mark.parametrize("blob", [b"", b"\xc0", b"\x90" * 9, b"\x91" * 100_000])
def test_server_blob_that_is_none_is_refused(blob) -> None:
    with pytest.raises(PeerFault) as caught:
        secagg.restore_server(blob, Cohort().roster)
    assert caught.value.reason is FaultReason.MALFORMED


def test_server_blob_of_another_roster_is_refused() -> None:
    with pytest.raises(UsageError, match="roster"):
        secagg.restore_server(Cohort().server.save(), Cohort(name="other").roster)


def test_party_restored_into_the_next_phase_repeats_its_last_answer_byte_for_byte() -> None:
    cohort = Cohort()
    for phase in ("AdvertiseKeys", "ShareKeys", "ConsistencyCheck", "Unmask"):
        cohort.advance(phase)
        first = cohort.answer(ME)
        restored(cohort, ME)
        again = cohort.answer(ME)
        assert (first.header, first.trailer) == (again.header, again.trailer)
        if phase == "ShareKeys":
            cohort.advance("MaskedInput")
            masked = cohort.answer(ME)
            deliver(cohort.server, masked)
    assert len(cohort.stores[ME]._records) == len(PHASES) + 1  # one an answer, one for the round


def test_masked_input_is_not_repeated_after_a_restart_that_lost_the_vector() -> None:
    cohort = Cohort()
    cohort.advance("MaskedInput")
    cohort.answer(ME)
    restored(cohort, ME)
    header = cohort.request(ME).header
    assert not cohort.parties[ME].inspect(header).vector
    with pytest.raises(UsageError, match="answered already before a restart"):
        cohort.parties[ME].handle(header)
    with pytest.raises(UsageError, match="a second vector under the same masks"):
        cohort.parties[ME].handle(header, vector=cohort.sources()[ME])


# -- an old blob is brought back, the store is kept --------------------------------------------------------------------


def refused_after_rollback(cohort: Cohort, header: bytes, vector=None) -> None:
    session = cohort.parties[ME]
    before = session._state
    with pytest.raises(PeerFault) as caught:
        session.handle(header, vector=vector)
    assert type(caught.value) is PeerFault
    assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)
    assert session._state is before
    assert session._spool is None


def test_rollback_before_shares_deals_no_second_sharing() -> None:
    cohort = Cohort()
    cohort.advance("ShareKeys")
    blob = cohort.parties[ME].save(STORAGE_KEY)
    deliver(cohort.server, cohort.answer(ME))
    cohort.restore_party(ME, blob)
    refused_after_rollback(cohort, cohort.request(ME).header)


def test_rollback_before_the_vector_masks_no_second_vector_but_the_same_one() -> None:
    cohort = Cohort()
    cohort.advance("MaskedInput")
    blob = cohort.parties[ME].save(STORAGE_KEY)
    first = cohort.answer(ME)
    cohort.restore_party(ME, blob)
    header = cohort.request(ME).header
    assert cohort.parties[ME].inspect(header).vector  # the blob knows of no answer; the store does
    other = ArraySource(cohort.vector(ME, "/another"))
    refused_after_rollback(cohort, header, other)
    nearly = cohort.sources()[ME].array.copy()
    nearly[0] ^= 1
    refused_after_rollback(cohort, header, ArraySource(nearly))
    again = cohort.answer(ME)
    assert (first.header, first.chunks, first.trailer) == (again.header, again.chunks, again.trailer)


def test_rollback_before_the_vector_masks_it_for_no_other_set_of_senders() -> None:
    """The same vector under one mask less would open the difference of the masks."""
    cohort = Cohort()
    cohort.advance("MaskedInput")
    blob = cohort.parties[ME].save(STORAGE_KEY)
    cohort.answer(ME)
    cohort.restore_party(ME, blob)
    header = cohort.request(ME).header
    shares = decoded(header, m.MaskedInputRequest).shares
    fewer = changed(header, m.MaskedInputRequest, shares=shares[:-1])
    refused_after_rollback(cohort, fewer, cohort.sources()[ME])


def test_rollback_before_the_check_signs_no_second_set() -> None:
    cohort = Cohort()
    cohort.advance("ConsistencyCheck")
    blob = cohort.parties[ME].save(STORAGE_KEY)
    first = cohort.answer(ME)
    cohort.restore_party(ME, blob)
    header = cohort.request(ME).header
    refused_after_rollback(cohort, changed(header, m.ConsistencyCheckRequest, contributors=(0, 1, 2, 3)))
    again = cohort.answer(ME)
    assert (first.header, first.trailer) == (again.header, again.trailer)


def test_second_unmask_request_is_refused_in_process_after_restore_and_after_rollback() -> None:
    cohort = Cohort()
    cohort.advance("Unmask")
    header = cohort.request(ME).header
    signatures = decoded(header, m.UnmaskRequest).signatures
    spare = m.SignedSet(4, cohort.server._phase.signatures[4])
    other = changed(header, m.UnmaskRequest, signatures=(*signatures, spare))  # more than the quorum: as good a request
    blob = cohort.parties[ME].save(STORAGE_KEY)
    first = cohort.answer(ME)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[ME].handle(other)
    assert (caught.value.rule, caught.value.reason) == ("PT-8", FaultReason.WRONG_PHASE)
    restored(cohort, ME)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[ME].handle(other)
    assert (caught.value.rule, caught.value.reason) == ("PT-8", FaultReason.WRONG_PHASE)
    cohort.restore_party(ME, blob)
    refused_after_rollback(cohort, other)
    again = cohort.answer(ME)
    assert (first.header, first.trailer) == (again.header, again.trailer)


# -- the blob itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["key", "party", "flipped", "short"])
def test_blob_of_another_key_or_party_or_a_damaged_one_is_refused(how) -> None:
    cohort = Cohort()
    cohort.advance("ShareKeys")
    blob = cohort.parties[ME].save(bytes(32) if how == "key" else STORAGE_KEY)
    blob = {"flipped": blob[:-1] + bytes([blob[-1] ^ 1]), "short": blob[:20]}.get(how, blob)
    with pytest.raises(PeerFault) as caught:
        cohort.restore_party("c03" if how == "party" else ME, blob)
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


def test_blob_that_another_version_sealed_is_refused() -> None:
    from protocols.primitives.sealing import seal_state

    cohort = Cohort()
    label = type(cohort.parties[ME])._seal_label(cohort.identities[ME])
    blob = seal_state(STORAGE_KEY, msgspec.msgpack.encode([1, 2]), label, cohort.entropies[ME])
    with pytest.raises(PeerFault) as caught:
        cohort.restore_party(ME, blob)
    assert caught.value.reason is FaultReason.MALFORMED


def test_saved_at_each_phase_every_field_comes_back() -> None:
    cohort = Cohort()
    for phase in PHASES:
        cohort.advance(phase)
        old = cohort.parties[ME]
        restored(cohort, ME)
        new = cohort.parties[ME]
        assert new is not old
        assert new._state == old._state
        assert new._answered == old._answered
        assert new._parameters == old._parameters
        assert repr(new) == repr(old)

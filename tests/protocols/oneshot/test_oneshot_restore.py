"""Sessions saved and restored between any two messages; old blobs brought back; a second set refused."""

from __future__ import annotations

import numpy as np
import pytest
from oneshot_cohort import STORAGE_KEY, OneShotCohort, opening_request, relayed, relaying

from protocols import oneshot
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.testing.network import Drop, deliver

ME = "c02"


def restart(cohort: OneShotCohort) -> None:
    """Everybody is saved and restored."""
    for party, organisation in cohort.parties.items():
        for role, session in list(organisation.sessions.items()):
            cohort.restore_party(role, party, session.save(STORAGE_KEY))
    cohort.restore_server()


def test_sum_is_exact_with_everybody_restored_after_every_single_message() -> None:
    cohort = OneShotCohort(7)
    cohort.dropping([Drop("c01", "Contribution"), Drop("c04", "Check", answered=True)])
    while cohort.server.phase is not None:
        phase = cohort.server.phase
        for request in list(cohort.server.requests()):
            restart(cohort)
            assert request.header in [item.header for item in cohort.server.requests()]
            cohort.network._carry(phase, request)
        restart(cohort)
        cohort.server.close_phase()
    aggregate = cohort.server.result()
    assert aggregate.contributors == ("c00", "c02", "c03", "c04", "c05", "c06")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert cohort.network.refusals == []


def test_contribution_is_not_repeated_after_a_restart_that_lost_the_vector() -> None:
    cohort = OneShotCohort()
    cohort.answer(ME)
    restart(cohort)
    header = cohort.request(ME).header
    assert not cohort.session(ME).inspect(header).vector
    with pytest.raises(UsageError, match="answered already before a restart"):
        cohort.session(ME).handle(header)
    with pytest.raises(UsageError, match="a second vector"):
        cohort.session(ME).handle(header, vector=cohort.sources()[ME])


def test_contribution_in_one_process_is_repeated_byte_for_byte() -> None:
    cohort = OneShotCohort()
    first, again = cohort.answer(ME), cohort.answer(ME)
    assert (first.header, first.chunks, first.trailer) == (again.header, again.chunks, again.trailer)


def test_second_contribution_to_one_session_is_refused_although_the_process_forgot_the_first() -> None:
    cohort = OneShotCohort()
    header = cohort.request(ME).header
    cohort.answer(ME)
    fresh = cohort.fresh_party(Role.CLIENT, ME)
    with pytest.raises(PeerFault) as caught:
        fresh.handle(header, vector=cohort.sources()[ME])
    assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)
    assert fresh._spool is None


def opened(cohort: OneShotCohort) -> bytes:
    """A blob of the member before it opens; then it opens the set of all."""
    cohort.advance("Opening")
    blob = cohort.session(ME).save(STORAGE_KEY)
    cohort.answer(ME)
    return blob


def test_second_set_is_refused_in_the_same_process() -> None:
    cohort = OneShotCohort()
    opened(cohort)
    with pytest.raises(PeerFault) as caught:
        cohort.session(ME).handle(*opening_request(cohort, (0, 1, 2), ME))
    assert (caught.value.rule, caught.value.reason) == ("PT-8", FaultReason.WRONG_PHASE)


def test_second_set_is_refused_after_restore() -> None:
    cohort = OneShotCohort()
    opened(cohort)
    restart(cohort)
    with pytest.raises(PeerFault) as caught:
        cohort.session(ME).handle(*opening_request(cohort, (0, 1, 2), ME))
    assert caught.value.rule == "PT-8"


def test_second_set_is_refused_after_rollback_and_the_first_is_opened_again_with_the_same_bytes() -> None:
    cohort = OneShotCohort()
    blob = opened(cohort)
    first = cohort.answer(ME)
    cohort.restore_party(Role.COMMITTEE, ME, blob)
    session = cohort.session(ME)
    with pytest.raises(PeerFault) as caught:
        session.handle(*opening_request(cohort, (0, 1, 2), ME))
    assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)
    again = cohort.answer(ME)
    assert (again.header, again.trailer) == (first.header, first.trailer)


def test_other_proposal_is_refused_after_the_first_was_forgotten() -> None:
    """Shown another set after a loss of all state, a member answers nothing: its answer is on record."""
    cohort = OneShotCohort()
    cohort.advance("Check")
    request = cohort.request(ME)
    cohort.answer(ME)
    other = relaying(request.header, m.CheckRequest, relayed(cohort, ME)[:3])
    fresh = cohort.fresh_party(Role.COMMITTEE, ME)
    with pytest.raises(PeerFault) as caught:
        fresh.handle(*other)
    assert caught.value.rule == "PT-11"
    assert fresh.handle(request.header, request.chunks).header


def test_roles_of_one_organisation_do_not_use_up_each_others_answers() -> None:
    cohort = OneShotCohort()
    cohort.network.run()
    records = cohort.stores[ME]._records
    assert len(records) == 4  # the round, and an answer in each of three phases


def test_blob_of_one_role_does_not_restore_the_other() -> None:
    cohort = OneShotCohort()
    cohort.answer(ME)
    blob = cohort.parties[ME].sessions[Role.CLIENT].save(STORAGE_KEY)
    with pytest.raises(PeerFault) as caught:
        cohort.restore_party(Role.COMMITTEE, ME, blob)
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


@pytest.mark.parametrize("blob", [b"", b"\xc0", b"\x90" * 9])
def test_server_blob_that_is_none_is_refused(blob: bytes) -> None:
    with pytest.raises(PeerFault) as caught:
        oneshot.restore_server(blob, OneShotCohort().roster)
    assert caught.value.reason is FaultReason.MALFORMED


def test_server_restored_within_a_phase_keeps_what_came_in() -> None:
    cohort = OneShotCohort()
    deliver(cohort.server, cohort.answer("c00"))
    cohort.restore_server()
    assert cohort.server._phase.answered == ["c00"]
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert len(aggregate.contributors) == 4

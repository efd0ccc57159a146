"""Each rule of the server (OV-1 to OV-9), broken alone on real bytes by malicious clients or members."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from oneshot_cohort import OneShotCohort, ends_well, opening_request, refused_by_server, relayed

from protocols import wire
from protocols.errors import FaultReason, PeerFault, ThresholdNotMet, UsageError
from protocols.oneshot import messages as m
from protocols.oneshot.packed_shamir import PRIME, pack_share, unpack_share
from protocols.session import ClientPolicy
from protocols.shape import Chunk, Fault, Reply, Upload
from protocols.signed import MemorySpool
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import deliver

ME = "c02"


@pytest.fixture
def cohort() -> OneShotCohort:
    return OneShotCohort()


def resigned(cohort: OneShotCohort, party: str, phase: str, header: bytes, chunks=()) -> Reply:
    return signed_reply(cohort.identities[party], cohort.server.session_id, phase, header, chunks)


def test_ov_1_root_that_is_not_that_of_the_sealed_shares_is_refused_and_proven(cohort) -> None:
    genuine = cohort.answer(ME)
    forged = changed(genuine.header, m.ContributionReply, shares_root=bytes(32))
    reply = resigned(cohort, ME, m.CONTRIBUTION, forged, genuine.chunks)
    refused_by_server(cohort, reply, "OV-1", FaultReason.BAD_ROOT, f"client {ME!r}")


@pytest.mark.parametrize("complaints", [(4,), (1, 0), (0, 0), (0, 1, 2, 3, 4)])
def test_ov_2_complaint_about_nobody_proposed_or_out_of_order_is_refused(cohort, complaints) -> None:
    cohort.advance("Check")
    forged = changed(cohort.answer(ME).header, m.CheckReply, complaints=complaints)
    reply = resigned(cohort, ME, m.CHECK, forged)
    refused_by_server(cohort, reply, "OV-2", FaultReason.NOT_A_SUBSET, f"client {ME!r}")


def complain(cohort: OneShotCohort, member: str, about: tuple[int, ...]) -> None:
    """Deliver a lying member's complaints."""
    forged = changed(cohort.answer(member).header, m.CheckReply, complaints=about)
    deliver(cohort.server, resigned(cohort, member, m.CHECK, forged))


def asked_to_open(cohort: OneShotCohort) -> list[str]:
    return sorted({party for way, phase, party, _ in cohort.network.transcript if (way, phase) == ("down", m.OPENING)})


def test_ov_3_complaint_is_recorded_and_its_member_not_asked_to_open(cohort) -> None:
    cohort.advance("Check")
    complain(cohort, ME, (1,))
    aggregate = ends_well(cohort)
    assert asked_to_open(cohort) == ["c00", "c01", "c03"]
    (fault,) = aggregate.faults[-1:]
    assert (fault.party, fault.proven, fault.rule, fault.reason) == ("c01", False, "OV-3", FaultReason.BAD_SHARE)
    assert "'c02' cannot open its share from 'c01'" in fault.detail


def test_ov_3_member_that_complains_about_more_clients_than_can_lie_is_recorded_alone(cohort) -> None:
    cohort.advance("Check")
    complain(cohort, ME, (0, 1, 3))
    aggregate = ends_well(cohort)
    (fault,) = [fault for fault in aggregate.faults if fault.rule == "OV-3"]
    assert (fault.party, fault.proven) == (ME, False)
    assert "from 3 clients, more than can be at fault" in fault.detail


def test_ov_3_too_many_complaints_end_a_session_that_has_added_all_up() -> None:
    cohort = OneShotCohort(fold_at_once=True)
    cohort.advance("Check")
    for member in ("c01", ME):
        complain(cohort, member, (0,))
    for member in ("c00", "c03"):
        deliver(cohort.server, cohort.answer(member))
    with pytest.raises(ThresholdNotMet) as caught:
        cohort.server.close_phase()
    assert (caught.value.required, caught.value.present, caught.value.phase) == (3, 2, m.CHECK)
    assert [(fault.party, fault.rule) for fault in cohort.server.faults] == [("c00", "OV-3")] * 2
    assert cohort.server._kept == {}


def test_ov_4_share_of_another_set_is_refused_and_proven(cohort) -> None:
    cohort.advance("Opening")
    reply = cohort.answer(ME, *opening_request(cohort, (0, 1, 2), ME))
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, reply)
    fault = caught.value
    assert (fault.rule, fault.reason, fault.culprit()) == ("OV-4", FaultReason.NOT_A_SUBSET, "client 'c02'")
    aggregate = cohort.network.run()  # the other three are enough
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


@pytest.mark.parametrize("share", [b"\0", bytes(15_891), bytes(15_893), pack_share(np.full(4101, PRIME, np.uint64))])
def test_ov_5_share_of_the_wrong_length_or_outside_the_field_is_refused(cohort, share) -> None:
    cohort.advance("Opening")
    forged = changed(cohort.answer(ME).header, m.OpeningReply, share=share)
    refused_by_server(cohort, resigned(cohort, ME, m.OPENING, forged), "OV-5", FaultReason.BAD_SHARE, f"client {ME!r}")


def lying(cohort: OneShotCohort, member: str, position: int | slice = 0, by: int = 1) -> None:
    """Deliver a share that is off in one element, or several."""
    genuine = cohort.answer(member)
    share = unpack_share(decoded(genuine.header, m.OpeningReply).share, 4101)
    share[position] = (share[position] + np.uint64(by)) % np.uint64(PRIME)
    forged = changed(genuine.header, m.OpeningReply, share=pack_share(share))
    deliver(cohort.server, resigned(cohort, member, m.OPENING, forged))


def not_opened(cohort: OneShotCohort, members: tuple[str, ...] = ("c00", "c01", "c03")) -> Fault:
    """The others answer, and the sum does not open; blame is asked for. What was recorded."""
    for member in members:
        deliver(cohort.server, cohort.answer(member))
    summary = cohort.server.close_phase()
    assert summary.next_phase == m.BLAME
    with pytest.raises(UsageError, match="Blame is open"):
        cohort.server.result()
    assert [(fault.proven, fault.party) for fault in summary.faults] == [(False, "")]
    return summary.faults[-1]


def test_ov_6_wrong_share_among_one_more_than_the_threshold_is_not_located(cohort) -> None:
    cohort.advance("Opening")
    lying(cohort, ME)
    fault = not_opened(cohort)
    assert (fault.rule, fault.reason) == ("OV-6", FaultReason.BAD_SHARE)
    assert all(repr(member) in fault.detail for member in cohort.members)


def test_ov_7_wrong_share_among_two_more_than_the_threshold_is_left_out_and_its_member_named() -> None:
    cohort = OneShotCohort(6, policy=policy_with(collusion_bound=1), collusion_bound=1)
    assert cohort.parameters.threshold == 4
    cohort.advance("Opening")
    lying(cohort, ME, position=4095, by=PRIME // 2)
    aggregate = ends_well(cohort)
    (fault,) = aggregate.faults[-1:]
    assert (fault.party, fault.proven, fault.rule, fault.reason) == (ME, False, "OV-7", FaultReason.BAD_SHARE)


def test_sum_opens_although_blindings_are_off(cohort) -> None:
    """They are needed for blame alone."""
    cohort.advance("Opening")
    lying(cohort, ME, position=4100)
    ends_well(cohort)


def policy_with(**fields) -> ClientPolicy:
    return ClientPolicy(protocols=frozenset({"oneshot"}), **fields)


def opened_by_exactly_the_threshold(by: int, position: int | slice = 0) -> Fault:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    lying(cohort, ME, by=by, position=position)
    return not_opened(cohort, ("c00", "c01"))


WEIGHT = (-1 - 1) * (-1 - 2) * pow((3 - 1) * (3 - 2), -1, PRIME) % PRIME
"""Of the third member's share in the secret at -1, when the first three open."""


def test_ov_8_sum_of_keys_that_a_member_moved_by_one_is_noticed_by_the_residuals() -> None:
    fault = opened_by_exactly_the_threshold(pow(WEIGHT, -1, PRIME))
    assert (fault.rule, fault.reason) == ("OV-8", FaultReason.BAD_SECRET)
    assert "block 0" in fault.detail


def test_ov_9_sum_whose_coefficients_are_in_range_but_together_too_long_is_refused() -> None:
    """Moved by 80 everywhere: within 32 n = 128, but ten deviations long in every coefficient."""
    fault = opened_by_exactly_the_threshold(80 * pow(WEIGHT, -1, PRIME) % PRIME, slice(0, 4096))
    assert (fault.rule, fault.reason) == ("OV-9", FaultReason.BAD_SECRET)


def test_ov_9_sum_that_no_keys_have_is_refused() -> None:
    fault = opened_by_exactly_the_threshold(12345)
    assert (fault.rule, fault.reason) == ("OV-9", FaultReason.BAD_SECRET)
    assert "'c02'" in fault.detail


# -- around them -------------------------------------------------------------------------------------------------------


def test_contribution_header_larger_than_its_bound_is_refused(cohort) -> None:
    fields = m.opening_fields(cohort.server.session_id, m.ContributionReply, 1)
    with pytest.raises(PeerFault) as caught:
        cohort.server.begin(wire.encode(m.ContributionReply(*fields, ME, bytes(32), bytes(600))))
    assert caught.value.reason is FaultReason.TOO_LARGE


def write_all(upload: Upload, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        upload.write(chunk)


@pytest.mark.parametrize(("phase", "kind"), [("Check", m.CheckReply), ("Opening", m.OpeningReply)])
def test_header_of_a_member_larger_than_its_bound_is_refused(phase: str, kind: type) -> None:
    """A megabyte of complaints, or of a share, is looked at by its length alone."""
    cohort = OneShotCohort()
    cohort.advance(phase)
    genuine = cohort.answer("c02")
    assert len(genuine.header) <= cohort.server.reply_limits().header
    fields = {"complaints": (0,) * 2**20} if phase == "Check" else {"share": bytes(2**20)}
    large = changed(genuine.header, kind, **fields)
    with pytest.raises(PeerFault) as caught:
        cohort.server.begin(large)
    assert caught.value.reason is FaultReason.TOO_LARGE


def test_chunks_of_the_wrong_length_or_number_are_refused(cohort) -> None:
    genuine = cohort.answer(ME)
    shares, ciphertext = genuine.chunks[:4], genuine.chunks[4:]
    assert len(shares[0]) == 8 + 15_892 + 1136
    for chunks, rule in (
        ([shares[0][:-1]], "SV-7"),
        ([*shares, ciphertext[0] + b"\0"], "SV-7"),
        (shares[:1] + shares[:1], "SV-7"),
        ([*shares, *ciphertext, b""], "SV-6"),
    ):
        upload = cohort.server.begin(genuine.header)
        with pytest.raises(PeerFault) as caught:
            write_all(upload, chunks)
        assert caught.value.rule == rule
    upload = cohort.server.begin(genuine.header)
    for chunk in genuine.chunks[:-1]:
        upload.write(chunk)
    with pytest.raises(PeerFault) as caught:
        upload.commit(genuine.trailer)
    assert caught.value.rule == "SV-8"


class Losing(MemorySpool):
    """A spool that does not keep what was put in."""

    keep = 0

    def chunks(self):
        kept = list(super().chunks())
        return iter(kept[: self.keep] if self.keep < 5 else [*kept[:-1], kept[-1][:-1]])


@pytest.mark.parametrize("fold_at_once", [False, True])
@pytest.mark.parametrize(("keep", "message"), [(3, "a chunk is missing"), (4, "a chunk is missing"), (5, "chunk 0")])
def test_spool_that_loses_chunks_ends_the_session(keep: int, message: str, fold_at_once: bool) -> None:
    """When shares are read, or when the ciphertext is added: at once, or after the check."""
    reply = OneShotCohort().answer(ME)
    cohort = OneShotCohort(fold_at_once=fold_at_once)
    for party in cohort.members:
        answer = reply if party == ME else cohort.answer(party)
        if party == ME:
            cohort.server.new_spool = type("Spool", (Losing,), {"keep": keep})
            if fold_at_once or keep == 3:
                with pytest.raises(UsageError, match=f"spool: .*{message}"):
                    deliver(cohort.server, answer)
                assert cohort.server.phase is None
                return
        deliver(cohort.server, answer)
        cohort.server.new_spool = MemorySpool
    cohort.server.close_phase()
    for party in cohort.members:
        deliver(cohort.server, cohort.answer(party))
    with pytest.raises(UsageError, match=f"spool: .*{message}"):
        cohort.server.close_phase()
    assert cohort.server.phase is None


def test_committee_of_others_opens_the_sum_of_clients_that_are_gone() -> None:
    """Seven silos, the first five on the committee; every client is lost right after its one message."""
    cohort = OneShotCohort(7, members=5, policy=policy_with(collusion_bound=1), collusion_bound=1, length=20_000)
    cohort.advance("Check")
    for organisation in cohort.parties.values():
        organisation.sessions = {role: session for role, session in organisation.sessions.items() if role != "client"}
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert aggregate.checks == (
        "5 of 5 committee members opened one set of 7 contributors",
        "the residuals are those of the contributors' noise",
    )


def test_messages_bound_their_lists(cohort) -> None:
    cohort.advance("Check")
    item = relayed(cohort, ME)[0]
    for field, value in (
        ("path", (bytes(32),) * 25),
        ("sealed_share", b""),
        ("signature", bytes(63)),
        ("header", bytes(1025)),
    ):
        group = m.RelayedGroup((msgspec.structs.replace(item, **{field: value}),))
        with pytest.raises(PeerFault):
            wire.decode_record(wire.encode(group), m.RelayedGroup)
    with pytest.raises(PeerFault):
        wire.decode_record(wire.encode(m.RelayedGroup((item,) * (m.GROUP + 1))), m.RelayedGroup)


def test_what_is_kept_is_gone_when_the_session_is_over(cohort) -> None:
    cohort.advance("Check")
    assert sorted(cohort.server._kept) == sorted(
        f"{kind}/{party}" for kind in ("outbox", "reply") for party in cohort.members
    )
    cohort.advance("Opening")
    assert sorted(cohort.server._kept) == [f"outbox/{party}" for party in cohort.members]
    cohort.network.run()
    assert cohort.server._kept == {}

"""Attacks on the one-shot protocol: a malicious server, client or member in one place, honest parties elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols" / "oneshot"))

from oneshot_cohort import (
    STORAGE_KEY,
    OneShotCohort,
    announcement,
    dealt_badly,
    ends_well,
    opening_request,
)

from protocols.errors import (
    FaultReason,
    PeerFault,
    PolicyRefused,
    ProtocolError,
    ServerFault,
    ThresholdNotMet,
)
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.packed_shamir import PRIME, _evaluate, decode, pack_share, unpack_share
from protocols.oneshot.sealing import seal_share, share_label
from protocols.primitives.merkle import root
from protocols.shape import Reply
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import deliver

ME = "c02"


def refusal(cohort: OneShotCohort, member: str, header: bytes) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        cohort.parties[member].handle(header)
    return caught.value


def opened_shares(cohort: OneShotCohort, asked: dict[tuple[int, ...], list[str]]) -> dict[tuple[int, ...], int]:
    """A server that asks members for sets of its choice; how many shares of each it gets."""
    got = {}
    for contributors, members in asked.items():
        got[contributors] = 0
        for member in members:
            try:
                cohort.parties[member].handle(opening_request(cohort, contributors))
            except ProtocolError:
                continue
            got[contributors] += 1
    return got


ALL, SMALLER = (0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5)


def test_two_sets_for_two_halves_of_the_committee_open_at_most_one() -> None:
    """c = 2 colluders give a share of both sets, each of the 5 others of one; t = 5, and t - 1 = 4 say nothing."""
    for first in range(6):
        cohort = OneShotCohort(7)
        assert (cohort.parameters.threshold, cohort.parameters.collusion_bound) == (5, 2)
        cohort.advance("Opening")
        honest = list(cohort.members[2:])
        got = opened_shares(cohort, {ALL: honest[:first], SMALLER: honest})
        assert got[ALL] + got[SMALLER] == 5
        assert min(got.values()) + 2 <= cohort.parameters.threshold - 1


def test_difference_of_two_sums_stays_closed_even_with_every_honest_member_asked_twice() -> None:
    cohort = OneShotCohort(7)
    cohort.advance("Opening")
    got = opened_shares(cohort, {ALL: cohort.members, SMALLER: cohort.members})
    assert got == {ALL: 7, SMALLER: 0}


@pytest.mark.parametrize("again", ["same process", "restored", "rolled back"])
def test_member_asked_twice_opens_once(again: str) -> None:
    cohort = OneShotCohort(7)
    cohort.advance("Opening")
    before = cohort.session(ME).save(STORAGE_KEY)
    cohort.answer(ME)
    if again == "restored":
        cohort.restore_party(Role.COMMITTEE, ME, cohort.session(ME).save(STORAGE_KEY))
    if again == "rolled back":
        cohort.restore_party(Role.COMMITTEE, ME, before)
    fault = refusal(cohort, ME, opening_request(cohort, SMALLER))
    assert fault.rule == ("PT-11" if again == "rolled back" else "PT-8")


def test_one_client_listed_three_times_is_not_three_contributors() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    (first, *_) = decoded(cohort.request(ME).header, m.CheckRequest).contributions
    header = changed(cohort.request(ME).header, m.CheckRequest, contributions=(first, first, first))
    assert refusal(cohort, ME, header).reason is FaultReason.DUPLICATE_PARTY
    cohort.advance("Opening")
    assert refusal(cohort, ME, opening_request(cohort, (0, 0, 0))).reason is FaultReason.DUPLICATE_PARTY


@pytest.mark.parametrize("contributors", [(0,), (0, 1)])
def test_set_below_the_minimum_is_opened_by_nobody(contributors: tuple[int, ...]) -> None:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    for member in cohort.members:
        fault = refusal(cohort, member, opening_request(cohort, contributors))
        assert (type(fault), fault.reason) == (ServerFault, FaultReason.TOO_FEW)


def test_replayed_contribution_counts_once() -> None:
    cohort = OneShotCohort()
    reply = cohort.answer(ME)
    deliver(cohort.server, reply)
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, reply)
    assert caught.value.reason is FaultReason.ALREADY_ANSWERED
    ends_well(cohort)


def test_contribution_from_another_session_is_refused_by_server_and_members() -> None:
    cohort, other = OneShotCohort(), OneShotCohort(nonce=b"\x07" * 32)
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, other.answer(ME))
    assert caught.value.reason is FaultReason.WRONG_SESSION
    cohort.advance("Check")
    other.advance("Check")
    foreign = decoded(other.request(ME).header, m.CheckRequest).contributions
    header = changed(cohort.request(ME).header, m.CheckRequest, contributions=foreign)
    assert refusal(cohort, ME, header).reason is FaultReason.BAD_SIGNATURE


def test_contribution_of_one_client_resent_in_the_name_of_another_is_refused() -> None:
    cohort = OneShotCohort()
    genuine = cohort.answer("c00")
    header = changed(genuine.header, m.ContributionReply, party="c01")
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, Reply("c01", header, genuine.chunks, genuine.trailer))
    assert caught.value.reason is FaultReason.BAD_SIGNATURE
    # Signed by c01 itself, c00's ciphertext and sealed shares go in; but the shares open for no member.
    deliver(
        cohort.server,
        signed_reply(cohort.identities["c01"], cohort.server.session_id, m.CONTRIBUTION, header, genuine.chunks),
    )
    cohort.advance("Check")
    for member in ("c00", "c02", "c03"):
        reply = cohort.answer(member)
        assert decoded(reply.header, m.CheckReply).complaints == (1,)


def test_shares_swapped_between_members_are_the_servers_fault() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    for mine, other in (("c00", "c01"), ("c01", "c00")):
        swapped = decoded(cohort.request(other).header, m.CheckRequest).contributions
        header = changed(cohort.request(mine).header, m.CheckRequest, contributions=swapped)
        fault = refusal(cohort, mine, header)
        assert (type(fault), fault.reason) == (ServerFault, FaultReason.BAD_PATH)
    ends_well(cohort)


def test_committee_that_is_not_the_pinned_one_gets_no_shares() -> None:
    cohort = OneShotCohort()
    header = announcement(cohort, added={"committee": ("evil-1", "evil-2", "evil-3", "evil-4")})
    for party in cohort.members:
        with pytest.raises(PolicyRefused, match="committee"):
            cohort.parties[party].handle(header, vector=cohort.sources()[party])


def test_committee_key_that_the_server_swapped_changes_the_roster_and_is_refused() -> None:
    cohort, other = OneShotCohort(), OneShotCohort(name="other")
    header = announcement(cohort, roster_hash=other.roster.digest())
    with pytest.raises(PolicyRefused, match="roster hash"):
        cohort.parties[ME].handle(header, vector=cohort.sources()[ME])


@pytest.mark.parametrize("phase", ["Contribution", "Check", "Opening"])
def test_forged_signature_is_refused_in_every_phase(phase: str) -> None:
    cohort = OneShotCohort()
    cohort.advance(phase)
    genuine = cohort.answer(ME)
    forged = cohort.identities["c03"].signing_key.sign(b"anything")
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, Reply(ME, genuine.header, genuine.chunks, forged))
    assert (caught.value.rule, caught.value.reason) == ("SV-5", FaultReason.BAD_SIGNATURE)
    assert caught.value.culprit() == "peer"
    ends_well(cohort)


def test_flipped_ciphertext_bit_on_the_way_breaks_the_signature() -> None:
    cohort = OneShotCohort()
    genuine = cohort.answer(ME)
    for position in (8, len(genuine.chunks[-1]) // 2):
        flipped = bytearray(genuine.chunks[-1])
        flipped[position] ^= 1
        with pytest.raises(PeerFault) as caught:
            deliver(cohort.server, Reply(ME, genuine.header, [*genuine.chunks[:-1], bytes(flipped)], genuine.trailer))
        assert caught.value.reason is FaultReason.BAD_SIGNATURE
    ends_well(cohort)


def flipped_sum(bit: int) -> OneShotCohort:
    """A bit of the summed ciphertext flips in the server's memory."""
    cohort = OneShotCohort()
    cohort.advance("Opening")
    words = np.frombuffer(cohort.server._phase.accumulator, np.uint64)
    words[30] ^= np.uint64(1 << bit)
    return cohort


def test_flipped_bit_of_the_sum_below_delta_is_noticed_above_it_not() -> None:
    """What the residual check sees and what it cannot: a multiple of Delta is another plaintext."""
    layout = Agreement.of(OneShotCohort().parameters).slots.layout
    below = flipped_sum(layout.delta_bits - 1 - layout.dropped_bits)
    with pytest.raises(PeerFault) as caught:
        below.network.run()
    assert (caught.value.rule, caught.value.reason) == ("OV-8", FaultReason.BAD_SECRET)
    assert below.server.phase is None
    above = flipped_sum(layout.delta_bits - layout.dropped_bits)
    aggregate = above.network.run()
    assert (aggregate.sum != above.total(aggregate.contributors)).sum() == 1


@pytest.mark.parametrize("by", [1, 2**30])
def test_flipped_bit_of_a_summed_share_is_noticed(by: int) -> None:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    for member in cohort.members[1:]:
        genuine = cohort.answer(member)
        if member == ME:
            share = unpack_share(decoded(genuine.header, m.OpeningReply).share, 4096)
            share[7] = (int(share[7]) ^ by) % PRIME
            forged = changed(genuine.header, m.OpeningReply, share=pack_share(share))
            genuine = signed_reply(cohort.identities[ME], cohort.server.session_id, m.OPENING, forged, ())
        deliver(cohort.server, genuine)
    with pytest.raises(PeerFault) as caught:
        cohort.server.close_phase()
    assert caught.value.reason is FaultReason.BAD_SECRET


def test_dealer_of_rubbish_to_one_member_costs_that_member_not_the_sum() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    cohort.server._phase.contributions[1] = dealt_badly(cohort, "c01", bad_for=[2])
    aggregate = ends_well(cohort)
    assert [(fault.party, fault.rule) for fault in aggregate.faults] == [("c01", "OV-3")]


def test_dealer_of_rubbish_to_too_many_members_is_named_and_there_is_no_sum() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    cohort.server._phase.contributions[1] = dealt_badly(cohort, "c01", bad_for=[2, 3])
    with pytest.raises(ThresholdNotMet):
        cohort.network.run()
    assert [(fault.party, fault.rule, fault.proven) for fault in cohort.server.faults] == [("c01", "OV-3", False)] * 2


def test_dealer_of_a_share_off_its_polynomial_is_noticed_not_named() -> None:
    """The share opens, so nobody complains; four summed shares of which one is off lie on no polynomial."""
    cohort = OneShotCohort()
    genuine = cohort.answer("c01")
    label = share_label(cohort.server.session_id, 1, 2)
    rubbish = pack_share(np.full(4096, 12345, np.uint64))
    sealed = [bytes(chunk[8:]) for chunk in genuine.chunks[:4]]
    sealed[2] = seal_share(cohort.roster.member(ME).sealing_key, rubbish, label)
    header = changed(genuine.header, m.ContributionReply, shares_root=root(sealed))
    chunks = [*genuine.chunks[:2], genuine.chunks[2][:8] + sealed[2], *genuine.chunks[3:]]
    deliver(
        cohort.server, signed_reply(cohort.identities["c01"], cohort.server.session_id, m.CONTRIBUTION, header, chunks)
    )
    with pytest.raises(PeerFault) as caught:
        cohort.network.run()
    assert (caught.value.rule, caught.value.reason, caught.value.culprit()) == ("OV-6", FaultReason.BAD_SHARE, "peer")


def test_no_members_complete_state_opens_an_update() -> None:
    """What one member holds, with all that the server has, is one share of each key: it fits any key at all."""
    cohort = OneShotCohort()
    cohort.advance("Opening")
    held = {item.index: item.share for item in cohort.session(ME)._state.held}
    assert sorted(held) == [0, 1, 2, 3]
    share = unpack_share(held[0], 4096)
    guess = np.arange(4096, dtype=np.uint64)
    through = _evaluate([PRIME - 1, 3, 5], np.stack([guess, share, share]), range(1, 5))
    opened, wrong = decode([1, 2, 3, 4], through, 3, 1)
    assert wrong == ()
    assert (opened == guess).all()
    assert (through[2] == share).all()


def test_different_models_make_different_sessions_and_no_sum() -> None:
    cohort = OneShotCohort()
    other = announcement(cohort, context_hash=b"\x01" * 32)
    reply = cohort.parties[ME].handle(other, vector=cohort.sources()[ME])
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, reply)
    assert caught.value.reason is FaultReason.WRONG_SESSION
    # The attempt is used up: this vector goes into no second session.
    with pytest.raises(PeerFault) as again:
        cohort.fresh_party(Role.CLIENT, ME).handle(cohort.request(ME).header, vector=cohort.sources()[ME])
    assert again.value.rule == "PT-10"

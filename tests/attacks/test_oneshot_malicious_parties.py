"""Attacks on the one-shot protocol: a malicious server, client or member in one place, honest parties elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols" / "oneshot"))

from oneshot_cohort import (
    STORAGE_KEY,
    OneShotCohort,
    announcement,
    deal_off,
    deal_rubbish,
    dealt,
    ends_well,
    opening_request,
    relayed,
    relaying,
)

from protocols import wire
from protocols.errors import (
    ClientFault,
    FaultReason,
    PeerFault,
    PolicyRefused,
    ProtocolError,
    ServerFault,
)
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.blame import blame_coefficients
from protocols.oneshot.packed_shamir import PRIME, combine, decode, evaluate, pack_share, unpack_share
from protocols.oneshot.relay import outbox
from protocols.primitives.bitpack import pack, unpack
from protocols.server import reply_name
from protocols.session import ClientPolicy
from protocols.shape import Chunk, Reply
from protocols.signed import NO_CHUNKS, reply_digest
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import Drop, deliver

ME = "c02"
LOOSE = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)


def refusal(cohort: OneShotCohort, member: str, header: bytes, chunks: Iterable[Chunk] = ()) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        cohort.parties[member].handle(header, chunks)
    return caught.value


def opened_shares(cohort: OneShotCohort, asked: dict[tuple[int, ...], list[str]]) -> dict[tuple[int, ...], int]:
    """A server that asks members for sets of its choice; how many shares of each it gets."""
    got = {}
    for contributors, members in asked.items():
        got[contributors] = 0
        for member in members:
            try:
                cohort.parties[member].handle(*opening_request(cohort, contributors, member))
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
    fault = refusal(cohort, ME, *opening_request(cohort, SMALLER, ME))
    assert fault.rule == ("PT-11" if again == "rolled back" else "PT-8")


def test_one_client_listed_three_times_is_not_three_contributors() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    (first, *_) = relayed(cohort, ME)
    carried = relaying(cohort.request(ME).header, m.CheckRequest, [first] * 3)
    assert refusal(cohort, ME, *carried).reason is FaultReason.DUPLICATE_PARTY
    cohort.advance("Opening")
    assert refusal(cohort, ME, *opening_request(cohort, (0, 0, 0), ME)).reason is FaultReason.DUPLICATE_PARTY


@pytest.mark.parametrize("contributors", [(0,), (0, 1)])
def test_set_below_the_minimum_is_opened_by_nobody(contributors: tuple[int, ...]) -> None:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    for member in cohort.members:
        fault = refusal(cohort, member, *opening_request(cohort, contributors, member))
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
    carried = relaying(cohort.request(ME).header, m.CheckRequest, relayed(other, ME))
    assert refusal(cohort, ME, *carried).reason is FaultReason.BAD_SIGNATURE


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
        carried = relaying(cohort.request(mine).header, m.CheckRequest, relayed(cohort, other))
        fault = refusal(cohort, mine, *carried)
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


def test_forged_signature_on_blame_is_refused() -> None:
    cohort = wrong_summed_share(1)
    cohort.server.close_phase()
    assert cohort.server.phase == m.BLAME
    genuine = cohort.answer("c01")
    forged = cohort.identities["c03"].signing_key.sign(b"anything")
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, Reply("c01", genuine.header, genuine.chunks, forged))
    assert (caught.value.rule, caught.value.reason) == ("SV-5", FaultReason.BAD_SIGNATURE)
    with pytest.raises(ClientFault) as named:
        cohort.network.run()
    assert named.value.client == ME


def test_late_contribution_goes_into_no_sum_and_into_no_other_session() -> None:
    """The server closed at its quota; it can add the late one neither to the set it proposed nor to another session."""
    cohort = OneShotCohort(5, members=4, quota=4, collusion_bound=1, policy=LOOSE)
    late = cohort.answer("c04")
    for party in cohort.members:
        deliver(cohort.server, cohort.answer(party))
    cohort.server.close_phase()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, late)
    assert caught.value.rule == "SV-1"
    for party in cohort.members:
        deliver(cohort.server, cohort.answer(party))
    cohort.server.close_phase()
    header, chunks = opening_request(cohort, (0, 1, 2, 3, 4), ME)
    assert refusal(cohort, ME, header, chunks).reason is FaultReason.NOT_A_SUBSET
    following = OneShotCohort(5, members=4, collusion_bound=1, policy=LOOSE, nonce=b"\x07" * 32)
    with pytest.raises(PeerFault) as again:
        deliver(following.server, late)
    assert again.value.reason is FaultReason.WRONG_SESSION


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


def flipped_sum(bit: int, where: int | slice) -> OneShotCohort:
    """A bit of the summed ciphertext flips in the server's memory, in one coefficient or several."""
    cohort = OneShotCohort()
    cohort.advance("Opening")
    words = np.frombuffer(cohort.server._phase.accumulator, np.uint64)
    words[where] ^= np.uint64(1 << bit)
    return cohort


def lowest_bit_of_plaintexts() -> int:
    """Of the words of the summed ciphertext: a change of it is one of Delta."""
    layout = Agreement.of(OneShotCohort().parameters).slots.layout
    return layout.delta_bits - layout.dropped_bits


def test_flipped_bits_of_the_sum_below_delta_are_noticed_above_it_not() -> None:
    """What the residual check sees and what it cannot: a multiple of Delta is another plaintext."""
    below = flipped_sum(lowest_bit_of_plaintexts() - 1, slice(None))
    with pytest.raises(PeerFault) as caught:
        below.network.run()
    assert (caught.value.rule, caught.value.reason) == ("OV-8", FaultReason.BAD_SECRET)
    assert "no dealer and no member can be named" in caught.value.detail
    assert below.server.phase is None
    above = flipped_sum(lowest_bit_of_plaintexts(), 30)
    aggregate = above.network.run()
    assert (aggregate.sum != above.total(aggregate.contributors)).sum() == 1


def flipped_contribution(bit: int, where: int | slice) -> OneShotCohort:
    """A bit of one client's ciphertext flips in the server's spool, after its signature was verified."""
    cohort = OneShotCohort()
    cohort.advance("Check")
    agreement = Agreement.of(cohort.parameters)
    chunks = [bytes(chunk) for chunk in cohort.server.kept(reply_name("c01")).chunks()]
    words = unpack(chunks[-1], agreement.coefficients, agreement.slots.layout.sent_bits).astype(np.uint64)
    words[where] ^= np.uint64(1 << bit)
    chunks[-1] = pack(words, agreement.slots.layout.sent_bits).tobytes()
    spool = cohort.server.kept(reply_name("c01"))
    spool.discard()
    for chunk in chunks:
        spool.append(chunk)
    return cohort


def test_flipped_bits_of_one_ciphertext_are_noticed_below_delta_and_not_above() -> None:
    below = flipped_contribution(lowest_bit_of_plaintexts() - 1, slice(None))
    with pytest.raises(PeerFault) as caught:
        below.network.run()
    assert (caught.value.rule, caught.value.reason) == ("OV-8", FaultReason.BAD_SECRET)
    above = flipped_contribution(lowest_bit_of_plaintexts(), 30)
    aggregate = above.network.run()
    assert (aggregate.sum != above.total(aggregate.contributors)).sum() == 1


def test_flipped_bit_of_one_coefficient_is_noticed_only_if_it_does_not_pass_for_noise() -> None:
    """Half of Delta is little more than the noise may be: where noise has the other sign, nothing is to be seen."""
    noticed = 0
    for where in range(25):
        cohort = flipped_sum(lowest_bit_of_plaintexts() - 1, where)
        with suppress(PeerFault):
            aggregate = cohort.network.run()
        if cohort.server._result is None:
            assert cohort.server.faults[-1].rule == "OV-8"
            noticed += 1
        else:  # then it is at most the lowest bit of one value that is off
            off = aggregate.sum.astype(np.int64) - cohort.total(aggregate.contributors).astype(np.int64)
            assert np.abs(off).sum() <= 1
    assert 3 < noticed < 25


def shifted_input(cohort: OneShotCohort, dealer: str, by: int) -> None:
    """The client's own ciphertext, moved by a multiple of Delta in one coefficient, and signed."""
    genuine = cohort.answer(dealer)
    layout = Agreement.of(cohort.parameters).slots.layout
    coefficients = Agreement.of(cohort.parameters).coefficients
    words = unpack(memoryview(genuine.chunks[-1])[8:], coefficients, layout.sent_bits).astype(np.uint64)
    words[30] += np.uint64(by << (layout.delta_bits - layout.dropped_bits))
    words &= np.uint64((1 << layout.sent_bits) - 1)
    chunk = genuine.chunks[-1][:8] + pack(words, layout.sent_bits).tobytes()
    reply = signed_reply(
        cohort.identities[dealer],
        cohort.server.session_id,
        m.CONTRIBUTION,
        genuine.header,
        [*genuine.chunks[:-1], chunk],
    )
    deliver(cohort.server, reply)


def test_input_that_its_client_changed_by_multiples_of_delta_is_not_noticed() -> None:
    cohort = OneShotCohort()
    shifted_input(cohort, ME, by=5)
    aggregate = cohort.network.run()
    off = aggregate.sum.astype(np.int64) - cohort.total(aggregate.contributors).astype(np.int64)
    assert sorted(set((off % 2**20).tolist())) == [0, 5]


def test_server_that_lies_about_the_sum_is_not_noticed() -> None:
    """No party sees more of the result than what the server says: nothing in a session contradicts it."""
    cohort = OneShotCohort()
    aggregate = ends_well(cohort)
    aggregate.sum[:] = 0
    assert (cohort.server.result().sum == 0).all()
    for party in cohort.members:
        for session in cohort.parties[party].sessions.values():
            assert type(session._state).__name__ in {"Contributed", "Opened"}


def wrong_summed_share(by: int) -> OneShotCohort:
    """A bit of the share that c02 opens is flipped; the first of the committee is gone, so that three open."""
    cohort = OneShotCohort()
    cohort.advance("Opening")
    for member in cohort.members[1:]:
        genuine = cohort.answer(member)
        if member == ME:
            share = unpack_share(decoded(genuine.header, m.OpeningReply).share, 4101)
            share[7] = (int(share[7]) ^ by) % PRIME
            forged = changed(genuine.header, m.OpeningReply, share=pack_share(share))
            genuine = signed_reply(cohort.identities[ME], cohort.server.session_id, m.OPENING, forged, ())
        deliver(cohort.server, genuine)
    return cohort


@pytest.mark.parametrize("by", [1, 2**30])
def test_flipped_bit_of_a_summed_share_is_noticed_and_its_member_proven_a_liar(by: int) -> None:
    cohort = wrong_summed_share(by)
    summary = cohort.server.close_phase()
    assert (summary.next_phase, summary.faults[-1].reason) == (m.BLAME, FaultReason.BAD_SECRET)
    with pytest.raises(ClientFault) as caught:
        cohort.network.run()
    assert (caught.value.client, caught.value.rule) == (ME, "OV-13")
    assert cohort.server.phase is None
    (fault,) = [fault for fault in cohort.server.faults if fault.proven]
    assert (fault.party, fault.rule) == (ME, "OV-13")
    for header, signature, phase in zip(
        fault.evidence[0::2], fault.evidence[1::2], (m.OPENING, m.BLAME), strict=True
    ):  # a third party can check it: both statements are signed
        digest = reply_digest(cohort.server.session_id, phase, header, NO_CHUNKS)
        cohort.roster.verify(ME, digest, signature)


def test_flipped_bit_of_a_dealt_share_is_noticed() -> None:
    """Opened by exactly the threshold, where no decoding sees it."""
    cohort = OneShotCohort()
    deal_off(cohort, "c01", [ME], position=7, by=1)
    cohort.dropping([Drop("c00", "Opening")])
    with pytest.raises(PeerFault) as caught:
        cohort.network.run()
    assert (caught.value.rule, caught.value.reason) == ("OV-8", FaultReason.BAD_SECRET)


def test_dealer_of_rubbish_to_one_member_costs_that_member_not_the_sum() -> None:
    cohort = OneShotCohort()
    deal_rubbish(cohort, "c01", [ME])
    aggregate = ends_well(cohort)
    assert [(fault.party, fault.rule) for fault in aggregate.faults if fault.rule != "SV-4"] == [("c01", "OV-3")]
    assert not any(way == "down" and phase == m.OPENING and party == ME for way, phase, party, _ in transcript(cohort))


def transcript(cohort: OneShotCohort) -> list[tuple[str, str, str, bytes]]:
    return cohort.network.transcript


def test_dealer_of_rubbish_to_too_many_members_is_left_out() -> None:
    cohort = OneShotCohort()
    deal_rubbish(cohort, "c01", [ME, "c03"])
    aggregate = cohort.network.run()
    assert aggregate.contributors == ("c00", "c02", "c03")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert "1 contributions were left out after complaints" in aggregate.checks
    recorded = [(fault.party, fault.rule, fault.proven) for fault in aggregate.faults if fault.rule == "OV-3"]
    assert recorded == [("c01", "OV-3", False)] * 2


def test_member_that_complains_about_everybody_is_left_out() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    forged = changed(cohort.answer(ME).header, m.CheckReply, complaints=(0, 1, 2, 3))
    deliver(cohort.server, signed_reply(cohort.identities[ME], cohort.server.session_id, m.CHECK, forged, ()))
    ends_well(cohort)


def test_dealer_of_a_share_off_its_polynomial_is_named_when_one_more_than_the_threshold_answers() -> None:
    """The share opens, so nobody complains; four summed shares of which one is off lie on no polynomial."""
    cohort = OneShotCohort()
    deal_off(cohort, "c01", [ME])
    with pytest.raises(PeerFault) as caught:
        cohort.network.run()
    assert (caught.value.rule, caught.value.reason, caught.value.culprit()) == ("OV-6", FaultReason.BAD_SHARE, "peer")
    recorded = [(fault.party, fault.rule, fault.proven) for fault in cohort.server.faults if fault.rule == "OV-14"]
    assert recorded == [("c01", "OV-14", False)]
    assert "the shares from 'c01' lie on no polynomial" in caught.value.detail


def test_no_members_complete_state_opens_an_update() -> None:
    """What a member holds is the sum of its shares; each by itself, were it kept, fits any key at all."""
    cohort = OneShotCohort()
    genuine = cohort.answer("c00")
    cohort.advance("Opening")
    state = cohort.session(ME)._state
    assert sorted(state.digests) == [0, 1, 2, 3]
    share = dealt(cohort, "c00", ME, genuine.chunks)[:4096]
    assert (unpack_share(state.total, 4101)[:4096] != share).any()
    guess = np.arange(4096, dtype=np.uint64)
    through = evaluate([PRIME - 1, 3, 5], np.stack([guess, share, share]), range(1, 5))
    opened, wrong = decode([1, 2, 3, 4], through, 3, 1)
    assert wrong == ()
    assert (opened == guess).all()
    assert (through[2] == share).all()


def test_blame_shows_a_key_only_behind_the_blindings_even_when_all_answers_are_put_together() -> None:
    """What opens is the combination of the key plus the blinding, and the blinding is uniform and used once."""
    cohort = OneShotCohort()
    genuine = cohort.answer("c00")
    cohort.advance("Opening")
    opened = {party: cohort.answer(party) for party in cohort.members}
    digest = decoded(opened[ME].header, m.OpeningReply).contributors_hash
    told = []
    for party in cohort.members:
        records = [wire.decode_record(bytes(raw), m.RelayedContribution) for raw in sent(cohort, party)]
        fields = m.opening_fields(cohort.server.session_id, m.BlameRequest, 1)
        header = wire.encode(m.BlameRequest(*fields, digest, (), NO_CHUNKS))
        reply = cohort.answer(party, *relaying(header, m.BlameRequest, records))
        told.append(unpack_share(decoded(reply.header, m.BlameReply).combinations, 20).reshape(4, 5)[0])
    shown, wrong = decode([1, 2, 3, 4], np.stack(told), 3, 1)
    assert wrong == ()
    shares = np.stack([dealt(cohort, "c00", party, genuine.chunks) for party in cohort.members])
    secrets, _ = decode([1, 2, 3, 4], shares, 3, 1)
    key, blindings = secrets[:4096], secrets[4096:]
    coefficients = blame_coefficients(cohort.server.session_id, digest, 4096)
    plain = combine(coefficients, np.concatenate([key, np.zeros(5, np.uint64)]))
    assert (shown == (plain + blindings) % np.uint64(PRIME)).all()
    assert len(set(blindings.tolist())) == 5
    assert int(blindings.min()) > 2**16  # each is that small with probability 2^-15; the run is fixed by its name
    assert not (shown == plain).any()


def sent(cohort: OneShotCohort, member: str) -> list[Chunk]:
    """All that the server has for a member."""
    return list(cohort.server.kept(outbox(member)).chunks())


def test_members_answer_blame_for_one_set_also_after_rollback() -> None:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    before = cohort.session(ME).save(STORAGE_KEY)
    deliver(cohort.server, cohort.answer(ME))
    cohort.restore_party(Role.COMMITTEE, ME, before)
    # Rolled back, it does not open another set, so that it never comes to another set's blame.
    assert refusal(cohort, ME, *opening_request(cohort, (0, 1, 2), ME)).rule == "PT-11"


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

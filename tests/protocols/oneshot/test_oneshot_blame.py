"""What blame names with so many members present, and what it cannot name."""

from __future__ import annotations

import numpy as np
import pytest
from oneshot_cohort import STORAGE_KEY, OneShotCohort, deal_off

from protocols.errors import ClientFault, FaultReason, PeerFault
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.blame import EXAMINED, Findings, blame_coefficients, find_liars
from protocols.oneshot.packed_shamir import BLINDINGS, PRIME, add_shares, combine, deal, pack_share, unpack_share
from protocols.primitives.bitpack import pack, unpack
from protocols.session import ClientPolicy
from protocols.shape import Fault, Reply
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import Drop, deliver
from protocols.testing.randomness import DeterministicEntropy

LAX = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)
COLUMNS = 12
MEMBERS = ("a", "b", "d", "e", "f", "g", "h")


# -- the comparison alone ----------------------------------------------------------------------------------------------


class Committee:
    """Seven members, threshold 4, five dealers: what honest members would open and answer."""

    def __init__(self, packed: int = 1, dealers: int = 5) -> None:
        entropy = DeterministicEntropy(f"blame/{packed}")
        keys = np.random.default_rng(packed).integers(-30, 30, (dealers, COLUMNS * packed))
        self.shares = np.stack([deal(key, len(MEMBERS), 4, packed, entropy) for key in keys])
        self.coefficients = blame_coefficients(bytes(32), b"set", COLUMNS)
        self.points = {member: 1 + place for place, member in enumerate(MEMBERS)}

    def find(self, members: str = "abdefgh", opened: dict | None = None, told: dict | None = None, bound: int = 2):
        sums, answers = {}, {}
        for place, member in enumerate(MEMBERS):
            sums[member] = np.zeros(COLUMNS + BLINDINGS, np.uint64)
            for share in self.shares[:, place]:
                add_shares(sums[member], share)
            answers[member] = np.stack([combine(self.coefficients, share) for share in self.shares[:, place]])
        sums |= opened or {}
        answers |= told or {}
        return find_liars(
            self.points,
            {member: sums[member] for member in MEMBERS},
            {member: answers[member] for member in members},
            self.coefficients,
            4,
            bound,
        )

    def bend(self, dealer: int, member: str, column: int = 0, by: int = 1) -> None:
        place = MEMBERS.index(member)
        self.shares[dealer, place, column] = (int(self.shares[dealer, place, column]) + by) % PRIME


@pytest.mark.parametrize("packed", [1, 2, 3])
@pytest.mark.parametrize("members", ["abdefgh", "abde", "efgh", "ab", ""])
def test_honest_answers_name_nobody(packed: int, members: str) -> None:
    assert Committee(packed).find(members) == Findings()


@pytest.mark.parametrize("column", [0, COLUMNS - 1, COLUMNS, COLUMNS + BLINDINGS - 1])
def test_one_bad_share_is_named_by_its_pair(column: int) -> None:
    committee = Committee()
    committee.bend(3, "e", column)
    assert committee.find() == Findings(pairs=((3, "e"),))


def test_bad_shares_of_several_dealers_are_named_by_their_pairs() -> None:
    committee = Committee()
    for dealer, member in ((0, "a"), (1, "h"), (4, "b")):
        committee.bend(dealer, member, by=12345)
    assert committee.find().pairs == ((0, "a"), (1, "h"), (4, "b"))


@pytest.mark.parametrize(("members", "surplus"), [("abdef", 1), ("abdefg", 2), ("abdefgh", 3)])
def test_as_many_members_are_named_as_half_of_the_surplus(members: str, surplus: int) -> None:
    """More than that name the client alone: with one more member than the threshold, always."""
    committee = Committee()
    bad = members[: surplus // 2 + 1]
    for member in bad:
        committee.bend(2, member, by=7 + ord(member))
    assert committee.find(members) == Findings(clients=(2,))
    fewer = Committee()
    for member in bad[1:]:
        fewer.bend(2, member)
    assert fewer.find(members).pairs == tuple((2, member) for member in bad[1:])


def test_exactly_the_threshold_shows_nothing() -> None:
    committee = Committee()
    committee.bend(2, "a")
    assert committee.find("abde") == Findings()


def test_member_that_answers_otherwise_than_it_opened_is_contradicted() -> None:
    committee = Committee()
    wrong = np.arange(COLUMNS + BLINDINGS, dtype=np.uint64)
    assert committee.find(opened={"d": wrong}) == Findings(contradicted=("d",))
    told = np.zeros((5, BLINDINGS), np.uint64)
    assert committee.find(told={"d": told}) == Findings(contradicted=("d",))
    assert committee.find("abde", opened={"d": wrong}) == Findings(contradicted=("d",))  # the threshold is no bound


def test_member_that_tells_the_lie_that_it_opened_is_named_in_a_pair() -> None:
    """It moves the sum and one client's combinations alike: the pair is all that can be told."""
    committee = Committee()
    committee.bend(1, "g", 3, 99)
    assert committee.find() == Findings(pairs=((1, "g"),))


def test_member_off_for_more_clients_than_can_lie_is_named_alone_and_hides_nobody() -> None:
    committee = Committee()
    for dealer in range(5):
        committee.bend(dealer, "b", by=1 + dealer)
    assert committee.find() == Findings(members=("b",))
    committee.bend(4, "h")
    assert committee.find() == Findings(members=("b",), pairs=((4, "h"),))


def test_silent_member_whose_sum_is_off_the_others_is_named() -> None:
    committee = Committee()
    wrong = np.arange(COLUMNS + BLINDINGS, dtype=np.uint64)
    assert committee.find("abdefg", opened={"h": wrong}) == Findings(silent=("h",))
    assert committee.find("abdef", opened={"h": wrong}) == Findings(silent=("h",))
    assert committee.find("abde", opened={"h": wrong}) == Findings()  # the threshold is no check on itself


def test_examination_ends_however_many_clients_are_off() -> None:
    committee = Committee(dealers=EXAMINED + 50)
    for dealer in range(EXAMINED + 50):
        committee.bend(dealer, "a", by=dealer + 1)
    assert len(committee.find("abdef").clients) == EXAMINED


def test_coefficients_are_uniform_and_of_one_session_and_set() -> None:
    first = blame_coefficients(bytes(32), b"set", 4096)
    assert first.shape == (5, 4096)
    assert int(first.max()) < PRIME
    counts = np.bincount((first.reshape(-1) >> np.uint64(25)).astype(np.int64), minlength=64)
    assert 30 < float(((counts - 320) ** 2).sum() / 320) < 110
    assert (first == blame_coefficients(bytes(32), b"set", 4096)).all()
    for other in (blame_coefficients(bytes(32), b"tes", 4096), blame_coefficients(b"\1" * 32, b"set", 4096)):
        assert (first == other).mean() < 0.001
    assert (first[0] == first[1]).mean() < 0.01


def test_combinations_are_exact_at_the_largest_elements() -> None:
    coefficients = np.full((5, 4096), PRIME - 1, np.uint64)
    share = np.full(4101, PRIME - 1, np.uint64)
    assert combine(coefficients, share).tolist() == [((PRIME - 1) ** 2 * 4096 + PRIME - 1) % PRIME] * 5


# -- whole sessions ----------------------------------------------------------------------------------------------------


def six() -> OneShotCohort:
    """Six members, threshold 4: one wrong share of two too many is located, two are not."""
    return OneShotCohort(6, policy=LAX, collusion_bound=1)


def failed(cohort: OneShotCohort) -> tuple[PeerFault, list[Fault]]:
    """How the session ends, and what blame recorded."""
    with pytest.raises(PeerFault) as caught:
        cohort.network.run()
    assert cohort.server.phase is None
    assert cohort.server._result is None
    assert cohort.server._kept == {}
    assert [refusal for refusal in cohort.network.refusals if getattr(refusal[2], "rule", "") != "SV-4"] == []
    return caught.value, [fault for fault in cohort.server.faults if fault.phase == m.BLAME]


def test_ov_14_bad_dealer_to_two_members_is_named_with_each_of_them() -> None:
    """Two summed shares are off, too many to locate; then each dealer's shares are compared for themselves."""
    cohort = six()
    deal_off(cohort, "c01", ["c02"])
    deal_off(cohort, "c03", ["c04"], by=5)
    error, recorded = failed(cohort)
    assert (type(error), error.rule, error.reason) == (PeerFault, "OV-6", FaultReason.BAD_SHARE)
    assert [(fault.party, fault.rule, fault.proven) for fault in recorded] == [
        ("c01", "OV-14", False),
        ("c03", "OV-14", False),
    ]
    assert "the share from 'c01' to 'c02' is off its polynomial; one of the two lies" in error.detail
    assert "the share from 'c03' to 'c04'" in error.detail


def test_ov_14_wrong_shares_of_exactly_the_threshold_are_noticed_not_named() -> None:
    cohort = OneShotCohort()
    deal_off(cohort, "c01", ["c02"])
    cohort.dropping([Drop("c03", "Opening")])
    error, recorded = failed(cohort)
    assert error.reason is FaultReason.BAD_SECRET
    assert "no dealer and no member can be named" in error.detail
    assert recorded == []


def lie(cohort: OneShotCohort, member: str, by: int = 1) -> None:
    """Deliver a share of the sum that is off."""
    genuine = cohort.answer(member)
    share = unpack_share(decoded(genuine.header, m.OpeningReply).share, 4101)
    share[9] = (int(share[9]) + by) % PRIME
    forged = changed(genuine.header, m.OpeningReply, share=pack_share(share))
    identity = cohort.identities[member]
    deliver(cohort.server, signed_reply(identity, cohort.server.session_id, m.OPENING, forged, ()))


def test_ov_13_member_that_opened_a_wrong_sum_is_proven_a_liar() -> None:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    lie(cohort, "c02")
    error, recorded = failed(cohort)
    assert (type(error), error.rule, error.culprit()) == (ClientFault, "OV-13", "client 'c02'")
    assert [(fault.party, fault.rule, fault.proven, len(fault.evidence)) for fault in recorded] == [
        ("c02", "OV-13", True, 4)
    ]


def ten() -> OneShotCohort:
    """Ten members, threshold 6: two wrong shares are located, three are not."""
    return OneShotCohort(10, policy=LAX, collusion_bound=1)


def test_liars_that_keep_silent_in_blame_are_named_not_proven() -> None:
    cohort = ten()
    cohort.advance("Opening")
    liars = ["c02", "c04", "c07"]
    for member in liars:
        lie(cohort, member, by=ord(member[2]))
    cohort.dropping([Drop(member, "Blame") for member in liars])
    error, recorded = failed(cohort)
    assert [(fault.party, fault.rule, fault.proven) for fault in recorded] == [(liar, "OV-14", False) for liar in liars]
    assert "'c02' opened a share that is off the others', and does not answer for it" in error.detail


def test_liar_that_keeps_silent_among_four_is_not_named() -> None:
    """Three others are left, as many as it takes: they cannot tell the liar from a client that dealt badly to them."""
    cohort = OneShotCohort()
    cohort.advance("Opening")
    lie(cohort, "c02")
    cohort.dropping([Drop("c02", "Blame")])
    error, recorded = failed(cohort)
    assert "no dealer and no member can be named" in error.detail
    assert recorded == []


def test_two_liars_are_both_recorded_and_a_bad_dealer_with_them() -> None:
    cohort = ten()
    deal_off(cohort, "c06", ["c05"])
    cohort.advance("Opening")
    for member in ("c01", "c02"):
        lie(cohort, member)
    error, recorded = failed(cohort)
    assert error.culprit() == "client 'c01'"
    assert [(fault.party, fault.rule, fault.proven) for fault in recorded] == [
        ("c01", "OV-13", True),
        ("c02", "OV-13", True),
        ("c06", "OV-14", False),
    ]


def test_member_off_for_more_clients_than_can_lie_is_recorded_first() -> None:
    """c = 1: were two clients not lying, c05 would be; the others are named as pairs."""
    cohort = ten()
    deal_off(cohort, "c01", ["c05", "c06"])
    deal_off(cohort, "c02", ["c05", "c07"], by=3)
    error, recorded = failed(cohort)
    assert error.rule == "OV-6"
    assert [(fault.party, fault.rule, fault.proven) for fault in recorded] == [
        ("c05", "OV-14", False),
        ("c01", "OV-14", False),
        ("c02", "OV-14", False),
    ]
    assert "'c05' is off the polynomials of more clients than can be at fault" in error.detail
    assert "from 'c01' to 'c06'" in error.detail
    assert "from 'c02' to 'c07'" in error.detail


def test_ciphertext_that_does_not_fit_its_key_is_noticed_not_attributed() -> None:
    """Every share lies on its polynomial, so that nobody is named."""
    cohort = OneShotCohort()
    genuine = cohort.answer("c02")
    agreement = Agreement.of(cohort.parameters)
    layout = agreement.slots.layout
    words = unpack(memoryview(genuine.chunks[-1])[8:], agreement.coefficients, layout.sent_bits).astype(np.uint64)
    chunk = genuine.chunks[-1][:8] + pack(words[::-1].copy(), layout.sent_bits).tobytes()
    chunks = [*genuine.chunks[:-1], chunk]
    identity = cohort.identities["c02"]
    deliver(cohort.server, signed_reply(identity, cohort.server.session_id, m.CONTRIBUTION, genuine.header, chunks))
    error, recorded = failed(cohort)
    assert (error.rule, error.reason) == ("OV-8", FaultReason.BAD_SECRET)
    assert recorded == []


def in_blame() -> OneShotCohort:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    lie(cohort, "c03")
    cohort.advance("Blame")
    return cohort


def resigned(cohort: OneShotCohort, party: str, **fields: object) -> Reply:
    header = changed(cohort.answer(party).header, m.BlameReply, **fields)
    return signed_reply(cohort.identities[party], cohort.server.session_id, m.BLAME, header, ())


def refused(cohort: OneShotCohort, reply: Reply, rule: str, reason: FaultReason) -> None:
    before = cohort.server.save()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, reply)
    assert (caught.value.rule, caught.value.reason, caught.value.culprit()) == (rule, reason, "client 'c01'")
    cohort.server._faults.pop()
    assert cohort.server.save() == before
    error, _ = failed(cohort)
    assert error.culprit() == "client 'c03'"


def test_ov_11_combinations_of_another_set_are_refused() -> None:
    cohort = in_blame()
    refused(cohort, resigned(cohort, "c01", contributors_hash=bytes(32)), "OV-11", FaultReason.NOT_A_SUBSET)


@pytest.mark.parametrize("combinations", [b"\0", bytes(77), bytes(79), pack_share(np.full(20, PRIME, np.uint64))])
def test_ov_12_combinations_of_the_wrong_number_or_outside_the_field_are_refused(combinations: bytes) -> None:
    cohort = in_blame()
    refused(cohort, resigned(cohort, "c01", combinations=combinations), "OV-12", FaultReason.BAD_SHARE)


def test_answer_larger_than_its_combinations_is_refused_before_it_is_read() -> None:
    cohort = in_blame()
    refused_header = resigned(cohort, "c01", combinations=bytes(700)).header
    with pytest.raises(PeerFault) as caught:
        cohort.server.begin(refused_header)
    assert caught.value.reason is FaultReason.TOO_LARGE


def test_blame_survives_a_restart_of_everybody() -> None:
    cohort = in_blame()
    for request in list(cohort.server.requests()):
        cohort.restore_server()
        cohort.restore_party(Role.COMMITTEE, request.party, cohort.session(request.party).save(STORAGE_KEY))
        assert request.header in [item.header for item in cohort.server.requests()]
        cohort.network._carry("Blame", request)
    cohort.restore_server()
    assert failed(cohort)[0].culprit() == "client 'c03'"


def test_blame_is_asked_of_those_alone_that_opened() -> None:
    cohort = OneShotCohort(7)
    cohort.dropping([Drop("c00", "Opening")])
    cohort.advance("Opening")
    for member in ("c01", "c02"):
        lie(cohort, member)
    cohort.advance("Blame")
    assert [request.party for request in cohort.server.requests()] == [f"c{n:02}" for n in range(1, 7)]


def test_session_without_fault_asks_for_no_blame() -> None:
    cohort = OneShotCohort()
    cohort.network.run()
    assert [summary.next_phase for summary in cohort.network.summaries] == ["Check", "Opening", None]

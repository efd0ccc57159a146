"""Each rule of clients and members (OS-1 to OS-16, OS-21, OS-22), broken alone on real bytes by a malicious server."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from oneshot_cohort import (
    POLICY,
    STORAGE_KEY,
    Carried,
    OneShotCohort,
    announcement,
    committee_key,
    deal_rubbish,
    dealt,
    ends_well,
    opening_request,
    policy_refused,
    reannounced,
    refused_by_party,
    relayed,
    relaying,
)

from protocols import oneshot, wire
from protocols.chunked import OutgoingChunks
from protocols.errors import FaultReason, PeerFault, ServerFault, UsageError
from protocols.identity import Identity, Member, Role, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement, committee_threshold, pinned_committee
from protocols.oneshot.blame import blame_coefficients
from protocols.oneshot.packed_shamir import PRIME, unpack_share
from protocols.oneshot.relay import outbox
from protocols.session import ClientPolicy
from protocols.shape import ArraySource
from protocols.signed import NO_CHUNKS, ContentDigest
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import Drop, deliver
from protocols.testing.storage import MemoryStore

ME, MY_INDEX = "c02", 2


@pytest.fixture
def cohort() -> OneShotCohort:
    """Four silos, all of them the committee: c = 1, t = 3, at least 3 contributors."""
    return OneShotCohort()


# -- the parameters ----------------------------------------------------------------------------------------------------


def test_os_1_suite_that_no_code_knows_is_refused_even_if_the_policy_allows_it() -> None:
    allowing = ClientPolicy(protocols=frozenset({"oneshot"}), suites=frozenset({1, 7}))
    cohort = OneShotCohort(policy=allowing)
    refused_by_party(cohort, ME, announcement(cohort, suite=7), "OS-1", FaultReason.MALFORMED)


@pytest.mark.parametrize("committee", [("c00", "c01", "c02"), ("c00", "c01", "c02", "c03", "evil"), ()])
def test_os_2_committee_that_is_not_the_pinned_one_is_refused(cohort, committee) -> None:
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, added={"committee": committee}), "OS-2")


def test_os_2_committee_out_of_order_or_with_a_member_twice_is_refused(cohort) -> None:
    for committee in (("c01", "c00", "c02", "c03"), ("c00", "c00", "c01", "c02", "c03")):
        policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, added={"committee": committee}), "OS-2")


def test_os_2_member_refuses_another_committee_as_well(cohort) -> None:
    cohort.advance("Check")
    header = reannounced(cohort, cohort.request(ME).header, m.CheckRequest, added={"committee": ("c00", "c01", "c02")})
    policy_refused(cohort, Role.COMMITTEE, ME, header, "OS-2")


def test_os_3_threshold_that_does_not_exceed_the_packed_secrets_is_refused(cohort) -> None:
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, added={"packed": 3}), "OS-3")


def test_os_4_threshold_that_lets_two_sums_be_opened_is_refused(cohort) -> None:
    refusal = policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, threshold=2), "OS-4")
    assert "at least 3" in str(refusal)


def test_os_4_threshold_is_held_against_my_own_collusion_bound() -> None:
    """Six members, t = 4 is enough for c = 1; this client assumes 2, and 2 t >= 6 + 2 + 1 asks for 5."""
    lax = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)
    cohort = OneShotCohort(6, policy=lax, collusion_bound=1)
    assert cohort.parameters.threshold == 4
    header = announcement(cohort, collusion_bound=2, minimum_contributors=4)
    policy_refused(cohort, Role.CLIENT, ME, header, "OS-4")


def test_os_5_threshold_that_silent_colluders_keep_from_opening_is_refused(cohort) -> None:
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, threshold=4), "OS-5")


def test_os_6_unknown_lattice_record_is_refused(cohort) -> None:
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, added={"lattice": 2}), "OS-6")


@pytest.mark.parametrize("fields", [{"modulus_bits": 60}, {"added": {"value_bound": 2**19}}])
def test_os_6_sums_that_do_not_fit_are_refused(cohort, fields) -> None:
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, **fields), "OS-6")


def test_os_7_more_groups_than_clients_are_refused(cohort) -> None:
    cohort.advance("Check")
    request = cohort.request(ME)
    header = changed(request.header, m.CheckRequest, groups=(1, 1, 1, 1, 1))
    refused_by_party(cohort, ME, header, "OS-7", FaultReason.TOO_LARGE, chunks=request.chunks)


def test_os_7_group_larger_than_its_clients_is_refused_before_it_is_read(cohort) -> None:
    cohort.advance("Check")
    most = m.GROUP * Agreement.of(cohort.parameters).relayed_bytes + 16
    header = changed(cohort.request(ME).header, m.CheckRequest, groups=(most + 1,))

    def chunks():
        raise AssertionError("a chunk was asked for")
        yield b""

    refused_by_party(cohort, ME, header, "OS-7", FaultReason.TOO_LARGE, chunks=chunks())


def test_os_8_cohort_without_me_is_refused() -> None:
    cohort = OneShotCohort(5)
    without = tuple(party for party in cohort.parameters.cohort if party != ME)
    refused_by_party(cohort, ME, announcement(cohort, cohort=without), "OS-8", FaultReason.UNKNOWN_PARTY)


def test_os_9_committee_without_me_is_refused() -> None:
    cohort = OneShotCohort(5, members=4)
    cohort.advance("Check")
    outsider = OneShotCohort(5, members=5).identities["c04"]
    session = oneshot.party(
        Role.COMMITTEE, outsider, cohort.roster, POLICY, entropy=cohort.entropies["c04"], store=MemoryStore()
    )
    with pytest.raises(ServerFault) as caught:
        session.handle(cohort.request("c00").header, cohort.request("c00").chunks)
    assert (caught.value.rule, caught.value.reason) == ("OS-9", FaultReason.UNKNOWN_PARTY)


@pytest.mark.parametrize("extension", [b"", b"\x90", b"\x94\x90\x01\x01\x00\x00"])
def test_extension_that_is_none_is_refused(cohort, extension) -> None:
    session = cohort.fresh_party(Role.CLIENT, ME)
    with pytest.raises(ServerFault) as caught:
        session.inspect(announcement(cohort, extension=extension))
    assert caught.value.reason is FaultReason.MALFORMED


# -- check -------------------------------------------------------------------------------------------------------------


def proposed(cohort: OneShotCohort) -> list[m.RelayedContribution]:
    cohort.advance("Check")
    return relayed(cohort, ME)


def check(cohort: OneShotCohort, items: list[m.RelayedContribution]) -> Carried:
    return relaying(cohort.request(ME).header, m.CheckRequest, items)


def refused(cohort: OneShotCohort, carried: Carried, rule: str, reason: FaultReason) -> PeerFault:
    return refused_by_party(cohort, ME, carried[0], rule, reason, chunks=carried[1])


def test_os_10_contribution_proposed_twice_is_refused(cohort) -> None:
    items = proposed(cohort)
    refused(cohort, check(cohort, [items[0], *items]), "OS-10", FaultReason.DUPLICATE_PARTY)


def test_os_10_contribution_proposed_twice_is_refused_although_its_share_does_not_open() -> None:
    cohort = OneShotCohort()
    deal_rubbish(cohort, "c00", [ME])
    items = proposed(cohort)
    header, chunks = check(cohort, [items[0], *items])
    with pytest.raises(ServerFault) as caught:
        cohort.session(ME).handle(header, chunks)
    assert (caught.value.rule, caught.value.reason) == ("OS-10", FaultReason.DUPLICATE_PARTY)


def test_os_10_one_client_listed_three_times_does_not_make_three_contributors(cohort) -> None:
    items = proposed(cohort)
    refused(cohort, check(cohort, [items[0]] * 3), "OS-10", FaultReason.DUPLICATE_PARTY)


def test_os_10_contribution_of_an_unknown_client_is_refused(cohort) -> None:
    items = proposed(cohort)
    items[-1] = msgspec.structs.replace(items[-1], index=4)
    refused(cohort, check(cohort, items), "OS-10", FaultReason.UNKNOWN_PARTY)


def test_contributions_are_taken_in_any_order(cohort) -> None:
    header, chunks = check(cohort, proposed(cohort)[::-1])
    assert decoded(cohort.answer(ME, header, chunks).header, m.CheckReply).complaints == ()
    cohort.restore_party(Role.COMMITTEE, ME, cohort.session(ME).save(STORAGE_KEY))
    deliver(cohort.server, cohort.session(ME).handle(header))
    cohort.advance("Opening")
    opened = [decoded(cohort.answer(party).header, m.OpeningReply) for party in (ME, "c00")]
    assert opened[0].contributors_hash == opened[1].contributors_hash


@pytest.mark.parametrize("number", [0, 1, 2])
def test_os_11_fewer_contributions_than_the_minimum_are_refused(cohort, number) -> None:
    refused(cohort, check(cohort, proposed(cohort)[:number]), "OS-11", FaultReason.TOO_FEW)


@pytest.mark.parametrize("part", ["content", "header", "signature"])
def test_os_12_contribution_that_its_client_did_not_sign_is_refused(cohort, part) -> None:
    items = proposed(cohort)
    header = changed(items[0].header, m.ContributionReply, shares_root=bytes(32))
    other = {"content": bytes(32), "header": header, "signature": items[1].signature}[part]
    items[0] = msgspec.structs.replace(items[0], **{part: other})
    refused(cohort, check(cohort, items), "OS-12", FaultReason.BAD_SIGNATURE)


def test_os_12_contribution_to_another_session_is_refused(cohort) -> None:
    items = proposed(cohort)
    items[0] = proposed(OneShotCohort(nonce=b"\x01" * 32))[0]
    refused(cohort, check(cohort, items), "OS-12", FaultReason.BAD_SIGNATURE)


def test_os_12_signed_bytes_that_are_no_contribution_are_refused(cohort) -> None:
    items = proposed(cohort)
    digest = m.contribution_digest(cohort.server.session_id, b"\x90", items[0].content)
    signature = cohort.identities["c00"].signing_key.sign(digest)
    items[0] = msgspec.structs.replace(items[0], header=b"\x90", signature=signature)
    refused(cohort, check(cohort, items), "OS-12", FaultReason.MALFORMED)


def test_os_13_share_that_is_not_in_the_signed_tree_is_refused(cohort) -> None:
    items = proposed(cohort)
    other = bytes(len(items[0].sealed_share))
    items[0] = msgspec.structs.replace(items[0], sealed_share=other)
    refused(cohort, check(cohort, items), "OS-13", FaultReason.BAD_PATH)


def test_os_13_share_of_another_member_is_refused(cohort) -> None:
    items = proposed(cohort)
    items[0] = relayed(cohort, "c00")[0]
    refused(cohort, check(cohort, items), "OS-13", FaultReason.BAD_PATH)


def test_os_13_path_of_another_length_is_refused(cohort) -> None:
    items = proposed(cohort)
    items[0] = msgspec.structs.replace(items[0], path=(*items[0].path, bytes(32)))
    refused(cohort, check(cohort, items), "OS-13", FaultReason.BAD_PATH)


@pytest.mark.parametrize("group", [b"", b"\x90", b"\x91\x90", b"\x91\x91\x90"])
def test_chunk_that_is_no_group_of_contributions_is_the_servers_fault(cohort, group) -> None:
    cohort.advance("Check")
    chunks = OutgoingChunks(lambda: [group])
    header = changed(cohort.request(ME).header, m.CheckRequest, groups=(max(1, len(group)),), content=chunks.digest())
    session = cohort.session(ME)
    with pytest.raises(ServerFault) as caught:
        session.handle(header, chunks)
    assert caught.value.reason in {FaultReason.MALFORMED, FaultReason.CHUNK_LENGTH}
    ends_well(cohort)


# -- opening -----------------------------------------------------------------------------------------------------------


def opening(cohort: OneShotCohort, contributors: tuple[int, ...]) -> Carried:
    cohort.advance("Opening")
    return opening_request(cohort, contributors, ME)


@pytest.mark.parametrize(
    ("contributors", "reason"),
    [
        ((0, 1, 1), FaultReason.DUPLICATE_PARTY),
        ((0, 0, 0), FaultReason.DUPLICATE_PARTY),
        ((1, 0, 2), FaultReason.NOT_ORDERED),
        ((0, 1, 2, 4), FaultReason.UNKNOWN_PARTY),
    ],
)
def test_os_14_contributors_twice_out_of_order_or_unknown_are_refused(cohort, contributors, reason) -> None:
    refused(cohort, opening(cohort, contributors), "OS-14", reason)


@pytest.mark.parametrize("contributors", [(), (3,), (0, 3)])
def test_os_15_fewer_contributors_than_the_minimum_are_refused(cohort, contributors) -> None:
    refused(cohort, opening(cohort, contributors), "OS-15", FaultReason.TOO_FEW)


def test_os_16_contributor_that_was_not_proposed_is_refused() -> None:
    cohort = OneShotCohort(5)
    cohort.dropping([Drop("c04", "Contribution")])
    header, chunks = opening(cohort, (0, 1, 2, 3, 4))
    with pytest.raises(ServerFault) as caught:
        cohort.session(ME).handle(header, chunks)
    assert (caught.value.rule, caught.value.reason) == ("OS-16", FaultReason.NOT_A_SUBSET)
    assert cohort.network.run().contributors == ("c00", "c01", "c02", "c03")


def test_os_16_contributor_whose_share_did_not_open_is_refused() -> None:
    cohort = OneShotCohort()
    deal_rubbish(cohort, "c00", [ME])
    cohort.advance("Check")
    answer = cohort.answer(ME)
    assert decoded(answer.header, m.CheckReply).complaints == (0,)
    header, chunks = opening_request(cohort, (0, 1, 2, 3), ME)
    with pytest.raises(ServerFault) as caught:
        cohort.session(ME).handle(header, chunks)
    assert (caught.value.rule, caught.value.reason) == ("OS-16", FaultReason.NOT_A_SUBSET)
    fields = m.opening_fields(cohort.server.session_id, m.OpeningRequest, 1)
    header = wire.encode(m.OpeningRequest(*fields, (1, 2, 3), (), NO_CHUNKS))
    reply = cohort.session(ME).handle(header)  # the set without it is opened; nothing is to be taken off
    assert len(decoded(reply.header, m.OpeningReply).share) == 15_892


def left_out(cohort: OneShotCohort) -> list[m.RelayedContribution]:
    """What the server relays again for the set without c00 and c04."""
    groups = [wire.decode_record(bytes(chunk)[8:], m.RelayedGroup) for chunk in opening(cohort, (1, 2, 3))[1]]
    return [item for group in groups for item in group.contributions]


def test_share_of_a_subset_is_the_sum_of_the_shares_in_it() -> None:
    """The member takes off what is left out; the result is what it would have added up."""
    cohort = OneShotCohort(5)
    replies = {party: cohort.answer(party) for party in cohort.identities}
    header, chunks = opening(cohort, (1, 2, 3))
    expected = sum(dealt(cohort, f"c0{index}", ME, replies[f"c0{index}"].chunks) for index in (1, 2, 3))
    message = decoded(cohort.answer(ME, header, chunks).header, m.OpeningReply)
    assert (unpack_share(message.share, 4101) == expected % np.uint64(PRIME)).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("one missing", FaultReason.TOO_FEW),
        ("all missing", FaultReason.TOO_FEW),
        ("one twice", FaultReason.NOT_A_SUBSET),
        ("a contributor's", FaultReason.NOT_A_SUBSET),
        ("another contribution", FaultReason.NOT_A_SUBSET),
        ("unknown", FaultReason.NOT_A_SUBSET),
    ],
)
def test_os_21_contributions_relayed_again_are_those_left_out_each_once(change, reason) -> None:
    cohort = OneShotCohort(5)
    items = left_out(cohort)
    assert [item.index for item in items] == [0, 4]
    contributor = relayed_records(cohort, ME)[1]
    other = msgspec.structs.replace(items[0], content=bytes(32))
    changes = {
        "one missing": items[:1],
        "all missing": [],
        "one twice": [*items, items[0]],
        "a contributor's": [*items, contributor],
        "another contribution": [other, items[1]],
        "unknown": [*items, msgspec.structs.replace(items[0], index=99)],
    }
    header = opening_request(cohort, (1, 2, 3), ME)[0]
    refused(cohort, relaying(header, m.OpeningRequest, changes[change]), "OS-21", reason)


def relayed_records(cohort: OneShotCohort, member: str) -> list[m.RelayedContribution]:
    """All that the server has for a member."""
    records = cohort.server.kept(outbox(member)).chunks()
    return [wire.decode_record(bytes(record), m.RelayedContribution) for record in records]


def test_os_13_share_relayed_again_is_the_one_that_was_checked() -> None:
    cohort = OneShotCohort(5)
    items = left_out(cohort)
    items[0] = msgspec.structs.replace(items[0], sealed_share=items[1].sealed_share)
    header = opening_request(cohort, (1, 2, 3), ME)[0]
    refused(cohort, relaying(header, m.OpeningRequest, items), "OS-13", FaultReason.BAD_PATH)


# -- blame -------------------------------------------------------------------------------------------------------------


def blamed(cohort: OneShotCohort) -> Carried:
    """A request for blame to a member that has opened."""
    cohort.advance("Opening")
    opened = decoded(cohort.answer(ME).header, m.OpeningReply)
    fields = m.opening_fields(cohort.server.session_id, m.BlameRequest, 1)
    header = wire.encode(m.BlameRequest(*fields, opened.contributors_hash, (), NO_CHUNKS))
    return relaying(header, m.BlameRequest, relayed_records(cohort, ME))


def test_os_22_blame_for_another_set_than_the_one_opened_is_refused(cohort) -> None:
    header, chunks = blamed(cohort)
    other = changed(header, m.BlameRequest, contributors_hash=bytes(32))
    refused(cohort, (other, chunks), "OS-22", FaultReason.NOT_A_SUBSET)


def test_os_21_blame_needs_every_contribution_of_the_set(cohort) -> None:
    header, _ = blamed(cohort)
    items = relayed_records(cohort, ME)
    refused(cohort, relaying(header, m.BlameRequest, items[1:]), "OS-21", FaultReason.TOO_FEW)


def test_blame_is_answered_once_with_combinations_of_the_shares_and_nothing_after(cohort) -> None:
    genuine = cohort.answer("c00")
    header, chunks = blamed(cohort)
    session = cohort.session(ME)
    reply = cohort.answer(ME, header, chunks)
    message = decoded(reply.header, m.BlameReply)
    values = unpack_share(message.combinations, 4 * 5).reshape(4, 5)
    coefficients = blame_coefficients(cohort.server.session_id, message.contributors_hash, 4096)
    share = [int(element) for element in dealt(cohort, "c00", ME, genuine.chunks)]
    for row in range(5):
        combined = sum(int(r) * v for r, v in zip(coefficients[row], share, strict=False)) + share[4096 + row]
        assert int(values[0, row]) == combined % PRIME
    assert cohort.answer(ME, header, chunks).trailer == reply.trailer
    for late in (opening_request(cohort, (0, 1, 2, 3), ME), relaying(header, m.BlameRequest, [])):
        with pytest.raises(ServerFault) as caught:
            session.handle(*late)
        assert caught.value.rule == "PT-8"


def test_member_that_did_not_open_answers_no_blame(cohort) -> None:
    header, chunks = blamed(cohort)
    with pytest.raises(ServerFault) as caught:
        cohort.session("c00").handle(header, chunks)
    assert caught.value.rule == "PT-8"


# -- roles, keys, defaults ---------------------------------------------------------------------------------------------


def test_member_needs_its_committee_key_and_the_rosters(cohort) -> None:
    plain = Identity(ME, cohort.identities[ME].signing_key)
    arguments = {"entropy": cohort.entropies[ME], "store": MemoryStore()}
    with pytest.raises(UsageError, match="no committee key"):
        oneshot.party(Role.COMMITTEE, plain, cohort.roster, POLICY, **arguments)
    other = oneshot.CommitteeIdentity(ME, plain.signing_key, committee_key("another"))
    with pytest.raises(UsageError, match="another sealing key"):
        oneshot.party(Role.COMMITTEE, other, cohort.roster, POLICY, **arguments)
    with pytest.raises(UsageError, match="no role 'key_holder'"):
        oneshot.party(Role.KEY_HOLDER, plain, cohort.roster, POLICY, **arguments)


def test_member_that_the_roster_does_not_know_refuses_at_its_first_request(cohort) -> None:
    cohort.advance("Check")
    stranger = OneShotCohort(5).identities["c04"]
    session = oneshot.party(
        Role.COMMITTEE, stranger, cohort.roster, POLICY, entropy=cohort.entropies[ME], store=MemoryStore()
    )
    with pytest.raises(PeerFault) as caught:
        session.handle(cohort.request(ME).header)
    assert caught.value.rule == "OS-9"


def test_revoked_members_and_members_without_sealing_key_are_not_on_the_committee() -> None:
    cohort = OneShotCohort(5, members=4)
    assert [member.id for member in pinned_committee(cohort.roster)] == ["c00", "c01", "c02", "c03"]
    revoked = [msgspec.structs.replace(member, revoked=member.id == "c01") for member in cohort.roster]
    assert [member.id for member in pinned_committee(Roster(revoked))] == ["c00", "c02", "c03"]


def test_roster_with_a_bad_or_repeated_sealing_key_is_refused(cohort) -> None:
    members = list(cohort.roster)
    for bad in (b"\x01", b"\xff" * 1216, members[0].sealing_key[:-32] + bytes(32)):
        roster = Roster([Member(members[0].id, members[0].identity_key, bad), *members[1:]])
        with pytest.raises(UsageError, match="roster: sealing key of 'c00'"):
            pinned_committee(roster)
    repeated = Member(members[0].id, members[0].identity_key, members[1].sealing_key)
    with pytest.raises(UsageError, match="share one sealing key"):
        pinned_committee(Roster([repeated, *members[1:]]))


def test_parameters_have_the_designs_defaults(cohort) -> None:
    parameters = cohort.parameters
    assert (parameters.collusion_bound, parameters.threshold, parameters.minimum_contributors) == (1, 3, 3)
    known = {(4, 1, 1): 3, (7, 2, 1): 5, (7, 2, 2): 6, (10, 3, 1): 7, (1, 0, 1): 2}
    assert {case: committee_threshold(*case) for case in known} == known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2}, "OS-4"),
        ({"threshold": 4}, "OS-5"),
        ({"lattice": 9}, "OS-6"),
        ({"packed": 2}, "OS-5"),
        ({"members": 1}, "OS-5"),
        ({"bits": 7}, "modulus_bits"),
    ],
)
def test_server_does_not_propose_what_parties_refuse(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        OneShotCohort(**options)


@pytest.mark.parametrize("size", [3, 4, 7, 10])
@pytest.mark.parametrize("packed", [1, 2])
def test_two_openings_need_more_than_c_liars(size: int, packed: int) -> None:
    """Whatever t passes OS-4: c colluders and all ways to split the others leave one set with t - l shares at most."""
    collusion = size // 3
    least = committee_threshold(size, collusion, packed)
    for honest_to_first in range(size - collusion + 1):
        shares = sorted([honest_to_first + collusion, size - honest_to_first])
        assert shares[0] <= least - packed
    if least > packed + 1:  # and one less would not do
        worst = max(min(first + collusion, size - first) for first in range(size - collusion + 1))
        assert worst > least - 1 - packed


@pytest.mark.parametrize("vector", ["bits", "bound", "dtype", "length"])
def test_vector_that_does_not_fit_is_refused_and_the_answer_is_not_used_up(vector) -> None:
    cohort = OneShotCohort(value_bound=1000)
    good = cohort.vectors[ME]
    header = cohort.request(ME).header

    class Source:
        length = len(good)

        def read(self, start: int, stop: int):
            return good[start:stop].astype(np.int32) if vector == "dtype" else good[start : stop - 1]

    bad = {"bits": ArraySource(good | np.uint32(1 << 20)), "bound": ArraySource(np.full(len(good), 1001, np.uint32))}
    with pytest.raises(UsageError, match="vector: entries 0 to 150"):
        cohort.session(ME).handle(header, vector=bad.get(vector, Source()))
    assert cohort.stores[ME]._records == {}
    ends_well(cohort)


def test_signed_reply_of_a_client_is_what_the_committee_verifies(cohort) -> None:
    """`contribution_digest` is that of what is relayed; it is the very digest that the shell signed."""
    reply = cohort.answer(ME)
    content = ContentDigest()
    for chunk in reply.chunks:
        content.update(chunk)
    digest = m.contribution_digest(cohort.server.session_id, reply.header, content.digest())
    cohort.roster.verify(ME, digest, reply.trailer)
    again = signed_reply(cohort.identities[ME], cohort.server.session_id, m.CONTRIBUTION, reply.header, reply.chunks)
    assert again.trailer == reply.trailer

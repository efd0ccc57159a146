"""Each rule of clients and members (OS-1 to OS-16), broken alone on real bytes by a malicious server."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from oneshot_cohort import (
    POLICY,
    OneShotCohort,
    announcement,
    committee_key,
    dealt_badly,
    ends_well,
    opening_request,
    policy_refused,
    reannounced,
    refused_by_party,
)

from protocols import oneshot
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault, UsageError
from protocols.identity import Identity, Member, Role, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import check_agreement, committee_threshold, pinned_committee
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy
from protocols.shape import ArraySource
from protocols.signed import ContentDigest
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import Drop
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


def test_os_7_cohort_whose_shares_do_not_fit_one_request_is_refused() -> None:
    """Each member gets all its shares in one request: 64 MiB hold those of some 3,800 clients at l = 1."""
    cohort = OneShotCohort()
    others = [Identity(f"d{i:04}", SigningKey(i.to_bytes(32, "big"))).member() for i in range(3900)]
    roster = Roster([*cohort.roster, *others])
    for number, fits in ((3600, True), (3900, False)):
        parameters = msgspec.structs.replace(
            cohort.parameters, cohort=tuple(member.id for member in others[:number]), roster_hash=roster.digest()
        )
        if fits:
            assert check_agreement(parameters, roster, 1).share_elements == 4096
        else:
            with pytest.raises(PolicyRefused) as caught:
                check_agreement(parameters, roster, 1)
            assert (caught.value.rule, caught.value.what) == ("OS-7", "cohort size")


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
        session.handle(cohort.request("c00").header)
    assert (caught.value.rule, caught.value.reason) == ("OS-9", FaultReason.UNKNOWN_PARTY)


@pytest.mark.parametrize("extension", [b"", b"\x90", b"\x94\x90\x01\x01\x00\x00"])
def test_extension_that_is_none_is_refused(cohort, extension) -> None:
    session = cohort.fresh_party(Role.CLIENT, ME)
    with pytest.raises(ServerFault) as caught:
        session.inspect(announcement(cohort, extension=extension))
    assert caught.value.reason is FaultReason.MALFORMED


# -- check -------------------------------------------------------------------------------------------------------------


def relayed(cohort: OneShotCohort) -> list[m.RelayedContribution]:
    cohort.advance("Check")
    return list(decoded(cohort.request(ME).header, m.CheckRequest).contributions)


def check(cohort: OneShotCohort, items: list[m.RelayedContribution]) -> bytes:
    return changed(cohort.request(ME).header, m.CheckRequest, contributions=tuple(items))


def test_os_10_contribution_proposed_twice_is_refused(cohort) -> None:
    items = relayed(cohort)
    refused_by_party(cohort, ME, check(cohort, [items[0], *items]), "OS-10", FaultReason.DUPLICATE_PARTY)


def test_os_10_one_client_listed_three_times_does_not_make_three_contributors(cohort) -> None:
    items = relayed(cohort)
    refused_by_party(cohort, ME, check(cohort, [items[0]] * 3), "OS-10", FaultReason.DUPLICATE_PARTY)


def test_os_10_contributions_out_of_order_are_refused(cohort) -> None:
    items = relayed(cohort)
    refused_by_party(cohort, ME, check(cohort, items[::-1]), "OS-10", FaultReason.NOT_ORDERED)


def test_os_10_contribution_of_an_unknown_client_is_refused(cohort) -> None:
    items = relayed(cohort)
    items[-1] = msgspec.structs.replace(items[-1], index=4)
    refused_by_party(cohort, ME, check(cohort, items), "OS-10", FaultReason.UNKNOWN_PARTY)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_os_11_fewer_contributions_than_the_minimum_are_refused(cohort, number) -> None:
    refused_by_party(cohort, ME, check(cohort, relayed(cohort)[:number]), "OS-11", FaultReason.TOO_FEW)


def test_os_12_contribution_that_its_client_did_not_sign_is_refused(cohort) -> None:
    items = relayed(cohort)
    for field in ("content", "shares_root"):
        forged = [msgspec.structs.replace(items[0], **{field: bytes(32)}), *items[1:]]
        session = cohort.session(ME)
        with pytest.raises(ServerFault) as caught:
            session.handle(check(cohort, forged))
        assert (caught.value.rule, caught.value.reason) == ("OS-12", FaultReason.BAD_SIGNATURE)
    items[0] = msgspec.structs.replace(items[0], signature=items[1].signature)
    refused_by_party(cohort, ME, check(cohort, items), "OS-12", FaultReason.BAD_SIGNATURE)


def test_os_12_contribution_to_another_session_is_refused(cohort) -> None:
    items = relayed(cohort)
    items[0] = relayed(OneShotCohort(nonce=b"\x01" * 32))[0]
    refused_by_party(cohort, ME, check(cohort, items), "OS-12", FaultReason.BAD_SIGNATURE)


def test_os_13_share_that_is_not_in_the_signed_tree_is_refused(cohort) -> None:
    items = relayed(cohort)
    other = bytes(len(items[0].sealed_share))
    items[0] = msgspec.structs.replace(items[0], sealed_share=other)
    refused_by_party(cohort, ME, check(cohort, items), "OS-13", FaultReason.BAD_PATH)


def test_os_13_share_of_another_member_is_refused(cohort) -> None:
    items = relayed(cohort)
    others = decoded(cohort.request("c00").header, m.CheckRequest).contributions
    items[0] = others[0]
    refused_by_party(cohort, ME, check(cohort, items), "OS-13", FaultReason.BAD_PATH)


def test_os_13_path_of_another_length_is_refused(cohort) -> None:
    items = relayed(cohort)
    items[0] = msgspec.structs.replace(items[0], path=(*items[0].path, bytes(32)))
    refused_by_party(cohort, ME, check(cohort, items), "OS-13", FaultReason.BAD_PATH)


# -- opening -----------------------------------------------------------------------------------------------------------


def opening(cohort: OneShotCohort, contributors: tuple[int, ...]) -> bytes:
    cohort.advance("Opening")
    return changed(cohort.request(ME).header, m.OpeningRequest, contributors=contributors)


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
    refused_by_party(cohort, ME, opening(cohort, contributors), "OS-14", reason)


@pytest.mark.parametrize("contributors", [(), (3,), (0, 3)])
def test_os_15_fewer_contributors_than_the_minimum_are_refused(cohort, contributors) -> None:
    refused_by_party(cohort, ME, opening(cohort, contributors), "OS-15", FaultReason.TOO_FEW)


def test_os_16_contributor_that_was_not_proposed_is_refused() -> None:
    cohort = OneShotCohort(5)
    cohort.dropping([Drop("c04", "Contribution")])
    cohort.advance("Opening")
    session = cohort.session(ME)
    with pytest.raises(ServerFault) as caught:
        session.handle(opening(cohort, (0, 1, 2, 3, 4)))
    assert (caught.value.rule, caught.value.reason) == ("OS-16", FaultReason.NOT_A_SUBSET)
    assert cohort.network.run().contributors == ("c00", "c01", "c02", "c03")


def test_os_16_contributor_whose_share_did_not_open_is_refused() -> None:
    cohort = OneShotCohort()
    cohort.advance("Check")
    cohort.server._phase.contributions[0] = dealt_badly(cohort, "c00", bad_for=[MY_INDEX])
    answer = cohort.answer(ME)
    assert decoded(answer.header, m.CheckReply).complaints == (0,)
    with pytest.raises(ServerFault) as caught:
        cohort.session(ME).handle(opening_request(cohort, (0, 1, 2, 3)))
    assert (caught.value.rule, caught.value.reason) == ("OS-16", FaultReason.NOT_A_SUBSET)
    reply = cohort.session(ME).handle(opening_request(cohort, (1, 2, 3)))  # the set without it is opened
    assert len(decoded(reply.header, m.OpeningReply).share) == 15_872


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
    with pytest.raises(UsageError, match="vector: chunk 0"):
        cohort.session(ME).handle(header, vector=bad.get(vector, Source()))
    assert cohort.stores[ME]._records == {}
    ends_well(cohort)


def test_signed_reply_of_a_client_is_what_the_committee_verifies(cohort) -> None:
    """`contribution_digest` is rebuilt from root and content; it is the very digest that the shell signed."""
    reply = cohort.answer(ME)
    content = ContentDigest()
    for chunk in reply.chunks:
        content.update(chunk)
    root = decoded(reply.header, m.ContributionReply).shares_root
    digest = m.contribution_digest(cohort.server.session_id, ME, root, content.digest())
    cohort.roster.verify(ME, digest, reply.trailer)
    again = signed_reply(cohort.identities[ME], cohort.server.session_id, m.CONTRIBUTION, reply.header, reply.chunks)
    assert again.trailer == reply.trailer

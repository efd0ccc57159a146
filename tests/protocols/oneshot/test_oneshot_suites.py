"""Whole sessions in every suite; parties without the suite's keys are refused by name."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from oneshot_cohort import (
    STORAGE_KEY,
    OneShotCohort,
    announcement,
    committee_key,
    policy_refused,
    post_quantum_key,
    reannounced,
    refused_by_party,
    refused_by_server,
    relayed,
    relaying,
)

from protocols import oneshot, wire
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Role, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.sealing import CommitteeIdentity
from protocols.session import ClientPolicy
from protocols.shape import Reply
from protocols.suites import SUITES, SealingKem
from protocols.testing.malformed import changed, signed_reply
from protocols.testing.network import Drop

ME = "c02"
EVERY = ClientPolicy(protocols=frozenset({"oneshot"}), suites=frozenset(SUITES))


def of(suite: int, size: int = 4, **options) -> OneShotCohort:
    return OneShotCohort(size, suite=suite, policy=EVERY, **options)


@pytest.mark.parametrize("suite", SUITES)
def test_sum_is_exact_in_every_suite_with_a_client_lost_and_all_restored(suite: int) -> None:
    cohort = of(suite)
    cohort.dropping([Drop("c03", "Contribution")])
    while cohort.server.phase is not None:
        cohort.restore_server()
        for party, organisation in cohort.parties.items():
            for role, session in list(organisation.sessions.items()):
                cohort.restore_party(role, party, session.save(STORAGE_KEY))
        cohort.network.run_phase()
    aggregate = cohort.server.result()
    assert aggregate.contributors == ("c00", "c01", "c02")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert cohort.network.refusals == []


@pytest.mark.parametrize(("suite", "sealed", "trailer"), [(1, 1136, 64), (2, 48, 64), (3, 1136, 3373)])
def test_sizes_follow_the_suite(suite: int, sealed: int, trailer: int) -> None:
    cohort = of(suite)
    assert cohort.server.reply_limits().trailer == trailer
    reply = cohort.answer(ME)
    share = Agreement.of(cohort.parameters).sealed_share_bytes
    assert len(reply.chunks[0]) == 8 + share  # of 4096 elements and five blindings
    assert (share - 15_892, len(reply.trailer)) == (sealed, trailer)
    cohort.advance("Check")
    items = relayed(cohort, ME)
    assert {len(item.signature) for item in items} == {trailer}
    bound = Agreement.of(cohort.parameters).relayed_bytes
    assert 0 < bound - max(len(wire.encode(item)) for item in items) < 2048


def test_classical_suite_is_refused_by_a_party_whose_floor_is_higher() -> None:
    header = announcement(of(1), suite=2)
    policy_refused(OneShotCohort(), Role.CLIENT, ME, header, "SP-2")


def test_default_policy_takes_the_default_suite_alone() -> None:
    cohort = of(3)
    cohort.policy = ClientPolicy(protocols=frozenset({"oneshot"}))
    policy_refused(cohort, Role.CLIENT, ME, cohort.request(ME).header, "SP-2")


# -- keys that are missing ---------------------------------------------------------------------------------------------


def test_sp_10_client_without_ml_dsa_key_is_refused_by_name() -> None:
    """Five silos, four on the committee; c04 has no ML-DSA key, and the server proposes suite 3 all the same."""
    cohort = of(1, 5, members=4)
    with_keys = [
        msgspec.structs.replace(line, post_quantum_key=post_quantum_key(line.id).public if line.id != "c04" else b"")
        for line in cohort.roster
    ]
    cohort.roster = Roster(with_keys)
    header = announcement(cohort, suite=3, roster_hash=cohort.roster.digest())
    refusal = policy_refused(cohort, Role.CLIENT, ME, header, "SP-10")
    assert (refusal.what, refusal.proposed) == ("cohort", "c04")
    without = tuple(party for party in cohort.parameters.cohort if party != "c04")
    header = announcement(cohort, suite=3, roster_hash=cohort.roster.digest(), cohort=without)
    cohort.identities[ME] = CommitteeIdentity(
        ME, cohort.identities[ME].signing_key, committee_key(ME), post_quantum_key=post_quantum_key(ME)
    )
    assert cohort.fresh_party(Role.CLIENT, ME).inspect(header).vector


@pytest.mark.parametrize(
    ("suite", "proposed"), [(1, "'c00' with a key of another kind"), (3, "'c00' with a key of another kind")]
)
def test_os_17_member_with_a_sealing_key_of_another_kem_is_refused_by_name(suite: int, proposed: str) -> None:
    cohort = of(suite)
    classical = committee_key("c00", SealingKem.X25519).public
    lines = [
        msgspec.structs.replace(line, sealing_key=classical) if line.id == "c00" else line for line in cohort.roster
    ]
    cohort.roster = Roster(lines)
    header = announcement(cohort, roster_hash=cohort.roster.digest())
    refusal = policy_refused(cohort, Role.CLIENT, ME, header, "OS-17")
    assert (refusal.what, refusal.proposed) == ("committee", proposed)


def test_os_17_hybrid_keys_are_refused_in_the_classical_suite() -> None:
    cohort = of(1)
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, suite=2), "OS-17")


def test_os_17_member_without_ml_dsa_key_is_refused_by_name_and_by_members() -> None:
    """c04 is on the committee alone: not in the cohort, so that SP-10 does not see it."""
    cohort = of(3, 5)
    lines = [
        msgspec.structs.replace(line, post_quantum_key=b"") if line.id == "c04" else line for line in cohort.roster
    ]
    without = cohort.parameters.cohort[:4]
    cohort.advance("Check")
    check = cohort.request(ME).header
    cohort.roster = Roster(lines)
    fields = {"roster_hash": cohort.roster.digest(), "cohort": without}
    refusal = policy_refused(cohort, Role.COMMITTEE, ME, reannounced(cohort, check, m.CheckRequest, **fields), "OS-17")
    assert (refusal.what, refusal.proposed) == ("committee", "'c04' without one")


@pytest.mark.parametrize("role", [Role.CLIENT, Role.COMMITTEE])
def test_party_whose_own_ml_dsa_key_is_missing_says_so_before_it_trains(role: Role) -> None:
    cohort = of(3)
    if role is Role.COMMITTEE:
        cohort.advance("Check")
    request = cohort.request(ME)
    keys = cohort.identities[ME]
    cohort.identities[ME] = CommitteeIdentity(ME, keys.signing_key, committee_key(ME))
    session = cohort.fresh_party(role, ME)
    records = dict(cohort.stores[ME]._records)
    for asked in (lambda: session.inspect(request.header), lambda: session.handle(request.header, request.chunks)):
        with pytest.raises(UsageError, match="'c02' has no ML-DSA key, which suite 3 needs"):
            asked()
    assert cohort.stores[ME]._records == records


def test_session_saved_with_an_ml_dsa_key_is_not_restored_without() -> None:
    cohort = of(3)
    cohort.answer(ME)
    blob = cohort.session(ME).save(STORAGE_KEY)
    cohort.identities[ME] = Identity(ME, cohort.identities[ME].signing_key)
    with pytest.raises(UsageError, match="has no ML-DSA key"):
        cohort.restore_party(Role.CLIENT, ME, blob)


def test_identity_with_another_ml_dsa_key_than_the_rosters_is_refused() -> None:
    cohort = of(3)
    keys = cohort.identities[ME]
    cohort.identities[ME] = Identity(ME, keys.signing_key, post_quantum_key=post_quantum_key("another"))
    with pytest.raises(UsageError, match="another ML-DSA key for 'c02'"):
        cohort.fresh_party(Role.CLIENT, ME)


@pytest.mark.parametrize(
    ("suite", "changes", "message"),
    [
        (4, {}, "suite: 4; known: 1, 2, 3"),
        (2, {}, "OS-17"),
        (3, {"post_quantum_key": b""}, "OS-17"),
        (1, {"sealing_key": committee_key("c00", SealingKem.X25519).public}, "OS-17"),
    ],
)
def test_server_proposes_no_suite_that_the_roster_has_no_keys_for(suite: int, changes: dict, message: str) -> None:
    cohort = of(3 if suite == 3 else 1)
    lines = [msgspec.structs.replace(line, **changes) if line.id == "c00" else line for line in cohort.roster]
    with pytest.raises(UsageError, match=message):
        oneshot.parameters(
            Roster(lines),
            cohort.parameters.cohort,
            nonce=bytes(32),
            run_id="run",
            round_number=1,
            modulus_bits=16,
            vector_length=10,
            context_hash=bytes(32),
            suite=suite,
        )


def test_server_refuses_a_client_without_ml_dsa_key() -> None:
    cohort = of(3, 5, members=4)
    lines = [
        msgspec.structs.replace(line, post_quantum_key=b"") if line.id == "c04" else line for line in cohort.roster
    ]
    roster = Roster(lines)
    parameters = msgspec.structs.replace(cohort.parameters, roster_hash=roster.digest())
    with pytest.raises(UsageError, match="cohort: 'c04' has no ML-DSA key in the roster, which suite 3 needs"):
        oneshot.server(parameters, roster)


# -- forgeries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["Ed25519 alone", "ML-DSA alone", "other ML-DSA", "other Ed25519"])
def test_sv_5_contribution_with_half_a_signature_is_refused(part: str) -> None:
    cohort = of(3)
    genuine, other = cohort.answer(ME), cohort.answer("c01")
    mine, theirs = genuine.trailer, other.trailer
    trailer = {
        "Ed25519 alone": mine[:64],
        "ML-DSA alone": mine[64:],
        "other ML-DSA": mine[:64] + theirs[64:],
        "other Ed25519": theirs[:64] + mine[64:],
    }[part]
    forged = Reply(genuine.party, genuine.header, genuine.chunks, trailer)
    refused_by_server(cohort, forged, "SV-5", FaultReason.BAD_SIGNATURE, "peer")


def test_suite_of_a_reply_cannot_be_lowered() -> None:
    """The header's suite is the session's, or it is refused; so is what another suite's signature vouches for."""
    cohort = of(3)
    genuine = cohort.answer(ME)
    lowered = changed(genuine.header, m.ContributionReply, suite=1)
    with pytest.raises(PeerFault) as caught:
        cohort.server.begin(lowered)
    assert caught.value.rule == "SV-2"
    classical = signed_reply(
        cohort.identities[ME], cohort.server.session_id, m.CONTRIBUTION, genuine.header, genuine.chunks
    )
    refused_by_server(cohort, classical, "SV-5", FaultReason.BAD_SIGNATURE, "peer")


def test_request_of_another_suite_is_another_session() -> None:
    cohort = of(3)
    header = changed(cohort.request(ME).header, m.ContributionRequest, suite=1)
    refused_by_party(cohort, ME, header, "PT-5", FaultReason.MALFORMED)


def test_seeds_stand_in_no_saved_session_message_or_repr() -> None:
    cohort = of(3)
    shown = []
    while cohort.server.phase is not None:
        cohort.network.run_phase()
        for organisation in cohort.parties.values():
            shown += [repr(organisation).encode()]
            for session in organisation.sessions.values():
                shown += [session.save(STORAGE_KEY), repr(session).encode(), repr(session.__dict__).encode()]
    everything = b"".join([*shown, *(item[3] for item in cohort.network.transcript)])
    for party in cohort.identities:
        seed = post_quantum_key(party).private_bytes()
        assert post_quantum_key(party).public == cohort.roster.member(party).post_quantum_key
        for form in (seed, seed.hex().encode(), repr(seed).encode()):
            assert form not in everything


def test_os_12_member_verifies_both_signatures() -> None:
    """A contribution whose ML-DSA half is another client's, or missing: the server that relays it is refused."""
    cohort = of(3)
    cohort.advance("Check")
    items = relayed(cohort, ME)
    first = items[0].signature
    for signature in (first[:64] + items[1].signature[64:], first[:64], items[1].signature[:64] + first[64:]):
        forged = [msgspec.structs.replace(items[0], signature=signature), *items[1:]]
        header, chunks = relaying(cohort.request(ME).header, m.CheckRequest, forged)
        refused_by_party(cohort, ME, header, "OS-12", FaultReason.BAD_SIGNATURE, chunks=chunks)
        cohort = of(3)
        cohort.advance("Check")

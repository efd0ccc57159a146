"""A server that does what it likes, with up to c clients in league, against the honest clients' real sessions."""

from __future__ import annotations

import msgspec
import pytest

from protocols import secagg, wire
from protocols.errors import FaultReason, PolicyRefused, ProtocolError, ServerFault, ThresholdNotMet
from protocols.identity import Role
from protocols.primitives import merkle
from protocols.secagg import messages as m
from protocols.secagg.agreement import quorum
from protocols.session import ClientPolicy, SessionId
from protocols.shape import Reply
from protocols.signed import NO_CHUNKS, reply_digest
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import changed, decoded, signed_reply

EVERYBODY = tuple(range(7))
LARGE, SMALL = (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 6)


def check_request(cohort: Cohort, contributors: tuple[int, ...]) -> bytes:
    fields = m.opening_fields(cohort.server.session_id, m.ConsistencyCheckRequest)
    return wire.encode(m.ConsistencyCheckRequest(*fields, contributors))


def unmask_request(cohort: Cohort, contributors: tuple[int, ...], signed: dict[int, bytes]) -> bytes:
    fields = m.opening_fields(cohort.server.session_id, m.UnmaskRequest)
    sets = tuple(m.SignedSet(index, signed[index]) for index in sorted(signed))
    return wire.encode(m.UnmaskRequest(*fields, contributors, sets))


def colluder_signature(cohort: Cohort, index: int, contributors: tuple[int, ...], root: bytes) -> bytes:
    """A client in league with the server signs any set."""
    party = cohort.parameters.client(index)
    header = m.consistency_header(cohort.server.session_id, party, m.contributors_hash(root, contributors))
    return signed_reply(cohort.identities[party], cohort.server.session_id, "ConsistencyCheck", header, ()).trailer


def split(cohort: Cohort, views: dict[tuple[int, ...], list[int]]) -> dict[tuple[int, ...], dict[int, bytes]]:
    """Show each set to the clients that are to sign it; keep the signatures of those that do."""
    cohort.advance("ConsistencyCheck")
    signed: dict[tuple[int, ...], dict[int, bytes]] = {}
    for contributors, clients in views.items():
        for index in clients:
            try:
                reply = cohort.parties[f"c0{index}"].handle(check_request(cohort, contributors))
            except ProtocolError:
                continue
            signed.setdefault(contributors, {})[index] = reply.trailer
    return signed


def test_server_that_splits_the_cohort_has_no_quorum_for_either_set() -> None:
    cohort = Cohort(7)
    assert (cohort.parameters.collusion_bound, quorum(cohort.parameters), cohort.parameters.threshold) == (2, 5, 5)
    signed = split(cohort, {LARGE: [0, 1, 2, 5], SMALL: [3, 4, 6]})
    assert {contributors: len(by) for contributors, by in signed.items()} == {LARGE: 4, SMALL: 3}
    for contributors, by in signed.items():
        for index in contributors:
            with pytest.raises(ServerFault) as caught:
                cohort.parties[f"c0{index}"].handle(unmask_request(cohort, contributors, by))
            assert caught.value.reason is FaultReason.TOO_FEW


def test_two_quorums_need_more_than_c_colluders_and_are_then_proven_by_every_honest_client_they_are_shown_to() -> None:
    """c = 2 colluders (c00, c01) sign both sets; two quorums would take 5 + 5 - 2 * 2 = 6 of the 5 honest clients."""
    cohort = Cohort(7)
    signed = split(cohort, {LARGE: [2, 3, 5], SMALL: [4, 6]})
    root = cohort.parties["c02"]._state.root
    for contributors in (LARGE, SMALL):
        for index in (0, 1):
            signed[contributors][index] = colluder_signature(cohort, index, contributors, root)
    assert (len(signed[LARGE]), len(signed[SMALL])) == (5, 4)
    cohort.parties["c02"].handle(unmask_request(cohort, LARGE, signed[LARGE]))
    with pytest.raises(ServerFault) as too_few:
        cohort.parties["c04"].handle(unmask_request(cohort, SMALL, signed[SMALL]))
    assert too_few.value.reason is FaultReason.TOO_FEW
    # c04 signed the small set. Shown the large one with its quorum, it keeps its share and gains a proof.
    with pytest.raises(ServerFault) as caught:
        cohort.parties["c04"].handle(unmask_request(cohort, LARGE, signed[LARGE]))
    assert (caught.value.reason, caught.value.culprit()) == (FaultReason.SPLIT_VIEW, "server")
    evidence = caught.value.evidence
    signatures = list(zip(evidence[::2], evidence[1::2], strict=True))
    hashes, signers = set(), []
    for header, signature in signatures:
        message = decoded(header, m.ConsistencyCheckReply)
        digest = reply_digest(SessionId(message.session_id), "ConsistencyCheck", header, NO_CHUNKS)
        cohort.roster.verify(message.party, digest, signature)
        hashes.add(message.contributors_hash)
        signers.append(message.party)
    assert len(hashes) == 2
    # This client's own signature over its set, and a quorum's over the other: more than could all be in league.
    assert signers[0] == "c04"
    assert len(set(signers[1:])) == quorum(cohort.parameters) > cohort.parameters.collusion_bound


def test_evidence_of_a_split_view_is_worth_nothing_if_it_is_forged() -> None:
    cohort = Cohort(7)
    cohort.advance("ConsistencyCheck")
    header = m.consistency_header(cohort.server.session_id, "c03", bytes(32))
    digest = reply_digest(cohort.server.session_id, "ConsistencyCheck", header, NO_CHUNKS)
    with pytest.raises(ProtocolError):
        cohort.roster.verify("c03", digest, cohort.identities["c04"].signing_key.sign(digest))


def test_client_is_never_survivor_to_some_and_dropout_to_others() -> None:
    """To get both secrets of c06, the server needs t shares of each kind: nobody gives two kinds, nobody splits."""
    cohort = Cohort(7)
    without = (0, 1, 2, 3, 4, 5)
    signed = split(cohort, {EVERYBODY: [0, 1, 2, 6], without: [3, 4, 5]})
    root = cohort.parties["c03"]._state.root
    given: dict[str, int] = {"seed": 0, "masking key": 0}
    for contributors in (EVERYBODY, without):
        for index in (0, 1):  # the colluders sign anything
            signed[contributors][index] = colluder_signature(cohort, index, contributors, root)
        for index in contributors:
            try:
                cohort.parties[f"c0{index}"].handle(unmask_request(cohort, contributors, signed[contributors]))
            except ServerFault:
                continue
            given["seed" if contributors == EVERYBODY else "masking key"] += 1
    # With 2 colluders the smaller set has its quorum of 5, and c06's masking key can be rebuilt: it is a dropout. The
    # larger set has 4 signatures whatever the server does, so its seed, 2 shares of 5, stays closed.
    assert given == {"seed": 0, "masking key": 3}


def test_request_cannot_express_which_kind_of_share_is_wanted() -> None:
    assert m.UnmaskRequest.__struct_fields__[5:] == ("contributors", "signatures")
    cohort = Cohort(5)
    cohort.advance("Unmask")
    header = cohort.request("c00").header
    for extra in ([0], {"0": "both"}, b"both"):
        fields = [*msgspec.msgpack.decode(header), extra]
        with pytest.raises(ServerFault) as caught:
            cohort.parties["c00"].handle(msgspec.msgpack.encode(fields))
        assert caught.value.reason is FaultReason.MALFORMED


def test_two_sets_of_advertisements_leave_no_half_large_enough() -> None:
    """Two T0 in one session: shares of one half do not open in the other, and neither half reaches the threshold."""
    cohort = Cohort(7)
    cohort.advance("ShareKeys")
    items = decoded(cohort.request("c00").header, m.ShareKeysRequest).advertisements
    views = {}
    for members in ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 6)):
        chosen = tuple(items[index] for index in members)
        leaves = m.advertisement_leaves(range(7), chosen)
        root = m.advertisements_root(cohort.server.session_id, merkle.root(list(leaves.values())))
        views[members] = changed(cohort.request("c00").header, m.ShareKeysRequest, advertisements=chosen, root=root)
    first, second = views.values()
    replies: dict[int, Reply] = {}
    for index, header in ((0, first), (1, first), (2, first), (5, first), (3, second), (4, second), (6, second)):
        replies[index] = cohort.parties[f"c0{index}"].handle(header)
    for receiver in (0, 3):
        inbox = []
        for sender, reply in sorted(replies.items()):
            inbox += [
                m.SealedShares(sender, item.ciphertext)
                for item in decoded(reply.header, m.ShareKeysReply).shares
                if item.index == receiver
            ]
        fields = m.opening_fields(cohort.server.session_id, m.MaskedInputRequest)
        header = wire.encode(m.MaskedInputRequest(*fields, tuple(inbox)))
        party = f"c0{receiver}"
        with pytest.raises(ProtocolError) as caught:
            cohort.parties[party].handle(header, vector=cohort.sources()[party])
        assert caught.value.rule in {"SA-13", "SA-16"}


def test_different_models_for_different_clients_give_no_sum() -> None:
    """The context hash is in the session id: whoever is told another model is in another session."""
    cohort = Cohort(5)
    other = msgspec.structs.replace(cohort.parameters, context_hash=b"\x01" * 32)
    fields = m.opening_fields(other.session_id(), m.AdvertiseKeysRequest)
    header = wire.encode(m.AdvertiseKeysRequest(*fields, other.to_bytes()))
    assert cohort.parties["c00"].inspect(header).context_hash == b"\x01" * 32
    for party in ("c00", "c01"):
        cohort.parties[party].handle(header)
    with pytest.raises(ThresholdNotMet) as caught:
        cohort.network.run()
    assert (caught.value.phase, caught.value.present) == ("AdvertiseKeys", 3)
    assert {(party, error.rule) for _, party, error in cohort.network.refusals} == {("c00", "PT-7"), ("c01", "PT-7")}


def test_sum_below_the_minimum_of_contributors_is_never_opened() -> None:
    cohort = Cohort(5, minimum_contributors=5)
    cohort.advance("ConsistencyCheck")
    for party in cohort.parties.values():
        with pytest.raises(ServerFault) as caught:
            party.handle(check_request(cohort, (0, 1, 2, 3)))
        assert caught.value.rule in {"SA-19", "SA-21"}


def test_client_that_was_started_anew_within_a_session_takes_no_further_part() -> None:
    """Same round opened twice, client restarted in between, its blob lost: nothing but a dropout."""
    cohort = Cohort(5)
    cohort.advance("MaskedInput")
    header = cohort.request("c00").header
    announcement = wire.encode(
        m.AdvertiseKeysRequest(
            *m.opening_fields(cohort.server.session_id, m.AdvertiseKeysRequest), cohort.parameters.to_bytes()
        )
    )
    cohort.parties["c00"] = cohort.fresh_party("c00")
    for raw in (header, announcement):
        with pytest.raises(ProtocolError):
            cohort.parties["c00"].handle(raw)
    aggregate = cohort.network.run()
    assert "c00" not in aggregate.contributors
    assert (aggregate.sum == cohort.total(aggregate.contributors)).all()


def test_weak_parameters_are_refused_by_each_client_on_its_own() -> None:
    """Threshold 1, modulus 2, cohort of one, no collusion, two contributors: each alone, everything else right."""
    cohort = Cohort(5)
    weak: list[dict[str, object]] = [
        {"threshold": 1},
        {"modulus_bits": 1},
        {"cohort": ("c00",)},
        {"collusion_bound": 0},
        {"minimum_contributors": 2},
    ]
    for fields in weak:
        parameters = msgspec.structs.replace(cohort.parameters, **fields)
        opening = m.opening_fields(parameters.session_id(), m.AdvertiseKeysRequest)
        for identity in cohort.identities.values():
            session = secagg.party(
                Role.CLIENT,
                identity,
                cohort.roster,
                ClientPolicy(),
                entropy=cohort.entropies[str(identity.id)],
                store=cohort.stores[str(identity.id)],
            )
            with pytest.raises(PolicyRefused):
                session.handle(wire.encode(m.AdvertiseKeysRequest(*opening, parameters.to_bytes())))
    assert all(store._records == {} for store in cohort.stores.values())

"""Each rule of the client (SA-5 to SA-25), broken alone on real bytes by a malicious server."""

from __future__ import annotations

import msgspec
import pytest

from protocols.errors import FaultReason, PeerFault, ServerFault
from protocols.primitives import merkle
from protocols.primitives.labels import encode_parts
from protocols.primitives.sealing import SealingKeyPair, agree, direction_key, seal
from protocols.secagg import messages as m
from protocols.signed import NO_CHUNKS, reply_digest
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import changed, decoded, signed_reply

OF_LOW_ORDER = bytes(32)
ME = "c02"
MY_INDEX = 2


# -- the server forges each request with everything it can compute -----------------------------------------------------


def advertised_root(cohort: Cohort, advertisements: tuple[m.Advertisement, ...]) -> bytes:
    """T0 of a cohort of which these advertised."""
    leaves = m.advertisement_leaves(range(len(cohort.parameters.cohort)), advertisements)
    return m.advertisements_root(cohort.server.session_id, merkle.root(list(leaves.values())))


def share_keys(cohort: Cohort, advertisements: tuple[m.Advertisement, ...], *, root: bytes | None = None) -> bytes:
    """A request of phase 1 over these advertisements, with the T0 that fits them."""
    root = advertised_root(cohort, advertisements) if root is None else root
    return changed(cohort.request(ME).header, m.ShareKeysRequest, advertisements=advertisements, root=root)


def advertisements(cohort: Cohort) -> list[m.Advertisement]:
    cohort.advance("ShareKeys")
    return list(decoded(cohort.request(ME).header, m.ShareKeysRequest).advertisements)


def advertisement(cohort: Cohort, party: str, masking: bytes, sealing: bytes) -> m.Advertisement:
    """Signed by a client that is in league with the server."""
    index = cohort.parameters.index(party)
    unsigned = m.Advertisement(index, masking, sealing, bytes(64))
    header = m.advertisement_header(cohort.server.session_id, party, unsigned)
    reply = signed_reply(cohort.identities[party], cohort.server.session_id, "AdvertiseKeys", header, ())
    return msgspec.structs.replace(unsigned, signature=reply.trailer)


def masked_input(cohort: Cohort, shares: list[m.SealedShares]) -> bytes:
    return changed(cohort.request(ME).header, m.MaskedInputRequest, shares=tuple(shares))


def sealed_shares(cohort: Cohort) -> list[m.SealedShares]:
    cohort.advance("MaskedInput")
    return list(decoded(cohort.request(ME).header, m.MaskedInputRequest).shares)


def resealed(cohort: Cohort, sender: str, plain: bytes) -> m.SealedShares:
    """What a colluding sender seals for this client."""
    state = cohort.parties[sender]._state
    advertised = {item.index: item for item in state.advertisements}
    index = cohort.parameters.index(sender)
    secret = agree(SealingKeyPair(state.keys.sealing_private), advertised[MY_INDEX].sealing_key)
    key = direction_key(secret, label="secagg/share-sealing", context=(state.root,), sender=index, receiver=MY_INDEX)
    label = encode_parts("secagg/shares", cohort.server.session_id, state.root, index, MY_INDEX)
    return m.SealedShares(index, seal(key, plain, label))


def consistency_check(cohort: Cohort, contributors: tuple[int, ...]) -> bytes:
    cohort.advance("ConsistencyCheck")
    return changed(cohort.request(ME).header, m.ConsistencyCheckRequest, contributors=contributors)


def certificate(cohort: Cohort, contributors: tuple[int, ...], signers: list[int]) -> tuple[m.SignedSet, ...]:
    """Signatures over a set, by clients in league with the server."""
    root = cohort.parties[ME]._state.root
    digest = m.contributors_hash(root, contributors)
    signed = []
    for index in signers:
        party = cohort.parameters.client(index)
        header = m.consistency_header(cohort.server.session_id, party, digest)
        reply = signed_reply(cohort.identities[party], cohort.server.session_id, "ConsistencyCheck", header, ())
        signed.append(m.SignedSet(index, reply.trailer))
    return tuple(signed)


def unmask(cohort: Cohort, **fields: object) -> bytes:
    return changed(cohort.request(ME).header, m.UnmaskRequest, **fields)


def signatures(cohort: Cohort) -> list[m.SignedSet]:
    cohort.advance("Unmask")
    return list(decoded(cohort.request(ME).header, m.UnmaskRequest).signatures)


# -- phase 1 -------------------------------------------------------------------------------------------------------


def test_sa_5_advertisement_listed_twice_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    header = share_keys(cohort, (items[0], *items))
    refused.by_party(ME, header, "SA-5", FaultReason.DUPLICATE_PARTY)


def test_sa_5_advertisements_out_of_order_are_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    header = share_keys(cohort, (items[1], items[0], *items[2:]))
    refused.by_party(ME, header, "SA-5", FaultReason.NOT_ORDERED)


def test_sa_5_advertisement_of_an_unknown_client_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    header = share_keys(cohort, (*items[:-1], msgspec.structs.replace(items[-1], index=5)))
    refused.by_party(ME, header, "SA-5", FaultReason.UNKNOWN_PARTY)


def test_sa_6_advertisements_without_own_are_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    header = share_keys(cohort, tuple(item for item in items if item.index != MY_INDEX))
    refused.by_party(ME, header, "SA-6", FaultReason.SELF_MISSING)


@pytest.mark.parametrize("which", ["masking_key", "sealing_key"])
def test_sa_6_own_advertisement_with_another_key_is_refused(cohort, refused, which) -> None:
    items = advertisements(cohort)
    other = SealingKeyPair(b"\x55" * 32).public
    items[MY_INDEX] = msgspec.structs.replace(items[MY_INDEX], **{which: other})
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-6", FaultReason.SELF_MISSING)


def test_sa_7_fewer_advertisements_than_the_threshold_are_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    assert cohort.parameters.threshold == 4
    refused.by_party(ME, share_keys(cohort, tuple(items[:3])), "SA-7", FaultReason.TOO_FEW)


def test_sa_7_fewer_advertisements_than_the_minimum_of_contributors_are_refused(refusals_of) -> None:
    refused = refusals_of(Cohort(5, minimum_contributors=5))
    items = advertisements(refused.cohort)
    assert refused.cohort.parameters.threshold == 4
    refused.by_party(ME, share_keys(refused.cohort, tuple(items[:4])), "SA-7", FaultReason.TOO_FEW)


def test_sa_8_masking_key_equal_to_mine_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    items[0] = advertisement(cohort, "c00", items[MY_INDEX].masking_key, items[0].sealing_key)
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-8", FaultReason.BAD_KEY)


def test_sa_8_sealing_key_equal_to_anothers_masking_key_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    items[0] = advertisement(cohort, "c00", items[0].masking_key, items[1].masking_key)
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-8", FaultReason.BAD_KEY)


def test_sa_9_advertisement_that_its_client_did_not_sign_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    items[0] = msgspec.structs.replace(items[0], sealing_key=SealingKeyPair(b"\x55" * 32).public)
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-9", FaultReason.BAD_SIGNATURE)


def test_sa_9_advertisement_signed_for_another_session_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    other = Cohort(nonce=b"\x01" * 32)
    assert other.server.session_id != cohort.server.session_id
    items[0] = advertisements(other)[0]
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-9", FaultReason.BAD_SIGNATURE)


def test_sa_9_advertisement_signed_by_another_client_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    items[0] = msgspec.structs.replace(
        items[1],
        index=0,
        **{"masking_key": SealingKeyPair(b"\x55" * 32).public, "sealing_key": SealingKeyPair(b"\x56" * 32).public},
    )
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-9", FaultReason.BAD_SIGNATURE)


def test_sa_10_root_of_other_advertisements_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    root = advertised_root(cohort, tuple(items[:4]))
    refused.by_party(ME, share_keys(cohort, tuple(items), root=root), "SA-10", FaultReason.BAD_ROOT)


def test_sa_11_sealing_key_of_low_order_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    items[0] = advertisement(cohort, "c00", items[0].masking_key, OF_LOW_ORDER)
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-11", FaultReason.BAD_KEY)


def test_sa_11_masking_key_of_low_order_is_refused_before_any_share_leaves(cohort, refused) -> None:
    items = advertisements(cohort)
    items[0] = advertisement(cohort, "c00", OF_LOW_ORDER, items[0].sealing_key)
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-11", FaultReason.BAD_KEY)


def test_sa_11_key_that_is_not_canonical_is_refused(cohort, refused) -> None:
    items = advertisements(cohort)
    same_point = (int.from_bytes(items[1].masking_key, "little") | 1 << 255).to_bytes(32, "little")
    items[0] = advertisement(cohort, "c00", same_point, items[0].sealing_key)
    refused.by_party(ME, share_keys(cohort, tuple(items)), "SA-11", FaultReason.BAD_KEY)


# -- phase 2 -------------------------------------------------------------------------------------------------------


def test_sa_12_shares_of_one_sender_twice_are_refused(cohort, refused) -> None:
    items = sealed_shares(cohort)
    refused.by_party(ME, masked_input(cohort, [items[0], *items]), "SA-12", FaultReason.DUPLICATE_PARTY)


def test_sa_12_shares_out_of_order_are_refused(cohort, refused) -> None:
    items = sealed_shares(cohort)
    refused.by_party(ME, masked_input(cohort, items[::-1]), "SA-12", FaultReason.NOT_ORDERED)


def test_sa_12_shares_of_an_unknown_sender_are_refused(cohort, refused) -> None:
    items = sealed_shares(cohort)
    items[-1] = msgspec.structs.replace(items[-1], index=77)
    refused.by_party(ME, masked_input(cohort, items), "SA-12", FaultReason.UNKNOWN_PARTY)


def test_sa_13_shares_of_a_client_that_advertised_nothing_are_refused() -> None:
    cohort = Cohort()
    for request in list(cohort.server.requests())[:4]:  # c04 stays away
        cohort.network._carry("AdvertiseKeys", request)
    cohort.server.close_phase()
    items = sealed_shares(cohort)
    header = masked_input(cohort, [*items, msgspec.structs.replace(items[-1], index=4)])
    session = cohort.parties[ME]
    before = session._state
    with pytest.raises(ServerFault) as caught:
        session.handle(header, vector=cohort.sources()[ME])
    assert (caught.value.rule, caught.value.reason) == ("SA-13", FaultReason.NOT_A_SUBSET)
    assert session._state is before
    aggregate = cohort.network.run()
    assert aggregate.contributors == ("c00", "c01", "c02", "c03")
    assert (aggregate.sum == cohort.total(aggregate.contributors)).all()


def test_sa_14_own_shares_sent_back_are_refused(cohort, refused) -> None:
    items = sealed_shares(cohort)
    items.insert(MY_INDEX, m.SealedShares(MY_INDEX, items[0].ciphertext))
    refused.by_party(ME, masked_input(cohort, items), "SA-14", FaultReason.WRONG_PARTY)


def test_sa_15_shares_of_fewer_than_the_threshold_are_refused(cohort, refused) -> None:
    items = sealed_shares(cohort)
    refused.by_party(ME, masked_input(cohort, items[:2]), "SA-15", FaultReason.TOO_FEW)


def swapped(cohort: Cohort, ciphertext: bytes) -> bytes:
    """The request with another ciphertext in the name of client 0."""
    items = sealed_shares(cohort)
    items[0] = m.SealedShares(0, ciphertext)
    return masked_input(cohort, items)


def suspect(refused, header: bytes, rule: str, reason: FaultReason) -> None:
    fault = refused.by_party(ME, header, rule, reason, kind=PeerFault)
    assert "'c00'" in fault.detail  # named as a suspect, beside the server: nothing is proven
    assert fault.culprit() == "peer"


def test_sa_16_ciphertext_for_somebody_else_is_refused(cohort, refused) -> None:
    cohort.advance("MaskedInput")
    for_c03 = decoded(cohort.request("c03").header, m.MaskedInputRequest).shares[0]
    assert for_c03.index == 0
    suspect(refused, swapped(cohort, for_c03.ciphertext), "SA-16", FaultReason.BAD_CIPHERTEXT)


def test_sa_16_ciphertext_of_another_sender_is_refused(cohort, refused) -> None:
    suspect(refused, swapped(cohort, sealed_shares(cohort)[1].ciphertext), "SA-16", FaultReason.BAD_CIPHERTEXT)


def test_sa_16_ciphertext_of_the_other_direction_is_refused(cohort, refused) -> None:
    cohort.advance("MaskedInput")
    mine = decoded(cohort.request("c00").header, m.MaskedInputRequest).shares[1]
    assert mine.index == MY_INDEX
    suspect(refused, swapped(cohort, mine.ciphertext), "SA-16", FaultReason.BAD_CIPHERTEXT)


def test_sa_16_ciphertext_of_another_session_is_refused(cohort, refused) -> None:
    other = Cohort(nonce=b"\x01" * 32)  # the same parties with the same randomness, even
    replayed = sealed_shares(other)[0].ciphertext
    assert replayed != sealed_shares(cohort)[0].ciphertext
    suspect(refused, swapped(cohort, replayed), "SA-16", FaultReason.BAD_CIPHERTEXT)


def test_sa_16_ciphertext_with_a_flipped_bit_is_refused(cohort, refused) -> None:
    damaged = bytearray(sealed_shares(cohort)[0].ciphertext)
    damaged[40] ^= 1
    suspect(refused, swapped(cohort, bytes(damaged)), "SA-16", FaultReason.BAD_CIPHERTEXT)


@pytest.mark.parametrize("length", [0, 66, 67, 69, 70])
def test_sa_17_sealed_share_of_the_wrong_length_is_refused(cohort, refused, length) -> None:
    items = sealed_shares(cohort)
    items[0] = resealed(cohort, "c00", bytes(length))
    suspect(refused, masked_input(cohort, items), "SA-17", FaultReason.BAD_SHARE)


def test_sa_17_sealed_share_outside_the_field_is_refused(cohort, refused) -> None:
    items = sealed_shares(cohort)
    # Limb 0 of the masking key's share is 2^16 + 1: both its low 16 bits and its flag are set.
    items[0] = resealed(cohort, "c00", bytes(34) + b"\x01" + bytes(31) + b"\x01\x00")
    suspect(refused, masked_input(cohort, items), "SA-17", FaultReason.BAD_SHARE)


# -- phase 3 -------------------------------------------------------------------------------------------------------


def test_sa_18_contributor_listed_twice_is_refused(cohort, refused) -> None:
    header = consistency_check(cohort, (0, 1, 2, 2, 3, 4))
    refused.by_party(ME, header, "SA-18", FaultReason.DUPLICATE_PARTY)


def test_sa_18_contributors_out_of_order_are_refused(cohort, refused) -> None:
    header = consistency_check(cohort, (0, 2, 1, 3, 4))
    refused.by_party(ME, header, "SA-18", FaultReason.NOT_ORDERED)


def test_sa_18_unknown_contributor_is_refused(cohort, refused) -> None:
    header = consistency_check(cohort, (0, 1, 2, 3, 4, 5))
    refused.by_party(ME, header, "SA-18", FaultReason.UNKNOWN_PARTY)


def test_sa_19_contributors_without_me_are_refused(cohort, refused) -> None:
    refused.by_party(ME, consistency_check(cohort, (0, 1, 3, 4)), "SA-19", FaultReason.SELF_MISSING)


def test_sa_20_contributor_whose_shares_i_never_got_is_refused() -> None:
    cohort = Cohort()
    items = sealed_shares(cohort)
    session = cohort.parties[ME]
    # The server keeps the shares of client 4 from this client alone.
    session.handle(masked_input(cohort, items[:-1]), vector=cohort.sources()[ME])
    before = session._state
    session_id = cohort.server.session_id
    header = m.wire.encode(
        m.ConsistencyCheckRequest(*m.opening_fields(session_id, m.ConsistencyCheckRequest), (0, 1, 2, 3, 4))
    )
    with pytest.raises(ServerFault) as caught:
        session.handle(header)
    assert (caught.value.rule, caught.value.reason) == ("SA-20", FaultReason.NOT_A_SUBSET)
    assert session._state is before
    session.handle(changed(header, m.ConsistencyCheckRequest, contributors=(0, 1, 2, 3)))


def test_sa_21_fewer_contributors_than_the_threshold_are_refused(cohort, refused) -> None:
    refused.by_party(ME, consistency_check(cohort, (0, 1, 2)), "SA-21", FaultReason.TOO_FEW)


def test_sa_21_fewer_contributors_than_the_minimum_are_refused(refusals_of) -> None:
    refused = refusals_of(Cohort(5, minimum_contributors=5))
    header = consistency_check(refused.cohort, (0, 1, 2, 3))
    refused.by_party(ME, header, "SA-21", FaultReason.TOO_FEW)


# -- phase 4 -------------------------------------------------------------------------------------------------------


def test_sa_22_one_signature_twice_is_refused(cohort, refused) -> None:
    items = signatures(cohort)
    header = unmask(cohort, signatures=(items[0], items[0], *items[1:]))
    refused.by_party(ME, header, "SA-22", FaultReason.DUPLICATE_PARTY)


def test_sa_22_signatures_out_of_order_are_refused(cohort, refused) -> None:
    header = unmask(cohort, signatures=tuple(signatures(cohort)[::-1]))
    refused.by_party(ME, header, "SA-22", FaultReason.NOT_ORDERED)


def test_sa_22_signature_of_an_unknown_client_is_refused(cohort, refused) -> None:
    items = signatures(cohort)
    header = unmask(cohort, signatures=(*items, m.SignedSet(9, items[0].signature)))
    refused.by_party(ME, header, "SA-22", FaultReason.UNKNOWN_PARTY)


def test_sa_23_fewer_signatures_than_the_quorum_are_refused(cohort, refused) -> None:
    items = signatures(cohort)
    refused.by_party(ME, unmask(cohort, signatures=tuple(items[:3])), "SA-23", FaultReason.TOO_FEW)


def test_sa_24_signature_over_another_set_among_the_others_is_refused(cohort, refused) -> None:
    items = signatures(cohort)
    items[0] = certificate(cohort, (0, 1, 2, 3), [0])[0]
    refused.by_party(ME, unmask(cohort, signatures=tuple(items)), "SA-24", FaultReason.BAD_SIGNATURE)


def test_sa_24_signature_of_one_client_in_the_name_of_another_is_refused(cohort, refused) -> None:
    items = signatures(cohort)
    items[0] = m.SignedSet(0, items[1].signature)
    refused.by_party(ME, unmask(cohort, signatures=tuple(items)), "SA-24", FaultReason.BAD_SIGNATURE)


@pytest.mark.parametrize("options", [{"nonce": b"\x01" * 32}, {"name": "other"}])
def test_sa_24_signature_of_another_session_is_refused(cohort, refused, options) -> None:
    items = signatures(cohort)
    items[0] = signatures(Cohort(**options))[0]
    refused.by_party(ME, unmask(cohort, signatures=tuple(items)), "SA-24", FaultReason.BAD_SIGNATURE)


def test_sa_24_set_that_nobody_signed_is_refused(cohort, refused) -> None:
    cohort.advance("Unmask")
    refused.by_party(ME, unmask(cohort, contributors=(0, 1, 2, 3)), "SA-24", FaultReason.BAD_SIGNATURE)


def test_sa_25_second_set_with_a_quorum_is_refused_with_evidence_that_convinces_others(cohort, refused) -> None:
    cohort.advance("Unmask")
    smaller = (0, 1, 2, 3)
    header = unmask(cohort, contributors=smaller, signatures=certificate(cohort, smaller, [0, 1, 3, 4]))
    fault = refused.by_party(ME, header, "SA-25", FaultReason.SPLIT_VIEW)
    views = []
    for signed, signature in zip(fault.evidence[::2], fault.evidence[1::2], strict=True):
        message = decoded(signed, m.ConsistencyCheckReply)
        assert message.session_id == cohort.server.session_id
        digest = reply_digest(cohort.server.session_id, "ConsistencyCheck", signed, NO_CHUNKS)
        cohort.roster.verify(message.party, digest, signature)
        views.append((message.party, message.contributors_hash))
    assert [party for party, _ in views] == [ME, "c00", "c01", "c03", "c04"]
    mine, *others = (seen for _, seen in views)
    assert mine not in others
    assert len(set(others)) == 1


def test_sa_25_evidence_is_of_another_client_even_if_mine_is_first_on_the_list() -> None:
    cohort = Cohort()
    cohort.advance("Unmask")
    smaller = (0, 1, 2, 3)
    header = changed(
        cohort.request("c00").header,
        m.UnmaskRequest,
        contributors=smaller,
        signatures=certificate(cohort, smaller, [0, 1, 2, 3]),  # the server has stolen the key of c00 as well
    )
    with pytest.raises(ServerFault) as caught:
        cohort.parties["c00"].handle(header)
    assert caught.value.rule == "SA-25"
    signers = [decoded(header, m.ConsistencyCheckReply).party for header in caught.value.evidence[::2]]
    assert signers == ["c00", "c01", "c02", "c03"]

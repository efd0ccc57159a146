"""Each rule of the server (SV-1 to SV-9, SS-1 to SS-9), broken alone on real bytes by a malicious client."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.sealing import SealingKeyPair
from protocols.secagg import messages as m
from protocols.shape import Reply
from protocols.signed import ContentDigest, reply_digest
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import changed, decoded, raw_fields, signed_reply
from protocols.testing.network import deliver

ME = "c02"
BY_ME = f"client {ME!r}"
PHASES = {
    "AdvertiseKeys": m.AdvertiseKeysReply,
    "ShareKeys": m.ShareKeysReply,
    "MaskedInput": m.MaskedInputReply,
    "ConsistencyCheck": m.ConsistencyCheckReply,
    "Unmask": m.UnmaskReply,
}


def altered(cohort: Cohort, phase: str, party: str = ME, **fields: object) -> tuple[Reply, Reply]:
    """A reply that a malicious client signed, and the one it would have given."""
    cohort.advance(phase)
    genuine = cohort.answer(party)
    header = changed(genuine.header, PHASES[phase], **fields)
    return signed_reply(cohort.identities[party], cohort.server.session_id, phase, header, genuine.chunks), genuine


# -- every phase -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_sv_1_reply_of_another_phase_is_refused(cohort, refused, phase) -> None:
    other = Cohort()
    other.advance("Unmask" if phase != "Unmask" else "ShareKeys")
    cohort.advance(phase)
    refused.by_server(other.answer(ME), "SV-1", FaultReason.WRONG_PHASE, "peer", cohort.answer(ME))


@pytest.mark.parametrize("phase", PHASES)
def test_sv_2_reply_of_another_session_is_refused(cohort, refused, phase) -> None:
    other = Cohort(nonce=b"\x01" * 32)
    other.advance(phase)
    cohort.advance(phase)
    refused.by_server(other.answer(ME), "SV-2", FaultReason.WRONG_SESSION, "peer", cohort.answer(ME))


def test_sv_2_reply_of_another_suite_is_refused(cohort, refused) -> None:
    bad, genuine = altered(cohort, "ShareKeys", suite=2)
    refused.by_server(bad, "SV-2", FaultReason.WRONG_SESSION, "peer", genuine)


@pytest.mark.parametrize("party", ["zz", "c99"])
def test_sv_3_reply_of_a_stranger_is_refused(cohort, refused, party) -> None:
    bad, genuine = altered(cohort, "ShareKeys", party=ME)
    header = changed(bad.header, m.ShareKeysReply, party=party)
    refused.by_server(Reply(bad.party, header, (), bad.trailer), "SV-3", FaultReason.UNKNOWN_PARTY, "peer", genuine)


def test_sv_3_reply_of_a_client_that_dropped_out_before_is_refused() -> None:
    cohort = Cohort()
    cohort.advance("ShareKeys")
    late = cohort.answer("c04")
    for request in list(cohort.server.requests())[:4]:
        cohort.network._carry("ShareKeys", request)
    cohort.server.close_phase()
    masked = cohort.answer("c00")
    header = changed(masked.header, m.MaskedInputReply, party="c04")
    bad = signed_reply(cohort.identities["c04"], cohort.server.session_id, "MaskedInput", header, masked.chunks)
    for reply, rule in ((late, "SV-1"), (bad, "SV-3")):
        with pytest.raises(PeerFault) as caught:
            deliver(cohort.server, reply)
        assert caught.value.rule == rule
    aggregate = cohort.network.run()
    assert aggregate.contributors == ("c00", "c01", "c02", "c03")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


@pytest.mark.parametrize("phase", PHASES)
def test_sv_4_repeated_reply_is_refused(cohort, refused, phase) -> None:
    cohort.advance(phase)
    reply = cohort.answer(ME)
    deliver(cohort.server, reply)
    refused.by_server(reply, "SV-4", FaultReason.ALREADY_ANSWERED, "peer")


@pytest.mark.parametrize("phase", PHASES)
def test_sv_5_reply_that_another_client_signed_is_refused(cohort, refused, phase) -> None:
    cohort.advance(phase)
    reply = cohort.answer(ME)
    session_id = cohort.server.session_id
    bad = signed_reply(cohort.identities["c00"], session_id, phase, reply.header, reply.chunks)
    refused.by_server(bad, "SV-5", FaultReason.BAD_SIGNATURE, "peer", reply)


@pytest.mark.parametrize("length", [0, 63, 65, 10_000])
def test_sv_5_trailer_of_the_wrong_length_is_refused(cohort, refused, length) -> None:
    cohort.advance("ShareKeys")
    reply = cohort.answer(ME)
    bad = Reply(reply.party, reply.header, (), bytes(length))
    refused.by_server(bad, "SV-5", FaultReason.BAD_SIGNATURE, "peer", reply)
    assert all(len(item) <= 4096 for fault in cohort.server.faults for item in fault.evidence)


def test_sv_5_signature_over_another_phase_is_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    reply = cohort.answer(ME)
    bad = signed_reply(cohort.identities[ME], cohort.server.session_id, "AdvertiseKeys", reply.header, ())
    refused.by_server(bad, "SV-5", FaultReason.BAD_SIGNATURE, "peer", reply)


def test_sv_5_altered_chunk_is_refused(cohort, refused) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    first = bytearray(reply.chunks[0])
    first[20] ^= 1
    bad = Reply(reply.party, reply.header, [bytes(first), *reply.chunks[1:]], reply.trailer)
    refused.by_server(bad, "SV-5", FaultReason.BAD_SIGNATURE, "peer", reply)


def test_sv_6_chunks_that_no_phase_asked_for_are_refused(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    reply = cohort.answer(ME)
    bad = signed_reply(cohort.identities[ME], cohort.server.session_id, "ShareKeys", reply.header, [b"x"])
    refused.by_server(bad, "SV-6", FaultReason.CHUNK_LENGTH, "peer", reply)


def chunks_refused(cohort, refused, change, rule: str, reason: FaultReason) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    assert len(reply.chunks) == 2
    bad = signed_reply(
        cohort.identities[ME], cohort.server.session_id, "MaskedInput", reply.header, change(reply.chunks)
    )
    refused.by_server(bad, rule, reason, "peer", reply)


def test_sv_6_more_chunks_than_agreed_on_are_refused(cohort, refused) -> None:
    chunks_refused(cohort, refused, lambda c: [*c, c[-1]], "SV-6", FaultReason.CHUNK_LENGTH)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: [c[0], c[0]], FaultReason.CHUNK_LENGTH),  # repeated: the last chunk is shorter
        (lambda c: [c[1], c[0]], FaultReason.CHUNK_LENGTH),  # reordered
        (lambda c: [c[1]], FaultReason.CHUNK_LENGTH),  # the first is missing
        (lambda c: [c[0][:-1], c[1]], FaultReason.CHUNK_LENGTH),
        (lambda c: [c[0] + b"\x00", c[1]], FaultReason.CHUNK_LENGTH),
        (lambda c: [b"", c[1]], FaultReason.CHUNK_LENGTH),
        (lambda c: [b"\x01" + c[0][1:], c[1]], FaultReason.CHUNK_ORDER),
        (lambda c: [c[0], b"\x00" + c[1][1:]], FaultReason.CHUNK_ORDER),
        (lambda c: [c[0], c[1][:-1] + b"\xff"], FaultReason.MALFORMED),  # padding of 36 entries of 21 bits
    ],
)
def test_sv_7_chunk_of_wrong_length_place_or_padding_is_refused(cohort, refused, change, reason) -> None:
    chunks_refused(cohort, refused, change, "SV-7", reason)


def test_sv_7_chunks_of_equal_length_out_of_order_are_refused(refusals_of) -> None:
    refused = refusals_of(Cohort(length=128))
    chunks_refused(refused.cohort, refused, lambda c: c[::-1], "SV-7", FaultReason.CHUNK_ORDER)


@pytest.mark.parametrize("kept", [0, 1])
def test_sv_8_missing_chunks_are_refused(cohort, refused, kept) -> None:
    chunks_refused(cohort, refused, lambda c: c[:kept], "SV-8", FaultReason.CHUNK_LENGTH)


def test_sv_9_newer_upload_of_a_client_takes_the_place_of_the_older(cohort) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    older = cohort.server.begin(reply.header)
    older.write(reply.chunks[0])
    newer = cohort.server.begin(reply.header)
    for call in (lambda: older.write(reply.chunks[1]), lambda: older.commit(reply.trailer)):
        with pytest.raises(PeerFault) as caught:
            call()
        assert (caught.value.rule, caught.value.reason) == ("SV-9", FaultReason.DUPLICATE_PARTY)
    assert older._received.spool._chunks == []
    fault = cohort.server.faults[-1]
    assert (fault.party, fault.proven, fault.rule) == (ME, False, "SV-9")
    for chunk in reply.chunks:
        newer.write(chunk)
    newer.commit(reply.trailer)
    assert cohort.server._uploads == {}
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))


def test_sv_1_upload_under_way_when_the_phase_closes_is_broken_off(cohort) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    for request in list(cohort.server.requests()):
        if request.party != ME:
            cohort.network._carry("MaskedInput", request)
    upload = cohort.server.begin(reply.header)
    upload.write(reply.chunks[0])
    assert cohort.server.close_phase().dropped == (ME,)
    assert upload._received.spool._chunks == []
    for call in (lambda: upload.write(reply.chunks[1]), lambda: upload.commit(reply.trailer)):
        with pytest.raises(PeerFault) as caught:
            call()
        assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)
    aggregate = cohort.network.run()
    assert ME not in aggregate.contributors
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_upload_that_is_over_takes_nothing(cohort) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    upload = cohort.server.begin(reply.header)
    upload.abort()
    upload.abort()
    with pytest.raises(UsageError, match="the upload is over"):
        upload.write(reply.chunks[0])
    with pytest.raises(UsageError, match="the upload is over"):
        upload.commit(reply.trailer)


def test_half_uploads_in_any_number_hold_one_spool_a_client(cohort) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    for _ in range(2000):
        cohort.server.begin(reply.header).write(reply.chunks[0])
    assert len(cohort.server._uploads) == 1
    assert len(cohort.server.faults) == 1000
    assert cohort.server.faults_omitted == 999
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))
    assert aggregate.contributors == cohort.parameters.clients()


def test_reply_larger_than_a_cohorts_can_be_is_refused_before_it_is_decoded(cohort, refused) -> None:
    cohort.advance("ShareKeys")
    genuine = cohort.answer(ME)
    fields = raw_fields(genuine.header)
    fields[-1] = [[index, bytes(4096)] for index in range(3)]
    bad = signed_reply(cohort.identities[ME], cohort.server.session_id, "ShareKeys", msgspec.msgpack.encode(fields), ())
    refused.by_server(bad, "", FaultReason.TOO_LARGE, "peer", genuine)


# -- phase 0 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mine", "theirs"), [("masking_key", "masking_key"), ("sealing_key", "masking_key")])
def test_ss_1_key_equal_to_anothers_is_refused(cohort, refused, mine, theirs) -> None:
    other = cohort.answer("c00")
    deliver(cohort.server, other)
    taken = getattr(decoded(other.header, m.AdvertiseKeysReply), theirs)
    bad, genuine = altered(cohort, "AdvertiseKeys", **{mine: taken})
    refused.by_server(bad, "SS-1", FaultReason.BAD_KEY, BY_ME, genuine)


def test_ss_1_two_equal_keys_are_refused(cohort, refused) -> None:
    key = SealingKeyPair(b"\x55" * 32).public
    bad, genuine = altered(cohort, "AdvertiseKeys", masking_key=key, sealing_key=key)
    refused.by_server(bad, "SS-1", FaultReason.BAD_KEY, BY_ME, genuine)


@pytest.mark.parametrize("field", ["masking_key", "sealing_key"])
@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_ss_2_key_of_low_order_or_not_canonical_is_refused(cohort, refused, field, key) -> None:
    bad, genuine = altered(cohort, "AdvertiseKeys", **{field: key})
    fault = refused.by_server(bad, "SS-2", FaultReason.BAD_KEY, BY_ME, genuine)
    assert fault.phase == "AdvertiseKeys"


# -- phase 1 -----------------------------------------------------------------------------------------------------------


def shares_of(cohort: Cohort) -> list[m.SealedShares]:
    cohort.advance("ShareKeys")
    return list(decoded(cohort.answer(ME).header, m.ShareKeysReply).shares)


@pytest.mark.parametrize(
    "change",
    [
        lambda shares: shares[:-1],
        lambda shares: shares[::-1],
        lambda shares: [shares[0], *shares],
        lambda shares: [*shares[:-1], m.SealedShares(9, shares[-1].ciphertext)],
        lambda shares: [*shares[:2], m.SealedShares(2, shares[0].ciphertext), *shares[2:]],  # for oneself
        lambda shares: [],
    ],
)
def test_ss_3_shares_that_are_not_for_exactly_the_holders_are_refused(cohort, refused, change) -> None:
    bad, genuine = altered(cohort, "ShareKeys", shares=tuple(change(shares_of(cohort))))
    refused.by_server(bad, "SS-3", FaultReason.WRONG_PARTY, BY_ME, genuine)


@pytest.mark.parametrize("length", [83, 85])
def test_ss_9_sealed_shares_of_the_wrong_length_are_refused(cohort, refused, length) -> None:
    shares = shares_of(cohort)
    shares[0] = m.SealedShares(0, bytes(length))
    bad, genuine = altered(cohort, "ShareKeys", shares=tuple(shares))
    refused.by_server(bad, "SS-9", FaultReason.BAD_SHARE, BY_ME, genuine)


# -- phase 3 -----------------------------------------------------------------------------------------------------------


def test_ss_4_signature_over_another_set_is_refused_and_proven(cohort, refused) -> None:
    root = bytes(32)
    bad, genuine = altered(cohort, "ConsistencyCheck", contributors_hash=m.contributors_hash(root, (0, 1, 2, 3, 4)))
    server = cohort.server
    with pytest.raises(PeerFault):
        deliver(server, bad)
    header, content, trailer = server.faults[-1].evidence
    digest = reply_digest(server.session_id, "ConsistencyCheck", header, content)
    assert content == ContentDigest().digest()
    cohort.roster.verify(ME, digest, trailer)  # convinces whoever holds the roster
    refused.by_server(bad, "SS-4", FaultReason.NOT_A_SUBSET, BY_ME, genuine)


# -- phase 4 -----------------------------------------------------------------------------------------------------------


def unmask_shares(cohort: Cohort) -> list[bytes]:
    cohort.advance("Unmask")
    return list(decoded(cohort.answer(ME).header, m.UnmaskReply).shares)


@pytest.mark.parametrize("change", [lambda shares: shares[:-1], lambda shares: [*shares, shares[0]], lambda _: []])
def test_ss_5_another_number_of_shares_is_refused(cohort, refused, change) -> None:
    bad, genuine = altered(cohort, "Unmask", shares=tuple(change(unmask_shares(cohort))))
    refused.by_server(bad, "SS-5", FaultReason.BAD_SHARE, BY_ME, genuine)


@pytest.mark.parametrize("share", [bytes(33), bytes(35), b"\x01" + bytes(31) + b"\x01\x00"])
def test_ss_6_share_of_the_wrong_length_or_outside_the_field_is_refused(cohort, refused, share) -> None:
    shares = unmask_shares(cohort)
    shares[3] = share
    bad, genuine = altered(cohort, "Unmask", shares=tuple(shares))
    refused.by_server(bad, "SS-6", FaultReason.BAD_SHARE, BY_ME, genuine)


@pytest.mark.parametrize("liar", ["c00", "c03", "c04"])
@pytest.mark.parametrize("spoilt", [[0], [3], [0, 1, 2, 3, 4]])
def test_ss_7_wrong_share_of_one_holder_is_left_out_and_the_holder_named(liar, spoilt) -> None:
    cohort = Cohort()  # 5 answer, 4 are needed
    cohort.advance("Unmask")
    shares = list(decoded(cohort.answer(liar).header, m.UnmaskReply).shares)
    for index in spoilt:
        shares[index] = b"\x77" * 32 + bytes(2)
    bad, _ = altered(cohort, "Unmask", party=liar, shares=tuple(shares))
    deliver(cohort.server, bad)
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))
    named = [(fault.party, fault.proven, fault.rule) for fault in aggregate.faults if fault.rule == "SS-7"]
    # The share of c04 is the spare one here: it is not even looked at.
    assert named == ([] if liar == "c04" else [(liar, False, "SS-7")])


def test_ss_7_limb_that_no_secret_has_is_left_out_like_any_wrong_share() -> None:
    """A share that makes one limb of one secret come out as 65536 stops neither that secret nor the others."""
    cohort = Cohort()
    cohort.advance("Unmask")
    replies = {party: cohort.answer(party) for party in list(cohort.identities)[:4]}
    from protocols.primitives.shamir import PRIME, _lagrange_weights_at_zero, pack_share, unpack_share

    weights = _lagrange_weights_at_zero([1, 2, 3, 4]).astype(int)
    limbs = [unpack_share(decoded(reply.header, m.UnmaskReply).shares[0])[0].astype(int) for reply in replies.values()]
    rest = sum(int(w) * int(x) for w, x in zip(weights[1:], limbs[1:], strict=True))
    wanted = (PRIME - 1 - rest) * pow(int(weights[0]), -1, PRIME) % PRIME
    shares = list(decoded(replies["c00"].header, m.UnmaskReply).shares)
    share = unpack_share(shares[0]).copy()
    share[0] = wanted
    bad, _ = altered(cohort, "Unmask", party="c00", shares=(pack_share(share), *shares[1:]))
    deliver(cohort.server, bad)
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))
    assert [fault.party for fault in aggregate.faults if fault.rule == "SS-7"] == ["c00"]


def test_ss_8_wrong_share_among_exactly_the_threshold_ends_the_session() -> None:
    cohort = Cohort()
    shares = unmask_shares(cohort)
    shares[1] = b"\x77" * 32 + bytes(2)
    bad, _ = altered(cohort, "Unmask", shares=tuple(shares))
    deliver(cohort.server, bad)
    for party in ("c00", "c01", "c03"):
        deliver(cohort.server, cohort.answer(party))
    with pytest.raises(PeerFault) as caught:
        cohort.server.close_phase()
    assert (caught.value.rule, caught.value.reason) == ("SS-8", FaultReason.BAD_SECRET)
    assert "'c01'" in caught.value.detail
    assert ME in caught.value.detail
    over(cohort)


def over(cohort: Cohort) -> None:
    """The session is over: nothing more is to be had from it."""
    assert cohort.server.phase is None
    for call in (cohort.server.close_phase, cohort.server.save, cohort.server.ready, cohort.server.requests):
        with pytest.raises(UsageError, match="the session is over"):
            call()
    with pytest.raises(UsageError, match="the session failed"):
        cohort.server.result()


@pytest.mark.parametrize("dropped", [False, True])
def test_ss_8_dealer_whose_shares_fit_nothing_ends_the_session(dropped) -> None:
    """A client that commits to another seed than it shares, or shares another key than it advertised."""
    cohort = Cohort(6)
    bad_commitment, _ = altered(cohort, "ShareKeys", seed_commitment=bytes(32))
    if dropped:
        state = cohort.parties[ME]._state
        liar = Cohort(6)
        liar.advance("ShareKeys")
        session = liar.parties[ME]
        session._state = msgspec.structs.replace(session._state, masking_private=b"\x11" * 32)
        assert type(state).__name__ == "Shared"
        header = cohort.request(ME).header
        bad = session.handle(header)
        deliver(cohort.server, Reply(bad.party, bad.header, (), bad.trailer))
    else:
        deliver(cohort.server, bad_commitment)
    cohort.advance("MaskedInput")
    for request in list(cohort.server.requests()):
        if not (dropped and request.party == ME):
            cohort.network._carry("MaskedInput", request)
    cohort.server.close_phase()
    with pytest.raises(PeerFault) as caught:
        cohort.network.run()
    assert (caught.value.rule, caught.value.reason) == ("SS-8", FaultReason.BAD_SECRET)
    assert f"{ME!r}" in caught.value.detail.split(";")[0]
    over(cohort)


# -- the caller --------------------------------------------------------------------------------------------------------


def test_result_before_the_end_is_a_usage_error_and_out_is_checked(cohort) -> None:
    with pytest.raises(UsageError, match="phase AdvertiseKeys is open"):
        cohort.server.result()
    aggregate = cohort.network.run()
    out = np.zeros(100, np.uint32)
    assert cohort.server.result(out).sum is out
    np.testing.assert_array_equal(out, aggregate.sum)
    for wrong in (np.zeros(99, np.uint32), np.zeros(100, np.uint64)):
        with pytest.raises(UsageError, match="expected uint32"):
            cohort.server.result(wrong)
    with pytest.raises(PeerFault) as caught:
        cohort.server.begin(cohort.parties[ME]._answered.header)
    assert caught.value.rule == "SV-1"


class FailingSpool:
    """Loses what it was given."""

    def append(self, chunk: bytes) -> None:
        pass

    def chunks(self):
        raise OSError("disk gone")

    def discard(self) -> None:
        pass


def test_spool_that_fails_while_a_vector_is_added_ends_the_session(cohort) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    cohort.server.new_spool = FailingSpool
    with pytest.raises(OSError, match="disk gone"):
        deliver(cohort.server, reply)
    over(cohort)


@pytest.mark.parametrize("damage", [lambda kept: kept[:1], lambda kept: [kept[0], kept[1][:-1]]])
def test_spool_that_lost_a_part_ends_the_session_and_blames_nobody(cohort, damage) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    upload = cohort.server.begin(reply.header)
    for chunk in reply.chunks:
        upload.write(chunk)
    spool = upload._received.spool
    spool._chunks = damage(spool._chunks)
    with pytest.raises(UsageError, match="spool: chunk 1 is not what was put in"):
        upload.commit(reply.trailer)
    assert cohort.server.faults == ()
    over(cohort)


def test_spool_that_fails_at_write_loses_the_upload_only(cohort, monkeypatch) -> None:
    cohort.advance("MaskedInput")
    reply = cohort.answer(ME)
    upload = cohort.server.begin(reply.header)

    def full(chunk: bytes) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(upload._received.spool, "append", full)
    with pytest.raises(OSError, match="disk full"):
        upload.write(reply.chunks[0])
    assert cohort.server._uploads == {}
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))

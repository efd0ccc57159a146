"""Rules KS-1 to KS-16: each broken on its own, by a server that signs and encodes as it should."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from ckks_cohort import (
    HOLDER,
    POLICY,
    CkksCohort,
    announcement,
    ckks_key,
    decryption,
    ends_well,
    payloads,
    policy_refused,
    refused_by_party,
)

from protocols import ckks
from protocols.ckks import messages as m
from protocols.ckks.blocks import from_block, to_block
from protocols.ckks.keys import CkksKey, KeyHolderIdentity
from protocols.ckks.scheme import Scheme
from protocols.errors import FaultReason, PeerFault, ServerFault, UsageError
from protocols.identity import Identity, Member, Role, Roster
from protocols.primitives.signing import PostQuantumSigningKey
from protocols.session import ClientPolicy
from protocols.shape import ArraySource, Request
from protocols.testing.malformed import changed, decoded
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore

ME = "c02"
DEFAULTS = {
    "nonce": bytes(32),
    "run_id": "run",
    "round_number": 1,
    "modulus_bits": 20,
    "vector_length": 100,
    "context_hash": bytes(32),
}


# -- parameters --------------------------------------------------------------------------------------------------------


def test_ks_1_unknown_suite_is_refused_even_by_a_policy_that_allows_it() -> None:
    cohort = CkksCohort(policy=ClientPolicy(protocols=frozenset({"ckks"}), suites=frozenset({1, 9})))
    refused_by_party(
        cohort, Request(ME, announcement(cohort, suite=9)), "KS-1", FaultReason.MALFORMED, kind=ServerFault
    )


@pytest.mark.parametrize("party", [ME, HOLDER])
def test_ks_2_threshold_of_more_than_the_one_key_holder_is_refused(party: str) -> None:
    cohort = CkksCohort()
    if party == HOLDER:
        cohort.advance("Decryption")
        header = decryption_announcement(cohort, threshold=2)
    else:
        header = announcement(cohort, threshold=2)
    policy_refused(cohort, party, header, "KS-2")


def decryption_announcement(cohort: CkksCohort, **fields) -> bytes:
    """A request to the key holder with other parameters."""
    parameters = msgspec.structs.replace(cohort.parameters, **fields)
    return decryption(cohort, parameters=parameters.to_bytes(), session_id=parameters.session_id()).header


def test_ks_3_unknown_record_is_refused() -> None:
    cohort = CkksCohort()
    refusal = policy_refused(cohort, ME, announcement(cohort, added={"record": 3}), "KS-3")
    assert (refusal.proposed, refusal.required) == (3, "one of [1, 2]")


def test_ks_4_context_that_is_not_the_pinned_one_is_refused() -> None:
    """A server that makes a key of its own would read every vector."""
    cohort = CkksCohort()
    foreign = ckks_key("foreign")
    added = {"public_context": foreign.public_context, "key_version": foreign.version}
    refusal = policy_refused(cohort, ME, announcement(cohort, added=added), "KS-4")
    assert refusal.proposed == foreign.version
    assert cohort.key.version in str(refusal.required)


@pytest.mark.parametrize("holder", ["c01", "nobody"])
def test_ks_4_key_holder_that_has_not_pinned_the_context_is_refused(holder: str) -> None:
    cohort = CkksCohort()
    refusal = policy_refused(cohort, ME, announcement(cohort, added={"key_holder": holder}), "KS-4")
    assert f"pins for '{holder}' (none)" in str(refusal.required)


def test_ks_4_revoked_key_holder_is_refused() -> None:
    cohort = CkksCohort()
    line = msgspec.structs.replace(cohort.identities[HOLDER].member(), revoked=True)
    others = [identity.member() for party, identity in cohort.identities.items() if party != HOLDER]
    cohort.roster = Roster([*others, line])
    policy_refused(cohort, ME, announcement(cohort, roster_hash=cohort.roster.digest()), "KS-4")


def test_ks_5_wrong_key_version_is_refused() -> None:
    cohort = CkksCohort()
    refusal = policy_refused(cohort, ME, announcement(cohort, added={"key_version": "0" * 16}), "KS-5")
    assert (refusal.proposed, refusal.required) == ("0" * 16, f"{cohort.key.version}, that of the pinned context")


@pytest.mark.parametrize("bound", [0, 2**19, 2**40])
def test_ks_6_encoding_that_wraps_or_a_bound_beyond_the_words_is_refused(bound: int) -> None:
    cohort = CkksCohort()
    policy_refused(cohort, ME, announcement(cohort, added={"value_bound": bound}), "KS-6")


def test_ks_7_sums_that_may_be_off_by_a_half_are_refused() -> None:
    cohort = CkksCohort(record=1, bits=40)
    refusal = policy_refused(cohort, ME, announcement(cohort, added={"value_bound": 2**36}), "KS-7")
    assert "may be off by 0.801 in CKKS record 1; below 0.5" in str(refusal.proposed)


def test_ks_7_sums_beyond_the_modulus_are_refused() -> None:
    cohort = CkksCohort(bits=40)
    refusal = policy_refused(cohort, ME, announcement(cohort, added={"value_bound": 2**25}), "KS-7")
    assert "do not fit the modulus of CKKS record 2" in str(refusal.proposed)


def pinned(context: bytes, number: int) -> tuple[CkksCohort, bytes]:
    """A cohort whose roster pins these bytes, and the announcement of them."""
    cohort = CkksCohort()
    line = msgspec.structs.replace(cohort.identities[HOLDER].member(), sealing_key=ckks.keys.pinned_hash(context))
    others = [identity.member() for party, identity in cohort.identities.items() if party != HOLDER]
    cohort.roster = Roster([*others, line])
    added = {"public_context": context, "key_version": ckks.keys.key_version(context), "record": number}
    return cohort, announcement(cohort, added=added, roster_hash=cohort.roster.digest())


def contexts() -> dict[str, tuple[bytes, int, str]]:
    tenseal = pytest.importorskip("tenseal")
    key = ckks_key()
    own = key.scheme._context

    def fresh(degree: int, moduli: list[int], scale: float, **options) -> bytes:
        context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=moduli, n_threads=1, **options)
        context.global_scale = scale
        context.auto_relin = context.auto_rescale = context.auto_mod_switch = False
        return context.serialize(True, False, False, False)

    flagged = tenseal.Context.load(key.public_context, n_threads=1)
    flagged.auto_rescale = True
    evaluating = own.copy()
    evaluating.generate_relin_keys()
    rotating = own.copy()
    rotating.generate_galois_keys()
    record = "the context is not of CKKS record 2"
    none = "not a context with a public key that TenSEAL reads"
    both = "the context does not hold either a public or a secret key"
    symmetric = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        4096,
        coeff_mod_bit_sizes=[60, 49],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    bfv = tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, 1032193, coeff_mod_bit_sizes=[60, 49], n_threads=1)
    return {
        "another record": (ckks_key(record=1).public_context, 2, record),
        "another degree": (fresh(8192, [60, 49], 2.0**31), 2, record),
        "other moduli": (fresh(4096, [59, 49], 2.0**31), 2, record),
        "another scale": (fresh(4096, [60, 49], 2.0**30), 2, record),
        "flags": (flagged.serialize(True, False, False, False), 2, record),
        "secret and public key": (own.serialize(True, True, False, False), 2, both),
        "secret key alone": (own.serialize(False, True, False, False), 2, "the context holds a secret key"),
        "no key": (own.serialize(False, False, False, False), 2, both),
        "relinearisation keys": (
            evaluating.serialize(True, False, False, True),
            2,
            "the context holds evaluation keys",
        ),
        "galois keys": (rotating.serialize(True, False, True, False), 2, "the context holds evaluation keys"),
        "symmetric": (symmetric.serialize(False, True, False, False), 2, none),
        "another scheme": (bfv.serialize(True, False, False, False), 2, none),
        "truncated": (key.public_context[:1000], 2, none),
        "empty": (b"", 2, none),
        "no context at all": (b"\xff" * 100, 2, none),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[bytes, int, str]]:
    return contexts()


CONTEXTS = (
    "another record",
    "another degree",
    "other moduli",
    "another scale",
    "flags",
    "secret and public key",
    "secret key alone",
    "no key",
    "relinearisation keys",
    "galois keys",
    "symmetric",
    "another scheme",
    "truncated",
    "empty",
    "no context at all",
)


def test_every_made_context_is_tried(made) -> None:
    assert tuple(made) == CONTEXTS


@pytest.mark.parametrize("which", CONTEXTS)
def test_ks_8_context_of_other_parameters_or_with_other_keys_is_refused_although_pinned(which: str, made) -> None:
    context, number, detail = made[which]
    cohort, header = pinned(context, number)
    refusal = policy_refused(cohort, ME, header, "KS-8")
    assert detail in str(refusal.proposed)


def test_context_longer_than_its_bound_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(PeerFault) as caught:
        Scheme.load(ckks_key().scheme.record, bytes(2**22 + 1))
    assert caught.value.reason is FaultReason.TOO_LARGE
    cohort = CkksCohort()
    header = announcement(cohort, added={"public_context": bytes(2**22 + 1)})
    refused_by_party(cohort, Request(ME, header), "", FaultReason.MALFORMED)


def test_ks_17_key_holder_without_the_keys_of_the_suite_is_refused() -> None:
    cohort = CkksCohort(policy=ClientPolicy(protocols=frozenset({"ckks"}), suites=frozenset({3})), size=3)
    lines = [cohort.identities[HOLDER].member()]
    for party in ("c00", "c01", "c02"):
        second = PostQuantumSigningKey.generate(DeterministicEntropy(f"pq/{party}"))
        lines.append(Identity(party, cohort.signing_key(party), post_quantum_key=second).member())
    cohort.roster = Roster(lines)
    header = announcement(cohort, suite=3, roster_hash=cohort.roster.digest())
    refusal = policy_refused(cohort, ME, header, "KS-17")
    assert (refusal.proposed, refusal.required) == (HOLDER, "a party with an ML-DSA key in the roster (suite 3)")


def test_ks_9_client_outside_the_cohort_takes_no_part() -> None:
    cohort = CkksCohort(5)
    four = [party for party in cohort.parameters.cohort if party != ME]
    refused_by_party(cohort, Request(ME, announcement(cohort, cohort=tuple(four))), "KS-9", FaultReason.UNKNOWN_PARTY)


def test_ks_10_key_holder_that_is_not_the_named_one_takes_no_part() -> None:
    """Two key holders of one roster: each opens what is encrypted to it."""
    cohort = CkksCohort()
    other = KeyHolderIdentity("other", cohort.signing_key("other"), ckks_key("other"))
    cohort.identities["other"] = other
    cohort.roster = Roster([identity.member() for identity in cohort.identities.values()])
    cohort.parameters = ckks.parameters(
        cohort.roster,
        cohort.parameters.cohort,
        public_context=cohort.key.public_context,
        value_bound=2**15,
        record=2,
        **(DEFAULTS | {"vector_length": 2500}),
    )
    cohort.server = ckks.server(cohort.parameters, cohort.roster)
    cohort.stores["other"], cohort.entropies["other"] = cohort.stores[HOLDER], cohort.entropies[HOLDER]
    for party in cohort.identities:
        cohort.parties[party] = ckks.party(
            Role.KEY_HOLDER if party in (HOLDER, "other") else Role.CLIENT,
            cohort.identities[party],
            cohort.roster,
            POLICY,
            entropy=cohort.entropies[party],
            store=cohort.stores[party],
        )
    cohort.dropping(())
    cohort.advance("Decryption")
    genuine = cohort.request(HOLDER)
    request = Request("other", genuine.header, genuine.chunks)
    refused_by_party(cohort, request, "KS-10", FaultReason.UNKNOWN_PARTY)


def test_key_holder_that_the_roster_revoked_or_does_not_have_decrypts_nothing() -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    genuine = cohort.request(HOLDER).header
    own = cohort.identities[HOLDER].member()
    others = [identity.member() for party, identity in cohort.identities.items() if party != HOLDER]
    for lines in (others, [*others, msgspec.structs.replace(own, revoked=True)]):
        cohort.roster = Roster(lines)
        parameters = msgspec.structs.replace(cohort.parameters, roster_hash=cohort.roster.digest())
        fields = {"parameters": parameters.to_bytes(), "session_id": parameters.session_id()}
        policy_refused(cohort, HOLDER, changed(genuine, m.DecryptionRequest, **fields), "KS-4")


# -- who contributed ---------------------------------------------------------------------------------------------------


def at_decryption(size: int = 4) -> tuple[CkksCohort, tuple[m.SignedContribution, ...]]:
    cohort = CkksCohort(size)
    cohort.advance("Decryption")
    return cohort, decoded(cohort.request(HOLDER).header, m.DecryptionRequest).contributions


def test_ks_11_contributor_listed_twice_is_refused() -> None:
    cohort, items = at_decryption()
    request = decryption(cohort, contributions=(items[0], items[1], items[1], items[2]))
    refused_by_party(cohort, request, "KS-11", FaultReason.DUPLICATE_PARTY)


def test_ks_11_contributors_out_of_order_are_refused() -> None:
    cohort, items = at_decryption()
    request = decryption(cohort, contributions=(items[1], items[0], items[2]))
    refused_by_party(cohort, request, "KS-11", FaultReason.NOT_ORDERED)


def test_ks_11_contributor_past_the_cohorts_end_is_refused() -> None:
    cohort, items = at_decryption()
    unknown = msgspec.structs.replace(items[3], index=4)
    request = decryption(cohort, contributions=(*items[:3], unknown))
    refused_by_party(cohort, request, "KS-11", FaultReason.UNKNOWN_PARTY)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_ks_12_fewer_contributors_than_the_minimum_are_refused(count: int) -> None:
    cohort, items = at_decryption()
    fault = refused_by_party(cohort, decryption(cohort, contributions=items[:count]), "KS-12", FaultReason.TOO_FEW)
    assert fault.detail == f"{count} contributors, 3 required"


def test_ks_13_forged_signature_is_refused() -> None:
    cohort, items = at_decryption()
    forged = msgspec.structs.replace(items[1], signature=bytes(64))
    request = decryption(cohort, contributions=(items[0], forged, *items[2:]))
    fault = refused_by_party(cohort, request, "KS-13", FaultReason.BAD_SIGNATURE)
    assert fault.detail == "in the name of 'c01'"


def test_ks_13_signature_over_other_chunks_is_refused() -> None:
    cohort, items = at_decryption()
    other = msgspec.structs.replace(items[1], content=items[0].content)
    request = decryption(cohort, contributions=(items[0], other, *items[2:]))
    refused_by_party(cohort, request, "KS-13", FaultReason.BAD_SIGNATURE)


def test_ks_13_signature_of_another_client_is_refused() -> None:
    cohort, items = at_decryption(5)
    other = msgspec.structs.replace(items[2], index=3)
    refused_by_party(cohort, decryption(cohort, contributions=(*items[:2], other)), "KS-13", FaultReason.BAD_SIGNATURE)


def test_ks_13_contribution_replayed_from_another_session_is_refused() -> None:
    earlier, replayed = at_decryption()
    cohort = CkksCohort(nonce=b"\x07" * 32)
    cohort.advance("Decryption")
    assert earlier.roster.digest() == cohort.roster.digest()
    request = decryption(cohort, contributions=replayed)
    refused_by_party(cohort, request, "KS-13", FaultReason.BAD_SIGNATURE)


def test_ks_13_post_quantum_signatures_are_checked_in_both_halves() -> None:
    identities = {}
    for party in ("c00", "c01", "c02", HOLDER):
        seed = DeterministicEntropy(f"pq/{party}")
        second = PostQuantumSigningKey.generate(seed)
        signing = CkksCohort.signing_key(Named(), party)
        identities[party] = (
            KeyHolderIdentity(party, signing, ckks_key(), post_quantum_key=second)
            if party == HOLDER
            else Identity(party, signing, post_quantum_key=second)
        )
    roster = Roster([identity.member() for identity in identities.values()])
    policy = ClientPolicy(protocols=frozenset({"ckks"}), suites=frozenset({3}))
    chosen = ckks.parameters(
        roster,
        ["c00", "c01", "c02"],
        public_context=ckks_key().public_context,
        value_bound=9,
        record=2,
        suite=3,
        **DEFAULTS,
    )
    cohort = CkksCohort.__new__(CkksCohort)
    cohort.parameters, cohort.roster, cohort.server = chosen, roster, ckks.server(chosen, roster)
    cohort.parties = {
        party: ckks.party(
            CkksCohort.role(party),
            identity,
            roster,
            policy,
            entropy=DeterministicEntropy(party),
            store=MemoryStore(),
        )
        for party, identity in identities.items()
    }
    cohort.vectors = {party: np.full(100, 3, np.uint32) for party in chosen.cohort}
    cohort.dropping(())
    cohort.advance("Decryption")
    items = decoded(cohort.request(HOLDER).header, m.DecryptionRequest).contributions
    assert {len(item.signature) for item in items} == {64 + 3309}
    for spoilt in (0, 64):
        signature = bytearray(items[0].signature)
        signature[spoilt] ^= 1
        bad = msgspec.structs.replace(items[0], signature=bytes(signature))
        request = decryption(cohort, contributions=(bad, *items[1:]))
        with pytest.raises(ServerFault) as caught:
            cohort.parties[HOLDER].handle(request.header, request.chunks)
        assert (caught.value.rule, caught.value.reason) == ("KS-13", FaultReason.BAD_SIGNATURE)
    assert (cohort.network.run().sum == 9).all()


class Named:
    name = "pq"


# -- the aggregate -----------------------------------------------------------------------------------------------------


def blocks_of(cohort: CkksCohort) -> list[bytes]:
    return payloads(cohort.request(HOLDER).chunks)


def test_ks_14_second_aggregate_is_refused_although_the_first_did_not_decrypt() -> None:
    """One attempt at the secret key a session, whatever came of it; the very same request is no other attempt."""
    cohort, _ = at_decryption()
    scheme = cohort.key.scheme
    off = [to_block(halved(scheme), scheme.record), *blocks_of(cohort)[1:]]
    first = decryption(cohort, off)
    refused_by_party(cohort, first, "KS-16", FaultReason.BAD_CIPHERTEXT, PeerFault, recorded=True)
    for _ in range(2):
        refused = refused_by_party_again(cohort, cohort.request(HOLDER))
        assert (refused.rule, refused.reason) == ("KS-14", FaultReason.ALREADY_ANSWERED)
    assert refused_by_party_again(cohort, first).rule == "KS-16"


def refused_by_party_again(cohort: CkksCohort, request: Request) -> PeerFault:
    records = dict(cohort.stores[HOLDER]._records)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[HOLDER].handle(request.header, request.chunks)
    assert cohort.stores[HOLDER]._records == records
    return caught.value


def halved(scheme: Scheme) -> bytes:
    """A ciphertext whose slots hold halves."""
    native = scheme._native(scheme._context.data, [0.5] * scheme.record.slots)
    return scheme.dump(native)


def test_chunks_that_are_not_the_ones_of_the_header_never_meet_the_secret_key(monkeypatch) -> None:
    """A server that streams other ciphertexts under one header could ask about each of them."""
    cohort, _ = at_decryption()
    genuine = cohort.request(HOLDER)
    chunks = [bytes(chunk) for chunk in genuine.chunks]
    touched = []
    monkeypatch.setattr(Scheme, "parse", lambda *arguments: touched.append(arguments))
    monkeypatch.setattr(Scheme, "decrypt", lambda *arguments: touched.append(arguments))
    spoilt = bytearray(chunks[1])
    spoilt[5000] ^= 1
    for sent, rule in (
        ([chunks[0], bytes(spoilt)], "PT-13"),
        ([chunks[0]], "PT-12"),
        ([*chunks, chunks[0]], "PT-12"),
        ([chunks[1], chunks[0]], "PT-12"),
        ([chunks[0][:-1], chunks[1]], "PT-12"),
    ):
        with pytest.raises(ServerFault) as caught:
            cohort.parties[HOLDER].handle(genuine.header, sent)
        assert caught.value.rule == rule
    assert touched == []
    assert cohort.stores[HOLDER]._records == {}
    monkeypatch.undo()
    ends_well(cohort)


def test_ks_15_aggregate_that_is_no_ciphertext_is_refused() -> None:
    cohort, _ = at_decryption()
    blocks = blocks_of(cohort)
    fault = refused_by_party(
        cohort,
        decryption(cohort, [blocks[0], bytes(len(blocks[1]))]),
        "KS-15",
        FaultReason.MALFORMED,
        recorded=True,
    )
    assert fault.detail == "block 1: ciphertext shorter than its header"


def test_ks_15_aggregate_under_foreign_parameters_is_refused() -> None:
    cohort, _ = at_decryption()
    scheme = cohort.key.scheme
    foreign = bytearray(from_block(blocks_of(cohort)[0], scheme.record))
    foreign[16 + 4 + 3 + 3] ^= 1  # SEAL header, zstd magic, opening and block header; then the id of the parameters
    request = decryption(cohort, [to_block(bytes(foreign), scheme.record), *blocks_of(cohort)[1:]])
    refused_by_party(cohort, request, "KS-15", FaultReason.BAD_CIPHERTEXT, recorded=True)


def not_a_sum(cohort: CkksCohort, blocks: list[bytes]) -> str:
    fault = refused_by_party(
        cohort, decryption(cohort, blocks), "KS-16", FaultReason.BAD_CIPHERTEXT, PeerFault, recorded=True
    )
    return fault.detail


def test_ks_16_slots_between_two_integers_are_refused() -> None:
    cohort, _ = at_decryption()
    scheme = cohort.key.scheme
    not_a_sum(cohort, [to_block(halved(scheme), scheme.record), *blocks_of(cohort)[1:]])


def test_ks_16_sum_beyond_what_the_contributors_can_have_sent_is_refused() -> None:
    cohort, _ = at_decryption()
    scheme = cohort.key.scheme
    beyond = np.zeros(scheme.record.slots, np.int64)
    beyond[7] = -(4 * 2**15 + 1)
    not_a_sum(cohort, [to_block(scheme.encrypt(beyond), scheme.record), *blocks_of(cohort)[1:]])


def test_ks_16_content_past_the_vectors_end_is_refused() -> None:
    cohort, _ = at_decryption()
    scheme = cohort.key.scheme
    past = np.zeros(scheme.record.slots, np.int64)
    past[2500 - 2048] = 1
    not_a_sum(cohort, [blocks_of(cohort)[0], to_block(scheme.encrypt(past), scheme.record)])


def test_ks_16_refusal_tells_neither_which_block_it_was_nor_what_was_wrong_with_it(monkeypatch) -> None:
    """Either depends on the secret key; all blocks are decrypted whatever the first one held."""
    told, decrypted, genuine = set(), [], Scheme.decrypt
    monkeypatch.setattr(Scheme, "decrypt", lambda *arguments: decrypted.append(1) or genuine(*arguments))
    for position in (0, 1):
        for bad in (halved, lambda scheme: scheme.encrypt(np.full(scheme.record.slots, 2**20))):
            cohort, _ = at_decryption()
            blocks = blocks_of(cohort)
            blocks[position] = to_block(bad(cohort.key.scheme), cohort.key.scheme.record)
            told.add(not_a_sum(cohort, blocks))
    assert told == {
        "a slot is more than 0.02 from an integer, beyond +-131072, or past the vector's end and not zero: no sum of 4 "
        "contributions; the server or a contributor is at fault"
    }
    assert len(decrypted) == 4 * 2


def test_ks_16_aggregate_under_another_key_is_refused() -> None:
    """It decrypts to uniform numbers modulo q, which no rounding makes a sum."""
    cohort, _ = at_decryption()
    other = ckks_key("foreign").scheme
    block = to_block(other.encrypt(np.zeros(2048, np.int64)), other.record)
    refused_by_party(
        cohort, decryption(cohort, [block, block]), "KS-16", FaultReason.BAD_CIPHERTEXT, PeerFault, recorded=True
    )


# -- the caller's mistakes ---------------------------------------------------------------------------------------------


def test_vector_with_an_entry_beyond_the_bound_is_the_callers_mistake() -> None:
    cohort = CkksCohort()
    cohort.vectors[ME] = cohort.vectors[ME].copy()
    cohort.vectors[ME][2100] = 2**15 + 1
    with pytest.raises(UsageError, match=r"vector: block 1: an entry is beyond \+-32768"):
        cohort.answer(ME)


class Odd(ArraySource):
    """A source that yields something else than it says."""

    def read(self, start: int, stop: int) -> np.ndarray:
        return super().read(start, stop - 1)


def test_source_that_yields_another_length_is_the_callers_mistake() -> None:
    cohort = CkksCohort()
    header = cohort.request(ME).header
    with pytest.raises(UsageError, match=r"vector: block 0 is uint32\[2047\]; expected 2048 unsigned"):
        cohort.parties[ME].handle(header, vector=Odd(cohort.vectors[ME]))


def test_proposal_against_a_rule_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match=r"\[KS-6\] value bound: proposed 0"):
        CkksCohort(value_bound=0)
    with pytest.raises(UsageError, match=r"\[KS-2\] threshold"):
        CkksCohort(threshold=2)
    with pytest.raises(UsageError, match=r"\[KS-7\] value bound"):
        CkksCohort(bits=40, value_bound=2**30)
    with pytest.raises(UsageError, match="suite: 9"):
        CkksCohort(suite=9)


def test_key_that_no_member_or_two_members_pin_is_the_callers_mistake() -> None:
    cohort = CkksCohort()
    with pytest.raises(UsageError, match="roster: 0 members pin the CKKS key"):
        ckks.parameters(cohort.roster, cohort.parameters.cohort, public_context=b"other", value_bound=9, **DEFAULTS)
    lines = [identity.member() for identity in cohort.identities.values()]
    twice = Member("second", cohort.signing_key("second").public, sealing_key=lines[-1].sealing_key)
    with pytest.raises(UsageError, match="roster: 2 members pin the CKKS key"):
        ckks.parameters(
            Roster([*lines, twice]),
            cohort.parameters.cohort,
            public_context=cohort.key.public_context,
            value_bound=9,
            **DEFAULTS,
        )


def test_parties_without_their_keys_or_roles_are_refused() -> None:
    cohort = CkksCohort()
    options = {"entropy": cohort.entropies["c00"], "store": cohort.stores["c00"]}
    with pytest.raises(UsageError, match="'c00' has no CKKS key"):
        ckks.party(Role.KEY_HOLDER, cohort.identities["c00"], cohort.roster, POLICY, **options)
    with pytest.raises(UsageError, match="ckks has no role 'committee'"):
        ckks.party(Role.COMMITTEE, cohort.identities["c00"], cohort.roster, POLICY, **options)
    other: CkksKey = ckks_key("foreign")
    impostor = KeyHolderIdentity(HOLDER, cohort.signing_key(HOLDER), other)
    with pytest.raises(UsageError, match=f"it pins another CKKS key for 'holder' than {other.version}"):
        ckks.party(Role.KEY_HOLDER, impostor, cohort.roster, POLICY, **options)

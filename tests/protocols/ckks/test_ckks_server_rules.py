"""Rules KV-1 to KV-4: contributions and answers that their senders signed, and that must not count."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from ckks_cohort import HOLDER, CkksCohort, ends_well, framed, payloads, refused_by_server
from handmade_ciphertexts import MEMBERS, compressed, content_of, handmade

from protocols import ckks
from protocols.ckks import messages as m
from protocols.ckks.blocks import from_block, to_block, unwrap, wrap
from protocols.ckks.records import RECORDS, CkksRecord
from protocols.ckks.scheme import Scheme
from protocols.ckks.server import Contribution
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.server import ServerShell
from protocols.shape import Reply
from protocols.testing.malformed import changed, signed_reply
from protocols.testing.network import deliver

ME = "c02"
MALFORMED, BAD_CIPHERTEXT = FaultReason.MALFORMED, FaultReason.BAD_CIPHERTEXT


def contribution(cohort: CkksCohort, change: Callable[[list[bytes]], list[bytes]], party: str = ME) -> Reply:
    """What the party would send had it encrypted something else: signed by itself."""
    genuine = cohort.answer(party)
    blocks = change(payloads(genuine.chunks))
    identity, session = cohort.identities[party], cohort.server.session_id
    return signed_reply(identity, session, m.CONTRIBUTION, genuine.header, framed(blocks))


def with_second(block: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda blocks: [blocks[0], block]


def refused_contribution(cohort: CkksCohort, block: bytes, rule: str, reason: FaultReason) -> PeerFault:
    return refused_by_server(cohort, contribution(cohort, with_second(block)), rule, reason, f"client {ME!r}")


def spoilt(block: bytes, at: int, value: int) -> bytes:
    changed_block = bytearray(block)
    changed_block[at] = value
    return bytes(changed_block)


# Offsets in a block: length 0, SEAL header 4 (magic, own length, version, version, compression, reserved, length 12),
# zstd magic 20, descriptor 24, content size 25.
OPENINGS = {
    "length beyond the block": (3, 1, "ciphertext of 16842"),
    "length one too small": (0, 0x7A, "padding of a block is not zero"),
    "length one too large": (0, 0x7C, "SEAL header names 65659 bytes, there are 65660"),
    "magic": (4, 0, "not a SEAL object compressed by zstd"),
    "length of the header": (6, 17, "not a SEAL object compressed by zstd"),
    "no compression": (9, 0, "not a SEAL object compressed by zstd"),
    "zlib": (9, 1, "not a SEAL object compressed by zstd"),
    "reserved bits": (10, 1, "not a SEAL object compressed by zstd"),
    "size in the header": (15, 1, "SEAL header names 16842875 bytes"),
    "zstd magic": (20, 0, "its zstd frame does not hold 65633 bytes"),
    "several segments": (24, 0x40, "its zstd frame does not hold 65633 bytes"),
    "another content size": (25, 0x62, "its zstd frame does not hold 65633 bytes"),
    "padding": (-1, 1, "padding of a block is not zero"),
}


@pytest.mark.parametrize("which", OPENINGS)
def test_kv_1_block_whose_opening_is_not_that_of_a_ciphertext_never_reaches_seal(which: str, monkeypatch) -> None:
    cohort = CkksCohort()
    at, value, detail = OPENINGS[which]
    reply = contribution(cohort, lambda blocks: [blocks[0], spoilt(blocks[1], at, value)])
    parsed = []
    genuine = Scheme.parse
    monkeypatch.setattr(Scheme, "parse", lambda *arguments: parsed.append(1) or genuine(*arguments))
    fault = refused_by_server(cohort, reply, "KV-1", MALFORMED, f"client {ME!r}")
    assert fault.detail.startswith("block 1: ")
    assert detail in fault.detail
    assert len(parsed) == 1 + 4 * 2 + 2  # the block before it; when it ends well all clients', then the key holder's


def test_kv_1_block_without_a_whole_header_is_refused() -> None:
    cohort = CkksCohort()
    fault = refused_contribution(cohort, bytes(cohort.key.scheme.record.block_bytes), "KV-1", MALFORMED)
    assert fault.detail == "block 1: ciphertext shorter than its header"


def test_block_of_another_length_is_refused_by_the_shell() -> None:
    cohort = CkksCohort()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, contribution(cohort, lambda blocks: [blocks[0], blocks[1] + b"\0"]))
    assert (caught.value.rule, caught.value.reason) == ("SV-7", FaultReason.CHUNK_LENGTH)
    with pytest.raises(PeerFault) as direct:
        from_block(bytes(5), cohort.key.scheme.record)
    assert direct.value.reason is FaultReason.CHUNK_LENGTH
    ends_well(cohort)


def uniform(scheme: Scheme, polynomials: int, primes: int | None = None) -> np.ndarray:
    """Coefficients below all primes."""
    count = polynomials * scheme.record.degree * (len(scheme.record.moduli) - 1 if primes is None else primes)
    return np.random.default_rng(1).integers(0, 2**39, count, dtype=np.uint64)


def crafted(scheme: Scheme) -> dict[str, tuple[bytes, str]]:
    """By what is wrong with them: ciphertexts of the right length, and why they are refused."""
    words = uniform(scheme, 2)
    native = scheme._context.seal_context().data
    unread, foreign = "SEAL does not read it as a ciphertext", "not of the session's parameters (CKKS record 2)"
    half = np.concatenate([words[: words.size // 2], np.zeros(words.size // 2, np.uint64)])
    beyond = words.copy()
    beyond[5] = 2**60
    other_version = bytearray(handmade(scheme, words))
    other_version[3] = 9
    return {
        "parameters of keys": (handmade(scheme, words, parameters=native.key_parms_id()), unread),
        "parameters of another record": (
            handmade(scheme, words, parameters=Scheme.generate(RECORDS[1])._first_parameters()),
            unread,
        ),
        "another degree": (handmade(scheme, words, degree=2048, size=4), unread),
        "another number of primes": (handmade(scheme, words, primes=2, size=1), unread),
        "one polynomial": (handmade(scheme, words, size=1), unread),
        "three polynomials": (handmade(scheme, words, size=3), unread),
        "2^63 polynomials": (handmade(scheme, words, size=2**63), unread),
        "2^63 coefficients": (handmade(scheme, words, degree=2**63), unread),
        "not transformed": (handmade(scheme, words, form=0), foreign),
        "another scale": (handmade(scheme, words, scale=2.0**30), foreign),
        "scale zero": (handmade(scheme, words, scale=0.0), unread),
        "scale not a number": (handmade(scheme, words, scale=float("nan")), foreign),
        "infinite scale": (handmade(scheme, words, scale=float("inf")), foreign),
        "coefficient beyond the modulus": (handmade(scheme, beyond), unread),
        "transparent": (handmade(scheme, half), "transparent: it encrypts nothing"),
        "another version of SEAL": (bytes(other_version), unread),
    }


CRAFTED = (
    "parameters of keys",
    "parameters of another record",
    "another degree",
    "another number of primes",
    "one polynomial",
    "three polynomials",
    "2^63 polynomials",
    "2^63 coefficients",
    "not transformed",
    "another scale",
    "scale zero",
    "scale not a number",
    "infinite scale",
    "coefficient beyond the modulus",
    "transparent",
    "another version of SEAL",
)


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[bytes, str]]:
    return crafted(CkksCohort().key.scheme)


def test_handmade_ciphertext_is_what_seal_writes_and_reads() -> None:
    """So that what the crafted ones are refused for is what was done to them."""
    scheme = CkksCohort().key.scheme
    genuine = scheme.encrypt(np.arange(2048))
    content = content_of(genuine)
    words = np.frombuffer(content[97:], "<u8")
    assert handmade(scheme, words) == genuine
    np.testing.assert_array_equal(np.rint(scheme.decrypt(scheme.parse(compressed(content)))), np.arange(2048))
    assert MEMBERS.size + 24 == 97
    scheme.parse(handmade(scheme, uniform(scheme, 2)))


def test_every_crafted_ciphertext_is_tried(made) -> None:
    assert tuple(made) == CRAFTED


@pytest.mark.parametrize("which", CRAFTED)
def test_kv_2_ciphertext_of_other_parameters_is_refused_by_name_before_it_is_added(which: str, made) -> None:
    cohort = CkksCohort()
    serialised, detail = made[which]
    block = to_block(serialised, cohort.key.scheme.record)
    assert refused_contribution(cohort, block, "KV-2", BAD_CIPHERTEXT).detail == f"block 1: {detail}"


def test_kv_2_four_polynomials_modulo_one_prime_are_as_long_as_two_modulo_two_and_refused() -> None:
    cohort = CkksCohort(record=1, length=5000)
    scheme = cohort.key.scheme
    lower = scheme._context.seal_context().data.last_parms_id()
    serialised = handmade(scheme, uniform(scheme, 4, 1), parameters=lower, size=4, primes=1)
    loose = CkksRecord(id=1, degree=8192, moduli=(60, 40, 40), scale_bits=40, serialised_limit=len(serialised))
    with pytest.raises(PeerFault) as caught:
        scheme.parse(from_block(to_block(serialised, loose), loose))
    assert caught.value.detail == "not of the session's parameters (CKKS record 1)"


def test_ciphertext_of_one_polynomial_and_a_seed_is_refused() -> None:
    """SEAL would expand the seed; it is no ciphertext of ours."""
    scheme = CkksCohort().key.scheme
    genuine = content_of(scheme.encrypt(np.zeros(2048, np.int64)))
    array = struct.pack("<Q", 4096) + genuine[97 : 97 + 8 * 4096]
    seeded = genuine[:73] + struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(array)) + array + bytes(81)
    with pytest.raises(PeerFault) as caught:
        from_block(to_block(compressed(seeded), scheme.record), scheme.record)
    assert "does not hold 65633 bytes" in caught.value.detail


def test_kv_3_contribution_that_cancels_the_sum_so_far_is_refused_and_the_sum_stays() -> None:
    """Two clients together, or one that the server helps: c1 of the second is minus that of the first."""
    cohort = CkksCohort(5)
    first = cohort.answer("c00")
    deliver(cohort.server, first)
    scheme = cohort.key.scheme
    prime = 0
    opposite = []
    for block in payloads(first.chunks):
        content = content_of(from_block(block, scheme.record))
        words = np.frombuffer(content[97:], "<u8").copy()
        prime = prime or largest_prime(60, 8192)
        second = words[4096:]
        second[second != 0] = np.uint64(prime) - second[second != 0]
        opposite.append(to_block(handmade(scheme, words), scheme.record))
    reply = contribution(cohort, lambda _blocks: opposite)
    fault = refused_by_server(cohort, reply, "KV-3", BAD_CIPHERTEXT, f"client {ME!r}")
    assert fault.detail == "block 0: it cancels out what it is added to"


def largest_prime(bits: int, order: int) -> int:
    """The largest prime below 2^bits that is 1 modulo the order: the one that SEAL takes first."""
    candidate = 2**bits - order + 1
    while pow(3, candidate - 1, candidate) != 1 or pow(5, candidate - 1, candidate) != 1:
        candidate -= order
    return candidate


def test_refused_contribution_leaves_the_ciphertexts_of_the_sum_untouched() -> None:
    cohort = CkksCohort()
    deliver(cohort.server, cohort.answer("c00"))
    before = list(cohort.server.aggregate)
    record = cohort.key.scheme.record
    with pytest.raises(PeerFault):
        deliver(cohort.server, contribution(cohort, with_second(bytes(record.block_bytes))))
    assert all(one is other for one, other in zip(before, cohort.server.aggregate, strict=True))
    ends_well(cohort)


def test_tampered_or_truncated_contribution_is_not_proven_against_the_client() -> None:
    cohort = CkksCohort()
    genuine = cohort.answer(ME)
    tampered = spoilt(genuine.chunks[1], 9000, genuine.chunks[1][9000] ^ 1)
    for chunks, trailer, rule in (
        ([genuine.chunks[0], tampered], genuine.trailer, "SV-5"),
        ([genuine.chunks[0], genuine.chunks[1][:-1]], genuine.trailer, "SV-7"),
        ([genuine.chunks[0]], genuine.trailer, "SV-8"),
        ([*genuine.chunks, genuine.chunks[0]], genuine.trailer, "SV-6"),
        (genuine.chunks, bytes(64), "SV-5"),
    ):
        with pytest.raises(PeerFault) as caught:
            deliver(cohort.server, Reply(genuine.party, genuine.header, chunks, trailer))
        assert (caught.value.rule, caught.value.culprit()) == (rule, "peer")
    assert cohort.server.aggregate is None
    ends_well(cohort)


def test_contribution_replayed_from_another_session_is_refused() -> None:
    earlier = CkksCohort(nonce=b"\x07" * 32)
    replayed = earlier.answer(ME)
    cohort = CkksCohort()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, replayed)
    assert caught.value.rule == "SV-2"
    header = changed(replayed.header, m.ContributionReply, session_id=cohort.server.session_id)
    with pytest.raises(PeerFault) as relabelled:
        deliver(cohort.server, Reply(replayed.party, header, replayed.chunks, replayed.trailer))
    assert relabelled.value.rule == "SV-5"
    ends_well(cohort)


@pytest.mark.parametrize("which", ["other set", "other aggregate"])
def test_kv_4_sum_over_another_set_or_aggregate_is_refused(which: str) -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    genuine = cohort.answer_request(cohort.request(HOLDER))
    phase = cohort.server._phase
    named = [(index, received.content) for index, received in phase.contributions.items()]
    digest = m.contributors_hash(
        cohort.server.session_id,
        named[:3] if which == "other set" else named,
        phase.digest if which == "other set" else bytes(32),
    )
    header = changed(genuine.header, m.DecryptionReply, contributors_hash=digest)
    reply = signed_reply(cohort.identities[HOLDER], cohort.server.session_id, m.DECRYPTION, header, genuine.chunks)
    refused_by_server(cohort, reply, "KV-4", FaultReason.NOT_A_SUBSET, f"client {HOLDER!r}")


def test_session_of_another_kind_of_server_is_the_callers_mistake() -> None:
    cohort = CkksCohort()
    genuine = cohort.answer(ME)
    shell = ServerShell(cohort.parameters, cohort.roster, Contribution(expected=cohort.parameters.clients()))
    with pytest.raises(UsageError, match=r"ServerShell: a session of the CKKS protocol is made by protocols\.ckks"):
        deliver(shell, genuine)


def test_serialisation_longer_than_the_record_allows_is_the_callers_mistake() -> None:
    record = RECORDS[2]
    with pytest.raises(UsageError, match="in 65793 bytes; CKKS record 2 has room for 65792"):
        to_block(bytes(65_793), record)


@pytest.mark.parametrize("number", [1, 2])
def test_wrapping_is_what_tenseal_writes(number: int) -> None:
    scheme = Scheme.generate(RECORDS[number])
    record = scheme.record
    native = scheme._native(scheme._context.data, [1.0] * record.slots).serialize()
    assert wrap(unwrap(native, record), record) == native
    for wrong in (native[:-1], native + b"\0", b"\x0b" + native[1:], b"", bytes(1000)):
        with pytest.raises(UsageError, match="in another form"):
            unwrap(wrong, record)
    for size in (1, 127, 128, 16383, 16384, 2_100_000):
        assert unwrap(wrap(bytes(size), record), record) == bytes(size)


def test_integers_for_another_number_of_slots_are_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="a ciphertext has 2048 slots"):
        Scheme.generate(RECORDS[2]).encrypt(np.zeros(5, np.int64))


def test_phases_and_requests_name_their_roles() -> None:
    assert list(ckks.PHASE_ROLES.items()) == [("Contribution", "client"), ("Decryption", "key_holder")]
    assert ckks.REQUEST_ROLES == {"ContributionRequest": "client", "DecryptionRequest": "key_holder"}

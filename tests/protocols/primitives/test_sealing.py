"""Key agreement and sealing."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.labels import derive_key
from protocols.primitives.sealing import (
    SEAL_BYTES,
    SealingKeyPair,
    agree,
    direction_key,
    open_sealed,
    open_state,
    public_key_of,
    seal,
    seal_state,
)

FIELD_PRIME = 2**255 - 19

# RFC 7748, section 6.1: private key, public key.
ALICE = (
    bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
    bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
)
BOB = (
    bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
    bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"),
)
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def little_endian(number: int) -> bytes:
    return number.to_bytes(32, "little")


def fault_of(function, *arguments) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(("private", "public"), [ALICE, BOB])
def test_public_keys_are_those_of_rfc_7748(private, public):
    assert SealingKeyPair(private).public == public
    assert public_key_of(private) == public
    assert SealingKeyPair(private).private_bytes() == private


def test_both_sides_agree_on_the_secret_of_rfc_7748():
    assert agree(SealingKeyPair(ALICE[0]), BOB[1]) == SHARED
    assert agree(SealingKeyPair(BOB[0]), ALICE[1]) == SHARED
    assert agree(ALICE[0], BOB[1]) == SHARED


def test_scalar_multiplication_is_that_of_rfc_7748_section_5_2():
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    coordinate = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    result = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert agree(scalar, coordinate).hex() == result


def test_a_generated_pair_is_the_entropy_drawn():
    asked = []

    def entropy(length: int) -> bytes:
        asked.append(length)
        return BOB[0]

    assert SealingKeyPair.generate(entropy).public == BOB[1]
    assert asked == [32]
    assert SealingKeyPair.generate(os.urandom).public != SealingKeyPair.generate(os.urandom).public


# The canonical u coordinates of the points of curve25519 and its twist whose order divides 8.
@pytest.mark.parametrize(
    "coordinate",
    [
        little_endian(0),
        little_endian(1),
        little_endian(FIELD_PRIME - 1),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ],
)
def test_points_of_low_order_are_refused(coordinate):
    fault = fault_of(agree, ALICE[0], coordinate)
    assert fault.reason is FaultReason.BAD_KEY
    assert "low order" in fault.detail


@pytest.mark.parametrize(
    "number", [FIELD_PRIME, FIELD_PRIME + 1, FIELD_PRIME + 9, 2**255 - 1, 2**255 + int.from_bytes(BOB[1], "little")]
)
def test_second_encodings_of_a_key_are_refused(number):
    fault = fault_of(agree, ALICE[0], little_endian(number))
    assert fault.reason is FaultReason.BAD_KEY
    assert "canonical" in fault.detail


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length):
    assert fault_of(agree, ALICE[0], bytes(length)).reason is FaultReason.BAD_KEY
    for function in (SealingKeyPair, public_key_of, lambda private: agree(private, BOB[1])):
        with pytest.raises(UsageError, match="32 bytes"):
            function(bytes(length))


def test_direction_keys_differ_in_direction_label_context_and_secret():
    keys = {
        direction_key(secret, label=label, context=context, sender=sender, receiver=receiver)
        for secret in (SHARED, bytes(32))
        for label in ("shares", "other")
        for context in ((), (b"session",), (b"session", 1))
        for sender, receiver in ((1, 2), (2, 1), (1, 1), (12, 0))
    }
    assert len(keys) == 2 * 2 * 3 * 4


def test_a_direction_key_is_derived_with_sender_then_receiver_at_the_end():
    key = direction_key(SHARED, label="shares", context=(b"session", 7), sender=1, receiver=2)
    assert key == derive_key(SHARED, label="shares", context=(b"session", 7, 1, 2))


def test_sealing_is_aes_256_gcm_test_case_14():
    """McGrew and Viega, The Galois/Counter Mode of Operation, appendix B: zero key, zero nonce, one block of zeros."""
    sealed = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert seal(bytes(32), bytes(16), b"").hex() == sealed
    assert open_sealed(bytes(32), bytes.fromhex(sealed), b"") == bytes(16)


def test_opening_state_is_aes_256_gcm_test_case_16():
    """The same source: with associated data and a nonce, which stands before a sealed blob."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated_data = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    sealed = nonce + bytes.fromhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    assert seal_state(key, plaintext, associated_data, lambda length: nonce[:length]) == sealed
    assert open_state(key, sealed, associated_data) == plaintext


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_what_was_sealed_opens(length):
    key, plaintext = os.urandom(32), os.urandom(length)
    sealed = seal(key, plaintext, b"context")
    assert len(sealed) == length + SEAL_BYTES
    assert open_sealed(key, sealed, b"context") == plaintext
    blob = seal_state(key, plaintext, b"context", os.urandom)
    assert len(blob) == length + 28
    assert open_state(key, blob, b"context") == plaintext


def test_every_flipped_bit_is_noticed():
    key = os.urandom(32)
    sealed = seal(key, b"share", b"context")
    blob = seal_state(key, b"state", b"context", os.urandom)
    for function, whole in ((open_sealed, sealed), (open_state, blob)):
        for bit in range(8 * len(whole)):
            altered = bytearray(whole)
            altered[bit // 8] ^= 1 << bit % 8
            assert fault_of(function, key, bytes(altered), b"context").reason is FaultReason.BAD_CIPHERTEXT


@pytest.mark.parametrize("function", [open_sealed, open_state])
def test_another_key_context_or_length_does_not_open(function):
    key = os.urandom(32)
    sealed = (
        seal(key, b"text", b"context") if function is open_sealed else seal_state(key, b"text", b"context", os.urandom)
    )
    attempts = [(os.urandom(32), sealed, b"context"), (key, sealed, b"other"), (key, sealed, b"")]
    attempts += [(key, sealed[:length], b"context") for length in range(len(sealed))]
    attempts += [(key, sealed + b"\x00", b"context")]
    for attempt in attempts:
        fault = fault_of(function, *attempt)
        assert fault.reason is FaultReason.BAD_CIPHERTEXT
        assert fault.__cause__ is None


def test_two_seals_of_one_state_differ():
    key = os.urandom(32)
    assert seal_state(key, b"state", b"", os.urandom) != seal_state(key, b"state", b"", os.urandom)


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_sealing_keys_of_another_length_are_refused(length):
    key = bytes(length)
    for call in (
        lambda: seal(key, b"", b""),
        lambda: open_sealed(key, bytes(16), b""),
        lambda: seal_state(key, b"", b"", os.urandom),
        lambda: open_state(key, bytes(28), b""),
    ):
        with pytest.raises(UsageError, match="32 bytes"):
            call()


def test_sealing_uses_the_nonce_that_its_documentation_states():
    assert seal(b"k" * 32, b"text", b"data") == AESGCM(b"k" * 32).encrypt(bytes(12), b"text", b"data")

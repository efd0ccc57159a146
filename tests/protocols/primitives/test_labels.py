"""Domain separation."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.primitives import labels
from protocols.primitives.labels import derive_key, encode_parts, tagged_hash

PARTS = st.lists(
    st.binary(max_size=9) | st.integers(0, 2**70) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=5,
)


def decode_parts(encoded: bytes) -> list[bytes | int | str]:
    """The inverse, written from the specification: its existence proves that the encoding is injective."""
    parts: list[bytes | int | str] = []
    while encoded:
        kind, length, rest = encoded[:1], int.from_bytes(encoded[1:9], "little"), encoded[9:]
        body, encoded = rest[:length], rest[length:]
        parts.append({b"b": lambda b: b, b"s": bytes.decode, b"i": lambda b: int.from_bytes(b, "big")}[kind](body))
    return parts


@given(PARTS)
def test_encoded_parts_can_be_told_apart_again(parts):
    decoded = decode_parts(encode_parts(*parts))
    assert decoded == parts
    assert [type(part) for part in decoded] == [type(part) for part in parts]


@given(PARTS, PARTS)
def test_different_parts_encode_differently(one, other):
    assert (encode_parts(*one) == encode_parts(*other)) == (
        [(type(part), part) for part in one] == [(type(part), part) for part in other]
    )


def test_encoding_of_parts_is_pinned():
    assert encode_parts("ab", 258, b"\x00", 0).hex() == (
        "7302000000000000006162690200000000000000010262010000000000000000690000000000000000"
    )


@pytest.mark.parametrize("part", [-1, True, 1.0, None, "\ud800", bytearray(1)])
def test_a_part_without_one_encoding_is_refused(part):
    with pytest.raises(UsageError):
        encode_parts(part)


# RFC 5869, appendix A: test cases 1 and 3 (SHA-256); the second has the empty salt that derive_key uses.
@pytest.mark.parametrize(
    ("salt", "info", "length", "okm"),
    [
        (
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_the_key_derivation_function_is_that_of_rfc_5869(salt, info, length, okm):
    function = HKDF(algorithm=SHA256(), length=length, salt=bytes.fromhex(salt), info=bytes.fromhex(info))
    assert function.derive(b"\x0b" * 22).hex() == okm


def test_a_derived_key_is_hkdf_of_the_encoded_label_and_context():
    info = encode_parts("secfl/v1/mask", b"session", 3, 5)
    for length in (16, 32, 8160):
        expected = HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(b"\x0b" * 32)
        assert derive_key(b"\x0b" * 32, label="mask", context=(b"session", 3, 5), length=length) == expected


def test_derived_keys_differ_in_label_context_and_secret():
    keys = {
        derive_key(secret, label=label, context=context)
        for secret in (bytes(32), bytes(33), b"\x01" * 32)
        for label in ("mask", "seal")
        for context in ((), (b"",), (1, 2), (2, 1), (12,), ("12",))
    }
    # HMAC pads a short key with zeros, so that 32 and 33 zero bytes are one secret only as a salt: here all differ.
    assert len(keys) == 3 * 2 * 6


@pytest.mark.parametrize(
    ("secret", "label", "length"),
    [(bytes(31), "mask", 32), (bytes(32), "", 32), (bytes(32), "mask", 15), (bytes(32), "mask", 8161)],
)
def test_weak_secrets_empty_labels_and_impossible_lengths_are_refused(secret, label, length):
    with pytest.raises(UsageError):
        derive_key(secret, label=label, length=length)


def test_a_tagged_hash_is_sha_256_of_the_encoded_label_and_parts():
    assert tagged_hash("roster", b"x", 1) == hashlib.sha256(encode_parts("secfl/v1/roster", b"x", 1)).digest()
    assert len(tagged_hash("roster")) == labels.HASH_BYTES
    with pytest.raises(UsageError, match="label"):
        tagged_hash("")

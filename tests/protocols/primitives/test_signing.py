"""Signatures."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.signing import SigningKey, check_public_key, fingerprint, verify

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

# RFC 8032, section 7.1: secret key, public key, message, signature of tests 1, 2 and 3.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def add(one, other):
    """Sum of two points of edwards25519 (RFC 8032, section 5.1.4, in affine coordinates)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x, y


def decoded(encoding: bytes):
    """Point of an encoding, non-canonical ones included (RFC 8032, section 5.1.3, without its rejections)."""
    number = int.from_bytes(encoding, "little")
    y, sign = (number & 2**255 - 1) % P, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_OF_MINUS_ONE % P
    if (x * x - square) % P:
        raise ValueError("no point has this y")
    return (-x % P, y) if x % 2 != sign else (x, y)


def torsion_encodings() -> list[bytes]:
    """All encodings of the points whose order divides 8, found as the multiples of a point of order 8."""
    for y in range(2, 1000):
        try:
            candidate = scaled(ORDER, decoded(y.to_bytes(32, "little")))
        except ValueError:
            continue
        if scaled(4, candidate) != (0, 1):
            break
    encodings = set()
    for multiple in range(8):
        x, y = scaled(multiple, candidate)
        for number in (y, y + P):
            if number < 2**255:
                encodings.add(number | (x % 2) << 255)
                if x == 0:
                    encodings.add(number | 1 << 255)
    return [number.to_bytes(32, "little") for number in sorted(encodings)]


def scaled(scalar: int, point):
    result = (0, 1)
    for bit in bin(scalar)[2:]:
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    return result


TORSION = torsion_encodings()


def fault_of(*arguments) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        verify(*arguments)
    return caught.value


@pytest.mark.parametrize(("private", "public", "message", "signature"), VECTORS)
def test_keys_and_signatures_are_those_of_rfc_8032(private, public, message, signature):
    key = SigningKey(bytes.fromhex(private))
    assert key.public.hex() == public
    assert key.private_bytes().hex() == private
    assert key.sign(bytes.fromhex(message)).hex() == signature
    verify(key.public, bytes.fromhex(message), bytes.fromhex(signature))


def test_a_signature_of_something_else_is_refused():
    key, other = SigningKey.generate(os.urandom), SigningKey.generate(os.urandom)
    signature = key.sign(b"message")
    verify(key.public, b"message", signature)
    attempts = [(other.public, b"message", signature), (key.public, b"messagf", signature)]
    attempts += [(key.public, b"message", signature[:length]) for length in (0, 32, 63)]
    attempts += [(key.public, b"message", signature + b"\x00")]
    for bit in range(512):
        altered = bytearray(signature)
        altered[bit // 8] ^= 1 << bit % 8
        attempts.append((key.public, b"message", bytes(altered)))
    for attempt in attempts:
        fault = fault_of(*attempt)
        assert fault.reason is FaultReason.BAD_SIGNATURE
        assert fault.__cause__ is None


def test_the_second_encoding_of_a_signature_is_refused():
    """S + L satisfies the same equation (RFC 8032, section 8.4)."""
    key = SigningKey.generate(os.urandom)
    signature = key.sign(b"message")
    malleated = signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
    assert fault_of(key.public, b"message", malleated).reason is FaultReason.BAD_SIGNATURE


def test_the_torsion_has_fourteen_encodings_of_eight_points():
    assert len(TORSION) == 14
    assert len({decoded(encoding) for encoding in TORSION}) == 8
    for encoding in TORSION:
        assert scaled(8, decoded(encoding)) == (0, 1)


@pytest.mark.parametrize("encoding", TORSION, ids=bytes.hex)
def test_public_keys_of_small_order_are_refused(encoding):
    with pytest.raises(PeerFault, match=r"small order|canonical") as caught:
        check_public_key(encoding)
    assert caught.value.reason is FaultReason.BAD_KEY
    assert fault_of(encoding, b"", bytes(64)).reason is FaultReason.BAD_KEY


def test_without_that_check_one_signature_would_verify_for_every_message():
    """Under the identity as public key R = [S]B does not depend on the message: here with S = 0 and R = identity."""
    identity = (1).to_bytes(32, "little")
    for message in (b"one", b"two", b"three"):
        Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), message)
        assert fault_of(identity, message, identity + bytes(32)).reason is FaultReason.BAD_KEY


@pytest.mark.parametrize("y", [P, P + 1, P + 4, P + 18])
@pytest.mark.parametrize("sign", [0, 1])
def test_second_encodings_of_a_public_key_are_refused(y, sign):
    with pytest.raises(PeerFault, match="canonical") as caught:
        check_public_key((y | sign << 255).to_bytes(32, "little"))
    assert caught.value.reason is FaultReason.BAD_KEY


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length):
    with pytest.raises(PeerFault, match="32 bytes") as caught:
        check_public_key(bytes(length))
    assert caught.value.reason is FaultReason.BAD_KEY
    with pytest.raises(UsageError, match="32 bytes"):
        SigningKey(bytes(length))


def test_under_a_key_that_is_no_point_nothing_verifies():
    y = next(y for y in range(2, 100) if pow((y * y - 1) * pow(D * y * y + 1, -1, P) % P, (P - 1) // 2, P) == P - 1)
    public = y.to_bytes(32, "little")
    check_public_key(public)
    assert fault_of(public, b"", bytes(64)).reason is FaultReason.BAD_SIGNATURE


def test_honest_keys_pass():
    for _ in range(20):
        check_public_key(SigningKey.generate(os.urandom).public)


def test_a_signing_key_shows_the_fingerprint_of_its_public_key_alone():
    key = SigningKey(bytes.fromhex(VECTORS[0][0]))
    digest = hashlib.sha256(bytes.fromhex(VECTORS[0][1])).hexdigest()
    assert fingerprint(key.public) == digest[:16]
    assert repr(key) == f"<SigningKey {digest[:16]}>"

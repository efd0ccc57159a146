"""ML-DSA-65 beside Ed25519."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Member, Roster
from protocols.primitives.signing import (
    PostQuantumSigningKey,
    SignatureScheme,
    SigningKey,
    check_post_quantum_key,
    verify,
    verify_post_quantum,
)

KEY = PostQuantumSigningKey(b"\x07" * 32)
BOTH = SignatureScheme.ED25519_MLDSA65


def known_answers() -> Iterator[tuple[bytes, bytes]]:
    """(seed, public key) of the ML-DSA-65 known-answer tests in package cryptography-vectors."""
    with cryptography_vectors.open_vector_file("asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp", "r") as file:
        for line in file:
            name, _, value = line.strip().partition(" = ")
            if name == "xi":
                seed = bytes.fromhex(value)
            elif name == "pk":
                yield seed, bytes.fromhex(value)


def test_keys_are_those_of_the_known_answer_tests() -> None:
    answers = list(known_answers())
    assert len(answers) == 100
    for seed, public in answers:
        assert PostQuantumSigningKey(seed).public == public


def test_signature_verifies_under_its_key_message_and_context_alone() -> None:
    signature = KEY.sign(b"message")
    assert (len(signature), len(KEY.public)) == (3309, 1952)
    verify_post_quantum(KEY.public, b"message", signature)
    assert KEY.sign(b"message") != signature  # hedged
    public = MLDSA65PublicKey.from_public_bytes(KEY.public)
    public.verify(signature, b"message", b"secfl/v1/signature")
    for bad in (
        (PostQuantumSigningKey(b"\x08" * 32).public, b"message", signature),
        (KEY.public, b"massage", signature),
        (KEY.public, b"message", signature[:-1]),
        (KEY.public, b"message", signature + b"\0"),
        (KEY.public, b"message", b""),
        (KEY.public, b"message", KEY._private.sign(b"message")),  # another purpose
        (bytes(1952), b"message", signature),
    ):
        with pytest.raises(PeerFault) as caught:
            verify_post_quantum(*bad)
        assert caught.value.reason is FaultReason.BAD_SIGNATURE


@pytest.mark.parametrize("public", [b"", bytes(32), KEY.public[:-1], KEY.public + b"\0"])
def test_public_key_of_another_length_is_refused(public: bytes) -> None:
    for refused in (lambda: check_post_quantum_key(public), lambda: verify_post_quantum(public, b"", b"")):
        with pytest.raises(PeerFault, match="1952 bytes") as caught:
            refused()
        assert caught.value.reason is FaultReason.BAD_KEY


def test_key_comes_back_from_its_seed_and_shows_nothing() -> None:
    seed = KEY.private_bytes()
    assert seed == b"\x07" * 32
    identity = Identity("a", SigningKey(b"\x09" * 32), post_quantum_key=KEY)
    for shown in (repr(KEY), repr(identity), str(identity.__dict__)):
        assert seed.hex() not in shown
        assert repr(seed) not in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError):
            leak(KEY)
    with pytest.raises(UsageError, match="32 bytes, not 31"):
        PostQuantumSigningKey(seed[:-1])
    assert PostQuantumSigningKey.generate(lambda count: b"\x07" * count).public == KEY.public


# -- both together -----------------------------------------------------------------------------------------------------


def party(name: str, seed: int) -> Identity:
    return Identity(name, SigningKey(bytes([seed]) * 32), post_quantum_key=PostQuantumSigningKey(bytes([seed]) * 32))


A, B = party("a", 1), party("b", 2)
ROSTER = Roster([A.member(), B.member()])


def test_both_signatures_must_verify() -> None:
    signature, other = A.sign(b"message", BOTH), B.sign(b"message", BOTH)
    assert len(signature) == BOTH.signature_bytes == 64 + 3309
    ROSTER.verify("a", b"message", signature, BOTH)
    old = A.sign(b"older", BOTH)
    for bad in (
        signature[:64],
        signature[64:],
        signature[:64] + other[64:],
        other[:64] + signature[64:],
        signature[:64] + old[64:],
        old[:64] + signature[64:],
        signature[64:] + signature[:64],
        signature + b"\0",
        bytes(64) + signature[64:],
        signature[:64] + bytes(3309),
        b"",
    ):
        with pytest.raises(PeerFault, match="in the name of 'a'") as caught:
            ROSTER.verify("a", b"message", bad, BOTH)
        assert caught.value.reason is FaultReason.BAD_SIGNATURE
    with pytest.raises(PeerFault):  # and a longer one is none of the classical scheme
        ROSTER.verify("a", b"message", signature)
    verify(A.signing_key.public, b"message", signature[:64])
    assert A.sign(b"message", SignatureScheme.ED25519) == signature[:64]


def test_party_without_ml_dsa_key_neither_signs_nor_verifies() -> None:
    classical = Identity("a", A.signing_key)
    with pytest.raises(UsageError, match="'a' has no ML-DSA key"):
        classical.sign(b"message", BOTH)
    with pytest.raises(PeerFault) as caught:
        Roster([classical.member()]).verify("a", b"message", A.sign(b"message", BOTH), BOTH)
    assert caught.value.reason is FaultReason.BAD_KEY


def test_roster_pins_ml_dsa_keys() -> None:
    assert Roster.from_bytes(ROSTER.to_bytes()).member("a").post_quantum_key == A.post_quantum_key.public
    without = Roster([Identity("a", A.signing_key).member(), B.member()])
    assert without.digest() != ROSTER.digest()
    with pytest.raises(UsageError, match=r"'a': .*1952 bytes"):
        Roster([Member("a", A.signing_key.public, post_quantum_key=bytes(32))])
    with pytest.raises(UsageError, match="share one ML-DSA key"):
        Roster([A.member(), Member("b", B.signing_key.public, post_quantum_key=A.member().post_quantum_key)])

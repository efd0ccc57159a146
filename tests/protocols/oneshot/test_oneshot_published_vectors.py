"""Sealing keys against the vectors of the post-quantum HPKE draft (package cryptography-vectors)."""

from __future__ import annotations

import hashlib
import json

import cryptography_vectors
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from protocols.oneshot.sealing import CommitteeKey

MLKEM768_X25519, HKDF_SHA256, CHACHA20_POLY1305 = 0x647A, 1, 3


def test_a_committee_key_is_that_of_the_published_hybrid_vector():
    """The draft keeps a 32-byte seed and expands it by SHAKE-256 to ML-KEM's seed and X25519's scalar: our 96 bytes.

    Its ciphertexts carry associated data, which the library's one-call interface does not take.
    """
    with cryptography_vectors.open_vector_file("HPKE/hpke-pq-test-vectors.json", "r") as file:
        vectors = json.load(file)
    ids = (MLKEM768_X25519, HKDF_SHA256, CHACHA20_POLY1305)
    (vector,) = [item for item in vectors if (item["kem_id"], item["kdf_id"], item["aead_id"]) == ids]
    key = CommitteeKey(hashlib.shake_256(bytes.fromhex(vector["skRm"])).digest(96))
    assert key.public == bytes.fromhex(vector["pkRm"])


def test_ml_kem_keys_and_secrets_are_those_of_the_known_answer_tests():
    """The half of a committee key that resists a quantum computer (FIPS 203; seed d || z, as in our key)."""
    answers, current = [], {}
    with cryptography_vectors.open_vector_file("asymmetric/MLKEM/kat_MLKEM_768.rsp", "r") as file:
        for line in file:
            name, _, value = line.strip().partition(" = ")
            current[name] = value
            if name == "ss":
                del current["count"]
                answers.append({item: bytes.fromhex(text) for item, text in current.items() if item})
                current = {}
    assert len(answers) == 1000
    for answer in answers[:100]:
        seed = answer["d"] + answer["z"]
        key = CommitteeKey(seed + bytes(range(32)))
        assert key.public[:1184] == answer["pk"]
        private = MLKEM768PrivateKey.from_seed_bytes(seed)
        assert private.decapsulate(answer["ct"]) == answer["ss"]
        assert private.decapsulate(answer["ct_n"]) == answer["ss_n"]  # a ciphertext that is none: implicit rejection

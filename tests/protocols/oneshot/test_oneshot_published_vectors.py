"""Sealing keys against the vectors of the post-quantum HPKE draft (package cryptography-vectors)."""

from __future__ import annotations

import hashlib
import json

import cryptography_vectors

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

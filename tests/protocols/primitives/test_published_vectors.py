"""Primitives against whole files of published vectors (package cryptography-vectors: NIST CAVP, RFC editors)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import cryptography_vectors
import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import FaultReason, PeerFault
from protocols.primitives.prg import MaskStream
from protocols.primitives.sealing import agree, open_state
from protocols.primitives.signing import SigningKey, verify


def records(path: str) -> Iterator[dict[str, str]]:
    """Blocks of ``key = value`` lines; a lone word (FAIL) is a key of its own."""
    with cryptography_vectors.open_vector_file(path, "r") as file:
        block: dict[str, str] = {}
        for line in map(str.strip, file):
            if not line and block:
                yield block
                block = {}
            elif line and line[0] not in "#[":
                key, _, value = line.partition("=")
                block[key.strip()] = value.strip()
        if block:
            yield block


def test_sealed_states_are_those_of_nist_gcm_decrypt_256():
    opened = refused = 0
    with cryptography_vectors.open_vector_file("ciphers/AES/GCM/gcmDecrypt256.rsp", "r") as file:
        sections = file.read().split("[Keylen = 256]")
    for section in sections[1:]:
        if "[IVlen = 96]" not in section or "[Taglen = 128]" not in section:
            continue  # lengths that nothing of ours uses
        for block in section.split("Count = ")[1:]:
            values = dict(line.partition(" =")[::2] for line in block.splitlines()[1:] if line.strip())
            values = {key.strip(): value.strip() for key, value in values.items()}
            key, associated = bytes.fromhex(values["Key"]), bytes.fromhex(values["AAD"])
            sealed = bytes.fromhex(values["IV"] + values["CT"] + values["Tag"])
            if "FAIL" in values:
                with pytest.raises(PeerFault) as caught:
                    open_state(key, sealed, associated)
                assert caught.value.reason is FaultReason.BAD_CIPHERTEXT
                refused += 1
            else:
                assert open_state(key, sealed, associated) == bytes.fromhex(values["PT"])
                opened += 1
    assert (opened, refused) == (184, 191)


def test_mask_words_are_those_of_rfc_3686_aes_256_ctr():
    """The published counters are not zero: the stream is read where its counter is theirs."""
    seen = 0
    for record in records("ciphers/AES/CTR/aes-256-ctr.txt"):
        if "KEY" not in record:
            continue
        plaintext, ciphertext = bytes.fromhex(record["PLAINTEXT"]), bytes.fromhex(record["CIPHERTEXT"])
        stream = MaskStream(bytes.fromhex(record["KEY"]), 8)
        start = 16 * int(record["IV"], 16)
        keystream = stream.words(start, len(plaintext)).tobytes()
        assert bytes(a ^ b for a, b in zip(plaintext, keystream, strict=True)) == ciphertext
        seen += 1
    assert seen == 3


def test_key_derivation_is_that_of_rfc_5869():
    """`derive_key` is this function with an empty salt (tests/protocols/primitives/test_labels.py)."""
    with cryptography_vectors.open_vector_file("KDF/rfc-5869-HKDF-SHA256.txt", "r") as file:
        cases = file.read().split("COUNT = ")[1:]
    assert len(cases) == 3
    for case in cases:
        record = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in case.splitlines())}
        salt, info = bytes.fromhex(record["salt"]), bytes.fromhex(record["info"])
        derived = HKDF(SHA256(), int(record["L"]), salt, info).derive(bytes.fromhex(record["IKM"]))
        assert derived == bytes.fromhex(record["OKM"])


def test_agreement_is_that_of_rfc_7748():
    seen = 0
    for record in records("asymmetric/X25519/rfc7748.txt"):
        if "INPUT_SCALAR" not in record:
            continue
        public = bytes.fromhex(record["INPUT_U"])
        if int.from_bytes(public, "little") >= 2**255 - 19:
            with pytest.raises(PeerFault):  # ours refuses the second encodings that the RFC lets pass
                agree(bytes.fromhex(record["INPUT_SCALAR"]), public)
        else:
            assert agree(bytes.fromhex(record["INPUT_SCALAR"]), public) == bytes.fromhex(record["OUTPUT_U"])
        seen += 1
    assert seen == 3


def test_all_1024_signatures_of_the_ed25519_authors_are_made_and_verified():
    seen = 0
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        for line in file:
            secret, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
            key = SigningKey(secret[:32])
            assert key.public == public
            assert key.sign(message) == signed[:64]
            verify(public, message, signed[:64])
            seen += 1
    assert seen == 1024


def test_hashes_are_those_of_nist_sha_256():
    seen = 0
    for name in ("SHA256ShortMsg", "SHA256LongMsg"):
        for record in records(f"hashes/SHA2/{name}.rsp"):
            if "MD" not in record:
                continue
            message = bytes.fromhex(record["Msg"])[: int(record["Len"]) // 8]
            assert hashlib.sha256(message).hexdigest() == record["MD"]
            seen += 1
    assert seen == 129


def test_the_keystream_of_a_published_key_is_read_at_any_width():
    record = next(item for item in records("ciphers/AES/CTR/aes-256-ctr.txt") if "KEY" in item)
    key, start = bytes.fromhex(record["KEY"]), 16 * int(record["IV"], 16)
    as_bytes = MaskStream(key, 8).words(start, 16).tobytes()
    for bits in (16, 32, 64):
        width = bits // 8
        np.testing.assert_array_equal(
            MaskStream(key, bits).words(start // width, 16 // width), np.frombuffer(as_bytes, f"<u{width}")
        )

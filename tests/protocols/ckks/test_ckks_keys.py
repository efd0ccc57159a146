"""The key holder's key: generated, sealed, opened; pinned by its hash; never shown."""

from __future__ import annotations

import copy
import hashlib
import pickle

import msgspec
import numpy as np
import pytest
from ckks_cohort import ckks_key

from protocols import wire
from protocols.ckks.keys import CkksKey, KeyHolderIdentity, _KeyFile, _label, key_version, pinned_hash
from protocols.ckks.scheme import Scheme, public_scheme
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Member
from protocols.primitives.sealing import seal_state
from protocols.primitives.signing import SigningKey
from protocols.testing.randomness import DeterministicEntropy

PASSWORD = b"correct horse battery staple"


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return ckks_key().seal(PASSWORD, DeterministicEntropy("seal"))


def test_sealed_key_opens_and_decrypts(sealed: bytes) -> None:
    key, opened = ckks_key(), CkksKey.open(sealed, PASSWORD)
    assert opened.public_context == key.public_context
    assert opened.version == key.version
    public = public_scheme(2, key.public_context)
    integers = np.arange(2048) - 1000
    slots = opened.scheme.decrypt(opened.scheme.parse(public.encrypt(integers)))
    np.testing.assert_array_equal(np.rint(slots), integers)


def test_opened_key_seals_again_under_another_password(sealed: bytes) -> None:
    again = CkksKey.open(sealed, PASSWORD).seal(b"new", DeterministicEntropy("again"))
    assert CkksKey.open(again, b"new").public_context == ckks_key().public_context


def test_secret_key_does_not_stand_in_the_file(sealed: bytes) -> None:
    secret = ckks_key().scheme.secret_bytes()
    middle = secret[len(secret) // 2 :][:32]
    assert middle not in sealed
    assert len(sealed) < len(ckks_key().public_context) + len(secret) + 100


def test_each_sealing_has_its_own_salt_and_nonce() -> None:
    entropy = DeterministicEntropy("two")
    one, two = (wire.decode_record(ckks_key().seal(PASSWORD, entropy), _KeyFile) for _ in range(2))
    assert one.salt != two.salt
    assert one.sealed[:12] != two.sealed[:12]


def test_another_password_opens_nothing(sealed: bytes) -> None:
    with pytest.raises(PeerFault) as caught:
        CkksKey.open(sealed, PASSWORD + b".")
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


@pytest.mark.parametrize("field", ["salt", "public_context", "sealed"])
def test_edited_file_opens_nothing(sealed: bytes, field: str) -> None:
    stored = wire.decode_record(sealed, _KeyFile)
    value = bytearray(getattr(stored, field))
    value[len(value) // 2] ^= 1
    with pytest.raises(PeerFault) as caught:
        CkksKey.open(wire.encode(msgspec.structs.replace(stored, **{field: bytes(value)})), PASSWORD)
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


def test_file_that_names_another_record_or_version_opens_nothing(sealed: bytes) -> None:
    stored = wire.decode_record(sealed, _KeyFile)
    for number, error in ((1, PeerFault), (7, UsageError)):
        with pytest.raises(error):
            CkksKey.open(wire.encode(msgspec.structs.replace(stored, record=number)), PASSWORD)
    with pytest.raises(PeerFault) as caught:
        CkksKey.open(wire.encode(msgspec.structs.replace(stored, version=2)), PASSWORD)
    assert caught.value.reason is FaultReason.MALFORMED
    with pytest.raises(PeerFault):
        CkksKey.open(sealed[:-1], PASSWORD)


def test_file_without_a_secret_key_is_refused(monkeypatch) -> None:
    from protocols.ckks import keys

    monkeypatch.setattr(keys, "_derived", lambda _password, _salt: bytes(32))
    key, salt = ckks_key(), bytes(16)
    label = _label(2, salt, key.public_context)
    without = seal_state(bytes(32), key.public_context, label, DeterministicEntropy("none"))
    with pytest.raises(PeerFault) as caught:
        CkksKey.open(wire.encode(_KeyFile(1, 2, salt, key.public_context, without)), PASSWORD)
    assert caught.value.reason is FaultReason.BAD_KEY


def test_empty_password_is_refused(sealed: bytes) -> None:
    with pytest.raises(UsageError, match="password: it is empty"):
        ckks_key().seal(b"", DeterministicEntropy("seal"))
    with pytest.raises(UsageError, match="password: it is empty"):
        CkksKey.open(sealed, b"")


def test_unknown_record_is_refused() -> None:
    with pytest.raises(UsageError, match="CKKS record: 9; known: 1, 2"):
        CkksKey.generate(9)


def test_pin_is_the_hash_of_the_public_context() -> None:
    key = ckks_key()
    signing = SigningKey.generate(DeterministicEntropy("holder"))
    pin = hashlib.sha256(key.public_context).digest()
    assert KeyHolderIdentity("holder", signing, key).member() == Member("holder", signing.public, sealing_key=pin)
    assert pinned_hash(key.public_context) == pin
    assert key.version == key_version(key.public_context) == pin.hex()[:16]


def test_keys_neither_show_themselves_nor_let_themselves_be_copied() -> None:
    key = ckks_key()
    assert repr(key) == "<CkksKey>"
    assert repr(key.scheme) == "<Scheme>"
    for secret in (key, key.scheme):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(UsageError, match="holds a secret"):
                way(secret)


def test_public_context_holds_no_secret_key_and_cannot_decrypt() -> None:
    """Not by our own check alone: TenSEAL has nothing to decrypt with."""
    key = ckks_key()
    public = Scheme.load(key.scheme.record, key.public_context)
    assert not public.secret
    ciphertext = public.parse(public.encrypt(np.zeros(2048, np.int64)))
    with pytest.raises(UsageError, match="a public context cannot decrypt"):
        public.decrypt(ciphertext)
    with pytest.raises(ValueError, match="doesn't hold a secret_key"):
        ciphertext.decrypt()
    with pytest.raises(ValueError, match="doesn't support decryption"):
        public._context.decryptor()
    with pytest.raises(ValueError, match="doesn't hold a Secret key"):
        public._context.secret_key()
    assert not public._context.has_galois_keys()
    assert not public._context.has_relin_keys()


def test_two_keys_and_two_ciphertexts_of_one_vector_have_nothing_in_common() -> None:
    assert CkksKey.generate(2).version != CkksKey.generate(2).version
    scheme = ckks_key().scheme
    one, other = (np.frombuffer(scheme.encrypt(np.zeros(2048, np.int64))[200:], np.uint8) for _ in range(2))
    # By chance 1/256, and 1/16 for each eighth byte, of which four bits are zero: 0.0112 together.
    assert 0.009 < (one == other).mean() < 0.014

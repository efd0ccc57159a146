"""Sealing of shares by HPKE with ML-KEM-768 and X25519."""

from __future__ import annotations

import copy
import pickle

import pytest

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.oneshot.sealing import (
    CommitteeIdentity,
    CommitteeKey,
    check_sealing_key,
    kem_of,
    seal_bytes,
    seal_share,
    share_label,
)
from protocols.primitives.signing import SigningKey
from protocols.session import SessionId
from protocols.suites import SealingKem
from protocols.testing.randomness import DeterministicEntropy

KEY = CommitteeKey.generate(DeterministicEntropy("sealing"))
CLASSICAL = CommitteeKey.generate(DeterministicEntropy("sealing"), SealingKem.X25519)
SESSION = SessionId(bytes(32))


@pytest.mark.parametrize(("key", "longer"), [(KEY, 1088 + 32 + 16), (CLASSICAL, 32 + 16)])
def test_share_opens_for_its_member_under_its_label(key: CommitteeKey, longer: int) -> None:
    label = share_label(SESSION, 3, 1)
    sealed = seal_share(key.public, b"share", label)
    assert len(sealed) == 5 + seal_bytes(key.kem) == 5 + longer
    assert key.open_share(sealed, label) == b"share"
    assert seal_share(key.public, b"share", label) != sealed


def test_hybrid_and_classical_keys_with_one_x25519_part_open_nothing_of_each_other() -> None:
    twin = CommitteeKey(KEY.private_bytes()[64:])
    assert twin.public == KEY.public[1184:]
    assert [kem_of(key.public) for key in (KEY, twin)] == [SealingKem.MLKEM768_X25519, SealingKem.X25519]
    for sealer, opener in ((KEY, twin), (twin, KEY)):
        sealed = seal_share(sealer.public, b"share", b"label")
        with pytest.raises(PeerFault) as caught:
            opener.open_share(sealed, b"label")
        assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


@pytest.mark.parametrize(
    "label",
    [share_label(SESSION, 3, 2), share_label(SESSION, 1, 3), share_label(SessionId(b"\1" * 32), 3, 1), b""],
)
def test_share_of_another_dealer_member_or_session_does_not_open(label: bytes) -> None:
    sealed = seal_share(KEY.public, b"share", share_label(SESSION, 3, 1))
    with pytest.raises(PeerFault) as caught:
        KEY.open_share(sealed, label)
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


@pytest.mark.parametrize("position", [0, 1087, 1088, 1119, 1120, -1])
def test_changed_truncated_or_lengthened_share_does_not_open(position: int) -> None:
    sealed = bytearray(seal_share(KEY.public, b"share", b"label"))
    sealed[position] ^= 1
    for bad in (bytes(sealed), bytes(sealed[:position]), bytes(sealed) + b"\0", b""):
        with pytest.raises(PeerFault) as caught:
            KEY.open_share(bad, b"label")
        assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


def test_share_does_not_open_for_another_member() -> None:
    other = CommitteeKey.generate(DeterministicEntropy("other"))
    with pytest.raises(PeerFault):
        other.open_share(seal_share(KEY.public, b"share", b""), b"")


@pytest.mark.parametrize(
    ("public", "detail"),
    [
        (b"", "1216 or 32 public bytes, not 0"),
        (KEY.public + b"\0", "not 1217"),
        (bytes(32), "low order"),
        (b"\xff" * 1184 + KEY.public[1184:], "ML-KEM-768"),
        (KEY.public[:1184] + bytes(32), "low order"),
    ],
)
def test_key_that_nothing_can_be_sealed_under_is_refused(public: bytes, detail: str) -> None:
    with pytest.raises(PeerFault, match=detail) as caught:
        check_sealing_key(public)
    assert caught.value.reason is FaultReason.BAD_KEY


def test_key_comes_back_from_its_private_bytes_and_shows_nothing() -> None:
    private = KEY.private_bytes()
    assert len(private) == 96
    assert CommitteeKey(private).public == KEY.public
    assert repr(KEY) == "<CommitteeKey>"
    assert (CommitteeKey(CLASSICAL.private_bytes()).public, len(CLASSICAL.public)) == (CLASSICAL.public, 32)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError):
            leak(KEY)
    with pytest.raises(UsageError, match="96 or 32 bytes, not 95"):
        CommitteeKey(private[:-1])


def test_committee_identity_puts_its_key_on_the_roster() -> None:
    identity = CommitteeIdentity("c00", SigningKey(bytes(32)), KEY)
    assert identity.member().sealing_key == KEY.public
    assert KEY.private_bytes().hex() not in repr(identity)

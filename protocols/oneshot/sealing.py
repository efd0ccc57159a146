"""Sealing to committee members: HPKE (RFC 9180, base mode) with the hybrid of ML-KEM-768 and X25519.

KEM MLKEM768-X25519, KDF HKDF-SHA256, AEAD AES-256-GCM, all by `cryptography`; a share stays sealed as long as one of
the two key agreements holds. HPKE draws its ephemeral keys from OpenSSL's own generator.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Member
from protocols.primitives.labels import encode_parts
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.secrecy import HoldsSecret
from protocols.primitives.signing import SigningKey
from protocols.session import SessionId

__all__ = ["SEAL_BYTES", "CommitteeIdentity", "CommitteeKey", "check_sealing_key", "seal_share", "share_label"]

_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_X25519_BYTES = 32
PRIVATE_KEY_BYTES = _MLKEM_SEED_BYTES + _X25519_BYTES
PUBLIC_KEY_BYTES = _MLKEM_PUBLIC_BYTES + _X25519_BYTES
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_TAG_BYTES = 16
SEAL_BYTES = KEM.MLKEM768_X25519.enc_length() + _TAG_BYTES
"""By how much sealing lengthens a share: the encapsulated keys and the tag."""


class CommitteeKey(HoldsSecret):
    """A member's key pair for sealed shares: of one epoch, deleted after it.

    :param private: 64 bytes of ML-KEM seed (FIPS 203), then 32 of X25519.
    :raises UsageError: another length.
    """

    __slots__ = ("_private", "_raw", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != PRIVATE_KEY_BYTES:
            raise UsageError(f"a committee key has {PRIVATE_KEY_BYTES} bytes, not {len(private)}")
        mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:_MLKEM_SEED_BYTES])
        x25519 = X25519PrivateKey.from_private_bytes(private[_MLKEM_SEED_BYTES:])
        self._raw = private
        self._private = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> CommitteeKey:
        """Make a fresh key from 96 bytes of entropy."""
        return cls(draw(entropy, PRIVATE_KEY_BYTES))

    def private_bytes(self) -> bytes:
        """The private key, to be stored in the member's key file: nowhere else."""
        return self._raw

    def open_share(self, sealed: bytes, label: bytes) -> bytes:
        """Open what `seal_share` made for this key under this label.

        :raises PeerFault: BAD_CIPHERTEXT.
        """
        try:
            return _SUITE.decrypt(sealed, self._private, label)
        except InvalidTag:
            raise PeerFault(FaultReason.BAD_CIPHERTEXT) from None


class CommitteeIdentity(Identity):
    """A committee member's name, signing key and committee key."""

    def __init__(self, party: str, signing_key: SigningKey, committee_key: CommitteeKey) -> None:
        super().__init__(party, signing_key)
        self.committee_key = committee_key

    def member(self) -> Member:
        """This identity's line for a roster: whoever has a sealing key there is on the committee."""
        return Member(self.id, self.signing_key.public, self.committee_key.public)


def seal_share(public: bytes, share: bytes, label: bytes) -> bytes:
    """Seal a share for a member, `SEAL_BYTES` longer.

    :raises PeerFault: BAD_KEY, see `check_sealing_key`.
    """
    try:
        return _SUITE.encrypt(share, _loaded(public), label)
    except ValueError:
        raise PeerFault(FaultReason.BAD_KEY, "X25519 part of low order") from None


@lru_cache(maxsize=1024)
def check_sealing_key(public: bytes) -> None:
    """Refuse a public key that nothing can be sealed under.

    :raises PeerFault: BAD_KEY: of another length, not a key of ML-KEM-768, or of low order.
    """
    seal_share(public, b"", b"")


def share_label(session_id: SessionId, client: int, member: int) -> bytes:
    """What binds a sealed share to its session, dealer and receiver."""
    return encode_parts("secfl/v1/oneshot/share", session_id, client, member)


def _loaded(public: bytes) -> MLKEM768X25519PublicKey:
    if len(public) != PUBLIC_KEY_BYTES:
        raise PeerFault(FaultReason.BAD_KEY, f"a committee key has {PUBLIC_KEY_BYTES} public bytes, not {len(public)}")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
    except ValueError:
        raise PeerFault(FaultReason.BAD_KEY, "not a key of ML-KEM-768") from None
    return MLKEM768X25519PublicKey(mlkem, X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]))

"""Sealing to committee members: HPKE (RFC 9180, base mode), KDF HKDF-SHA256, AEAD AES-256-GCM, by `cryptography`.

The KEM is the suite's: the hybrid of ML-KEM-768 and X25519, under which a share stays sealed as long as one of the two
key agreements holds, or X25519 alone. A key is of one KEM; its length says which. HPKE draws its ephemeral keys from
OpenSSL's own generator.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import Suite as Hpke

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Member
from protocols.primitives.labels import encode_parts
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.secrecy import HoldsSecret
from protocols.primitives.signing import PostQuantumSigningKey, SigningKey
from protocols.session import SessionId
from protocols.suites import SealingKem

__all__ = [
    "CommitteeIdentity",
    "CommitteeKey",
    "check_sealing_key",
    "kem_of",
    "seal_bytes",
    "seal_share",
    "share_label",
]

_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_X25519_BYTES = 32
_TAG_BYTES = 16
_HPKE = MappingProxyType(
    {
        SealingKem.MLKEM768_X25519: Hpke(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
        SealingKem.X25519: Hpke(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    }
)
_ENCAPSULATED_BYTES = MappingProxyType(
    {
        SealingKem.MLKEM768_X25519: KEM.MLKEM768_X25519.enc_length(),
        SealingKem.X25519: KEM.X25519.enc_length(),
    }
)
_KEM_OF_PRIVATE = MappingProxyType(
    {_MLKEM_SEED_BYTES + _X25519_BYTES: SealingKem.MLKEM768_X25519, _X25519_BYTES: SealingKem.X25519}
)
_KEM_OF_PUBLIC = MappingProxyType(
    {_MLKEM_PUBLIC_BYTES + _X25519_BYTES: SealingKem.MLKEM768_X25519, _X25519_BYTES: SealingKem.X25519}
)


def seal_bytes(kem: SealingKem) -> int:
    """By how much sealing lengthens a share: the encapsulated keys and the tag."""
    return _ENCAPSULATED_BYTES[kem] + _TAG_BYTES


class CommitteeKey(HoldsSecret):
    """A member's key pair for sealed shares: of one epoch, deleted after it.

    :param private: 64 bytes of ML-KEM seed (FIPS 203), then 32 of X25519; or the 32 bytes of X25519 alone.
    :raises UsageError: another length.
    """

    __slots__ = ("_private", "_raw", "kem", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) not in _KEM_OF_PRIVATE:
            lengths = " or ".join(map(str, _KEM_OF_PRIVATE))
            raise UsageError(f"a committee key has {lengths} bytes, not {len(private)}")
        self._raw = private
        self.kem = _KEM_OF_PRIVATE[len(private)]
        x25519 = X25519PrivateKey.from_private_bytes(private[-_X25519_BYTES:])
        self.public = x25519.public_key().public_bytes_raw()
        self._private: MLKEM768X25519PrivateKey | X25519PrivateKey = x25519
        if self.kem is SealingKem.MLKEM768_X25519:
            mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:_MLKEM_SEED_BYTES])
            self.public = mlkem.public_key().public_bytes_raw() + self.public
            self._private = MLKEM768X25519PrivateKey(mlkem, x25519)

    @classmethod
    def generate(cls, entropy: Entropy, kem: SealingKem = SealingKem.MLKEM768_X25519) -> CommitteeKey:
        """Make a fresh key from 96 bytes of entropy, or from 32."""
        return cls(draw(entropy, next(length for length, known in _KEM_OF_PRIVATE.items() if known is kem)))

    def private_bytes(self) -> bytes:
        """The private key, to be stored in the member's key file: nowhere else."""
        return self._raw

    def open_share(self, sealed: bytes, label: bytes) -> bytes:
        """Open what `seal_share` made for this key under this label.

        :raises PeerFault: BAD_CIPHERTEXT.
        """
        try:
            return _HPKE[self.kem].decrypt(sealed, self._private, label)
        except InvalidTag:
            raise PeerFault(FaultReason.BAD_CIPHERTEXT) from None


class CommitteeIdentity(Identity):
    """A committee member's name, the keys that it signs with, and its committee key."""

    def __init__(
        self,
        party: str,
        signing_key: SigningKey,
        committee_key: CommitteeKey,
        *,
        post_quantum_key: PostQuantumSigningKey | None = None,
    ) -> None:
        super().__init__(party, signing_key, post_quantum_key=post_quantum_key)
        self.committee_key = committee_key

    def member(self) -> Member:
        """This identity's line for a roster: whoever has a sealing key there is on the committee."""
        line = super().member()
        return Member(line.id, line.identity_key, self.committee_key.public, post_quantum_key=line.post_quantum_key)


def kem_of(public: bytes) -> SealingKem:
    """The KEM that a public key is of.

    :raises PeerFault: BAD_KEY, of none.
    """
    if len(public) not in _KEM_OF_PUBLIC:
        lengths = " or ".join(map(str, _KEM_OF_PUBLIC))
        raise PeerFault(FaultReason.BAD_KEY, f"a committee key has {lengths} public bytes, not {len(public)}")
    return _KEM_OF_PUBLIC[len(public)]


def seal_share(public: bytes, share: bytes, label: bytes) -> bytes:
    """Seal a share for a member, `seal_bytes` longer.

    :raises PeerFault: BAD_KEY, see `check_sealing_key`.
    """
    try:
        return _HPKE[kem_of(public)].encrypt(share, _loaded(public), label)
    except ValueError:
        raise PeerFault(FaultReason.BAD_KEY, "X25519 part of low order") from None


@lru_cache(maxsize=1024)
def check_sealing_key(public: bytes) -> None:
    """Refuse a public key that nothing can be sealed under.

    :raises PeerFault: BAD_KEY: of another length, not a key of ML-KEM-768, or of low order.
    """
    seal_share(public, b"", b"")


def share_label(session_id: SessionId, client: int, member: int) -> bytes:
    """What binds a sealed share to its session (so to its suite), dealer and receiver."""
    return encode_parts("secfl/v1/oneshot/share", session_id, client, member)


def _loaded(public: bytes) -> MLKEM768X25519PublicKey | X25519PublicKey:
    x25519 = X25519PublicKey.from_public_bytes(public[-_X25519_BYTES:])
    if kem_of(public) is SealingKem.X25519:
        return x25519
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
    except ValueError:
        raise PeerFault(FaultReason.BAD_KEY, "not a key of ML-KEM-768") from None
    return MLKEM768X25519PublicKey(mlkem, x25519)

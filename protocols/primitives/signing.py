"""Signatures by Ed25519 (RFC 8032), with public keys that could sign anything refused."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.secrecy import HoldsSecret

__all__ = [
    "PRIVATE_KEY_BYTES",
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "SigningKey",
    "check_public_key",
    "fingerprint",
    "verify",
]

PRIVATE_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

_FIELD_PRIME = 2**255 - 19
_SIGN_BIT = 1 << 255
_Y_OF_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# The y coordinates of the 8 points whose order divides 8: the identity, orders 2, 4 and 8 (a y and its negative).
# Under such a key a signature can verify for many messages. Compared without the sign bit, so that the encodings of
# the identity and the point of order 2 with a superfluous sign are caught; those with y >= p are not canonical.
_SMALL_ORDER_Y = frozenset({1, _FIELD_PRIME - 1, 0, _Y_OF_ORDER_8, _FIELD_PRIME - _Y_OF_ORDER_8})


class SigningKey(HoldsSecret):
    """An Ed25519 identity key.

    :param private: 32 bytes, the seed of RFC 8032.
    :raises UsageError: another length.
    """

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != PRIVATE_KEY_BYTES:
            raise UsageError(f"an Ed25519 private key has {PRIVATE_KEY_BYTES} bytes, not {len(private)}")
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> SigningKey:
        """Make a fresh key from 32 bytes of entropy."""
        return cls(draw(entropy, PRIVATE_KEY_BYTES))

    def __repr__(self) -> str:
        return f"<SigningKey {fingerprint(self.public)}>"

    def private_bytes(self) -> bytes:
        """The private key, to be stored in the party's key file: nowhere else."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign a message, built with :func:`protocols.primitives.labels.encode_parts`: 64 bytes."""
        return self._private.sign(message)


def fingerprint(public: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a public key: for people, not for decisions."""
    return hashlib.sha256(public).hexdigest()[:16]


def check_public_key(public: bytes) -> None:
    """Refuse a public key that no honest party has.

    :raises PeerFault: ``BAD_KEY`` for a key that is not 32 bytes, not canonical (RFC 8032, section 5.1.3) or of small
        order. A key that is no point of the curve passes; nothing verifies under it.
    """
    if len(public) != PUBLIC_KEY_BYTES:
        raise PeerFault(FaultReason.BAD_KEY, f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes")
    y = int.from_bytes(public, "little") & (_SIGN_BIT - 1)
    if y >= _FIELD_PRIME:
        raise PeerFault(FaultReason.BAD_KEY, "Ed25519 public key is not canonical")
    if y in _SMALL_ORDER_Y:
        raise PeerFault(FaultReason.BAD_KEY, "Ed25519 public key of small order")


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature.

    :raises PeerFault: ``BAD_KEY``, see :func:`check_public_key`; ``BAD_SIGNATURE`` if it does not verify.
    """
    check_public_key(public)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise PeerFault(FaultReason.BAD_SIGNATURE) from None

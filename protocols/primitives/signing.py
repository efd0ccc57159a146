"""Signatures: Ed25519 (RFC 8032), with public keys that could sign anything refused; ML-DSA-65 (FIPS 204) beside it.

Against a quantum computer a signature is both, over the same message, and both must verify: it is forged only by who
breaks both, so nothing is lost should the younger scheme or its code turn out weak, and Ed25519 stays a party's
identity. Neither half can be passed off as a signature of its own: a message names its session, that its suite.
"""

from __future__ import annotations

import hashlib
from enum import Enum, unique

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.secrecy import HoldsSecret

__all__ = [
    "POST_QUANTUM_PUBLIC_KEY_BYTES",
    "POST_QUANTUM_SEED_BYTES",
    "POST_QUANTUM_SIGNATURE_BYTES",
    "PRIVATE_KEY_BYTES",
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "PostQuantumSigningKey",
    "SignatureScheme",
    "SigningKey",
    "check_post_quantum_key",
    "check_public_key",
    "fingerprint",
    "verify",
    "verify_post_quantum",
]

PRIVATE_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
POST_QUANTUM_SEED_BYTES = 32
POST_QUANTUM_PUBLIC_KEY_BYTES = 1952
POST_QUANTUM_SIGNATURE_BYTES = 3309
_POST_QUANTUM_CONTEXT = b"secfl/v1/signature"

_FIELD_PRIME = 2**255 - 19
_SIGN_BIT = 1 << 255
_Y_OF_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# The y coordinates of the 8 points whose order divides 8: the identity, orders 2, 4 and 8 (a y and its negative).
# Under such a key a signature can verify for many messages. Compared without the sign bit, so that the encodings of
# the identity and the point of order 2 with a superfluous sign are caught; those with y >= p are not canonical.
_SMALL_ORDER_Y = frozenset({1, _FIELD_PRIME - 1, 0, _Y_OF_ORDER_8, _FIELD_PRIME - _Y_OF_ORDER_8})


@unique
class SignatureScheme(Enum):
    """What a party's signature is made of, Ed25519 first."""

    ED25519 = "Ed25519"
    ED25519_MLDSA65 = "Ed25519 and ML-DSA-65"

    @property
    def post_quantum(self) -> bool:
        """Whether a signature holds one of ML-DSA-65 as well."""
        return self is SignatureScheme.ED25519_MLDSA65

    @property
    def signature_bytes(self) -> int:
        """Length of a signature: 64, or 3373."""
        return SIGNATURE_BYTES + self.post_quantum * POST_QUANTUM_SIGNATURE_BYTES


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


class PostQuantumSigningKey(HoldsSecret):
    """An ML-DSA-65 key, which signs beside a party's `SigningKey`.

    :param seed: 32 bytes, the seed xi of FIPS 204, section 5.1.
    :raises UsageError: another length.
    """

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != POST_QUANTUM_SEED_BYTES:
            raise UsageError(f"an ML-DSA-65 seed has {POST_QUANTUM_SEED_BYTES} bytes, not {len(seed)}")
        self._private = MLDSA65PrivateKey.from_seed_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> PostQuantumSigningKey:
        """Make a fresh key from 32 bytes of entropy."""
        return cls(draw(entropy, POST_QUANTUM_SEED_BYTES))

    def __repr__(self) -> str:
        return f"<PostQuantumSigningKey {fingerprint(self.public)}>"

    def private_bytes(self) -> bytes:
        """The seed, to be stored in the party's key file: nowhere else."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign a message: 3309 bytes, never the same twice (OpenSSL's own randomness hedges them)."""
        return self._private.sign(message, _POST_QUANTUM_CONTEXT)


def check_post_quantum_key(public: bytes) -> None:
    """Refuse what is no ML-DSA-65 public key: any string of the length is one.

    :raises PeerFault: ``BAD_KEY``.
    """
    if len(public) != POST_QUANTUM_PUBLIC_KEY_BYTES:
        raise PeerFault(FaultReason.BAD_KEY, f"an ML-DSA-65 public key has {POST_QUANTUM_PUBLIC_KEY_BYTES} bytes")


def verify_post_quantum(public: bytes, message: bytes, signature: bytes) -> None:
    """Check an ML-DSA-65 signature.

    :raises PeerFault: ``BAD_KEY``, see :func:`check_post_quantum_key`; ``BAD_SIGNATURE`` if it does not verify.
    """
    check_post_quantum_key(public)
    try:
        MLDSA65PublicKey.from_public_bytes(public).verify(signature, message, _POST_QUANTUM_CONTEXT)
    except InvalidSignature:
        raise PeerFault(FaultReason.BAD_SIGNATURE) from None

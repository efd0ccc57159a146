"""Key agreement by X25519 (RFC 7748) and sealing by AES-256-GCM (NIST SP 800-38D)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.labels import KEY_BYTES, Part, derive_key
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.secrecy import HoldsSecret

__all__ = [
    "PRIVATE_KEY_BYTES",
    "PUBLIC_KEY_BYTES",
    "SEAL_BYTES",
    "SealingKeyPair",
    "agree",
    "direction_key",
    "open_sealed",
    "open_state",
    "public_key_of",
    "seal",
    "seal_state",
]

PUBLIC_KEY_BYTES = 32
PRIVATE_KEY_BYTES = 32
SEAL_BYTES = 16
"""By how much :func:`seal` lengthens a message: the tag."""

_FIELD_PRIME = 2**255 - 19
_NONCE_BYTES = 12
# A sealing key is derived for one message of one direction of one pair in one session (see direction_key) and used
# once, so that the nonce, which has to be unique under one key, can be constant and need not travel.
_SINGLE_USE_NONCE = bytes(_NONCE_BYTES)


class SealingKeyPair(HoldsSecret):
    """An X25519 key pair, ephemeral: a sealing key or a masking key of one session.

    :param private: 32 bytes; any such string is a private key (RFC 7748, section 5).
    :raises UsageError: another length.
    """

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != PRIVATE_KEY_BYTES:
            raise UsageError(f"an X25519 private key has {PRIVATE_KEY_BYTES} bytes, not {len(private)}")
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> SealingKeyPair:
        """Make a fresh pair from 32 bytes of entropy."""
        return cls(draw(entropy, PRIVATE_KEY_BYTES))

    def private_bytes(self) -> bytes:
        """The private key, to be shared among holders or sealed into saved state: nowhere else."""
        return self._private.private_bytes_raw()


def public_key_of(private: bytes) -> bytes:
    """The public key (32 bytes) of an X25519 private key, for instance of one that was reconstructed.

    :raises UsageError: another length than 32 bytes.
    """
    return SealingKeyPair(private).public


def agree(own: SealingKeyPair | bytes, peer_public: bytes) -> bytes:
    """X25519 shared secret of 32 bytes; not a key yet: see :func:`protocols.primitives.labels.derive_key`.

    :param own: a key pair, or the private key's 32 bytes; those cost as much to load as to agree, so for several
        peers make a pair once.
    :raises UsageError: a private key of another length.
    :raises PeerFault: ``BAD_KEY`` for a public key that is not 32 bytes, not canonical (one key would have several
        encodings, and pass for several parties') or of low order (RFC 7748, section 6.1).
    """
    pair = SealingKeyPair(own) if isinstance(own, bytes) else own
    if len(peer_public) != PUBLIC_KEY_BYTES:
        raise PeerFault(FaultReason.BAD_KEY, f"an X25519 public key has {PUBLIC_KEY_BYTES} bytes")
    if int.from_bytes(peer_public, "little") >= _FIELD_PRIME:
        raise PeerFault(FaultReason.BAD_KEY, "X25519 public key is not canonical")
    try:
        return pair._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError:
        raise PeerFault(FaultReason.BAD_KEY, "X25519 public key of low order") from None


def direction_key(
    shared_secret: bytes, *, label: str, context: tuple[Part, ...], sender: Part, receiver: Part
) -> bytes:
    """Key of 32 bytes for the messages of one label from sender to receiver: the two directions never share one.

    :param context: what else binds it, for instance session id and root of the advertisements.
    :raises UsageError: see :func:`protocols.primitives.labels.derive_key`.
    """
    return derive_key(shared_secret, label=label, context=(*context, sender, receiver))


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Encrypt and authenticate the one message of a key: AES-256-GCM under a constant nonce, 16 bytes longer.

    A second message under the same key reveals both and allows forgeries: derive a key for each.

    :param key: 32 bytes, used for this call alone.
    :raises UsageError: another length of key.
    """
    return _cipher(key).encrypt(_SINGLE_USE_NONCE, plaintext, associated_data)


def open_sealed(key: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """Open what :func:`seal` made with the same key and associated data.

    :raises UsageError: a key that is not 32 bytes.
    :raises PeerFault: ``BAD_CIPHERTEXT`` if the ciphertext, the key or the associated data differ.
    """
    return _open(key, _SINGLE_USE_NONCE, ciphertext, associated_data)


def seal_state(key: bytes, blob: bytes, associated_data: bytes, entropy: Entropy) -> bytes:
    """Seal a saved session: random 96-bit nonce, then AES-256-GCM; 28 bytes longer.

    :param key: 32 bytes that stay with the party; at most 2^32 blobs (SP 800-38D, section 8.3).
    :raises UsageError: another length of key.
    """
    nonce = draw(entropy, _NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, blob, associated_data)


def open_state(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Open what :func:`seal_state` made with the same key and associated data.

    :raises UsageError: a key that is not 32 bytes.
    :raises PeerFault: ``BAD_CIPHERTEXT`` if the blob, the key or the associated data differ.
    """
    return _open(key, sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated_data)


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise UsageError(f"a sealing key has {KEY_BYTES} bytes, not {len(key)}")
    return AESGCM(key)


def _open(key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    cipher = _cipher(key)
    if len(nonce) != _NONCE_BYTES or len(ciphertext) < SEAL_BYTES:
        raise PeerFault(FaultReason.BAD_CIPHERTEXT, "too short")
    try:
        return cipher.decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        raise PeerFault(FaultReason.BAD_CIPHERTEXT) from None

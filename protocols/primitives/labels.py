"""Domain separation: one injective encoding under every hash, key derivation, signature and associated data.

Every derived value names its purpose (a label) and its circumstances (session, parties, ...). Two different lists of
parts never encode to the same bytes, so that no key, hash or signature serves two purposes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import UsageError

__all__ = ["HASH_BYTES", "KEY_BYTES", "Part", "derive_key", "encode_parts", "tagged_hash"]

Part = bytes | int | str

KEY_BYTES = 32
HASH_BYTES = 32
_NAMESPACE = "secfl/v1/"
_MAXIMAL_DERIVED_BYTES = 255 * HASH_BYTES  # RFC 5869, section 2.3


def encode_parts(*parts: Part) -> bytes:
    """Concatenate parts so that different lists of parts give different bytes, and none a prefix of a longer part.

    Each part is a type byte (``b``, ``i`` or ``s``), its length in 8 bytes little-endian, and its body: the bytes, the
    shortest big-endian form of an integer >= 0 (zero is empty), or UTF-8.

    :raises UsageError: a part is of another type (``bool`` included), a negative integer or a string without UTF-8.
    """
    return b"".join(_encoded(parts))


def _encoded(parts: tuple[Part, ...]) -> Iterator[bytes]:
    for part in parts:
        kind: bytes
        if isinstance(part, bytes):
            kind, body = b"b", part
        elif isinstance(part, str):
            try:
                kind, body = b"s", part.encode()
            except UnicodeEncodeError:
                raise UsageError("a string part has no UTF-8 encoding") from None
        elif isinstance(part, int) and not isinstance(part, bool):
            if part < 0:
                raise UsageError("an integer part is negative")
            kind, body = b"i", part.to_bytes((part.bit_length() + 7) // 8, "big")
        else:
            raise UsageError(f"a part is bytes, int or str, not {type(part).__name__}")
        yield kind + len(body).to_bytes(8, "little")
        yield body


def _namespaced(label: str) -> str:
    if not label:
        raise UsageError("a label is not empty")
    return _NAMESPACE + label


def derive_key(secret: bytes, *, label: str, context: tuple[Part, ...] = (), length: int = KEY_BYTES) -> bytes:
    """Derive a key of ``length`` bytes for one purpose from a secret: HKDF-SHA256 (RFC 5869), empty salt.

    A shorter output is a prefix of a longer one: use one label with one length.

    :param secret: uniform or Diffie-Hellman secret of at least 32 bytes.
    :param label: the purpose, the same for all parties and sessions.
    :param context: what the key is bound to, for instance session id, sender and receiver.
    :param length: 16 to 8160 bytes.
    :raises UsageError: a shorter secret, an empty label, a part that cannot be encoded, another length.
    """
    if len(secret) < KEY_BYTES:
        raise UsageError(f"a secret to derive keys from has at least {KEY_BYTES} bytes, not {len(secret)}")
    if not 16 <= length <= _MAXIMAL_DERIVED_BYTES:
        raise UsageError(f"a derived key has 16 to {_MAXIMAL_DERIVED_BYTES} bytes, not {length}")
    info = encode_parts(_namespaced(label), *context)
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def tagged_hash(label: str, *parts: Part) -> bytes:
    """SHA-256 (32 bytes) of the label and parts under :func:`encode_parts`.

    :raises UsageError: an empty label or a part that cannot be encoded.
    """
    return hashlib.sha256(encode_parts(_namespaced(label), *parts)).digest()

"""The key holder's key: made once, kept encrypted, its public half pinned in the roster."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from numpy.typing import NDArray

from protocols import wire
from protocols.ckks.records import DEFAULT_RECORD, record
from protocols.ckks.scheme import MAXIMUM_CONTEXT_BYTES, Scheme
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Member
from protocols.primitives.labels import encode_parts
from protocols.primitives.sampling import Entropy, draw
from protocols.primitives.sealing import open_state, seal_state
from protocols.primitives.secrecy import HoldsSecret
from protocols.primitives.signing import PostQuantumSigningKey, SigningKey

__all__ = ["CkksKey", "KeyHolderIdentity", "Noise", "key_version", "pinned_hash"]

Noise = Callable[[int], NDArray[np.int64]]
"""``noise(n)`` draws n integers that the key holder adds to a sum before it releases it."""

_FILE_VERSION = 1
_SALT_BYTES = 16
_SCRYPT = {"length": 32, "n": 2**17, "r": 8, "p": 1}
"""128 MiB and some tenths of a second a guess (RFC 7914; OWASP Password Storage Cheat Sheet)."""
_VERSION_LENGTH = 16


def pinned_hash(public_context: bytes) -> bytes:
    """What stands as the key holder's `sealing_key` in the roster: SHA-256 of its public context."""
    return hashlib.sha256(public_context).digest()


def key_version(public_context: bytes) -> str:
    """Short name of a key, for people and error messages: 16 hexadecimal digits of the pinned hash."""
    return pinned_hash(public_context).hex()[:_VERSION_LENGTH]


class _KeyFile(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A key at rest: everything but `sealed` is authenticated with it."""

    version: Annotated[int, msgspec.Meta(ge=_FILE_VERSION, le=_FILE_VERSION)]
    record: Annotated[int, msgspec.Meta(ge=0, lt=2**16)]
    salt: Annotated[bytes, msgspec.Meta(min_length=_SALT_BYTES, max_length=_SALT_BYTES)]
    public_context: Annotated[bytes, msgspec.Meta(max_length=MAXIMUM_CONTEXT_BYTES)]
    sealed: Annotated[bytes, msgspec.Meta(max_length=MAXIMUM_CONTEXT_BYTES)]


class CkksKey(HoldsSecret):
    """A key holder's key pair. Made by `generate` or `open`.

    :param scheme: with the secret key.
    :param public_context: what all others get, byte for byte as it is pinned.
    """

    __slots__ = ("public_context", "scheme")

    def __init__(self, scheme: Scheme, public_context: bytes) -> None:
        self.scheme = scheme
        self.public_context = public_context

    @classmethod
    def generate(cls, number: int = DEFAULT_RECORD) -> CkksKey:
        """Make a fresh key of a record; randomness is SEAL's own, seeded by the operating system.

        :raises UsageError: unknown record.
        :raises MissingExtra: TenSEAL is not installed.
        """
        scheme = Scheme.generate(record(number))
        return cls(scheme, scheme.public_bytes())

    @property
    def version(self) -> str:
        """See `key_version`."""
        return key_version(self.public_context)

    def seal(self, password: bytes, entropy: Entropy) -> bytes:
        """The key as a file's content: scrypt of the password, then AES-256-GCM over the secret key.

        :param password: of a person, or 32 random bytes from the operating system's key ring.
        :raises UsageError: an empty password.
        """
        salt = draw(entropy, _SALT_BYTES)
        number = self.scheme.record.id
        label = _label(number, salt, self.public_context)
        sealed = seal_state(_derived(password, salt), self.scheme.secret_bytes(), label, entropy)
        return wire.encode(_KeyFile(_FILE_VERSION, number, salt, self.public_context, sealed))

    @classmethod
    def open(cls, content: bytes, password: bytes) -> CkksKey:
        """Read what `seal` gave.

        :raises PeerFault: MALFORMED; BAD_CIPHERTEXT for another password or an edited file; BAD_KEY.
        :raises UsageError: unknown record, or an empty password.
        """
        stored = wire.decode_record(content, _KeyFile)
        used = record(stored.record)
        label = _label(stored.record, stored.salt, stored.public_context)
        secret = open_state(_derived(password, stored.salt), stored.sealed, label)
        scheme = Scheme.load(used, secret)
        if not scheme.secret:
            raise PeerFault(FaultReason.BAD_KEY, "the file holds no secret key")
        return cls(scheme, stored.public_context)


def _derived(password: bytes, salt: bytes) -> bytes:
    if not password:
        raise UsageError("password: it is empty")
    return Scrypt(salt=salt, **_SCRYPT).derive(password)


def _label(number: int, salt: bytes, public_context: bytes) -> bytes:
    return encode_parts("secfl/v1/ckks/key", _FILE_VERSION, number, salt, pinned_hash(public_context))


class KeyHolderIdentity(Identity):
    """A key holder's name, signing key, CKKS key, and the noise that it adds to every sum, if it adds any.

    :param noise: drawn anew for each piece of a sum; int64, one for each entry that it is asked for.
    """

    def __init__(
        self,
        party: str,
        signing_key: SigningKey,
        ckks_key: CkksKey,
        *,
        noise: Noise | None = None,
        post_quantum_key: PostQuantumSigningKey | None = None,
    ) -> None:
        super().__init__(party, signing_key, post_quantum_key=post_quantum_key)
        self.ckks_key = ckks_key
        self.noise = noise

    def member(self) -> Member:
        """This identity's line for a roster, with the hash of its public context."""
        pin = pinned_hash(self.ckks_key.public_context)
        return msgspec.structs.replace(super().member(), sealing_key=pin)

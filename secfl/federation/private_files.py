"""Files of private keys: PKCS #8 PEM, readable by their owner alone, encrypted under a passphrase if wanted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocols.errors import ConfigError

__all__ = [
    "ENVIRONMENT",
    "MINIMUM_PASSPHRASE",
    "Passphrase",
    "check_passphrase",
    "environment_passphrase",
    "is_encrypted",
    "open_private",
    "private_pem",
]

ENVIRONMENT = "SECFL_KEY_PASSPHRASE"
"""Environment variable with the passphrase of encrypted keys."""
MINIMUM_PASSPHRASE = 12
"""Bytes. PKCS #8 as `cryptography` writes it stretches a passphrase by 2048 rounds of PBKDF2 only: take a long one."""

_MAXIMAL_BYTES = 1 << 16
_PLAIN, _ENCRYPTED = b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_BLOCK_ENDS = re.compile(rb"(?<=-----END PRIVATE KEY-----)|(?<=-----END ENCRYPTED PRIVATE KEY-----)")

Passphrase = Callable[[Path], bytes]
"""Gives the passphrase of a key file; asked only where the file is encrypted."""


def environment_passphrase(path: Path) -> bytes:
    """The passphrase in the environment.

    :raises ConfigError: there is none.
    """
    secret = os.environb.get(ENVIRONMENT.encode(), b"")
    if not secret:
        raise ConfigError(str(path), "is encrypted", f"its passphrase in the environment variable {ENVIRONMENT}")
    return secret


def check_passphrase(passphrase: bytes | None) -> None:
    """Refuse a passphrase that is too short; None is none.

    :raises ConfigError: shorter than `MINIMUM_PASSPHRASE` bytes.
    """
    if passphrase is not None and len(passphrase) < MINIMUM_PASSPHRASE:
        raise ConfigError("passphrase", f"has {len(passphrase)} bytes", f"at least {MINIMUM_PASSPHRASE}")


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase is needed.

    :raises ConfigError: the file is no private key, or others may read it.
    """
    return _is_encrypted(path, _read(path), "PKCS #8 PEM")


def open_private(
    path: Path, passphrase: Passphrase, allowed: str, *, several: bool = False
) -> tuple[list[Any], bytes | None]:
    """The private keys in a file, one after another, and the passphrase that opened them.

    :param allowed: what the file should hold, in words.
    :param several: whether it may hold several keys.
    :raises ConfigError: the file is no such key, others may read it, or the passphrase does not open it.
    """
    raw = _read(path)
    secret = passphrase(path) if _is_encrypted(path, raw, allowed) else None
    parts = [part for part in _BLOCK_ENDS.split(raw) if part.strip()] if several else [raw]
    try:
        keys = [load_pem_private_key(part, password=secret) for part in parts]
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        # cryptography raises the last for a raw key that OpenSSL refuses, such as an X448 key of 32 bytes.
        if secret is not None:
            raise ConfigError(str(path), "does not open", "the passphrase that it was encrypted under") from None
        raise ConfigError(str(path), "is a damaged private key", allowed) from None
    return keys, secret


def private_pem(private: Any, passphrase: bytes | None) -> bytes:
    """A private key as PKCS #8 PEM, encrypted under a passphrase unless that is None."""
    encryption: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    pem: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(str(path), "others may read this private key", "mode 600")
            return file.read(_MAXIMAL_BYTES)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "a private key file") from None


def _is_encrypted(path: Path, raw: bytes, allowed: str) -> bool:
    if raw.lstrip().startswith(_ENCRYPTED):
        return True
    if raw.lstrip().startswith(_PLAIN):
        return False
    raise ConfigError(str(path), "is not a private key", allowed)

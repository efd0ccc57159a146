"""Identity keys as files: Ed25519, PKCS #8 PEM, readable by their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocols.errors import ConfigError
from protocols.primitives.signing import SigningKey
from protocols.shape import Entropy
from secfl.files import write_new

__all__ = ["load_key", "load_or_create_key"]


def load_or_create_key(path: Path, entropy: Entropy = os.urandom) -> SigningKey:
    """The key in a file; a fresh one is written if there is none.

    :raises ConfigError: the file is no such key, or others may read it.
    """
    if path.exists():
        return load_key(path)
    key = SigningKey.generate(entropy)
    private = Ed25519PrivateKey.from_private_bytes(key.private_bytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_new(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    except FileExistsError:  # another process was first; its key may have signed already
        return load_key(path)
    return key


def load_key(path: Path) -> SigningKey:
    """The key in a file.

    :raises ConfigError: the file is no such key, or others may read it.
    """
    if path.stat().st_mode & 0o077:
        raise ConfigError(str(path), "others may read this private key", "mode 600")
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(str(path), "is not a private key", "Ed25519, PKCS #8 PEM, not encrypted") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(str(path), f"holds a {type(private).__name__}", "Ed25519, PKCS #8 PEM")
    return SigningKey(private.private_bytes_raw())

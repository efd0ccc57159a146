"""Identity keys as files: Ed25519, PKCS #8 PEM, readable by their owner alone, encrypted under a passphrase if wanted.

Beside a key ``identity.key`` stand ``identity.key.pub`` (who it is of, signed: hand this to the roster's keeper) and,
after a rotation, the statement of it and the old key, which still opens what it signed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import ConfigError
from protocols.identity import client_id
from protocols.primitives.signing import SigningKey, fingerprint
from protocols.shape import Entropy
from secfl.federation.key_statements import Introduction, Revocation, Rotation, read_statement
from secfl.federation.private_files import (
    ENVIRONMENT,
    MINIMUM_PASSPHRASE,
    Passphrase,
    check_passphrase,
    environment_passphrase,
    is_encrypted,
    open_private,
    private_pem,
)
from secfl.files import sync_directory, write_new, write_whole

__all__ = [
    "ENVIRONMENT",
    "MINIMUM_PASSPHRASE",
    "Passphrase",
    "RotatedKey",
    "create_key",
    "environment_passphrase",
    "introduce",
    "introduction_path",
    "is_encrypted",
    "load_key",
    "load_or_create_key",
    "revoke_key",
    "rotate_key",
    "silo_of",
]

FORMAT = "Ed25519, PKCS #8 PEM"


def load_or_create_key(path: Path, entropy: Entropy = os.urandom) -> SigningKey:
    """The key in a file; a fresh one, not encrypted, is written if there is none.

    :raises ConfigError: see `load_key`.
    """
    if path.exists():
        return load_key(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    key = SigningKey.generate(entropy)
    try:
        write_new(path, _pem(key, None), mode=0o600)
    except FileExistsError:  # another process was first; its key may have signed already
        return load_key(path)
    return key


def create_key(path: Path, passphrase: bytes | None = None, entropy: Entropy = os.urandom) -> SigningKey:
    """Write a fresh key, never in the place of another.

    :param passphrase: encrypts the file; None for none.
    :raises ConfigError: there is a file already, or the passphrase is shorter than `MINIMUM_PASSPHRASE` bytes.
    """
    check_passphrase(passphrase)
    key = SigningKey.generate(entropy)
    try:
        write_new(path, _pem(key, passphrase), mode=0o600)
    except FileExistsError:
        raise ConfigError(str(path), "there is a file already", "another path, or `secfl keys rotate`") from None
    return key


def load_key(path: Path, passphrase: Passphrase = environment_passphrase) -> SigningKey:
    """The key in a file.

    :raises ConfigError: the file is no such key, others may read it, or the passphrase does not open it.
    """
    return _open(path, passphrase)[0]


def _open(path: Path, passphrase: Passphrase) -> tuple[SigningKey, bytes | None]:
    (private,), secret = open_private(path, passphrase, FORMAT)
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(str(path), f"holds a {type(private).__name__}", FORMAT)
    return SigningKey(private.private_bytes_raw()), secret


def _pem(key: SigningKey, passphrase: bytes | None) -> bytes:
    return private_pem(Ed25519PrivateKey.from_private_bytes(key.private_bytes()), passphrase)


def introduction_path(path: Path) -> Path:
    """Where the introduction of a key stands."""
    return path.with_name(f"{path.name}.pub")


def introduce(path: Path, silo: str, key: SigningKey, now: datetime | None = None) -> Path:
    """Write the introduction beside a key, in the place of an older one; return its path.

    :raises UsageError: the silo's name is none.
    """
    public = introduction_path(path)
    write_whole(public, Introduction.make(silo, key, now or datetime.now(UTC)).to_json())
    return public


def silo_of(path: Path, *keys: SigningKey, silo: str = "") -> str:
    """Whose key it is, by its introduction or as given.

    :param keys: one of which the introduction must be of.
    :param silo: as given; empty if not.
    :raises ConfigError: neither says, or they disagree.
    :raises UsageError: what is given is no silo's name.
    :raises PeerFault: the introduction's signature does not verify.
    """
    public = introduction_path(path)
    if not public.exists():
        if not silo:
            raise ConfigError("--silo", f"missing, and there is no {public} to tell", "the silo's name")
        return client_id(silo)
    found = read_statement(public)
    if not isinstance(found, Introduction) or found.public_key not in [key.public.hex() for key in keys]:
        allowed = "that of this key: `secfl keys introduce`, or `rotate` to finish an interrupted rotation"
        raise ConfigError(str(public), "is the introduction of another key", allowed)
    if silo not in ("", found.silo):
        raise ConfigError("--silo", f"{silo!r}, but {public} says {found.silo!r}", found.silo)
    return found.silo


@dataclass(frozen=True)
class RotatedKey:
    """What a rotation wrote."""

    statement: Rotation
    statement_path: Path
    old_key_path: Path


def rotate_key(
    path: Path,
    *,
    silo: str = "",
    passphrase: Passphrase = environment_passphrase,
    now: datetime | None = None,
    entropy: Entropy = os.urandom,
) -> RotatedKey:
    """Put a new key in the place of the old one, under the same passphrase if that has one; state so under both.

    At any moment a whole key stands at ``path``. Interrupted, it goes on with the same new key when called again.

    :param silo: whose key it is, where no introduction says.
    :raises ConfigError: see `load_key` and `silo_of`; a file stands where the old key goes.
    """
    old, secret = _open(path, passphrase)
    staged = path.with_name(f"{path.name}.next")
    interrupted = staged.exists()
    known = (old, _open(staged, lambda _: secret or b"")[0]) if interrupted else (old,)
    name = silo_of(path, *known, silo=silo)
    new = known[-1] if interrupted else create_key(staged, secret, entropy)
    now = now or datetime.now(UTC)
    statement = Rotation.make(name, old, new, now)
    statement_path = path.with_name(f"{path.name}.rotation-{fingerprint(new.public)}.json")
    write_whole(statement_path, statement.to_json())
    aside = path.with_name(f"{path.name}.{fingerprint(old.public)}.old")
    _keep(path, aside)
    introduce(path, name, new, now)
    staged.replace(path)
    sync_directory(path.parent)
    return RotatedKey(statement, statement_path, aside)


def _keep(path: Path, aside: Path) -> None:
    """Give a file a second name."""
    if aside.exists() and aside.samefile(path):
        return
    try:
        aside.hardlink_to(path)
    except FileExistsError:
        raise ConfigError(str(aside), "stands where the old key goes", "no such file") from None
    sync_directory(path.parent)


def revoke_key(
    path: Path,
    *,
    silo: str = "",
    reason: str = "",
    passphrase: Passphrase = environment_passphrase,
    now: datetime | None = None,
    output: Path | None = None,
) -> Path:
    """Write a statement that a key is revoked, signed by it; the key stays. Return the statement's path.

    :raises ConfigError: see `load_key` and `silo_of`; there is such a statement already.
    """
    key = load_key(path, passphrase)
    statement = Revocation.make(silo_of(path, key, silo=silo), key, now or datetime.now(UTC), reason)
    output = output or path.with_name(f"{path.name}.revocation.json")
    try:
        write_new(output, statement.to_json())
    except FileExistsError:
        raise ConfigError(str(output), "there is a file already", "another --output") from None
    return output

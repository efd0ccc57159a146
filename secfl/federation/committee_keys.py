"""Committee keys as files: what shares are sealed to, of one epoch and deleted after it (`protocols.oneshot`).

Beside an identity key ``identity.key`` stands ``identity.key.committee``: the ML-KEM-768 key, then the X25519 key (or
the latter alone), each PKCS #8 PEM, under the identity key's passphrase if that has one. The identity key signs a
statement of each new public key for the roster's keeper. There is no old key to keep: what was sealed under it is
closed for good once the new one has taken its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import ConfigError
from protocols.oneshot import CommitteeKey
from protocols.primitives.signing import SigningKey, fingerprint
from protocols.shape import Entropy
from secfl.federation.key_statements import CommitteeStatement
from secfl.federation.keys import load_key, silo_of
from secfl.federation.private_files import Passphrase, environment_passphrase, open_private, private_pem
from secfl.files import sync_directory, write_new, write_whole

__all__ = [
    "StatedCommitteeKey",
    "committee_key_path",
    "end_committee_key",
    "load_committee_key",
    "load_or_create_committee_key",
    "renew_committee_key",
]

FORMAT = "ML-KEM-768 and X25519, or X25519, PKCS #8 PEM"
_X25519_BYTES = 32


def committee_key_path(path: Path) -> Path:
    """Where the committee key of an identity key stands."""
    return path.with_name(f"{path.name}.committee")


def load_committee_key(path: Path, passphrase: Passphrase = environment_passphrase) -> CommitteeKey:
    """The committee key in a file.

    :raises ConfigError: the file is no such key, others may read it, or the passphrase does not open it.
    """
    keys, _secret = open_private(path, passphrase, FORMAT, several=True)
    *others, last = keys
    kinds = isinstance(last, X25519PrivateKey) and all(isinstance(key, MLKEM768PrivateKey) for key in others)
    if not kinds or len(others) > 1:
        raise ConfigError(str(path), f"holds {', '.join(type(key).__name__ for key in keys)}", FORMAT)
    return CommitteeKey(b"".join(key.private_bytes_raw() for key in keys))


def load_or_create_committee_key(path: Path, entropy: Entropy = os.urandom) -> CommitteeKey:
    """The committee key in a file; a fresh one, not encrypted, is written if there is none.

    :raises ConfigError: see `load_committee_key`.
    """
    if path.exists():
        return load_committee_key(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _create(path, None, entropy)
    except FileExistsError:  # another process was first
        return load_committee_key(path)


@dataclass(frozen=True)
class StatedCommitteeKey:
    """A committee key that a statement was made of."""

    statement: CommitteeStatement
    statement_path: Path


def renew_committee_key(
    path: Path,
    *,
    silo: str = "",
    passphrase: Passphrase = environment_passphrase,
    now: datetime | None = None,
    entropy: Entropy = os.urandom,
) -> StatedCommitteeKey:
    """Begin an epoch: a new committee key in the place of the old one, if there was one, which is deleted.

    At any moment a whole key stands in its place. Interrupted, it goes on with the same new key when called again.

    :param path: of the identity key, which signs the statement.
    :param silo: whose key it is, where no introduction says.
    :raises ConfigError: see `load_committee_key`, `secfl.federation.keys.load_key` and `silo_of`.
    """
    secrets: list[bytes] = []
    identity = load_key(path, _remembering(passphrase, secrets))
    name = silo_of(path, identity, silo=silo)
    own = committee_key_path(path)
    staged = own.with_name(f"{own.name}.next")
    old = load_committee_key(own, passphrase) if own.exists() else None
    secret = secrets[0] if secrets else None
    new = load_committee_key(staged, passphrase) if staged.exists() else _create(staged, secret, entropy)
    stated = _state(path, name, identity, new.public, old, now)
    staged.replace(own)
    sync_directory(own.parent)
    return stated


def end_committee_key(
    path: Path, *, silo: str = "", passphrase: Passphrase = environment_passphrase, now: datetime | None = None
) -> StatedCommitteeKey:
    """End an epoch without a next one: state that this silo leaves the committee, and delete its key.

    :raises ConfigError: as `renew_committee_key`; there is no committee key.
    """
    identity = load_key(path, passphrase)
    name = silo_of(path, identity, silo=silo)
    own = committee_key_path(path)
    stated = _state(path, name, identity, b"", load_committee_key(own, passphrase), now)
    own.unlink()
    sync_directory(own.parent)
    return stated


def _state(
    path: Path, name: str, identity: SigningKey, public: bytes, old: CommitteeKey | None, now: datetime | None
) -> StatedCommitteeKey:
    replaced = b"" if old is None else old.public
    statement = CommitteeStatement.make(name, identity, public, replaced, now or datetime.now(UTC))
    which = fingerprint(public) if public else f"end-{fingerprint(replaced)}"
    statement_path = path.with_name(f"{path.name}.committee-{which}.json")
    write_whole(statement_path, statement.to_json())
    return StatedCommitteeKey(statement, statement_path)


def _create(path: Path, passphrase: bytes | None, entropy: Entropy) -> CommitteeKey:
    key = CommitteeKey.generate(entropy)
    write_new(path, _pem(key, passphrase), mode=0o600)
    return key


def _pem(key: CommitteeKey, passphrase: bytes | None) -> bytes:
    raw = key.private_bytes()
    seed, x25519 = raw[:-_X25519_BYTES], X25519PrivateKey.from_private_bytes(raw[-_X25519_BYTES:])
    parts = [MLKEM768PrivateKey.from_seed_bytes(seed), x25519] if seed else [x25519]
    return b"".join(private_pem(part, passphrase) for part in parts)


def _remembering(passphrase: Passphrase, secrets: list[bytes]) -> Passphrase:
    """A passphrase that is asked for once is put to use for the new file as well."""

    def ask(path: Path) -> bytes:
        secrets.append(passphrase(path))
        return secrets[-1]

    return ask

"""The key holder's CKKS key as files (`protocols.ckks`), for deployments.

Beside an identity key ``identity.key`` stand ``identity.key.ckks``, the secret key, encrypted under a password that
follows from the identity key (scrypt, AES-256-GCM): it takes both files, and the passphrase of the first if it has
one; and ``identity.key.ckks.context``, the public context, which whoever opens sessions passes on. The identity key
signs a statement of the context's hash for the roster's keeper.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from protocols.ckks import CkksKey
from protocols.ckks.keys import pinned_hash
from protocols.errors import ConfigError, UsageError
from protocols.shape import Entropy
from secfl.federation.identities import ckks_key_path, load_or_create_ckks_key
from secfl.federation.key_statements import CommitteeStatement
from secfl.federation.keys import load_key, silo_of
from secfl.federation.private_files import Passphrase, environment_passphrase
from secfl.files import sync_directory, write_whole

__all__ = ["StatedCkksKey", "ckks_context_path", "renew_ckks_key"]


def ckks_context_path(path: Path) -> Path:
    """Where the public context of the CKKS key of an identity key stands."""
    own = ckks_key_path(path)
    return own.with_name(f"{own.name}.context")


@dataclass(frozen=True)
class StatedCkksKey:
    """A CKKS key that its holder made a statement of."""

    key: CkksKey
    statement: CommitteeStatement
    statement_path: Path
    context_path: Path


def renew_ckks_key(
    path: Path,
    *,
    silo: str = "",
    record: int | None = None,
    passphrase: Passphrase = environment_passphrase,
    entropy: Entropy = os.urandom,
    now: datetime | None = None,
) -> StatedCkksKey:
    """Make a CKKS key in the place of the old one, if there was one, which is deleted, and state it.

    At any moment a whole key stands in its place. Interrupted, it goes on with the same new key when called again.

    :param path: of the identity key, which signs the statement.
    :param silo: whose key it is, where no introduction says.
    :param record: of CKKS parameters; None for the default.
    :raises ConfigError: see `secfl.federation.keys.load_key`, `silo_of` and `load_or_create_ckks_key`.
    :raises MissingExtra: TenSEAL is not installed.
    """
    identity = load_key(path, passphrase)
    name = silo_of(path, identity, silo=silo)
    own = ckks_key_path(path)
    staged = own.with_name(f"{own.name}.next")
    old = load_or_create_ckks_key(own, identity).public_context if own.exists() else b""
    try:
        key = load_or_create_ckks_key(staged, identity, entropy, record)
    except UsageError as error:
        raise ConfigError("record", str(error), "a record of CKKS parameters") from None
    replaced = pinned_hash(old) if old else b""
    moment = now or datetime.now(UTC)
    statement = CommitteeStatement.make(name, identity, pinned_hash(key.public_context), replaced, moment)
    statement_path = path.with_name(f"{path.name}.ckks-{key.version}.json")
    write_whole(statement_path, statement.to_json())
    write_whole(ckks_context_path(path), key.public_context)
    staged.replace(own)
    sync_directory(own.parent)
    return StatedCkksKey(key, statement, statement_path, ckks_context_path(path))

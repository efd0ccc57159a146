"""The identities of the parties of a run, each with the keys that its roles need."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from protocols.ckks import CkksKey, KeyHolderIdentity
from protocols.errors import ConfigError, PeerFault
from protocols.identity import Identity, Role
from protocols.oneshot import CommitteeIdentity
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SigningKey
from protocols.shape import Entropy
from secfl.federation.committee_keys import committee_key_path, load_or_create_committee_key
from secfl.federation.keys import load_or_create_key
from secfl.files import write_new

__all__ = ["ckks_key_path", "load_or_create_ckks_key", "load_or_create_identity"]


def ckks_key_path(path: Path) -> Path:
    """Where the CKKS key of an identity key stands."""
    return path.with_name(f"{path.name}.ckks")


def load_or_create_ckks_key(
    path: Path, identity: SigningKey, entropy: Entropy = os.urandom, record: int | None = None
) -> CkksKey:
    """The CKKS key in a file, encrypted under a password that follows from the identity key: it takes both files.

    :param record: of a key that is made; None for the default.
    :raises UsageError: no such record.
    :raises ConfigError: the file is no CKKS key of this identity key.
    :raises MissingExtra: TenSEAL is not installed.
    """
    password = tagged_hash("ckks key file", identity.private_bytes())
    if not path.exists():
        key = CkksKey.generate() if record is None else CkksKey.generate(record)
        write_new(path, key.seal(password, entropy), mode=0o600)
        return key
    try:
        return CkksKey.open(path.read_bytes(), password)
    except PeerFault as fault:
        allowed = "the file that was made under the identity key beside it"
        raise ConfigError(str(path), f"is no CKKS key: {fault.reason.value}", allowed) from None


def load_or_create_identity(path: Path, name: str, roles: Collection[Role], entropy: Entropy = os.urandom) -> Identity:
    """The identity whose key is in a file, with what stands beside it; what is missing is made.

    :param roles: what the party does: a member of the committee has a key to seal to, the key holder a CKKS key.
    :raises ConfigError: see `secfl.federation.keys.load_key`.
    """
    key = load_or_create_key(path, entropy)
    if Role.COMMITTEE in roles:
        return CommitteeIdentity(name, key, load_or_create_committee_key(committee_key_path(path), entropy))
    if Role.KEY_HOLDER in roles:
        return KeyHolderIdentity(name, key, load_or_create_ckks_key(ckks_key_path(path), key, entropy))
    return Identity(name, key)

"""Signed statements about a silo's keys, as JSON files that travel from it to whoever keeps the roster.

Their signatures prove who wrote them, not that the name belongs to that organisation: for an introduction, the keeper
compares the fingerprint with the organisation over another channel. A statement about a key that the roster no longer
holds is refused, so that an old one cannot be played again.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from protocols.errors import ConfigError, FaultReason, PeerFault
from protocols.identity import client_id
from protocols.oneshot.sealing import check_sealing_key
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SigningKey, verify

__all__ = [
    "AnyStatement",
    "CommitteeStatement",
    "Introduction",
    "Revocation",
    "Rotation",
    "read_statement",
    "sealing_key_hash",
]

MAXIMAL_BYTES = 1 << 16
_NO_SIGNATURE = "00" * 64

Silo = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\Z")]
"""ISO 8601, UTC, to the second. For people: no decision rests on it."""


class _Statement(msgspec.Struct, frozen=True, kw_only=True, tag_field="statement", forbid_unknown_fields=True):
    format: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    silo: Silo
    time: Time

    def to_json(self) -> bytes:
        """Indented JSON ending in a newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class Introduction(_Statement, frozen=True, kw_only=True, tag="introduction"):
    """A silo's public key, with a signature under it: whoever wrote this holds the private key."""

    public_key: Key
    signature: Signature

    def message(self) -> bytes:
        """What is signed: 32 bytes."""
        return tagged_hash("key statement/introduction", self.silo, self.time, bytes.fromhex(self.public_key))

    def verify(self) -> None:
        """Verify the signature.

        :raises PeerFault: BAD_KEY or BAD_SIGNATURE.
        """
        _verify("public_key", self.public_key, self.message(), self.signature)

    @classmethod
    def make(cls, silo: str, key: SigningKey, now: datetime) -> Introduction:
        """Introduce a key.

        :raises UsageError: the silo's name is none.
        """
        draft = cls(silo=client_id(silo), time=_seconds(now), public_key=key.public.hex(), signature=_NO_SIGNATURE)
        return msgspec.structs.replace(draft, signature=key.sign(draft.message()).hex())


class Rotation(_Statement, frozen=True, kw_only=True, tag="rotation"):
    """A new key takes the place of an old one; both agree."""

    old_public_key: Key
    new_public_key: Key
    old_signature: Signature
    new_signature: Signature

    def message(self) -> bytes:
        """What both keys sign: 32 bytes."""
        old, new = bytes.fromhex(self.old_public_key), bytes.fromhex(self.new_public_key)
        return tagged_hash("key statement/rotation", self.silo, self.time, old, new)

    def verify(self) -> None:
        """Verify both signatures.

        :raises PeerFault: BAD_KEY (also for two equal keys) or BAD_SIGNATURE.
        """
        if self.old_public_key == self.new_public_key:
            raise PeerFault(FaultReason.BAD_KEY, "new_public_key is the old one")
        _verify("old_public_key", self.old_public_key, self.message(), self.old_signature)
        _verify("new_public_key", self.new_public_key, self.message(), self.new_signature)

    @classmethod
    def make(cls, silo: str, old: SigningKey, new: SigningKey, now: datetime) -> Rotation:
        """State that a key follows another.

        :raises UsageError: the silo's name is none.
        """
        draft = cls(
            silo=client_id(silo),
            time=_seconds(now),
            old_public_key=old.public.hex(),
            new_public_key=new.public.hex(),
            old_signature=_NO_SIGNATURE,
            new_signature=_NO_SIGNATURE,
        )
        message = draft.message()
        return msgspec.structs.replace(
            draft, old_signature=old.sign(message).hex(), new_signature=new.sign(message).hex()
        )


class Revocation(_Statement, frozen=True, kw_only=True, tag="revocation"):
    """A key is not to be trusted any more, says its holder."""

    public_key: Key
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """For people."""
    signature: Signature

    def message(self) -> bytes:
        """What is signed: 32 bytes."""
        public = bytes.fromhex(self.public_key)
        return tagged_hash("key statement/revocation", self.silo, self.time, public, self.reason)

    def verify(self) -> None:
        """Verify the signature.

        :raises PeerFault: BAD_KEY or BAD_SIGNATURE.
        """
        _verify("public_key", self.public_key, self.message(), self.signature)

    @classmethod
    def make(cls, silo: str, key: SigningKey, now: datetime, reason: str = "") -> Revocation:
        """Revoke a key.

        :raises UsageError: the silo's name is none, or the reason is no Unicode text.
        """
        draft = cls(
            silo=client_id(silo),
            time=_seconds(now),
            public_key=key.public.hex(),
            reason=reason,
            signature=_NO_SIGNATURE,
        )
        return msgspec.structs.replace(draft, signature=key.sign(draft.message()).hex())


class CommitteeStatement(_Statement, frozen=True, kw_only=True, tag="committee-key"):
    """What shares are to be sealed to from now on, says the holder of an identity key.

    The signature proves who says so; that the private key is held shows in the first session, where a member that
    cannot open its shares complains.

    :param sealing_key: of the new epoch; empty for a silo that leaves the committee.
    :param replaces: hash of the sealing key that it takes the place of; empty for the first. An old statement does not
        fit a roster that has moved on.
    """

    public_key: Key
    sealing_key: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){0,2048}\Z")]
    replaces: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    signature: Signature

    def message(self) -> bytes:
        """What is signed: 32 bytes."""
        keys = bytes.fromhex(self.public_key), bytes.fromhex(self.sealing_key), bytes.fromhex(self.replaces)
        return tagged_hash("key statement/committee", self.silo, self.time, *keys)

    def verify(self) -> None:
        """Verify the signature.

        :raises PeerFault: BAD_KEY (also for a sealing key that nothing can be sealed to) or BAD_SIGNATURE.
        """
        _verify("public_key", self.public_key, self.message(), self.signature)
        if self.sealing_key:
            check_sealing_key(bytes.fromhex(self.sealing_key))

    @classmethod
    def make(cls, silo: str, key: SigningKey, sealing_key: bytes, replaced: bytes, now: datetime) -> CommitteeStatement:
        """State a sealing key.

        :param replaced: the sealing key before; empty for none.
        :raises UsageError: the silo's name is none.
        """
        draft = cls(
            silo=client_id(silo),
            time=_seconds(now),
            public_key=key.public.hex(),
            sealing_key=sealing_key.hex(),
            replaces=sealing_key_hash(replaced),
            signature=_NO_SIGNATURE,
        )
        return msgspec.structs.replace(draft, signature=key.sign(draft.message()).hex())


def sealing_key_hash(sealing_key: bytes) -> str:
    """How a statement names a sealing key, in hex; empty for none."""
    return tagged_hash("key statement/sealing key", sealing_key).hex() if sealing_key else ""


AnyStatement = Introduction | Rotation | Revocation | CommitteeStatement


def read_statement(path: Path) -> AnyStatement:
    """Read a statement and verify its signatures.

    :raises ConfigError: the file cannot be read or is no statement; names the field.
    :raises PeerFault: a signature does not verify; names the file and the key.
    """
    allowed = "a file that `secfl keys` wrote"
    try:
        with path.open("rb") as file:
            raw = file.read(MAXIMAL_BYTES + 1)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", allowed) from None
    if len(raw) > MAXIMAL_BYTES:
        raise ConfigError(str(path), f"more than {MAXIMAL_BYTES} bytes", allowed)
    try:
        statement: AnyStatement = msgspec.json.decode(raw, type=AnyStatement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is no statement about a key: {error}", allowed) from None
    try:
        statement.verify()
    except PeerFault as fault:
        raise PeerFault(fault.reason, f"{path}: {fault.detail}") from None
    return statement


def _verify(name: str, public: str, message: bytes, signature: str) -> None:
    try:
        verify(bytes.fromhex(public), message, bytes.fromhex(signature))
    except PeerFault as fault:
        raise PeerFault(fault.reason, f"under {name}{f': {fault.detail}' if fault.detail else ''}") from None


def _seconds(now: datetime) -> str:
    return now.isoformat(timespec="seconds")

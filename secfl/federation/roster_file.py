"""The roster as a file for people: TOML, one table a member, keys in hex.

What members agree on is the roster's hash, which enters every session id. The file repeats it, so that a slip of an
editor is noticed; a change on purpose goes through `secfl roster`, which writes the new hash.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w

from protocols.errors import ConfigError, FaultReason, PeerFault, UsageError
from protocols.identity import Member, Roster
from secfl.federation.key_statements import (
    AnyStatement,
    CommitteeStatement,
    Introduction,
    Key,
    Revocation,
    Rotation,
    Silo,
    sealing_key_hash,
)
from secfl.files import write_new, write_whole

__all__ = [
    "ROSTER_NAME",
    "add_members",
    "apply_statement",
    "create_roster_file",
    "read_roster",
    "revoke_member",
    "roster_text",
    "write_roster",
]

ROSTER_NAME = "roster.toml"
"""Of a run's roster."""
MAXIMAL_BYTES = 16 << 20
_HEADING = (
    "# Public identity keys (Ed25519) of all parties. Compare the hash with the other members over another channel.\n"
)


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: Silo
    identity_key: Key
    standing: Literal["good", "revoked"]
    sealing_key: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){0,2048}\Z")] = ""
    post_quantum_key: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){0,2048}\Z")] = ""

    def member(self) -> Member:
        return Member(
            self.id,
            bytes.fromhex(self.identity_key),
            sealing_key=bytes.fromhex(self.sealing_key),
            post_quantum_key=bytes.fromhex(self.post_quantum_key),
            revoked=self.standing == "revoked",
        )

    @classmethod
    def of(cls, member: Member) -> _Line:
        standing: Literal["good", "revoked"] = "revoked" if member.revoked else "good"
        keys = member.sealing_key.hex(), member.post_quantum_key.hex()
        return cls(member.id, member.identity_key.hex(), standing, *keys)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    hash: Key
    member: Annotated[tuple[_Line, ...], msgspec.Meta(min_length=1)]


def roster_text(roster: Roster) -> str:
    """The file of a roster; the same text for the same roster."""
    lines = [msgspec.to_builtins(_Line.of(member)) for member in roster]
    return _HEADING + tomli_w.dumps({"format": 1, "hash": roster.digest().hex(), "member": lines})


def read_roster(path: Path) -> Roster:
    """Read a roster file.

    :raises ConfigError: it cannot be read, is no such file, is not in the order of ids, or its hash is of another one.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAXIMAL_BYTES + 1)
        if len(raw) > MAXIMAL_BYTES:
            raise ConfigError(str(path), f"more than {MAXIMAL_BYTES} bytes", "a roster")
        values = msgspec.convert(tomllib.loads(raw.decode()), _File)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "a roster file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}", "a file that `secfl roster` wrote") from None
    except msgspec.ValidationError as error:
        raise ConfigError(str(path), f"is no roster: {error}", "a file that `secfl roster` wrote") from None
    ids = [line.id for line in values.member]
    if ids != sorted(ids):
        raise ConfigError(str(path), "members are not in the order of their ids", ", ".join(sorted(ids)))
    roster = _roster(str(path), (line.member() for line in values.member))
    if roster.digest().hex() != values.hash:
        problem = f"its hash is not that of its members, which is {roster.digest().hex()}"
        raise ConfigError(str(path), problem, "a file changed by `secfl roster` alone")
    return roster


def write_roster(path: Path, roster: Roster) -> None:
    """Write a roster file, in the place of an older one.

    :raises OSError: the disk refused; the old file is as it was.
    """
    write_whole(path, roster_text(roster).encode())


def create_roster_file(path: Path, roster: Roster) -> None:
    """Write a roster file, never in the place of another.

    :raises ConfigError: there is a file already.
    """
    try:
        write_new(path, roster_text(roster).encode())
    except FileExistsError:
        raise ConfigError(str(path), "there is a file already", "another path, or `secfl roster add`") from None


def add_members(known: Iterable[Member], new: Iterable[Member]) -> Roster:
    """A roster of both.

    :raises ConfigError: an id or a key is there already, or a key is one that no honest party has.
    """
    members = {member.id: member for member in known}
    holders = {member.identity_key: member.id for member in members.values()}
    for member in new:
        if member.id in members:
            raise ConfigError("roster", f"{member.id!r} is a member already", "its rotation: `secfl roster apply`")
        if member.identity_key in holders:
            problem = f"{member.id!r} has the key of {holders[member.identity_key]!r}"
            raise ConfigError("roster", problem, "a key of its own")
        members[member.id] = member
        holders[member.identity_key] = member.id
    return _roster("roster", members.values())


def revoke_member(roster: Roster, silo: str) -> Roster:
    """The roster with a member revoked.

    :raises ConfigError: there is no such member, or it is revoked already.
    """
    member = msgspec.structs.replace(_in_good_standing(roster, silo), revoked=True)
    return Roster(member if other.id == silo else other for other in roster)


def apply_statement(roster: Roster, statement: AnyStatement) -> Roster:
    """The roster after a rotation, a revocation or a new committee key, whose signatures are verified here.

    :raises PeerFault: a signature does not verify, or the statement is about a key that the roster does not hold.
    :raises ConfigError: no such member, a revoked one, a key of another member, or an introduction.
    """
    statement.verify()
    if isinstance(statement, Introduction):
        raise ConfigError("statement", "is an introduction", "any other statement; `roster add` takes introductions")
    member = _in_good_standing(roster, statement.silo)
    about = statement.old_public_key if isinstance(statement, Rotation) else statement.public_key
    if bytes.fromhex(about) != member.identity_key:
        raise PeerFault(FaultReason.BAD_KEY, f"the statement is about a key that {statement.silo!r} does not have now")
    if isinstance(statement, Revocation):
        return revoke_member(roster, statement.silo)
    if isinstance(statement, CommitteeStatement):
        return _with_sealing_key(roster, member, statement)
    successor = msgspec.structs.replace(member, identity_key=bytes.fromhex(statement.new_public_key))
    return add_members([other for other in roster if other.id != member.id], [successor])


def _with_sealing_key(roster: Roster, member: Member, statement: CommitteeStatement) -> Roster:
    """The roster once a member's committee key is a new one, or gone."""
    if statement.replaces != sealing_key_hash(member.sealing_key):
        detail = f"the statement replaces a committee key that {member.id!r} does not have now"
        raise PeerFault(FaultReason.BAD_KEY, detail)
    sealing_key = bytes.fromhex(statement.sealing_key)
    for other in roster:
        if sealing_key and other.sealing_key == sealing_key:
            raise ConfigError("roster", f"{member.id!r} has the committee key of {other.id!r}", "a key of its own")
    changed = msgspec.structs.replace(member, sealing_key=sealing_key)
    return Roster(changed if other.id == member.id else other for other in roster)


def _in_good_standing(roster: Roster, silo: str) -> Member:
    member = next((member for member in roster if member.id == silo), None)
    if member is None:
        raise ConfigError("roster", f"{silo!r} is no member", ", ".join(member.id for member in roster))
    if member.revoked:
        raise ConfigError("roster", f"{silo!r} is revoked", "a member in good standing")
    return member


def _roster(source: str, members: Iterable[Member]) -> Roster:
    try:
        return Roster(members)
    except UsageError as error:
        raise ConfigError(source, str(error).removeprefix("roster: "), "distinct ids and canonical keys") from None

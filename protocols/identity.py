"""Who takes part: identities (Ed25519, and ML-DSA-65 where wanted) and the roster of pinned public keys.

A roster is agreed on outside the protocol (a contract, a meeting, a signed file); its hash enters every session id, so
that no server can add, swap or revive a party.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum, unique
from typing import Annotated, NewType

import msgspec

from protocols import wire
from protocols.errors import ClientFault, FaultReason, PeerFault, UsageError
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import (
    POST_QUANTUM_PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    PostQuantumSigningKey,
    SignatureScheme,
    SigningKey,
    check_post_quantum_key,
    check_public_key,
    verify,
    verify_post_quantum,
)

__all__ = ["ClientId", "Identity", "Member", "Role", "Roster", "client_id"]

ClientId = NewType("ClientId", str)
"""Name of an organisation in the roster; any party of a protocol has one, whatever its role."""

_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def client_id(text: str) -> ClientId:
    """Check a party's name: 1 to 64 of ``a-z 0-9 . _ -``, opening with a letter or digit.

    :raises UsageError: otherwise.
    """
    if not re.fullmatch(_ID_PATTERN, text):
        raise UsageError(f"party name {text!r}: allowed are 1 to 64 of a-z 0-9 . _ - with a letter or digit first")
    return ClientId(text)


@unique
class Role(StrEnum):
    """What a party does in a protocol. One organisation may hold several roles."""

    CLIENT = "client"
    COMMITTEE = "committee"
    KEY_HOLDER = "key_holder"


class Member(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A roster's line: a party, its long-term public keys, its standing."""

    id: Annotated[str, msgspec.Meta(pattern=_ID_PATTERN)]
    identity_key: wire.Key
    """Ed25519 public key, 32 bytes."""
    sealing_key: Annotated[bytes, msgspec.Meta(max_length=2048)] = b""
    """Long-term public key for messages to this party, where a protocol needs one; empty otherwise."""
    revoked: bool = False
    post_quantum_key: Annotated[bytes, msgspec.Meta(max_length=POST_QUANTUM_PUBLIC_KEY_BYTES)] = b""
    """ML-DSA-65 public key, 1952 bytes, for suites that sign with it; empty for a party that takes no part in them."""


class _RosterRecord(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    members: tuple[Member, ...]


class Roster:
    """The pinned public keys of all parties, in the order of their ids.

    :raises UsageError: two members with one id or one key to sign with, such a key that no honest party has, or no
        member at all.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        ordered = tuple(sorted(members, key=lambda member: member.id))
        if not ordered:
            raise UsageError("a roster needs at least one member")
        for member in ordered:
            client_id(member.id)
            try:
                check_public_key(member.identity_key)
                if member.post_quantum_key:
                    check_post_quantum_key(member.post_quantum_key)
            except PeerFault as fault:
                raise UsageError(f"roster: {member.id!r}: {fault.reason.value}: {fault.detail}") from None
        self._members = {ClientId(member.id): member for member in ordered}
        if len(self._members) != len(ordered):
            raise UsageError("roster: an id is listed twice")
        if len({member.identity_key for member in ordered}) != len(ordered):
            raise UsageError("roster: two members share one identity key")
        post_quantum = [member.post_quantum_key for member in ordered if member.post_quantum_key]
        if len(set(post_quantum)) != len(post_quantum):
            raise UsageError("roster: two members share one ML-DSA key")

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, party: object) -> bool:
        return party in self._members

    def __repr__(self) -> str:
        return f"Roster({len(self)} members, {self.digest().hex()[:16]})"

    def in_good_standing(self, party: str) -> bool:
        """Whether a party is in the roster and not revoked."""
        found = self._members.get(ClientId(party))
        return found is not None and not found.revoked

    def member(self, party: str) -> Member:
        """The line of a party in good standing.

        :raises PeerFault: UNKNOWN_PARTY or REVOKED_PARTY.
        """
        found = self._members.get(ClientId(party))
        if found is None:
            raise PeerFault(FaultReason.UNKNOWN_PARTY, f"{party!r} is not in the roster")
        if found.revoked:
            raise PeerFault(FaultReason.REVOKED_PARTY, f"{party!r} is revoked")
        return found

    def verify(
        self, party: str, message: bytes, signature: bytes, scheme: SignatureScheme = SignatureScheme.ED25519
    ) -> None:
        """Verify a party's signature, all parts of it.

        :raises PeerFault: UNKNOWN_PARTY, REVOKED_PARTY, BAD_SIGNATURE, or BAD_KEY for a party without ML-DSA key where
            the scheme needs one. Not a `ClientFault`: whoever sent a message that does not verify, it is not proven to
            be the party that it names.
        """
        member = self.member(party)
        try:
            if len(signature) != scheme.signature_bytes:
                raise PeerFault(FaultReason.BAD_SIGNATURE)
            verify(member.identity_key, message, signature[:SIGNATURE_BYTES])
            if scheme.post_quantum:
                verify_post_quantum(member.post_quantum_key, message, signature[SIGNATURE_BYTES:])
        except PeerFault as fault:
            raise PeerFault(fault.reason, f"in the name of {party!r}") from None

    def to_bytes(self) -> bytes:
        """Canonical encoding."""
        return wire.encode(_RosterRecord(tuple(self)))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Roster:
        """Read `to_bytes`.

        :raises PeerFault: MALFORMED, or NOT_ORDERED for members that are not in the order of their ids.
        """
        try:
            roster = cls(wire.decode_record(raw, _RosterRecord).members)
        except UsageError as error:
            raise PeerFault(FaultReason.MALFORMED, str(error)) from None
        if roster.to_bytes() != raw:
            raise PeerFault(FaultReason.NOT_ORDERED, "roster members are not in the order of their ids")
        return roster

    def digest(self) -> bytes:
        """32-byte hash of the whole roster, revocations included."""
        return tagged_hash("roster", self.to_bytes())


class Identity:
    """A party's name and the keys that it signs with.

    :param post_quantum_key: for suites that sign with ML-DSA-65 as well.
    """

    def __init__(
        self, party: str, signing_key: SigningKey, *, post_quantum_key: PostQuantumSigningKey | None = None
    ) -> None:
        self.id = client_id(party)
        self.signing_key = signing_key
        self.post_quantum_key = post_quantum_key

    def member(self) -> Member:
        """This identity's line for a roster."""
        post_quantum = b"" if self.post_quantum_key is None else self.post_quantum_key.public
        return Member(self.id, self.signing_key.public, post_quantum_key=post_quantum)

    def sign(self, message: bytes, scheme: SignatureScheme) -> bytes:
        """Sign a message: `SignatureScheme.signature_bytes`.

        :raises UsageError: the scheme needs an ML-DSA key, and there is none.
        """
        signature = self.signing_key.sign(message)
        if not scheme.post_quantum:
            return signature
        if self.post_quantum_key is None:
            raise UsageError(f"{self.id!r} has no ML-DSA key")
        return signature + self.post_quantum_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({self.id!r})"


def own_fault(party: str, fault: PeerFault) -> ClientFault:
    """The same fault, once a verified signature has proven that `party` sent it."""
    return ClientFault(
        party,
        fault.reason,
        fault.detail,
        rule=fault.rule,
        phase=fault.phase,
        session=fault.session,
        evidence=fault.evidence,
    )

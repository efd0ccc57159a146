"""What the one-shot protocol adds to a session's parameters, what follows from them, and what parties insist on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from protocols import wire
from protocols.errors import PeerFault, PolicyRefused, UsageError
from protocols.identity import Member, Roster
from protocols.oneshot.packed_shamir import share_bytes, share_length
from protocols.oneshot.records import LATTICES, LatticeRecord
from protocols.oneshot.sealing import SEAL_BYTES, check_sealing_key
from protocols.oneshot.slots import Slots, choose_slots
from protocols.session import SessionParameters

__all__ = ["Agreement", "CommitteeParameters", "check_agreement", "committee_threshold", "pinned_committee"]


RELAYED_BYTES = 1024
"""Bound on what a member is shown of a contribution beside its sealed share: hashes, signature, path, framing."""


class CommitteeParameters(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What this protocol adds to the session's parameters; t is their `threshold`."""

    committee: tuple[str, ...]
    """Members by name, in order; a member's index in it is how messages name it."""
    packed: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    """l, secrets to a polynomial."""
    lattice: Annotated[int, msgspec.Meta(ge=0, lt=2**16)]
    """Id of the lattice record."""
    value_bound: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """B, largest absolute value of an entry read as a signed number; 0 for encodings that may wrap."""

    def to_bytes(self) -> bytes:
        """Canonical encoding, for `SessionParameters.extension`."""
        return wire.encode(self)

    @classmethod
    def of(cls, parameters: SessionParameters) -> CommitteeParameters:
        """Read them from a session's parameters.

        :raises PeerFault: MALFORMED.
        """
        return wire.decode_record(parameters.extension, cls)


def committee_threshold(members: int, collusion_bound: int, packed: int) -> int:
    """Smallest t with 2 t >= m + c + 2 l - 1 and t > l.

    Of t - l + 1 shares an adversary learns something. To learn of two sums it needs as many of each; its c members give
    both, honest ones give one: 2 (t - l + 1 - c) > m - c keeps it from that.
    """
    return max((members + collusion_bound + 2 * packed) // 2, packed + 1)


def pinned_committee(roster: Roster) -> tuple[Member, ...]:
    """The roster's members in good standing that have a sealing key: the committee, never the server's choice.

    :raises UsageError: one of the keys is none, or two members share one.
    """
    committee = tuple(member for member in roster if member.sealing_key and not member.revoked)
    for member in committee:
        try:
            check_sealing_key(member.sealing_key)
        except PeerFault as fault:
            raise UsageError(f"roster: sealing key of {member.id!r}: {fault.detail}") from None
    if len({member.sealing_key for member in committee}) != len(committee):
        raise UsageError("roster: two members share one sealing key")
    return committee


@dataclass(frozen=True)
class Agreement:
    """All that follows from a session's parameters.

    A reply's chunks are one sealed share a member, then the ciphertext in whole blocks.
    """

    parameters: SessionParameters
    committee: tuple[str, ...]
    packed: int
    lattice: LatticeRecord
    slots: Slots

    @classmethod
    def of(cls, parameters: SessionParameters) -> Agreement:
        """Work it out.

        :param parameters: of a known lattice record; see `check_agreement`.
        :raises PeerFault: MALFORMED extension.
        :raises UsageError: sums that do not fit.
        """
        added = CommitteeParameters.of(parameters)
        lattice = LATTICES[added.lattice]
        slots = choose_slots(lattice, len(parameters.cohort), parameters.modulus_bits, added.value_bound)
        return cls(parameters, added.committee, added.packed, lattice, slots)

    @property
    def coefficients(self) -> int:
        """Coefficients of a ciphertext."""
        return self.slots.layout.coefficients(self.parameters.vector_length)

    @property
    def chunk_coefficients(self) -> int:
        """Coefficients of every ciphertext chunk but the last: as many whole blocks as hold `chunk_length` entries."""
        block_entries = self.lattice.degree * self.slots.layout.slots
        return self.lattice.degree * max(1, self.parameters.chunk_length // block_entries)

    @property
    def ciphertext_chunks(self) -> int:
        """Chunks of a ciphertext."""
        return -(-self.coefficients // self.chunk_coefficients)

    def coefficients_of_chunk(self, index: int) -> int:
        """Coefficients of one chunk of the ciphertext."""
        return min(self.chunk_coefficients, self.coefficients - index * self.chunk_coefficients)

    @property
    def share_elements(self) -> int:
        """Field elements of a member's share of a key, or of a sum of keys."""
        return share_length(self.lattice.degree, self.packed)

    @property
    def sealed_share_bytes(self) -> int:
        """Bytes of a sealed share."""
        return share_bytes(self.lattice.degree, self.packed) + SEAL_BYTES


def check_agreement(parameters: SessionParameters, roster: Roster, collusion_bound: int) -> Agreement:
    """Refuse parameters with which `collusion_bound` parties and an active server could open two sums.

    :raises PolicyRefused: rules OS-2 (committee), OS-3 (t > l), OS-4 (2 t >= m + c + 2 l - 1), OS-5 (t <= m - c),
        OS-6 (lattice record known, sums fit) and OS-7 (all shares for a member fit one request).
    :raises PeerFault: MALFORMED extension.
    """
    added = CommitteeParameters.of(parameters)
    pinned = tuple(member.id for member in pinned_committee(roster))
    if added.committee != pinned:
        raise PolicyRefused("committee", list(added.committee), f"the roster's {list(pinned)}", rule="OS-2")
    members, packed, threshold = len(pinned), added.packed, parameters.threshold
    bound = max(collusion_bound, parameters.collusion_bound)
    if threshold <= packed:
        raise PolicyRefused("threshold", threshold, f"more than the {packed} packed secrets", rule="OS-3")
    if 2 * threshold < members + bound + 2 * packed - 1:
        least = committee_threshold(members, bound, packed)
        detail = f"at least {least} (2 t >= m + c + 2 l - 1, m = {members}, c = {bound}, l = {packed})"
        raise PolicyRefused("threshold", threshold, detail, rule="OS-4")
    if threshold > members - bound:
        detail = f"at most m - c = {members - bound}: {bound} silent members must not stop the opening"
        raise PolicyRefused("threshold", threshold, detail, rule="OS-5")
    if added.lattice not in LATTICES:
        raise PolicyRefused("lattice", f"record {added.lattice}", f"one of {sorted(LATTICES)}", rule="OS-6")
    try:
        agreement = Agreement.of(parameters)
    except UsageError as error:
        proposed = f"{parameters.modulus_bits} ({error})"
        raise PolicyRefused("modulus bits", proposed, "sums that fit the lattice", rule="OS-6") from None
    relayed = agreement.sealed_share_bytes + RELAYED_BYTES
    most = (wire.HEADER_LIMIT - len(parameters.to_bytes())) // relayed
    if len(parameters.cohort) > most:
        detail = f"at most {most}: a member gets the shares of all clients in one request"
        raise PolicyRefused("cohort size", len(parameters.cohort), detail, rule="OS-7")
    return agreement


def validate_agreement(parameters: SessionParameters, roster: Roster) -> Agreement:
    """The same rules for the one who proposes.

    :raises UsageError: naming the parameter.
    """
    try:
        return check_agreement(parameters, roster, parameters.collusion_bound)
    except PolicyRefused as refusal:
        raise UsageError(str(refusal)) from None

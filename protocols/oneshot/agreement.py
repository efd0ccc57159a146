"""What the one-shot protocol adds to a session's parameters, what follows from them, and what parties insist on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from protocols import wire
from protocols.errors import PeerFault, PolicyRefused, UsageError
from protocols.identity import Member, Roster
from protocols.oneshot.packed_shamir import BLINDINGS, share_bytes, share_length
from protocols.oneshot.records import LATTICES, LatticeRecord
from protocols.oneshot.sealing import check_sealing_key, kem_of, seal_bytes
from protocols.oneshot.slots import Slots, choose_slots
from protocols.session import SessionParameters
from protocols.suites import Suite, suite
from protocols.wire import Digest

__all__ = ["Agreement", "CommitteeParameters", "check_agreement", "committee_threshold", "pinned_committee"]

RELAYED_BYTES = 2048
"""Bound on what a member is shown of a contribution beside its sealed share and signature: header, hashes, path."""
MAXIMUM_BASES = 256


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
    bases: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAXIMUM_BASES)] = ()
    """Older models from which a vector may start, beside the one of the context hash; none in a synchronous round."""
    quota: Annotated[int, msgspec.Meta(ge=0, lt=2**24)] = 0
    """K, contributions that are enough to go on; 0 for the whole cohort."""
    collusion: Annotated[int, msgspec.Meta(ge=0, lt=2**24)] | None = None
    """k, members in league with the server; None for as many as clients, c."""

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
    """Smallest t with 2 t >= m + k + 2 l - 1 and t > l, k the members in league.

    Of t - l + 1 shares an adversary learns something. To learn of two sums it needs as many of each; its k members give
    both, honest ones give one: 2 (t - l + 1 - k) > m - k keeps it from that.
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
    suite: Suite
    committee: tuple[str, ...]
    packed: int
    lattice: LatticeRecord
    slots: Slots
    bases: tuple[bytes, ...]
    """All models from which a vector may start, the context's first."""
    quota: int
    """Contributions that are enough to go on."""
    committee_collusion: int
    """Members that may be in league with the server."""

    @classmethod
    def of(cls, parameters: SessionParameters) -> Agreement:
        """Work it out.

        :param parameters: of a known lattice record; see `check_agreement`.
        :raises PeerFault: MALFORMED extension.
        :raises UsageError: sums that do not fit, or an unknown suite.
        """
        added = CommitteeParameters.of(parameters)
        lattice = LATTICES[added.lattice]
        slots = choose_slots(lattice, len(parameters.cohort), parameters.modulus_bits, added.value_bound)
        return cls(
            parameters,
            suite(parameters.suite),
            added.committee,
            added.packed,
            lattice,
            slots,
            (parameters.context_hash, *added.bases),
            added.quota or len(parameters.cohort),
            parameters.collusion_bound if added.collusion is None else added.collusion,
        )

    @property
    def asynchronous(self) -> bool:
        """Whether vectors may start from different models."""
        return len(self.bases) > 1

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
        """Field elements of a member's share of a key and its blindings, or of a sum of them."""
        return share_length(self.lattice.degree, self.packed) + BLINDINGS

    @property
    def relayed_bytes(self) -> int:
        """Bound on what a member is shown of a contribution."""
        return self.sealed_share_bytes + self.suite.signature.signature_bytes + RELAYED_BYTES

    @property
    def sealed_share_bytes(self) -> int:
        """Bytes of a sealed share."""
        return share_bytes(self.share_elements) + seal_bytes(self.suite.sealing)


def check_agreement(
    parameters: SessionParameters, roster: Roster, collusion_bound: int, committee_collusion: int | None = None
) -> Agreement:
    """Refuse parameters with which the members in league and an active server could open two sums.

    :param collusion_bound: clients that the party assumes to be in league.
    :param committee_collusion: members that it assumes to be; None for as many as clients.
    :raises PolicyRefused: rules OS-2 (committee), OS-3 (t > l), OS-4 (2 t >= m + k + 2 l - 1), OS-5 (t <= m - k),
        OS-6 (lattice record known, sums fit), OS-17 (members have the suite's keys), OS-18 (window of models), OS-19
        (quota) and OS-23 (k is not below the party's).
    :raises PeerFault: MALFORMED extension.
    :raises UsageError: an unknown suite.
    """
    added = CommitteeParameters.of(parameters)
    committee = pinned_committee(roster)
    _check_keys(committee, suite(parameters.suite))
    _check_window(parameters, added)
    pinned = tuple(member.id for member in committee)
    if added.committee != pinned:
        raise PolicyRefused("committee", list(added.committee), f"the roster's {list(pinned)}", rule="OS-2")
    members, packed, threshold = len(pinned), added.packed, parameters.threshold
    bound = _members_in_league(parameters, added, collusion_bound, committee_collusion)
    if threshold <= packed:
        raise PolicyRefused("threshold", threshold, f"more than the {packed} packed secrets", rule="OS-3")
    if 2 * threshold < members + bound + 2 * packed - 1:
        least = committee_threshold(members, bound, packed)
        detail = f"at least {least} (2 t >= m + k + 2 l - 1, m = {members}, k = {bound}, l = {packed})"
        raise PolicyRefused("threshold", threshold, detail, rule="OS-4")
    if threshold > members - bound:
        detail = f"at most m - k = {members - bound}: {bound} silent members must not stop the opening"
        raise PolicyRefused("threshold", threshold, detail, rule="OS-5")
    if added.lattice not in LATTICES:
        raise PolicyRefused("lattice", f"record {added.lattice}", f"one of {sorted(LATTICES)}", rule="OS-6")
    try:
        return Agreement.of(parameters)
    except UsageError as error:
        proposed = f"{parameters.modulus_bits} ({error})"
        raise PolicyRefused("modulus bits", proposed, "sums that fit the lattice", rule="OS-6") from None


def _members_in_league(
    parameters: SessionParameters, added: CommitteeParameters, clients: int, members: int | None
) -> int:
    """The bound that thresholds are held against; a proposed one is not below the party's own (rule OS-23)."""
    if added.collusion is None:
        return max(parameters.collusion_bound, clients if members is None else members)
    least = clients if members is None else members
    if added.collusion < least:
        raise PolicyRefused("committee collusion", added.collusion, f"at least {least}", rule="OS-23")
    return added.collusion


def _check_keys(committee: tuple[Member, ...], chosen: Suite) -> None:
    """Refuse a member that takes no part in the suite (rule OS-17)."""
    for member in committee:
        if kem_of(member.sealing_key) is not chosen.sealing:
            required = f"sealing keys of {chosen.sealing.value} (suite {chosen.id})"
            raise PolicyRefused("committee", f"{member.id!r} with a key of another kind", required, rule="OS-17")
        if chosen.signature.post_quantum and not member.post_quantum_key:
            required = f"ML-DSA keys in the roster (suite {chosen.id})"
            raise PolicyRefused("committee", f"{member.id!r} without one", required, rule="OS-17")


def _check_window(parameters: SessionParameters, added: CommitteeParameters) -> None:
    """Refuse a model that is listed twice (rule OS-18), and a quota that no sum is opened at (rule OS-19)."""
    if len({parameters.context_hash, *added.bases}) != 1 + len(added.bases):
        raise PolicyRefused("bases", "a model listed twice", "distinct ones, without the context's", rule="OS-18")
    least, most = parameters.minimum_contributors, len(parameters.cohort)
    if added.quota and not least <= added.quota <= most:
        raise PolicyRefused("quota", added.quota, f"0, or {least} to {most}", rule="OS-19")


def validate_agreement(parameters: SessionParameters, roster: Roster) -> Agreement:
    """The same rules for the one who proposes.

    :raises UsageError: naming the parameter.
    """
    try:
        members = CommitteeParameters.of(parameters).collusion
        return check_agreement(parameters, roster, parameters.collusion_bound, members)
    except PolicyRefused as refusal:
        raise UsageError(str(refusal)) from None

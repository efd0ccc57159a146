"""A committee member's side: check the shares, open the sum of one set, once (rules OS-9 to OS-16)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.client import agreed
from protocols.oneshot.packed_shamir import add_shares, pack_share, unpack_share
from protocols.oneshot.sealing import CommitteeIdentity, share_label
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition
from protocols.primitives.merkle import verify_path
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import Entropy, OnceStore, VectorSource

__all__ = ["OneShotMember"]


class HeldShare(SecretState, frozen=True):
    """What this member holds of a client's key."""

    index: int
    digest: bytes
    """Of the signed contribution."""
    share: bytes
    """Empty if it did not open."""


class Checked(SecretState, frozen=True):
    """The proposed contributions are seen and their shares opened."""

    held: tuple[HeldShare, ...]


class Opened(SecretState, frozen=True):
    """One sum is open; all shares are erased."""


States: TypeAlias = Idle | Checked | Opened


class OneShotMember(PartyShell[States]):
    """A member of the committee. See `protocols.party.PartyShell` for the constructor.

    :param identity: with the committee key whose public half the roster has.
    :raises UsageError: an identity without committee key, or the roster has another sealing key for this party.
    """

    PROTOCOL: ClassVar[str] = m.PROTOCOL
    STATES: ClassVar[Any] = States

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        policy: ClientPolicy,
        *,
        entropy: Entropy,
        store: OnceStore,
        **options: Any,
    ) -> None:
        if not isinstance(identity, CommitteeIdentity):
            raise UsageError(f"{identity.id!r} has no committee key")
        super().__init__(identity, roster, policy, entropy=entropy, store=store, **options)
        if roster.in_good_standing(identity.id):
            known = roster.member(identity.id).sealing_key
            if known and known != identity.committee_key.public:
                raise UsageError(f"roster: it has another sealing key for {identity.id!r}")
        self._key = identity.committee_key

    def _check_parameters(self, parameters: SessionParameters) -> None:
        if self.identity.id not in agreed(parameters, self.roster, self.policy).committee:
            detail = f"{self.identity.id!r} is not on the committee"
            raise PeerFault(FaultReason.UNKNOWN_PARTY, detail, rule="OS-9")

    # -- phase 2 -------------------------------------------------------------------------------------------------------

    def check(self, _state: Idle, request: m.CheckRequest, _vector: VectorSource | None) -> Answer[States]:
        """Complaints about shares that do not open."""
        agreement = Agreement.of(self.parameters)
        own = agreement.committee.index(self.identity.id)
        self._check_set([item.index for item in request.contributions], m.CHECK, "OS-10", "OS-11")
        held = []
        for item in request.contributions:
            digest = self._verified(item, own, len(agreement.committee))
            try:
                share = self._key.open_share(item.sealed_share, share_label(self.session_id, item.index, own))
                unpack_share(share, agreement.share_elements)
            except PeerFault:  # the client dealt it; the complaint is this member's answer
                share = b""
            held.append(HeldShare(item.index, digest, share))
        complaints = tuple(item.index for item in held if not item.share)
        reply = m.CheckReply(*m.opening_fields(self.session_id, m.CheckReply), self.identity.id, complaints)
        return Answer(Checked(tuple(held)), reply)

    def _verified(self, item: m.RelayedContribution, own: int, members: int) -> bytes:
        """Digest of a contribution that its client signed and that this sealed share is part of."""
        client = self.parameters.client(item.index)
        digest = m.contribution_digest(self.session_id, client, item.shares_root, item.content)
        with self._blame(m.CHECK, "OS-12"):
            self.roster.verify(client, digest, item.signature)
        with self._blame(m.CHECK, "OS-13"):
            verify_path(item.shares_root, item.sealed_share, own, members, item.path)
        return digest

    # -- phase 3 -------------------------------------------------------------------------------------------------------

    def open_sum(self, state: Checked, request: m.OpeningRequest, _vector: VectorSource | None) -> Answer[States]:
        """This member's share of the sum of the contributors' keys."""
        agreement = Agreement.of(self.parameters)
        self._check_set(list(request.contributors), m.OPENING, "OS-14", "OS-15")
        held = {item.index: item for item in state.held if item.share}
        if not held.keys() >= set(request.contributors):
            detail = "a contributor was not proposed to this member, or its share did not open"
            raise self.server_fault(FaultReason.NOT_A_SUBSET, detail, rule="OS-16", phase=m.OPENING)
        total = np.zeros(agreement.share_elements, np.uint64)
        for index in request.contributors:
            add_shares(total, unpack_share(held[index].share, agreement.share_elements))
        digest = m.contributors_hash(self.session_id, [(index, held[index].digest) for index in request.contributors])
        fields = m.opening_fields(self.session_id, m.OpeningReply)
        return Answer(Opened(), m.OpeningReply(*fields, self.identity.id, digest, pack_share(total)))

    # -- common checks -------------------------------------------------------------------------------------------------

    def _check_set(self, indices: list[int], phase: str, order_rule: str, number_rule: str) -> None:
        """Strictly increasing (so nobody twice), within the cohort, and not fewer than the minimum of contributors."""
        for before, after in pairwise(indices):
            if before >= after:
                reason = FaultReason.DUPLICATE_PARTY if before == after else FaultReason.NOT_ORDERED
                raise self.server_fault(reason, f"index {after} after {before}", rule=order_rule, phase=phase)
        if indices and indices[-1] >= len(self.parameters.cohort):
            detail = f"index {indices[-1]} is past the cohort's end"
            raise self.server_fault(FaultReason.UNKNOWN_PARTY, detail, rule=order_rule, phase=phase)
        least = self.parameters.minimum_contributors
        if len(indices) < least:
            detail = f"{len(indices)} contributors, {least} required"
            raise self.server_fault(FaultReason.TOO_FEW, detail, rule=number_rule, phase=phase)

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(m.CHECK, m.CheckRequest, Idle, check),
        Transition(m.OPENING, m.OpeningRequest, Checked, open_sum),
    )

"""A committee member's side: check the shares, open the sum of one set, once; help to find who dealt badly.

Its rules are OS-7 and OS-9 to OS-22 in docs/reference/rules.md. What it holds between requests is one share, and a
digest a client: shares that it needs again come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np

from protocols import wire
from protocols.chunked import ChunkLayout
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import Identity, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.blame import blame_coefficients
from protocols.oneshot.client import agreed
from protocols.oneshot.packed_shamir import (
    BLINDINGS,
    Elements,
    add_shares,
    combine,
    pack_share,
    subtract_shares,
    unpack_share,
)
from protocols.oneshot.relay import relayed_layout
from protocols.oneshot.sealing import CommitteeIdentity, share_label
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition
from protocols.primitives.merkle import verify_path
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import Entropy, OnceStore

__all__ = ["OneShotMember"]


class Checked(SecretState, frozen=True):
    """The proposed contributions are seen; the shares that opened are added up, none is kept by itself."""

    digests: dict[int, bytes]
    """Of the signed contributions whose shares opened, by client."""
    total: bytes
    """Sum of all these shares."""


class Opened(SecretState, frozen=True):
    """One sum is open; all shares are erased."""

    contributors_hash: bytes
    digests: dict[int, bytes]
    """Of the contributions in the sum, by client."""


class Blamed(SecretState, frozen=True):
    """The combinations of one set of shares are told; nothing more is answered."""


States: TypeAlias = Idle | Checked | Opened | Blamed


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

    def _layout(self, request: m.CheckRequest | m.OpeningRequest | m.BlameRequest) -> ChunkLayout:
        return relayed_layout(Agreement.of(self.parameters), request.groups, request.content)

    # -- phase 2 -------------------------------------------------------------------------------------------------------

    def check(self, _state: Idle, _request: m.CheckRequest, payloads: Iterator[memoryview]) -> Answer[States]:
        """Complaints about shares that do not open."""
        agreement = Agreement.of(self.parameters)
        digests: dict[int, bytes] = {}
        complaints: set[int] = set()
        total = np.zeros(agreement.share_elements, np.uint64)
        for item in self._relayed(payloads, m.CHECK):
            self._check_new(item.index, twice=item.index in digests or item.index in complaints)
            digest = self._verified(item, agreement)
            try:
                share = self._opened_share(item, agreement)
            except PeerFault:  # the client dealt it; the complaint is this member's answer
                complaints.add(item.index)
            else:
                digests[item.index] = digest
                add_shares(total, share)
        self._check_number(len(digests) + len(complaints), m.CHECK, "OS-11")
        fields = m.opening_fields(self.session_id, m.CheckReply, agreement.suite.id)
        reply = m.CheckReply(*fields, self.identity.id, tuple(sorted(complaints)))
        return Answer(Checked(digests, pack_share(total)), reply)

    def _verified(self, item: m.RelayedContribution, agreement: Agreement) -> bytes:
        """Digest of a contribution that its client signed."""
        client = self.parameters.client(item.index)
        digest = m.contribution_digest(self.session_id, item.header, item.content)
        with self._blame(m.CHECK, "OS-12"):
            self.roster.verify(client, digest, item.signature, agreement.suite.signature)
        contribution = self._contribution(item, m.CHECK)
        if contribution.base not in agreement.bases:
            detail = f"{client!r} from model {contribution.base.hex()[:16]}, which is none of the session's"
            raise self.server_fault(FaultReason.CONTEXT_MISMATCH, detail, rule="OS-20", phase=m.CHECK)
        self._check_path(item, contribution, agreement, m.CHECK)
        return digest

    # -- phase 3 -------------------------------------------------------------------------------------------------------

    def open_sum(self, state: Checked, request: m.OpeningRequest, payloads: Iterator[memoryview]) -> Answer[States]:
        """This member's share of the sum of the contributors' keys."""
        agreement = Agreement.of(self.parameters)
        self._check_order(request.contributors)
        self._check_number(len(request.contributors), m.OPENING, "OS-15")
        if not state.digests.keys() >= set(request.contributors):
            detail = "a contributor was not proposed to this member, or its share did not open"
            raise self.server_fault(FaultReason.NOT_A_SUBSET, detail, rule="OS-16", phase=m.OPENING)
        kept = {index: state.digests[index] for index in request.contributors}
        left_out = {index: digest for index, digest in state.digests.items() if index not in kept}
        total = unpack_share(state.total, agreement.share_elements)
        for _, share in self._again(payloads, left_out, agreement, m.OPENING):
            subtract_shares(total, share)
        digest = m.contributors_hash(self.session_id, kept.items())
        fields = m.opening_fields(self.session_id, m.OpeningReply, agreement.suite.id)
        reply = m.OpeningReply(*fields, self.identity.id, digest, pack_share(total))
        return Answer(Opened(digest, kept), reply)

    # -- phase 4 -------------------------------------------------------------------------------------------------------

    def blame(self, state: Opened, request: m.BlameRequest, payloads: Iterator[memoryview]) -> Answer[States]:
        """Blinded combinations of each contributor's shares, by which wrong ones are found; the sum stays closed."""
        agreement = Agreement.of(self.parameters)
        if request.contributors_hash != state.contributors_hash:
            detail = "another set than the one that this member opened"
            raise self.server_fault(FaultReason.NOT_A_SUBSET, detail, rule="OS-22", phase=m.BLAME)
        columns = agreement.share_elements - BLINDINGS
        coefficients = blame_coefficients(self.session_id, state.contributors_hash, columns)
        places = {index: place for place, index in enumerate(state.digests)}
        combinations = np.empty((len(places), BLINDINGS), np.uint64)
        for index, share in self._again(payloads, dict(state.digests), agreement, m.BLAME):
            combinations[places[index]] = combine(coefficients, share)
        fields = m.opening_fields(self.session_id, m.BlameReply, agreement.suite.id)
        encoded = pack_share(combinations.reshape(-1))
        return Answer(Blamed(), m.BlameReply(*fields, self.identity.id, state.contributors_hash, encoded))

    # -- relayed contributions -----------------------------------------------------------------------------------------

    def _relayed(self, payloads: Iterator[memoryview], phase: str) -> Iterator[m.RelayedContribution]:
        for payload in payloads:
            with self._blame(phase):
                group = wire.decode_record(bytes(payload), m.RelayedGroup)
            yield from group.contributions

    def _again(
        self, payloads: Iterator[memoryview], awaited: dict[int, bytes], agreement: Agreement, phase: str
    ) -> Iterator[tuple[int, Elements]]:
        """Shares of contributions that were checked before, by client; all that are awaited, each once."""
        for item in self._relayed(payloads, phase):
            digest = m.contribution_digest(self.session_id, item.header, item.content)
            if awaited.pop(item.index, None) != digest:
                detail = f"index {item.index}: not awaited, or not the contribution that was checked"
                raise self.server_fault(FaultReason.NOT_A_SUBSET, detail, rule="OS-21", phase=phase)
            self._check_path(item, self._contribution(item, phase), agreement, phase)
            yield item.index, self._opened_share(item, agreement)
        if awaited:
            detail = f"{len(awaited)} contributions are missing"
            raise self.server_fault(FaultReason.TOO_FEW, detail, rule="OS-21", phase=phase)

    def _contribution(self, item: m.RelayedContribution, phase: str) -> m.ContributionReply:
        with self._blame(phase, "OS-12"):
            return wire.decode(item.header, m.ContributionReply)

    def _check_path(
        self, item: m.RelayedContribution, contribution: m.ContributionReply, agreement: Agreement, phase: str
    ) -> None:
        """The sealed share is part of what the client signed, and this member's."""
        own, members = agreement.committee.index(self.identity.id), len(agreement.committee)
        with self._blame(phase, "OS-13"):
            verify_path(contribution.shares_root, item.sealed_share, own, members, item.path)

    def _opened_share(self, item: m.RelayedContribution, agreement: Agreement) -> Elements:
        own = agreement.committee.index(self.identity.id)
        share = self._key.open_share(item.sealed_share, share_label(self.session_id, item.index, own))
        return unpack_share(share, agreement.share_elements)

    # -- common checks -------------------------------------------------------------------------------------------------

    def _check_new(self, index: int, *, twice: bool) -> None:
        """Nobody twice, and of the cohort."""
        if twice:
            detail = f"index {index}"
            raise self.server_fault(FaultReason.DUPLICATE_PARTY, detail, rule="OS-10", phase=m.CHECK)
        if index >= len(self.parameters.cohort):
            detail = f"index {index} is past the cohort's end"
            raise self.server_fault(FaultReason.UNKNOWN_PARTY, detail, rule="OS-10", phase=m.CHECK)

    def _check_order(self, indices: tuple[int, ...]) -> None:
        """Strictly increasing, so nobody twice, and within the cohort."""
        for before, after in pairwise(indices):
            if before >= after:
                reason = FaultReason.DUPLICATE_PARTY if before == after else FaultReason.NOT_ORDERED
                raise self.server_fault(reason, f"index {after} after {before}", rule="OS-14", phase=m.OPENING)
        if indices and indices[-1] >= len(self.parameters.cohort):
            detail = f"index {indices[-1]} is past the cohort's end"
            raise self.server_fault(FaultReason.UNKNOWN_PARTY, detail, rule="OS-14", phase=m.OPENING)

    def _check_number(self, number: int, phase: str, rule: str) -> None:
        """Not fewer than the minimum of contributors."""
        least = self.parameters.minimum_contributors
        if number < least:
            detail = f"{number} contributors, {least} required"
            raise self.server_fault(FaultReason.TOO_FEW, detail, rule=rule, phase=phase)

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(m.CHECK, m.CheckRequest, Idle, check, chunks=_layout),
        Transition(m.OPENING, m.OpeningRequest, Checked, open_sum, chunks=_layout),
        Transition(m.BLAME, m.BlameRequest, Opened, blame, chunks=_layout),
    )

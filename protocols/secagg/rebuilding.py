"""Whose secrets can be rebuilt, and rebuilding them from their holders' shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from protocols.errors import PeerFault, ThresholdNotMet
from protocols.primitives.sealing import SealingKeyPair
from protocols.primitives.shamir import LIMBS, reconstruct, unpack_shares
from protocols.secagg.graph import Graph
from protocols.secagg.masking import seed_commitment
from protocols.session import SessionId

__all__ = ["Holder", "Rebuilding", "needed_owners", "require_holders"]

Holder = tuple[int, int]
"""Index of a holder in the cohort, and the point of its shares of one client's secrets."""


def needed_owners(graph: Graph, shared: AbstractSet[int], contributors: AbstractSet[int]) -> list[int]:
    """Whose masks are in the sum: contributors, and dropouts that had shared with one of them."""
    return [
        owner
        for owner in sorted(shared)
        if owner in contributors or not contributors.isdisjoint(graph.neighbours(owner))
    ]


def require_holders(graph: Graph, owners: Iterable[int], present: AbstractSet[int], threshold: int, phase: str) -> None:
    """Make sure that what will be needed can be rebuilt if all that are present stay.

    To go on without a client that has too few holders helps nobody: its neighbours on the ring would then have too few.

    :raises ThresholdNotMet: a client has fewer than `threshold` holders among those present.
    """
    for owner in owners:
        holders = len(graph.holders(owner, present))
        if holders < threshold:
            raise ThresholdNotMet(threshold, holders, phase=phase)


@dataclass(frozen=True)
class Rebuilding:
    """The shares at hand.

    :param masking_keys: public ones of all that advertised, by index.
    :param commitments: to the seeds of all that shared, by index.
    :param shares: what each holder gave, one share a client whose shares it holds, in the order of the cohort.
    """

    session_id: SessionId
    graph: Graph
    threshold: int
    masking_keys: Mapping[int, bytes]
    commitments: Mapping[int, bytes]
    contributors: AbstractSet[int]
    shares: Mapping[int, Sequence[bytes]] = field(repr=False)
    _rows: dict[int, dict[int, int]] = field(default_factory=dict, repr=False)
    _numbered: dict[tuple[int, ...], dict[int, int]] = field(default_factory=dict, repr=False)

    def groups(self, phase: str) -> dict[tuple[Holder, ...], list[int]]:
        """The clients whose secrets are needed, by the holders whose shares of them are at hand.

        :raises ThresholdNotMet: too few are, for one of them.
        """
        groups: dict[tuple[Holder, ...], list[int]] = {}
        for owner in needed_owners(self.graph, self.commitments.keys(), self.contributors):
            holders = self.graph.holders(owner, self.masking_keys)
            at_hand = tuple((holder, point) for point, holder in enumerate(holders, 1) if holder in self.shares)
            if len(at_hand) < self.threshold:
                raise ThresholdNotMet(self.threshold, len(at_hand), phase=phase)
            groups.setdefault(at_hand, []).append(owner)
        return groups

    def secrets_of(self, owners: list[int], at_hand: Sequence[Holder]) -> tuple[dict[int, bytes], int | None]:
        """The secrets that fit, and the holder whose share was left out for it.

        With more shares than needed, one bad holder is found by leaving each out in turn.
        """
        chosen, spare = list(at_hand[: self.threshold]), list(at_hand[self.threshold :])
        secrets = self._rebuild(owners, chosen)
        missing = [owner for owner in owners if owner not in secrets]
        if missing and spare:
            for suspect in chosen:
                others = [holder for holder in chosen if holder != suspect] + spare[:1]
                if self._rebuild(missing[:1], others):
                    return secrets | self._rebuild(missing, others), suspect[0]
        return secrets, None

    def _rebuild(self, owners: list[int], chosen: Sequence[Holder]) -> dict[int, bytes]:
        """The secrets that these holders' shares give, as far as they fit."""
        packed = b"".join(self.shares[holder][self._row(holder, owner)] for holder, _ in chosen for owner in owners)
        shares = unpack_shares(packed, len(chosen) * len(owners)).reshape(len(chosen), len(owners), LIMBS)
        try:
            values = reconstruct([point for _, point in chosen], shares)
        except PeerFault:
            # Some share is bad. Of one owner that is the answer; of several, find out whose.
            if len(owners) == 1:
                return {}
            return {owner: value for one in owners for owner, value in self._rebuild([one], chosen).items()}
        return {owner: value for owner, value in zip(owners, values, strict=True) if self._fits(owner, value)}

    def _row(self, holder: int, owner: int) -> int:
        """Which of a holder's shares is of this owner: it holds shares of those that hold its own."""
        if holder not in self._rows:
            owners = self.graph.holders(holder, self.commitments)
            if owners not in self._numbered:  # on the complete graph all are the same
                self._numbered[owners] = {other: row for row, other in enumerate(owners)}
            self._rows[holder] = self._numbered[owners]
        return self._rows[holder][owner]

    def _fits(self, owner: int, secret: bytes) -> bool:
        """Whether a rebuilt secret is the one that its owner committed to, or advertised the public key of."""
        if owner in self.contributors:
            return seed_commitment(secret, self.session_id, owner) == self.commitments[owner]
        return SealingKeyPair(secret).public == self.masking_keys[owner]

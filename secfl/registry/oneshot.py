"""One-shot aggregation as secfl offers it: a client speaks once, a committee of silos opens the sum of the keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from protocols import oneshot
from protocols.errors import UsageError
from protocols.identity import Identity, Role, Roster
from protocols.oneshot.agreement import RELAYED_BYTES, committee_threshold, pinned_committee
from protocols.oneshot.messages import GROUP
from protocols.oneshot.packed_shamir import BLINDINGS, share_bytes, share_length
from protocols.oneshot.records import LATTICES
from protocols.oneshot.relay import GROUP_BYTES
from protocols.oneshot.sealing import seal_bytes
from protocols.organisation import ProtocolPackage
from protocols.session import SessionParameters
from protocols.shape import Entropy, MessageLimits
from protocols.suites import SUITES
from protocols.wire import CHUNK_INDEX_BYTES, HEADER_LIMIT
from secfl.registry.base import Cast, Entry, Figures

__all__ = ["OneShot"]

PACKED = 1
"""Secrets to a polynomial."""
VALUE_BOUND_LIMIT = 2**53
"""Bounds in `CommitteeParameters` are below it."""


class OneShot(Entry):
    """Lattice masks whose keys are shared among a committee."""

    package: ClassVar[ProtocolPackage] = oneshot
    suite: ClassVar[str] = (
        "ring-LWE (N = 4096, q = 2^64), HPKE with ML-KEM-768 and X25519, Ed25519, AES-256-CTR, AES-256-GCM"
    )
    settings: ClassVar[frozenset[str]] = frozenset({"committee"})

    def cast(self, silos: Iterable[str], committee: Iterable[str] | None = None, _key_holder: Any = None) -> Cast:
        """Every silo is a client, and on the committee unless that is named."""
        clients = tuple(silos)
        return Cast(clients, clients if committee is None else tuple(committee))

    def roles(self, identity: Identity, roster: Roster, cohort: Collection[str]) -> frozenset[Role]:
        """The committee is the roster's members with a sealing key."""
        committee = [member.id for member in pinned_committee(roster)]
        roles = super().roles(identity, roster, cohort)
        return roles | {Role.COMMITTEE} if identity.id in committee else roles

    def equipped(self, identity: Identity, roles: Collection[Role], entropy: Entropy) -> Identity:
        """See `Entry.equipped`; a member of the committee has a key that shares are sealed to."""
        if Role.COMMITTEE not in roles or isinstance(identity, oneshot.CommitteeIdentity):
            return identity
        key = oneshot.CommitteeKey.generate(entropy)
        return oneshot.CommitteeIdentity(
            identity.id, identity.signing_key, key, post_quantum_key=identity.post_quantum_key
        )

    def highest_collusion_bound(self, cohort: int, cast: Cast) -> int:
        """The largest c for which a threshold exists: m + c + 1 <= 2 t <= 2 (m - c), hence 3 c < m."""
        members = len(cast.committee)
        return min(cohort - 2, (members - 1) // 3) if members > PACKED else -1

    def thresholds(self, _cohort: int, cast: Cast, collusion_bound: int) -> tuple[int, int]:
        """2 t >= m + c + 2 l - 1 and t <= m - c."""
        members = len(cast.committee)
        return committee_threshold(members, collusion_bound, PACKED), members - collusion_bound

    def parameters(
        self, roster: Roster, cohort: Iterable[str], *, value_bound: int, public_context: bytes = b"", **agreed: Any
    ) -> SessionParameters:
        """See `Entry.parameters`; the committee is the roster's members with a sealing key."""
        del public_context
        if value_bound >= VALUE_BOUND_LIMIT:
            raise UsageError(f"bits: values up to {value_bound} with their weights; oneshot takes less than 2^53")
        return oneshot.parameters(roster, cohort, value_bound=value_bound, packed=PACKED, **agreed)

    def value_bound(self, parameters: SessionParameters) -> int:
        """Under another bound, or none, the opened slots would tell more than the sum."""
        return oneshot.CommitteeParameters.of(parameters).value_bound

    def request_limits(self, cohort: int, _vector_length: int) -> MessageLimits:
        """A member is shown contributions in groups, of which there are no more than clients."""
        share = share_bytes(share_length(max(known.degree for known in LATTICES.values()), PACKED) + BLINDINGS)
        sealed = share + max(seal_bytes(known.sealing) for known in SUITES.values())
        relayed = sealed + max(known.signature.signature_bytes for known in SUITES.values()) + RELAYED_BYTES
        return MessageLimits(HEADER_LIMIT, CHUNK_INDEX_BYTES + GROUP * relayed + GROUP_BYTES, cohort)

    def describe(self, figures: Figures) -> dict[str, str | int | float]:
        """The committee."""
        return {"committee": ", ".join(figures.cast.committee), "committee members": len(figures.cast.committee)}

    def promises(self, figures: Figures) -> tuple[str, ...]:
        """See `Entry.promises`."""
        members, threshold = len(figures.cast.committee), figures.threshold
        return (
            f"The server sees no single update: each is encrypted under a fresh key, and the committee opens one sum "
            f"of keys a session, over {figures.minimum_contributors} or more silos. This holds against a server that "
            f"breaks the protocol, together with up to {figures.collusion_bound} silos, on the committee or not.",
            f"{threshold} of the {members} committee members, in league with the server, read every single update.",
            "Another silo sees the global models and no single update.",
            "Encryption and the sealing of shares are believed to resist quantum computers; signatures are those of "
            "today, so whoever breaks them must do so while the session runs.",
            "A wrong share, a wrong sum of keys or a damaged ciphertext is noticed by a statistical check; a server "
            "that hands out another result than the sum is not.",
        )

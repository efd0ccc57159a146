"""SecAgg as secfl offers it: clients alone, five phases, pairwise masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from protocols import secagg
from protocols.errors import UsageError
from protocols.identity import Roster
from protocols.organisation import ProtocolPackage
from protocols.secagg.degrees import FULLY_ACTIVE_BITS, SECURITY_BITS, Claim, Requirements, requirements
from protocols.secagg.graph import HararyClaim
from protocols.session import SessionParameters, majority_threshold, rate_bound
from secfl.registry.base import Cast, Entry, Figures

__all__ = ["SecAgg", "SparseSecAgg"]


class SecAgg(Entry):
    """Bonawitz et al. 2017 on the complete graph."""

    package: ClassVar[ProtocolPackage] = secagg
    settings: ClassVar[frozenset[str]] = frozenset({"graph", "dropout_rate", "withstands"})
    suite: ClassVar[str] = "X25519, Ed25519, HKDF-SHA256, AES-256-CTR, AES-256-GCM"

    def cast(self, silos: Iterable[str], _committee: Any = None, _key_holder: Any = None) -> Cast:
        """Every silo is a client."""
        return Cast(tuple(silos))

    def thresholds(self, cohort: int, _cast: Cast, collusion_bound: int) -> tuple[int, int]:
        """2 t > n + c."""
        return majority_threshold(cohort, collusion_bound), cohort

    def parameters(
        self, roster: Roster, cohort: Iterable[str], *, value_bound: int, public_context: bytes = b"", **agreed: Any
    ) -> SessionParameters:
        """See `Entry.parameters`; the modulus alone bounds the vectors."""
        del value_bound, public_context
        return secagg.parameters(roster, cohort, **agreed)

    def session_options(self) -> dict[str, Any]:
        """See `Entry.session_options`."""
        return {"graph": "complete"}

    def describe(self, _figures: Figures) -> dict[str, str | int | float]:
        """The graph."""
        return {"graph": "complete"}

    def promises(self, figures: Figures) -> tuple[str, ...]:
        """See `Entry.promises`."""
        return (
            f"The server sees no single update: each is masked, and only a sum over {figures.minimum_contributors} or "
            f"more silos opens. This holds against a server that breaks the protocol, together with up to "
            f"{figures.collusion_bound} of the {figures.cohort} silos.",
            "Another silo sees the global models and no single update.",
            "Key agreement and signatures are those of today: who records the messages and has a quantum computer "
            "later takes the masks off.",
            "Wrong keys, seeds and shares are noticed; a server that hands out another result than the sum is not.",
        )


class SparseSecAgg(SecAgg):
    """The same on a k-regular graph (Bell et al. 2020): each silo masks with a few neighbours on a random ring.

    :param dropout_rate: fraction of a round's silos that may be missing in the sum.
    :param claim: the server that degree and threshold are chosen for.
    """

    def __init__(self, dropout_rate: float, claim: HararyClaim) -> None:
        self.dropout_rate = dropout_rate
        self.claim = claim

    def smallest(self, cohort: int, collusion_bound: int) -> tuple[int, int]:
        """Smallest degree that will do, and its least threshold.

        :raises UsageError: none will.
        """
        return self._requirements(cohort, collusion_bound).smallest()

    def highest_collusion_bound(self, cohort: int, _cast: Cast) -> int:
        """All but the two honest ones, and no more than may be missing besides."""
        return min(cohort - 2, self.least_contributors(cohort, 0) - 2)

    def least_contributors(self, cohort: int, collusion_bound: int) -> int:
        """All but the dropout rate: the security of the ring counts on them."""
        return max(collusion_bound + 2, cohort - rate_bound(self.dropout_rate, cohort))

    def thresholds(self, cohort: int, _cast: Cast, collusion_bound: int) -> tuple[int, int]:
        """Of a silo's neighbours: more than both of its secrets would be rebuilt with, no more than will be left."""
        found = self._requirements(cohort, collusion_bound)
        allowed = found.thresholds(found.smallest()[0])
        if allowed is None:
            raise UsageError("the degree that was found has no threshold")
        return allowed

    @property
    def statistical_failure(self) -> float:
        """A ring that leaves a silo among colluders. The 64 bits more of ``fully active`` go to the server's tries."""
        return 2.0**-SECURITY_BITS

    def session_options(self) -> dict[str, Any]:
        """See `Entry.session_options`."""
        return {"graph": "harary", "dropout_rate": self.dropout_rate, "claim": self.claim}

    def describe(self, figures: Figures) -> dict[str, str | int | float]:
        """The graph, and what its degree was chosen for."""
        degree, _ = self.smallest(figures.cohort, figures.collusion_bound)
        return {
            "graph": "k-regular on a random ring (SecAgg+)",
            "neighbours of a silo": degree,
            "adversary rate": figures.collusion_bound / figures.cohort,
            "dropout rate": self.dropout_rate,
            "server withstood": self.claim,
            "security bits": FULLY_ACTIVE_BITS if self.claim == "fully active" else SECURITY_BITS,
        }

    def promises(self, figures: Figures) -> tuple[str, ...]:
        """See `Entry.promises`."""
        degree, threshold = self.smallest(figures.cohort, figures.collusion_bound)
        ring = (
            "It may also try out rings, and choose whom it drops after it has seen one."
            if self.claim == "fully active"
            else "It may lie about everything, but it has neither chosen the ring nor aimed at whom it drops."
        )
        bits = FULLY_ACTIVE_BITS if self.claim == "fully active" else SECURITY_BITS
        return (
            f"The server sees no single update: each is masked by {degree} neighbours on a random ring, {threshold} of "
            f"which rebuild a secret, and only a sum over {figures.minimum_contributors} or more silos opens. This "
            f"holds, but for a probability of 2^-{bits}, against a server that is {self.claim}, together with up to "
            f"{figures.collusion_bound} of the {figures.cohort} silos. {ring}",
            *super().promises(figures)[1:],
        )

    def _requirements(self, cohort: int, collusion_bound: int) -> Requirements:
        return requirements(cohort, collusion_bound / cohort, self.dropout_rate, Claim(self.claim))

"""SecAgg as secfl offers it: clients alone, five phases, pairwise masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from protocols import secagg
from protocols.identity import Roster
from protocols.organisation import ProtocolPackage
from protocols.session import SessionParameters, majority_threshold
from secfl.registry.base import Cast, Entry, Figures

__all__ = ["SecAgg"]


class SecAgg(Entry):
    """Bonawitz et al. 2017 on the complete graph."""

    package: ClassVar[ProtocolPackage] = secagg
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

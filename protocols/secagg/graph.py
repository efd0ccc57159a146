"""Who masks with whom and who holds whose shares.

The graph is a parameter of SecAgg. Here is the complete one (Bonawitz et al. 2017): every client is a neighbour of
every other and holds a share of everybody's secrets, its own included. A sparse graph offers the same two functions.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocols import wire
from protocols.errors import PolicyRefused, UsageError
from protocols.session import SessionParameters, majority_threshold

__all__ = ["MAXIMUM_COMPLETE_COHORT", "CompleteGraph", "GraphParameters", "check_complete_graph"]

MAXIMUM_COMPLETE_COHORT = 200
"""Largest cohort that gets the complete graph by default; pairs grow with the square."""


class GraphParameters(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What SecAgg adds to the session's parameters."""

    kind: Literal["complete"]
    degree: Annotated[int, msgspec.Meta(ge=1, lt=2**24)]

    def to_bytes(self) -> bytes:
        """Canonical encoding, for `SessionParameters.extension`."""
        return wire.encode(self)

    @classmethod
    def of(cls, parameters: SessionParameters) -> GraphParameters:
        """Read them from a session's parameters.

        :raises PeerFault: MALFORMED.
        """
        return wire.decode_record(parameters.extension, cls)


class CompleteGraph:
    """The complete graph over those that advertised keys.

    :param members: their indices in the cohort, strictly increasing.
    """

    def __init__(self, members: tuple[int, ...]) -> None:
        self.members = members

    def neighbours(self, index: int) -> tuple[int, ...]:
        """With whom a client masks: all others."""
        return tuple(member for member in self.members if member != index)

    def holders(self, index: int) -> tuple[int, ...]:  # noqa: ARG002  a sparse graph's answer depends on it
        """Who holds shares of a client's secrets: all, itself included. The order fixes the points of the shares."""
        return self.members


def check_complete_graph(parameters: SessionParameters, collusion_bound: int) -> None:
    """Refuse a threshold that lets `collusion_bound` clients and an active server open two sets.

    :raises PolicyRefused: rules SA-1 (degree), SA-2 (2 t > n + c) and SA-3 (t <= n).
    """
    size = len(parameters.cohort)
    degree = GraphParameters.of(parameters).degree
    if degree != size - 1:
        raise PolicyRefused("degree", degree, f"{size - 1} in a complete graph of {size}", rule="SA-1")
    bound = max(collusion_bound, parameters.collusion_bound)
    least = majority_threshold(size, bound)
    if parameters.threshold < least:
        raise PolicyRefused(
            "threshold", parameters.threshold, f"at least {least} (2 t > n + c, c = {bound})", rule="SA-2"
        )
    if parameters.threshold > size:
        raise PolicyRefused("threshold", parameters.threshold, f"at most the cohort's {size}", rule="SA-3")


def validate_complete_graph(parameters: SessionParameters) -> None:
    """The same rules for the one who proposes.

    :raises UsageError: naming the parameter.
    """
    try:
        check_complete_graph(parameters, parameters.collusion_bound)
    except PolicyRefused as refusal:
        raise UsageError(str(refusal)) from None

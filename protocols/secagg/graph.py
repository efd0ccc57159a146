"""Who masks with whom and who holds whose shares.

The graph is a parameter of SecAgg. In the complete one (Bonawitz et al. 2017) every client is a neighbour of every
other and holds a share of everybody's secrets, its own included. On the Harary graph over
a random ring (Bell et al. 2020) a client has k neighbours, the k / 2 nearest on either side, and they hold its shares.

The ring is over all positions of the cohort, taken by who advertised keys or not: who did not is a dropout like any
later one, and the bounds on the number of bad neighbours hold as they stand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocols import wire
from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from protocols.primitives.shamir import MAXIMAL_HOLDERS
from protocols.session import SessionParameters

__all__ = [
    "LARGEST_COMPLETE_COHORT",
    "SMALLEST_HARARY_COHORT",
    "CompleteGraph",
    "Graph",
    "GraphParameters",
    "HararyClaim",
    "HararyGraph",
    "HararyGraphParameters",
    "graph_of",
    "graph_parameters",
]

LARGEST_COMPLETE_COHORT = 200
"""Largest cohort that gets the complete graph by default; pairs grow with the square."""
SMALLEST_HARARY_COHORT = 100
"""Below, the formulas ask for a degree that protects against next to nothing."""

_HARARY = msgspec.msgpack.encode("harary")
Rate = Annotated[float, msgspec.Meta(ge=0, lt=1)]
HararyClaim = Literal["semi-malicious", "fully active"]
"""What may be claimed of a Harary graph in a session; see `protocols.secagg.degrees.Claim`."""


class GraphParameters(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What SecAgg adds to the session's parameters, on the complete graph."""

    kind: Literal["complete"]
    degree: Annotated[int, msgspec.Meta(ge=1, lt=2**24)]

    def to_bytes(self) -> bytes:
        """Canonical encoding, for `SessionParameters.extension`."""
        return wire.encode(self)


class HararyGraphParameters(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What SecAgg adds to the session's parameters, on a Harary graph.

    The rates are of the cohort: how many clients collude, how many may be missing among the contributors. The claim
    says which server degree and threshold are for.
    """

    kind: Literal["harary"]
    degree: Annotated[int, msgspec.Meta(ge=2, le=MAXIMAL_HOLDERS, multiple_of=2)]
    adversary_rate: Rate
    dropout_rate: Rate
    claim: HararyClaim

    def to_bytes(self) -> bytes:
        """Canonical encoding, for `SessionParameters.extension`."""
        return wire.encode(self)


def graph_parameters(parameters: SessionParameters) -> GraphParameters | HararyGraphParameters:
    """Read them from a session's parameters.

    :raises PeerFault: MALFORMED.
    """
    if parameters.extension[1:8] == _HARARY:
        return wire.decode_record(parameters.extension, HararyGraphParameters)
    return wire.decode_record(parameters.extension, GraphParameters)


class Graph(ABC):
    """Neighbours of every client, by index in the cohort."""

    holds_own: ClassVar[bool]
    """Whether a client is among the holders of its own shares."""

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def neighbours(self, index: int) -> tuple[int, ...]:
        """With whom a client masks if both take part, in the order of the cohort."""

    def neighbourhood(self, index: int) -> tuple[int, ...]:
        """Its neighbours and itself."""
        return tuple(sorted((*self.neighbours(index), index)))

    def holders(self, index: int, present: Container[int]) -> tuple[int, ...]:
        """Those among the present who hold shares of its secrets. The order fixes the points of the shares."""
        known = self.neighbourhood(index) if self.holds_own else self.neighbours(index)
        return tuple(member for member in known if member in present)

    @abstractmethod
    def least_holders(self, parameters: SessionParameters) -> int:
        """How many holders a client insists on before it goes on."""


class CompleteGraph(Graph):
    """Everybody is everybody's neighbour."""

    holds_own: ClassVar[bool] = True

    def neighbours(self, index: int) -> tuple[int, ...]:
        """See `Graph.neighbours`."""
        return tuple(member for member in range(self.size) if member != index)

    def neighbourhood(self, index: int) -> tuple[int, ...]:  # noqa: ARG002  everybody's is the same
        """See `Graph.neighbourhood`."""
        return tuple(range(self.size))

    def least_holders(self, parameters: SessionParameters) -> int:
        """See `Graph.least_holders`: here all that take part are holders."""
        return max(parameters.threshold, parameters.minimum_contributors)


class HararyGraph(Graph):
    """The k nearest on a ring whose order nobody chose.

    :param size: clients in the cohort.
    :param degree: k, even and below ``size``.
    :param root: T0, whose hash seeds the ring.
    """

    holds_own: ClassVar[bool] = False

    def __init__(self, size: int, degree: int, root: bytes) -> None:
        super().__init__(size)
        self._order, self._place = _ring(size, root)
        half = np.arange(1, degree // 2 + 1)
        self._steps = np.concatenate((half, -half))

    def neighbours(self, index: int) -> tuple[int, ...]:
        """See `Graph.neighbours`."""
        around = self._order[(self._place[index] + self._steps) % self.size]
        return tuple(np.sort(around).tolist())

    def least_holders(self, parameters: SessionParameters) -> int:
        """See `Graph.least_holders`."""
        return parameters.threshold


@lru_cache(maxsize=2)
def _ring(size: int, root: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cohort indices in the order of the ring, and the place of each: a uniform permutation seeded by H(T0).

    Each index gets 64 random bits and they are sorted; should two be equal, all are drawn again.
    """
    stream = MaskStream(tagged_hash("secagg/ring", root), 64)
    drawn = 0
    while True:
        keys = stream.words(drawn, size)
        drawn += size
        order = np.argsort(keys)
        if (np.diff(keys[order]) != 0).all():
            break
    place = np.empty_like(order)
    place[order] = np.arange(size)
    order.flags.writeable = place.flags.writeable = False
    return order, place


def graph_of(parameters: SessionParameters, root: bytes) -> Graph:
    """The graph of a session whose T0 is fixed."""
    size, chosen = len(parameters.cohort), graph_parameters(parameters)
    if isinstance(chosen, HararyGraphParameters):
        return HararyGraph(size, chosen.degree, root)
    return CompleteGraph(size)

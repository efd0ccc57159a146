"""Which graph, threshold and bounds a session may have: proposed by the server, recomputed by each client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from protocols.errors import PolicyRefused, UsageError
from protocols.secagg.degrees import Claim, requirements
from protocols.secagg.graph import (
    LARGEST_COMPLETE_COHORT,
    SMALLEST_HARARY_COHORT,
    GraphParameters,
    HararyClaim,
    HararyGraphParameters,
    graph_parameters,
)
from protocols.session import DEFAULT_ADVERSARY_RATE, ClientPolicy, SessionParameters, majority_threshold, rate_bound

__all__ = ["DEFAULT_DROPOUT_RATE", "GraphChoice", "check_graph", "least_contributors", "quorum", "validate_graph"]

DEFAULT_DROPOUT_RATE = 0.05


def quorum(parameters: SessionParameters) -> int:
    """Signatures that certify a set of contributors: the smallest q with 2 q > n + c, whatever the graph."""
    return majority_threshold(len(parameters.cohort), parameters.collusion_bound)


def least_contributors(parameters: SessionParameters) -> int:
    """Fewest clients with which any phase before the check may go on."""
    return max(parameters.threshold, parameters.minimum_contributors)


class Resolved(NamedTuple):
    """What a session agrees on about its graph."""

    graph: GraphParameters | HararyGraphParameters
    threshold: int
    collusion_bound: int
    minimum_contributors: int

    def fields(self) -> dict[str, Any]:
        """As fields of `SessionParameters`."""
        fields = self._asdict()
        del fields["graph"]
        return fields | {"extension": self.graph.to_bytes()}


@dataclass(frozen=True)
class GraphChoice:
    """What the caller of `protocols.secagg.parameters` asks for; None for the design's default."""

    kind: str | None = None
    collusion_bound: int | None = None
    adversary_rate: float | None = None
    dropout_rate: float | None = None
    claim: HararyClaim | None = None

    def resolve(self, size: int, threshold: int | None, minimum_contributors: int | None) -> Resolved:
        """Fill in what is missing, for a cohort of this size.

        :raises UsageError: naming the parameter and what is allowed.
        """
        if self.kind not in {None, "complete", "harary"}:
            raise UsageError(f"graph: {self.kind!r}; allowed: 'complete', 'harary'")
        if self.collusion_bound is not None and self.adversary_rate is not None:
            raise UsageError("collusion_bound and adversary_rate say the same: give one of them")
        default = "complete" if size <= LARGEST_COMPLETE_COHORT else "harary"
        complete = size < SMALLEST_HARARY_COHORT or (self.kind or default) == "complete"
        found = self._complete(size) if complete else self._harary(size)
        if threshold is not None:
            found = found._replace(threshold=threshold)
        if minimum_contributors is not None:
            found = found._replace(minimum_contributors=minimum_contributors)
        return found

    def _complete(self, size: int) -> Resolved:
        collusion = self.collusion_bound
        if collusion is None:
            rate = DEFAULT_ADVERSARY_RATE if self.adversary_rate is None else self.adversary_rate
            if not 0 <= rate < 1:
                raise UsageError(f"adversary_rate: {rate}; allowed: 0 to below 1")
            collusion = rate_bound(rate, size)
        graph = GraphParameters("complete", size - 1)
        return Resolved(graph, majority_threshold(size, collusion), collusion, collusion + 2)

    def _harary(self, size: int) -> Resolved:
        adversaries = DEFAULT_ADVERSARY_RATE if self.adversary_rate is None else self.adversary_rate
        if self.collusion_bound is not None:
            adversaries = self.collusion_bound / size
        dropouts = DEFAULT_DROPOUT_RATE if self.dropout_rate is None else self.dropout_rate
        claim: HararyClaim = "semi-malicious" if self.claim is None else self.claim
        if claim not in get_args(HararyClaim):
            raise UsageError(f"claim: {claim!r}; allowed: 'semi-malicious', 'fully active'")
        degree, threshold = requirements(size, adversaries, dropouts, Claim(claim)).smallest()
        graph = HararyGraphParameters("harary", degree, adversaries, dropouts, claim)
        return Resolved(graph, threshold, rate_bound(adversaries, size), size - rate_bound(dropouts, size))


def check_graph(parameters: SessionParameters, policy: ClientPolicy) -> None:
    """Refuse a graph, threshold or minimum that does not keep what this party insists on.

    :raises PeerFault: MALFORMED, no graph of this protocol.
    :raises PolicyRefused: naming the parameter (rules SA-1 to SA-3, SA-27 to SA-33).
    """
    graph = graph_parameters(parameters)
    if isinstance(graph, HararyGraphParameters):
        _check_ring(parameters, graph, policy)
    else:
        _check_complete(parameters, graph, policy)


def _check_complete(parameters: SessionParameters, graph: GraphParameters, policy: ClientPolicy) -> None:
    """Refuse a threshold that lets c clients and an active server open two sets."""
    size = len(parameters.cohort)
    if graph.degree != size - 1:
        raise PolicyRefused("degree", graph.degree, f"{size - 1} in a complete graph of {size}", rule="SA-1")
    bound = max(policy.required_collusion_bound(size), parameters.collusion_bound)
    least = majority_threshold(size, bound)
    if parameters.threshold < least:
        raise PolicyRefused(
            "threshold", parameters.threshold, f"at least {least} (2 t > n + c, c = {bound})", rule="SA-2"
        )
    if parameters.threshold > size:
        raise PolicyRefused("threshold", parameters.threshold, f"at most the cohort's {size}", rule="SA-3")


def _check_ring(parameters: SessionParameters, graph: HararyGraphParameters, policy: ClientPolicy) -> None:
    """Recompute what the announced rates ask of degree and threshold. That is quick: nothing is searched for."""
    size = len(parameters.cohort)
    if size < SMALLEST_HARARY_COHORT:
        raise PolicyRefused("cohort size", size, f"at least {SMALLEST_HARARY_COHORT} on a Harary graph", rule="SA-27")
    if graph.claim not in policy.claims:
        raise PolicyRefused("claim", graph.claim, f"one of {sorted(policy.claims)}", rule="SA-28")
    # Rates count as the numbers of clients that they stand for: nothing below depends on more of them.
    if rate_bound(graph.adversary_rate, size) < rate_bound(policy.adversary_rate, size):
        raise PolicyRefused("adversary rate", graph.adversary_rate, f"at least {policy.adversary_rate}", rule="SA-29")
    colluding = rate_bound(graph.adversary_rate, size)
    if parameters.collusion_bound != colluding:
        raise PolicyRefused("collusion bound", parameters.collusion_bound, f"{colluding}, by the rate", rule="SA-30")
    try:
        allowed = requirements(size, graph.adversary_rate, graph.dropout_rate, Claim(graph.claim)).thresholds(
            graph.degree
        )
    except UsageError as error:
        raise PolicyRefused(
            "rates", f"{graph.adversary_rate}, {graph.dropout_rate}", str(error), rule="SA-31"
        ) from None
    if allowed is None:
        raise PolicyRefused("degree", graph.degree, "a degree that is enough for the rates", rule="SA-31")
    least, greatest = allowed
    if not least <= parameters.threshold <= greatest:
        raise PolicyRefused("threshold", parameters.threshold, f"{least} to {greatest}, by the rates", rule="SA-32")
    fewest = size - rate_bound(graph.dropout_rate, size)
    if parameters.minimum_contributors < fewest:
        raise PolicyRefused(
            "minimum contributors", parameters.minimum_contributors, f"at least {fewest}, by the rate", rule="SA-33"
        )


def validate_graph(parameters: SessionParameters) -> None:
    """The same rules for the one who proposes, with no floors but its own proposal.

    :raises UsageError: naming the parameter.
    """
    policy = ClientPolicy(collusion_bound=parameters.collusion_bound, adversary_rate=0.0)
    try:
        check_graph(parameters, policy)
    except PolicyRefused as refusal:
        raise UsageError(str(refusal)) from None

"""What the page works out from a report's records: totals, groups of records, what an epsilon permits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from secfl.report.model import FaultRow, RoundRow, RunReport

__all__ = [
    "Check",
    "GroupBound",
    "GroupCost",
    "PhaseTotal",
    "attempt_label",
    "checks",
    "dropouts",
    "faults",
    "group_bound",
    "group_costs",
    "guess_bound",
    "phase_totals",
    "run_seconds",
]

GROUP_SIZES = (1, 2, 5)


@dataclass(frozen=True)
class PhaseTotal:
    """One phase over all attempts at all rounds, all parties together."""

    phase: str
    times: int
    seconds: float
    bytes_up: int
    bytes_down: int
    dropouts: int
    faults: int


@dataclass(frozen=True)
class Check:
    """Something that was verified, and in how many of the completed rounds."""

    text: str
    rounds: int
    completed: int


@dataclass(frozen=True)
class GroupBound:
    """Guarantee for ``size`` records together; ``delta`` is None where the bound reaches 1 and promises nothing."""

    size: int
    epsilon: float
    delta: float | None


@dataclass(frozen=True)
class GroupCost:
    """The bounds that follow from one (epsilon, delta), and the adversaries for whom it is claimed."""

    adversaries: tuple[str, ...]
    epsilon: float
    delta: float
    bounds: tuple[GroupBound, ...]


def phase_totals(rounds: tuple[RoundRow, ...]) -> tuple[PhaseTotal, ...]:
    """Sums by phase, in the order in which the phases first appear."""
    names = dict.fromkeys(phase.phase for row in rounds for phase in row.phases)
    return tuple(_phase_total(name, rounds) for name in names)


def _phase_total(name: str, rounds: tuple[RoundRow, ...]) -> PhaseTotal:
    rows = [phase for row in rounds for phase in row.phases if phase.phase == name]
    return PhaseTotal(
        phase=name,
        times=len(rows),
        seconds=math.fsum(row.seconds for row in rows),
        bytes_up=sum(row.bytes_up for row in rows),
        bytes_down=sum(row.bytes_down for row in rows),
        dropouts=sum(len(row.dropped) for row in rows),
        faults=sum(len(row.faults) for row in rows),
    )


def checks(rounds: tuple[RoundRow, ...]) -> tuple[Check, ...]:
    """Everything that any completed round verified, so that a check that one round left out is seen."""
    completed = [row for row in rounds if row.completed]
    counts = Counter(text for row in completed for text in dict.fromkeys(row.checks))
    return tuple(Check(text, count, len(completed)) for text, count in counts.items())


def dropouts(row: RoundRow) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Phases in which somebody dropped out, with the names."""
    return tuple((phase.phase, phase.dropped) for phase in row.phases if phase.dropped)


def faults(row: RoundRow) -> tuple[FaultRow, ...]:
    """Refused messages and refusing parties of one attempt."""
    return tuple(fault for phase in row.phases for fault in phase.faults)


def attempt_label(row: RoundRow) -> str:
    """``3`` for the first attempt at round 3, ``3.2`` for the second."""
    return str(row.number) if row.attempt <= 1 else f"{row.number}.{row.attempt}"


def group_bound(epsilon: float, delta: float, size: int) -> GroupBound:
    """Guarantee for ``size`` units together that follows from (epsilon, delta) for one.

    Group privacy of approximate DP (Vadhan 2017, Lemma 2.2): (k eps, delta (1 + e^eps + ... + e^((k-1) eps))).

    :param size: k, 1 or more.
    """
    if size == 1 or epsilon == 0:
        factor = float(size)
    else:
        # (e^(k eps) - 1) / (e^eps - 1), in logarithms because e^(k eps) may be too large for a float.
        log_factor = (size - 1) * epsilon + math.log(-math.expm1(-size * epsilon)) - math.log(-math.expm1(-epsilon))
        factor = math.exp(log_factor) if log_factor < 700 else math.inf
    total = delta * factor if delta > 0 else 0.0
    return GroupBound(size, size * epsilon, total if total < 1 else None)


def group_costs(report: RunReport) -> tuple[GroupCost, ...]:
    """Group privacy of each distinct claim, the weakest claim first."""
    adversaries: dict[tuple[float, float], list[str]] = {}
    for claim in report.claims:
        if claim.epsilon is not None and claim.delta is not None:
            adversaries.setdefault((claim.epsilon, claim.delta), []).append(claim.adversary)
    return tuple(
        GroupCost(tuple(names), epsilon, delta, tuple(group_bound(epsilon, delta, size) for size in GROUP_SIZES))
        for (epsilon, delta), names in sorted(adversaries.items(), reverse=True)
    )


def guess_bound(epsilon: float, delta: float) -> float:
    """Largest probability of telling which of two neighbouring inputs was used, each tossed up with probability 1/2.

    (1 + TV) / 2, where the total variation TV is at most (e^eps - 1 + 2 delta) / (e^eps + 1) (Kairouz, Oh, Viswanath
    2015, Theorem 2.1).
    """
    return min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))


def run_seconds(report: RunReport) -> float | None:
    """Time from start to finish; None if either is not an ISO 8601 time."""
    try:
        started, finished = datetime.fromisoformat(report.started), datetime.fromisoformat(report.finished)
        return (finished - started).total_seconds()
    except (ValueError, TypeError):  # text that is no time, or one with a zone and one without
        return None

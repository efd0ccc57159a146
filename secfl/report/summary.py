"""What the page works out from a report's records: totals, groups of records, what an epsilon permits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from secfl.report.model import Claim, FaultRow, GroupPoint, NoiseRow, RoundRow, RunReport, SiloRow

__all__ = [
    "Check",
    "GroupBound",
    "PhaseTotal",
    "achieved_noise",
    "attempt_label",
    "called",
    "checks",
    "dropouts",
    "epsilon_columns",
    "faults",
    "flat",
    "group_bound",
    "grouped",
    "guess_bound",
    "level_names",
    "phase_totals",
    "run_seconds",
    "silo_groups",
    "worst_guess",
]


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


def attempt_label(row: RoundRow | NoiseRow) -> str:
    """``3`` for the first attempt at round 3, ``3.2`` for the second."""
    return f"{row.number}.{row.attempt + 1}" if row.attempt else str(row.number)


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


def grouped(points: tuple[GroupPoint, ...]) -> tuple[tuple[tuple[str, ...], tuple[GroupPoint, ...]], ...]:
    """Group privacy of each distinct claim, with all adversaries that it is the same for."""
    by_adversary: dict[str, list[GroupPoint]] = {}
    for point in points:
        by_adversary.setdefault(point.adversary, []).append(point)
    distinct: dict[tuple[tuple[int, float | None, float | None], ...], list[str]] = {}
    for adversary, found in by_adversary.items():
        distinct.setdefault(tuple((item.size, item.epsilon, item.delta) for item in found), []).append(adversary)
    return tuple((tuple(names), tuple(by_adversary[names[0]])) for names in distinct.values())


def worst_guess(claims: tuple[Claim, ...]) -> float | None:
    """`guess_bound` of the weakest claim; None without one."""
    bounds = [guess_bound(c.epsilon, c.delta) for c in claims if c.epsilon is not None and c.delta is not None]
    return max(bounds, default=None)


GROUPED_FROM = 9
"""From so many silos on, those with equal values share a row."""


def silo_groups(silos: tuple[SiloRow, ...]) -> tuple[tuple[str, SiloRow], ...]:
    """Silos as the page's tables show them: one by one, or, where there are many, those that are equal together.

    :returns: what they are called, and the first of each group.
    """
    if len(silos) < GROUPED_FROM:
        return tuple((silo.name, silo) for silo in silos)
    groups: dict[bytes, list[SiloRow]] = {}
    for silo in silos:
        own = {"name": "", "ledger_head": "", "head_signature": "", "public_key": "", "lineage": "", "fingerprint": ""}
        groups.setdefault(msgspec.json.encode(msgspec.structs.replace(silo, **own, releases=())), []).append(silo)
    return tuple((called([silo.name for silo in group]), group[0]) for group in groups.values())


def called(names: Sequence[str]) -> str:
    """Some silos in few words."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]}: {len(names)} silos"


def epsilon_columns(report: RunReport) -> tuple[tuple[str, str], ...]:
    """Columns of the table of epsilon by round: silos whose figures are equal in every round share one.

    :returns: what they are called, and the first of each.
    """
    if len(report.silos) < GROUPED_FROM:
        return tuple((silo.name, silo.name) for silo in report.silos)
    groups: dict[tuple[float | None, ...], list[str]] = {}
    for silo in report.silos:
        groups.setdefault(tuple(row.epsilon.get(silo.name) for row in report.rounds), []).append(silo.name)
    return tuple((called(names), names[0]) for names in groups.values())


def level_names(silos: tuple[SiloRow, ...]) -> tuple[str, ...]:
    """Heads of the columns of noise levels: as multiples of the present noise."""
    first = next((silo for silo in silos if silo.noise_levels and silo.noise_multiplier), None)
    if first is None or first.noise_multiplier is None:
        return ()
    return tuple(f"{level.noise_multiplier / first.noise_multiplier:.3g} \u00d7 noise" for level in first.noise_levels)


def flat(table: dict[str, Any], path: str = "") -> list[tuple[str, str | int | float]]:
    """Leaves of nested records, each with its place in words."""
    found: list[tuple[str, str | int | float]] = []
    for key, value in table.items():
        place = f"{path} \u203a {key.replace('_', ' ')}".removeprefix(" \u203a ")
        if isinstance(value, dict):
            found += flat(value, place)
        elif isinstance(value, list):
            for item in value:
                found += flat(item, place) if isinstance(item, dict) else [(place, item)]
        else:
            found.append((place, value))
    return found


def achieved_noise(rows: tuple[NoiseRow, ...]) -> tuple[float, float] | None:
    """Least and most noise that a completed round had."""
    values = [row.achieved for row in rows]
    return (min(values), max(values)) if values else None


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

"""Figures of the budget: epsilon by round and silo, burn-down with forecast, epsilon against delta and colluders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secfl.report.display import decimal, rounded_down, rounded_up
from secfl.report.drawing import HALF_WIDTH, Drawing, add_legend, finish, name_list, new_axes, round_axis
from secfl.report.model import RoundRow, RunReport, SiloRow
from secfl.report.summary import attempt_label
from secfl.report.svg import GRID, INK, LINE_STYLES, MARKERS, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["burn_down", "colluders", "curve", "epsilon_by_round"]

_HALF_HEIGHT = 2.9


def epsilon_by_round(report: RunReport) -> Drawing | None:
    """Epsilon spent by each silo after each attempt, and the budget."""
    rounds = report.rounds
    curves: dict[tuple[float | None, ...], list[str]] = {}
    for silo in report.silos:
        curve = tuple(row.epsilon.get(silo.name) for row in rounds)
        if any(value is not None for value in curve):
            curves.setdefault(curve, []).append(silo.name)
    if not curves:
        return None
    figure, axes = new_axes(_HALF_HEIGHT, HALF_WIDTH)
    if len(curves) <= len(SERIES):
        _lines(axes, curves)
    else:
        _band(axes, list(curves))
    budgets = sorted({silo.budget_epsilon for silo in report.silos if silo.budget_epsilon is not None})
    for budget in budgets:
        axes.axhline(budget, color=INK, linewidth=1.2, linestyle=(0, (6, 3)))
        axes.annotate(f"budget {decimal(budget)}", (0.01, budget), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points")  # fmt: skip
    highest = max(value for curve in curves for value in (*curve, *budgets) if value is not None)
    axes.set_ylim(0, highest * 1.12 or 1)
    axes.set_ylabel("epsilon spent")
    round_axis(axes, rounds)
    deltas = sorted({silo.delta for silo in report.silos if silo.delta is not None})
    caption = (
        f"Epsilon spent by each silo after each round, at delta {' or '.join(map(decimal, deltas))}, by its "
        "ledger's filter. Silos with equal spend share a line. Dashed: the budget."
    )
    return finish(figure, "epsilon", "Epsilon by round and silo", caption, _epsilon_words(curves, rounds, budgets))


def _lines(axes: Axes, curves: dict[tuple[float | None, ...], list[str]]) -> None:
    handles, labels = [], []
    for number, (curve, names) in enumerate(curves.items()):
        points = [(position, value) for position, value in enumerate(curve) if value is not None]
        handles += axes.plot(*zip(*points, strict=True), color=SERIES[number], marker=MARKERS[number], markersize=5,
                             linewidth=1.8, linestyle=LINE_STYLES[number])  # fmt: skip
        labels.append(f"all {len(names)} silos" if len(curves) == 1 < len(names) else name_list(names))
    add_legend(axes, handles, labels, "lower right")


def _band(axes: Axes, curves: Sequence[tuple[float | None, ...]]) -> None:
    """More curves than can be told apart: the highest, the lowest and what lies between."""
    columns = [[value for value in column if value is not None] for column in zip(*curves, strict=True)]
    positions = [position for position, column in enumerate(columns) if column]
    highest = [max(columns[position]) for position in positions]
    lowest = [min(columns[position]) for position in positions]
    axes.fill_between(positions, lowest, highest, color=GRID, linewidth=0)
    handles = [
        *axes.plot(positions, highest, color=SERIES[1], marker="^", markersize=5, linewidth=1.8),
        *axes.plot(positions, lowest, color=SERIES[0], marker="v", markersize=5, linewidth=1.8, linestyle="--"),
    ]
    add_legend(axes, handles, ["highest silo", "lowest silo"], "lower right")


def _epsilon_words(
    curves: dict[tuple[float | None, ...], list[str]], rounds: Sequence[RoundRow], budgets: Sequence[float]
) -> str:
    parts = []
    for curve, names in curves.items():
        last = max(position for position, value in enumerate(curve) if value is not None)
        parts.append(f"{', '.join(names)}: {rounded_up(curve[last] or 0.0)} after round {attempt_label(rounds[last])}")
    budget = f"; budget {', '.join(map(decimal, budgets))}" if budgets else ""
    return f"Line chart of epsilon against round. {'; '.join(parts)}{budget}."


def burn_down(report: RunReport) -> Drawing | None:
    """What is left after each attempt, and what would be after more rounds at the present noise."""
    groups: dict[tuple[float, ...], list[SiloRow]] = {}
    for silo in report.silos:
        if silo.budget_epsilon is None:
            continue
        after = [max(0.0, silo.budget_epsilon - row.epsilon.get(silo.name, 0.0)) for row in report.rounds]
        start = max(0.0, silo.budget_epsilon - (silo.spent_before_epsilon or 0.0))
        groups.setdefault((start, *after), []).append(silo)
    if not groups:
        return None
    shown = _extremes(groups) if len(groups) > len(SERIES) else groups
    figure, axes = new_axes(_HALF_HEIGHT, HALF_WIDTH)
    handles, labels, words = [], [], []
    furthest = len(report.rounds)
    for number, (curve_left, silos) in enumerate(shown.items()):
        left = list(curve_left)
        # Position 0 is the start, position k the k-th attempt.
        handles += axes.plot(range(len(left)), left, color=SERIES[number], marker=MARKERS[number], markersize=5,
                             linewidth=1.8, linestyle=LINE_STYLES[number])  # fmt: skip
        names = [silo.name for silo in silos]
        labels.append(f"all {len(names)} silos" if len(groups) == 1 < len(names) else name_list(names))
        words.append(f"{', '.join(names)}: {rounded_down(left[-1])} left, {rounded_down(left[0])} at the start")
        ahead = silos[0].forecast
        if ahead:
            furthest = max(furthest, len(report.rounds) + ahead[-1].rounds)
            axes.plot([len(left) - 1, *(len(report.rounds) + point.rounds for point in ahead)],
                      [left[-1], *(point.remaining_epsilon for point in ahead)], color=SERIES[number],
                      linewidth=1.4, linestyle=(0, (1, 2)))  # fmt: skip
        further = silos[0].rounds_left
        if further is not None:
            words[-1] += f", enough for {further} further rounds at the present noise"
    _axis_of_attempts(axes, report.rounds, furthest)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("epsilon left")
    add_legend(axes, handles, labels, "upper right")
    ahead_words = (
        "Dotted: forecast, if further rounds cost what the last one did."
        if any(silo.forecast for silo in report.silos)
        else "No forecast: another round at the present noise would not fit."
    )
    caption = (
        "What each silo's budget still allows after each attempt at a round, earlier runs included. The first release "
        f"takes the largest step, because epsilon is no plain sum. {ahead_words}"
    )
    return finish(figure, "burndown", "Budget left by round", caption, f"Line chart. {'; '.join(words)}.")


def _extremes(groups: dict[tuple[float, ...], list[SiloRow]]) -> dict[tuple[float, ...], list[SiloRow]]:
    """The silo with the most left and the one with the least, where there are too many to tell apart."""
    ordered = sorted(groups, key=lambda left: left[-1])
    return {left: groups[left][:1] for left in (ordered[-1], ordered[0])}


def _axis_of_attempts(axes: Axes, rounds: Sequence[RoundRow], furthest: int) -> None:
    """Start, attempts, and further rounds as +k."""
    every = max(1, -(-furthest // 12))
    ticks = list(range(0, furthest + 1, every))
    labels = ["start"]
    labels += [
        attempt_label(rounds[tick - 1]) if tick <= len(rounds) else f"+{tick - len(rounds)}" for tick in ticks[1:]
    ]
    axes.set_xticks(ticks, labels)
    axes.set_xlim(-0.3, furthest + 0.3)
    axes.set_xlabel("round" if furthest == len(rounds) else "round, then further rounds")
    axes.grid(visible=False, axis="x")


def curve(report: RunReport) -> Drawing | None:
    """Epsilon against delta of the ledgers with the highest spend, by two accountants, amplified and not."""
    if not report.curves:
        return None
    chosen = max(report.curves, key=lambda item: item.points[0].rdp)
    approximate = ", approximate" if chosen.pld_is_approximate else ""
    series: list[tuple[str, list[float | None]]] = [
        ("RDP", [point.rdp for point in chosen.points]),
        (f"PLD{approximate}", [point.pld for point in chosen.points]),
    ]
    if chosen.amplified:
        series += [
            ("RDP, as if no record were left out", [point.rdp_unamplified for point in chosen.points]),
            (f"PLD, likewise{approximate}", [point.pld_unamplified for point in chosen.points]),
        ]
    figure, axes = new_axes()
    deltas = [point.delta for point in chosen.points]
    handles, labels, words = [], [], []
    for number, (label, values) in enumerate(series):
        pairs = [(delta, value) for delta, value in zip(deltas, values, strict=True) if value is not None]
        if not pairs:
            continue
        handles += axes.plot(*zip(*pairs, strict=True), color=SERIES[number], marker=MARKERS[number], markersize=4,
                             linewidth=1.6, linestyle=LINE_STYLES[number])  # fmt: skip
        labels.append(label)
        words.append(f"{label}: {rounded_up(pairs[0][1])} at delta {decimal(pairs[0][0])}, "
                     f"{rounded_up(pairs[-1][1])} at {decimal(pairs[-1][0])}")  # fmt: skip
    claimed = next((silo.delta for silo in report.silos if silo.name == chosen.silos[0]), None)
    if claimed is not None:
        axes.axvline(claimed, color=INK, linewidth=1, linestyle=(0, (6, 3)))
        axes.annotate(f"delta of the claim, {decimal(claimed)}", (claimed, 0.02), (4, 0),
                      xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:.0e}".replace("e-0", "e-"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("delta")
    axes.set_ylabel("epsilon")
    figure.legend(handles=handles, labels=labels, loc="outside upper left", ncols=2)
    whose = "" if len(report.curves) == 1 else f" of {name_list(chosen.silos)}, the highest,"
    caption = (
        f"Epsilon{whose} against delta for the releases so far. RDP at the best order and PLD are for a plan fixed "
        "beforehand; the claim is the filter's, which may be a little higher."
    )
    return finish(figure, "curve", "Epsilon against delta", caption, f"Line chart. {'; '.join(words)}.")


def colluders(report: RunReport) -> Drawing | None:
    """Epsilon against the server with ever more silos, where it depends on their number."""
    points = [(point.colluding, point.epsilon) for point in report.colluders if point.epsilon is not None]
    if len({value for _, value in points}) < 2:
        return None
    figure, axes = new_axes(2.7, HALF_WIDTH)
    axes.plot(*zip(*points, strict=True), color=SERIES[0], marker="o", markersize=5, linewidth=1.8)
    assumed = max((point.colluding for point in report.colluders if point.assumed), default=None)
    if assumed is not None:
        axes.axvline(assumed, color=INK, linewidth=1, linestyle=(0, (6, 3)))
        axes.annotate("assumed", (assumed, 0.02), (4, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points")  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.locator_params("x", integer=True)
    axes.set_xlabel("silos that help the server")
    axes.set_ylabel("epsilon")
    caption = "Epsilon against the server with so many silos on its side. Beyond the last point nothing is promised."
    words = ", ".join(f"{rounded_up(value or 0.0)} with {count}" for count, value in points)
    return finish(figure, "colluders", "Epsilon by colluding silos", caption, f"Line chart. {words}.")

"""The figures of a report. Each is left out where the run has nothing to show in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from secfl.report.display import byte_size, decimal, duration, measured, rounded_up, shortened
from secfl.report.model import RoundRow, RunReport
from secfl.report.summary import attempt_label, phase_totals
from secfl.report.svg import GRID, HATCHES, INK, LINE_STYLES, MARKERS, SERIES, plot_style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawing", "draw_all"]

# Inches of 72 user units; against these the page's widths give all figures text of one size.
_WIDTH, _HEIGHT, _HALF_WIDTH = 7.4, 3.3, 4.9
_NAME_LENGTH = 22
_MOST_TICKS = 12
_Location = Literal["lower right", "upper right"]


@dataclass(frozen=True)
class Drawing:
    """One figure: its place in the page, its caption, and the ``<svg>`` element (trusted markup)."""

    key: str
    caption: str
    svg: str


def draw_all(report: RunReport) -> dict[str, Drawing]:
    """Draw the figures that the run has numbers for, by key: epsilon, metric, seconds, bytes, dropouts.

    :raises MissingExtra: matplotlib is not installed.
    """
    with plot_style():
        drawings = (_epsilon(report), _metric(report), _seconds(report), _bytes(report), _dropouts(report))
    return {drawing.key: drawing for drawing in drawings if drawing is not None}


def _axes(height: float = _HEIGHT, width: float = _WIDTH) -> tuple[Figure, Axes]:
    # Without pyplot: no global state, no display, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _finish(figure: Figure, key: str, title: str, caption: str, description: str) -> Drawing:
    return Drawing(key, caption, to_svg(figure, f"figure-{key}", title, description))


def _round_axis(axes: Axes, rounds: Sequence[RoundRow]) -> None:
    """Attempts in their order; at most a dozen labels."""
    every = max(1, ceil(len(rounds) / _MOST_TICKS))
    ticks = range(0, len(rounds), every)
    axes.set_xticks(list(ticks), [attempt_label(rounds[tick]) for tick in ticks])
    axes.set_xlim(-0.6, len(rounds) - 0.4)
    axes.set_xlabel("round (3.2: second attempt at round 3)" if any(row.attempt > 1 for row in rounds) else "round")
    axes.grid(visible=False, axis="x")


def _legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str], location: _Location, columns: int = 1) -> None:
    """Set the texts after the fact: matplotlib leaves out a label that opens with an underscore."""
    stand_ins = [str(number) for number in range(len(labels))]
    legend = axes.legend(handles=handles, labels=stand_ins, loc=location, ncols=columns)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _epsilon(report: RunReport) -> Drawing | None:
    rounds = report.rounds
    curves: dict[tuple[float | None, ...], list[str]] = {}
    for silo in report.silos:
        curve = tuple(row.epsilon.get(silo.name) for row in rounds)
        if any(value is not None for value in curve):
            curves.setdefault(curve, []).append(silo.name)
    if not curves:
        return None
    figure, axes = _axes()
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
    _round_axis(axes, rounds)
    deltas = sorted({silo.delta for silo in report.silos if silo.delta is not None})
    caption = (
        f"Epsilon spent by each silo after each round, at delta {' or '.join(map(decimal, deltas))}, by the claim's "
        "accountant. Silos with equal spend share a line. Dashed: the budget."
    )
    return _finish(figure, "epsilon", "Epsilon by round and silo", caption, _epsilon_words(curves, rounds, budgets))


def _lines(axes: Axes, curves: dict[tuple[float | None, ...], list[str]]) -> None:
    handles, labels = [], []
    for number, (curve, names) in enumerate(curves.items()):
        points = [(position, value) for position, value in enumerate(curve) if value is not None]
        handles += axes.plot(*zip(*points, strict=True), color=SERIES[number], marker=MARKERS[number], markersize=5,
                             linewidth=1.8, linestyle=LINE_STYLES[number])  # fmt: skip
        labels.append(f"all {len(names)} silos" if len(curves) == 1 < len(names) else _names(names))
    _legend(axes, handles, labels, "lower right")


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(shortened(name, _NAME_LENGTH) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


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
    _legend(axes, handles, ["highest silo", "lowest silo"], "lower right")


def _epsilon_words(
    curves: dict[tuple[float | None, ...], list[str]], rounds: Sequence[RoundRow], budgets: Sequence[float]
) -> str:
    parts = []
    for curve, names in curves.items():
        last = max(position for position, value in enumerate(curve) if value is not None)
        parts.append(f"{', '.join(names)}: {rounded_up(curve[last] or 0.0)} after round {attempt_label(rounds[last])}")
    budget = f"; budget {', '.join(map(decimal, budgets))}" if budgets else ""
    return f"Line chart of epsilon against round. {'; '.join(parts)}{budget}."


def _metric(report: RunReport) -> Drawing | None:
    rounds, name = report.rounds, shortened(report.evaluation.metric, 40)
    points = [(position, row.metric) for position, row in enumerate(rounds) if row.metric is not None]
    if not points:
        return None
    figure, axes = _axes()
    axes.plot(*zip(*points, strict=True), color=SERIES[0], marker="o", markersize=5, linewidth=1.8)
    position, value = points[-1]
    axes.annotate(measured(value), (position, value), (0, 8), textcoords="offset points", ha="center", weight="bold")
    axes.margins(y=0.2)
    axes.set_ylabel(name)
    _round_axis(axes, rounds)
    caption = f"{name} after each completed round, on records declared unprotected. The axis need not start at 0."
    words = ", ".join(f"{measured(value)} after round {attempt_label(rounds[position])}" for position, value in points)
    return _finish(figure, "metric", f"{name} by round", caption, f"Line chart. {words}.")


def _bars(
    report: RunReport, series: Sequence[tuple[str, Callable[[Any], float]]], show: Callable[[Any], str], unit: str
) -> tuple[Figure, str] | None:
    """Horizontal bars by phase, each labelled with its value; the words say the same."""
    totals = phase_totals(report.rounds)
    if not totals:
        return None
    figure, axes = _axes(1.0 + 0.3 * len(totals) * (1 + 0.4 * (len(series) - 1)), _HALF_WIDTH)
    thickness = 0.72 / len(series)
    handles: list[Any] = []
    words: list[str] = []
    for number, (label, value) in enumerate(series):
        values = [value(total) for total in totals]
        places = [position + (number - (len(series) - 1) / 2) * thickness for position in range(len(totals))]
        bars = axes.barh(places, values, thickness * 0.9, color=SERIES[number], hatch=HATCHES[number])
        axes.bar_label(bars, [show(item) for item in values], padding=4)
        handles.append(bars)
        words += [
            " ".join(filter(None, (total.phase, label, show(item)))) for total, item in zip(totals, values, strict=True)
        ]
    axes.set_yticks(range(len(totals)), [shortened(total.phase, _NAME_LENGTH) for total in totals])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.grid(visible=False, axis="y")
    if len(series) > 1:
        figure.legend(handles=handles, labels=[name for name, _ in series], loc="outside upper left", ncols=len(series))
    return figure, f"Bar chart. {', '.join(words)}."


def _seconds(report: RunReport) -> Drawing | None:
    drawn = _bars(report, [("", lambda total: total.seconds)], duration, "seconds, all rounds")
    if drawn is None:
        return None
    caption = "Time by phase, summed over all rounds; a phase lasts until all parties have answered or been given up."
    return _finish(drawn[0], "seconds", "Time by phase", caption, drawn[1])


def _bytes(report: RunReport) -> Drawing | None:
    largest = max((max(t.bytes_up, t.bytes_down) for t in phase_totals(report.rounds)), default=0)
    divisor, unit = next(
        (pair for pair in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")) if largest >= pair[0]), (1, "bytes")
    )
    drawn = _bars(
        report,
        [("to the server", lambda t: t.bytes_up / divisor), ("to the parties", lambda t: t.bytes_down / divisor)],
        lambda value: byte_size(round(value * divisor)),
        f"{unit}, all rounds and parties",
    )
    if drawn is None:
        return None
    caption = "Traffic by phase, summed over all rounds and all parties."
    return _finish(drawn[0], "bytes", "Bytes by phase", caption, drawn[1])


def _dropouts(report: RunReport) -> Drawing | None:
    rounds = report.rounds
    phases = [total.phase for total in phase_totals(rounds) if total.dropouts]
    if not phases:
        return None
    figure, axes = _axes(2.2)
    bottoms = [0] * len(rounds)
    handles, words = [], []
    for number, phase in enumerate(phases):
        counts = [sum(len(row.dropped) for row in attempt.phases if row.phase == phase) for attempt in rounds]
        handles.append(axes.bar(range(len(rounds)), counts, 0.6, bottom=bottoms, color=SERIES[number % len(SERIES)],
                                hatch=HATCHES[number % len(HATCHES)]))  # fmt: skip
        bottoms = [low + count for low, count in zip(bottoms, counts, strict=True)]
        words += [f"{phase}: {n} in round {attempt_label(r)}" for r, n in zip(rounds, counts, strict=True) if n]
    axes.set_ylim(0, max(bottoms) + 0.5)
    axes.locator_params("y", integer=True)
    axes.set_ylabel("parties")
    _round_axis(axes, rounds)
    _legend(axes, handles, [shortened(phase, _NAME_LENGTH) for phase in phases], "upper right", len(phases))
    caption = "Parties that did not answer, by round and by the phase in which they dropped out."
    return _finish(figure, "dropouts", "Dropouts by round", caption, f"Bar chart. {', '.join(words)}.")

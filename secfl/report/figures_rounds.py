"""Figures of the rounds: utility, noise against dropouts, time and traffic by phase, dropouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from secfl.report.display import byte_size, duration, measured, rounded_up, shortened
from secfl.report.drawing import HALF_WIDTH, NAME_LENGTH, Drawing, add_legend, finish, new_axes, round_axis
from secfl.report.model import RunReport
from secfl.report.summary import attempt_label, phase_totals
from secfl.report.svg import HATCHES, INK, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bytes_by_phase", "dropouts", "metric_by_round", "noise_by_dropouts", "seconds_by_phase", "trade_off"]


def metric_by_round(report: RunReport) -> Drawing | None:
    """The metric after each completed round."""
    rounds, name = report.rounds, shortened(report.evaluation.metric, 40)
    points = [(position, row.metric) for position, row in enumerate(rounds) if row.metric is not None]
    if not points:
        return None
    figure, axes = new_axes(2.9, HALF_WIDTH)
    axes.plot(*zip(*points, strict=True), color=SERIES[0], marker="o", markersize=5, linewidth=1.8)
    position, value = points[-1]
    axes.annotate(measured(value), (position, value), (0, 8), textcoords="offset points", ha="center", weight="bold")
    axes.margins(y=0.2)
    axes.set_ylabel(name)
    round_axis(axes, rounds)
    caption = f"{name} after each completed round, on records declared unprotected. The axis need not start at 0."
    words = ", ".join(f"{measured(value)} after round {attempt_label(rounds[position])}" for position, value in points)
    return finish(figure, "metric", f"{name} by round", caption, f"Line chart. {words}.")


def trade_off(report: RunReport) -> Drawing | None:
    """The metric against the highest epsilon spent, round after round."""
    name = shortened(report.evaluation.metric, 40)
    points = [
        (max(row.epsilon.values()), row.metric, attempt_label(row))
        for row in report.rounds
        if row.metric is not None and row.epsilon
    ]
    if not points:
        return None
    figure, axes = new_axes(2.9, HALF_WIDTH)
    spent, values, labels = zip(*points, strict=True)
    axes.plot(spent, values, color=SERIES[0], marker="o", markersize=5, linewidth=1.6)
    axes.annotate(f"round {labels[0]}", (spent[0], values[0]), (9, -3), textcoords="offset points")
    if len(points) > 1:
        axes.annotate(f"round {labels[-1]}", (spent[-1], values[-1]), (0, 9), textcoords="offset points", ha="right")
    axes.margins(x=0.08, y=0.25)
    axes.set_xlabel(f"epsilon spent{'' if len(report.silos) == 1 else ', highest silo'}")
    axes.set_ylabel(name)
    caption = f"{name} against what it cost: a point a round. Where the line is flat, further rounds buy nothing."
    words = ", ".join(f"{measured(value)} at epsilon {rounded_up(cost)}" for cost, value, _ in points)
    return finish(figure, "tradeoff", f"{name} against epsilon", caption, f"Line chart. {words}.")


def noise_by_dropouts(report: RunReport) -> Drawing | None:
    """Noise that each round had, against the silos that were missing."""
    if not report.noise:
        return None
    figure, axes = new_axes(2.9, HALF_WIDTH)
    counts: dict[tuple[int, float], int] = {}
    for row in report.noise:
        counts[row.dropped, row.achieved] = counts.get((row.dropped, row.achieved), 0) + 1
    axes.scatter([at for at, _ in counts], [noise for _, noise in counts], color=SERIES[0], s=46, zorder=3)
    for (at, noise), number in counts.items():
        axes.annotate(
            f"{number} {'round' if number == 1 else 'rounds'}", (at, noise), (8, 5), textcoords="offset points"
        )
    last = report.noise[-1]
    for value, label, line in ((last.planned, "planned", (0, (1, 2))), (last.floor, "floor", (0, (6, 3)))):
        axes.axhline(value, color=INK, linewidth=1.1, linestyle=line, label=f"{label} {rounded_up(value)}")
    axes.set_ylim(0, max(row.planned for row in report.noise) * 1.3)
    axes.set_xlim(-0.5, max(row.dropped for row in report.noise) + 1.5)
    axes.locator_params("x", integer=True)
    axes.set_xlabel("silos that dropped out of the round")
    axes.set_ylabel("noise / sensitivity")
    axes.legend(loc="lower right")
    shared = report.mechanism.share_sigma is not None
    caption = (
        "Noise of each completed round, over the sensitivity, that the strongest adversary does not know. Planned: "
        "nobody drops out. Floor: the fewest contributors of which a sum is opened; epsilon is charged at the floor."
        if shared
        else "Noise of each completed round, over the sensitivity. Each silo adds all of its own noise, so dropouts "
        "change nothing: planned, floor and achieved are the same."
    )
    words = ", ".join(
        f"{number} rounds with {at} missing: {rounded_up(noise)}" for (at, noise), number in counts.items()
    )
    told = f"Scatter chart. Planned {rounded_up(last.planned)}, floor {rounded_up(last.floor)}; {words}."
    return finish(figure, "noise", "Achieved noise against dropouts", caption, told)


def _bars(
    report: RunReport, series: Sequence[tuple[str, Callable[[Any], float]]], show: Callable[[Any], str], unit: str
) -> tuple[Figure, str] | None:
    """Horizontal bars by phase, each labelled with its value; the words say the same."""
    totals = phase_totals(report.rounds)
    if not totals:
        return None
    figure, axes = new_axes(1.0 + 0.3 * len(totals) * (1 + 0.4 * (len(series) - 1)), HALF_WIDTH)
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
    axes.set_yticks(range(len(totals)), [shortened(total.phase, NAME_LENGTH) for total in totals])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.grid(visible=False, axis="y")
    if len(series) > 1:
        figure.legend(handles=handles, labels=[name for name, _ in series], loc="outside upper left", ncols=len(series))
    return figure, f"Bar chart. {', '.join(words)}."


def seconds_by_phase(report: RunReport) -> Drawing | None:
    """Time by phase, all rounds."""
    drawn = _bars(report, [("", lambda total: total.seconds)], duration, "seconds, all rounds")
    if drawn is None:
        return None
    caption = "Time by phase, summed over all rounds; a phase lasts until all parties have answered or been given up."
    return finish(drawn[0], "seconds", "Time by phase", caption, drawn[1])


def bytes_by_phase(report: RunReport) -> Drawing | None:
    """Traffic by phase and direction, all rounds."""
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
    return finish(drawn[0], "bytes", "Bytes by phase", caption, drawn[1])


def dropouts(report: RunReport) -> Drawing | None:
    """Parties that did not answer, by round and phase."""
    rounds = report.rounds
    phases = [total.phase for total in phase_totals(rounds) if total.dropouts]
    if not phases:
        return None
    figure, axes = new_axes(2.2)
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
    round_axis(axes, rounds)
    add_legend(axes, handles, [shortened(phase, NAME_LENGTH) for phase in phases], "upper right", len(phases))
    caption = "Parties that did not answer, by round and by the phase in which they dropped out."
    return finish(figure, "dropouts", "Dropouts by round", caption, f"Bar chart. {', '.join(words)}.")

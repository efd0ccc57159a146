"""The figure of `secfl budget`: epsilon as rounds go by, and the noise that each mode leaves at an epsilon."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from secfl.report.display import decimal, rounded_up
from secfl.report.plan import BudgetAnswer
from secfl.report.svg import INK, LINE_STYLES, MARKERS, SERIES, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_file"]

_SVG = "http://www.w3.org/2000/svg"
_NAMES = {"local-dp-sgd": "A local", "distributed-dp-sgd": "B distributed", "client-level": "C client-level"}


def figure_file(answer: BudgetAnswer) -> bytes:
    """A whole SVG file with a title and a description for those who cannot see it.

    :raises MissingExtra: matplotlib is not installed.
    """
    with plot_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.2, 3.6), facecolor="white")
        left, right = figure.subplots(1, 2)
        _rounds(left, answer)
        _trade(right, answer)
        return _file(figure, "Epsilon and noise of a plan", _words(answer))


def _rounds(axes: Axes, answer: BudgetAnswer) -> None:
    points = answer.by_rounds
    axes.plot(
        [point.rounds for point in points], [point.epsilon for point in points],
        color=SERIES[0], marker=MARKERS[0], markersize=4,
    )  # fmt: skip
    axes.axvline(answer.plan.rounds, color=INK, linewidth=1, linestyle=":")
    axes.annotate("planned", (answer.plan.rounds, 0.02), (3, 0), xycoords=("data", "axes fraction"),
                  textcoords="offset points")  # fmt: skip
    if answer.asked_epsilon is not None:
        axes.axhline(answer.asked_epsilon, color=INK, linewidth=1.2, linestyle=(0, (6, 3)))
        axes.annotate(f"budget {decimal(answer.asked_epsilon)}", (0.01, answer.asked_epsilon), (0, 3),
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("rounds")
    axes.set_ylabel(f"epsilon at delta {answer.plan.delta:g}")
    axes.set_title("Against the strongest adversary assumed", loc="left", fontsize=9.5)


def _trade(axes: Axes, answer: BudgetAnswer) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for number, (mode, name) in enumerate(_NAMES.items()):
        points = [point for point in answer.trade if point.mode == mode]
        if points:
            axes.plot(
                [point.epsilon for point in points], [point.noise for point in points], label=name,
                color=SERIES[number], marker=MARKERS[number], markersize=4, linestyle=LINE_STYLES[number],
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, steps in ((axes.xaxis, (1, 2, 5)), (axes.yaxis, (1,))):
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.set_xlabel(f"epsilon at delta {answer.plan.delta:g}")
    axes.set_ylabel("noise on a coordinate")
    axes.set_title("In the mean gradient (A, B) or update (C)", loc="left", fontsize=9.5)
    axes.legend()


def _words(answer: BudgetAnswer) -> str:
    plan = answer.plan
    last = answer.by_rounds[-1]
    planned = max((claim.epsilon or 0.0) for claim in answer.claims)
    noise = "; ".join(f"{_NAMES[row.mode]}: {row.noise:.3g}" for row in answer.modes if row.noise is not None)
    return (
        f"Two charts. Left: epsilon against rounds, {rounded_up(planned)} after the {plan.rounds} planned rounds and "
        f"{rounded_up(last.epsilon)} after {last.rounds}. Right: standard deviation of the noise on a "
        f"coordinate of the mean against epsilon, falling; at epsilon {rounded_up(answer.modes_epsilon)} {noise}."
    )


def _file(figure: Figure, title: str, description: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    ET.register_namespace("", _SVG)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314  made by matplotlib a line above; it escapes all texts
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata":  # it names outside addresses
            root.remove(child)
    root.attrib.update({"role": "img", "aria-labelledby": "plan-title plan-description"})
    for position, (tag, key, text) in enumerate(
        (("title", "plan-title", title), ("desc", "plan-description", description))
    ):
        label = ET.Element(f"{{{_SVG}}}{tag}", {"id": key})
        label.text = text
        root.insert(position, label)
    markup: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{markup}\n'.encode()

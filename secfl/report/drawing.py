"""What every figure of a report has in common: size, axes of rounds, legends, the words beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from secfl.report.display import shortened
from secfl.report.model import RoundRow
from secfl.report.summary import attempt_label
from secfl.report.svg import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HALF_WIDTH", "NAME_LENGTH", "Drawing", "add_legend", "finish", "name_list", "new_axes", "round_axis"]

# Inches of 72 user units; against these the page's widths give all figures text of one size.
_WIDTH, _HEIGHT = 7.4, 3.3
HALF_WIDTH = 4.9
NAME_LENGTH = 22
_MOST_TICKS = 12
_Location = Literal["lower right", "upper right", "lower left", "upper left", "best"]


@dataclass(frozen=True)
class Drawing:
    """One figure: its place in the page, its caption, and the ``<svg>`` element (trusted markup)."""

    key: str
    caption: str
    svg: str


def new_axes(height: float = _HEIGHT, width: float = _WIDTH) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches."""
    # Without pyplot: no global state, no display, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def finish(figure: Figure, key: str, title: str, caption: str, description: str) -> Drawing:
    """The figure as it goes into the page; the description says in words what it shows."""
    return Drawing(key, caption, to_svg(figure, f"figure-{key}", title, description))


def round_axis(axes: Axes, rounds: Sequence[RoundRow]) -> None:
    """Attempts in their order; at most a dozen labels."""
    every = max(1, ceil(len(rounds) / _MOST_TICKS))
    ticks = range(0, len(rounds), every)
    axes.set_xticks(list(ticks), [attempt_label(rounds[tick]) for tick in ticks])
    axes.set_xlim(-0.6, len(rounds) - 0.4)
    axes.set_xlabel("round (3.2: second attempt at round 3)" if any(row.attempt for row in rounds) else "round")
    axes.grid(visible=False, axis="x")


def add_legend(
    axes: Axes, handles: Sequence[Any], labels: Sequence[str], location: _Location, columns: int = 1
) -> None:
    """Set the texts after the fact: matplotlib leaves out a label that opens with an underscore."""
    stand_ins = [str(number) for number in range(len(labels))]
    legend = axes.legend(handles=handles, labels=stand_ins, loc=location, ncols=columns)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def name_list(names: Sequence[str]) -> str:
    """Three names at most."""
    shown = ", ".join(shortened(name, NAME_LENGTH) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"

"""The figures of a report. Each is left out where the run has nothing to show in it."""

from __future__ import annotations

from secfl.report import figures_budget, figures_rounds
from secfl.report.drawing import Drawing
from secfl.report.model import RunReport
from secfl.report.svg import plot_style

__all__ = ["Drawing", "draw_all"]

_FIGURES = (
    figures_budget.epsilon_by_round,
    figures_budget.burn_down,
    figures_budget.curve,
    figures_budget.colluders,
    figures_rounds.metric_by_round,
    figures_rounds.trade_off,
    figures_rounds.noise_by_dropouts,
    figures_rounds.seconds_by_phase,
    figures_rounds.bytes_by_phase,
    figures_rounds.dropouts,
)


def draw_all(report: RunReport) -> dict[str, Drawing]:
    """Draw the figures that the run has numbers for, by key.

    :raises MissingExtra: matplotlib is not installed.
    """
    with plot_style():
        drawings = (draw(report) for draw in _FIGURES)
        return {drawing.key: drawing for drawing in drawings if drawing is not None}

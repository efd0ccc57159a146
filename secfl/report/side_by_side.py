"""Two runs beside each other, on one page: what was promised, what it cost, what it gave, what was different."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from secfl.report import display
from secfl.report.drawing import Drawing, add_legend, finish, new_axes
from secfl.report.model import RunReport
from secfl.report.page import environment, style_sheet
from secfl.report.summary import attempt_label, phase_totals, run_seconds
from secfl.report.svg import LINE_STYLES, MARKERS, SERIES, plot_style

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["render_comparison"]

Values = tuple[Any, Any]


@dataclass(frozen=True)
class Line:
    """One quantity of both runs, as it is shown."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it."""
        return self.first != self.second


def render_comparison(first: RunReport, second: RunReport) -> str:
    """Return the page: no script, no network.

    :raises MissingExtra: the extra ``report`` (jinja2, matplotlib) is not installed.
    """
    runs = (first, second)
    template = environment().get_template("comparison.html.j2")
    with plot_style():
        drawings = [drawing for draw in (_trade_off, _spend) if (drawing := draw(runs)) is not None]
    return template.render(
        runs=runs,
        style=style_sheet(),
        claims=_claims(runs),
        results=_results(runs),
        settings=_settings(runs),
        figures=drawings,
        same_metric=len({(run.evaluation.metric, run.evaluation.records) for run in runs}) == 1,
    )


def _line(name: str, runs: Sequence[RunReport], value: Callable[[RunReport], Any], show: Callable[[Any], str]) -> Line:
    first, second = (display.DASH if value(run) is None else show(value(run)) for run in runs)
    return Line(name, first, second)


def _claims(runs: Sequence[RunReport]) -> list[Line]:
    adversaries = dict.fromkeys(claim.adversary for run in runs for claim in run.claims)

    def bound(adversary: str, run: RunReport) -> str | None:
        claim = next((item for item in run.claims if item.adversary == adversary), None)
        if claim is None or claim.epsilon is None or claim.delta is None:
            return None
        return f"({display.rounded_up(claim.epsilon)}, {display.rounded_up_constant(claim.delta)}) a {claim.unit}"

    return [_line(name, runs, partial(bound, name), str) for name in adversaries]


def _results(runs: Sequence[RunReport]) -> list[Line]:
    def total(key: str) -> Callable[[RunReport], float]:
        return lambda run: sum(getattr(phase, key) for phase in phase_totals(run.rounds))

    return [
        _line("status", runs, lambda run: run.status, str),
        _line("metric", runs, lambda run: run.evaluation.metric, str),
        _line("value", runs, lambda run: run.evaluation.value, display.measured),
        _line("highest epsilon spent", runs, _highest, display.rounded_up),
        _line("rounds completed", runs, lambda run: sum(row.completed for row in run.rounds), display.grouped),
        _line("attempts", runs, lambda run: len(run.rounds), display.grouped),
        _line("dropouts", runs, total("dropouts"), display.grouped),
        _line("refused", runs, total("faults"), display.grouped),
        _line("to the server", runs, total("bytes_up"), display.byte_size),
        _line("to the parties", runs, total("bytes_down"), display.byte_size),
        _line("in phases", runs, total("seconds"), display.duration),
        _line("from start to end", runs, run_seconds, display.duration),
    ]


def _highest(run: RunReport) -> float | None:
    return max((silo.spent_epsilon for silo in run.silos if silo.spent_epsilon is not None), default=None)


def _settings(runs: Sequence[RunReport]) -> list[Line]:
    """Keys of the configurations whose values differ."""
    first, second = (_flat("", tomllib.loads(run.configuration)) for run in runs)
    lines = [
        Line(key, str(first.get(key, display.DASH)), str(second.get(key, display.DASH)))
        for key in dict.fromkeys((*first, *second))
    ]
    versions = [
        Line(f"version of {key}", *(run.versions.get(key, display.DASH) for run in runs))
        for key in dict.fromkeys(key for run in runs for key in run.versions)
    ]
    return [line for line in (*lines, *versions) if line.differs]


def _flat(path: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(f"{path}.{key}".lstrip("."), item).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for index, item in enumerate(value) for k, v in _flat(f"{path}.{index}", item).items()}
    return {path: value}


def _labels(runs: Sequence[RunReport]) -> tuple[str, str]:
    return f"A: {display.shortened(runs[0].name, 24)}", f"B: {display.shortened(runs[1].name, 24)}"


def _trade_off(runs: Sequence[RunReport]) -> Drawing | None:
    """Metric against epsilon, both runs, if they measured the same thing."""
    if len({run.evaluation.metric for run in runs}) > 1:
        return None
    series = [
        [(max(row.epsilon.values()), row.metric) for row in run.rounds if row.epsilon and row.metric is not None]
        for run in runs
    ]
    if not all(series):
        return None
    return _drawn("tradeoff", series, runs, "epsilon spent, highest silo", runs[0].evaluation.metric, "against epsilon")


def _spend(runs: Sequence[RunReport]) -> Drawing | None:
    series = [
        [(position, max(row.epsilon.values())) for position, row in enumerate(run.rounds, start=1) if row.epsilon]
        for run in runs
    ]
    if not any(series):
        return None
    longest = max((run.rounds for run in runs), key=len)
    last = attempt_label(longest[-1]) if longest else "0"
    return _drawn("spend", series, runs, f"attempts at rounds (the last: {last})", "epsilon spent", "by round")


def _drawn(
    key: str, series: Sequence[Sequence[tuple[Any, Any]]], runs: Sequence[RunReport], x: str, y: str, how: str
) -> Drawing:
    figure, axes = new_axes()
    handles, labels, words = [], [], []
    for number, (points, label) in enumerate(zip(series, _labels(runs), strict=True)):
        if not points:
            continue
        handles += axes.plot(*zip(*points, strict=True), color=SERIES[number], marker=MARKERS[number], markersize=5,
                             linewidth=1.8, linestyle=LINE_STYLES[number])  # fmt: skip
        labels.append(label)
        words.append(f"{label}: {display.measured(points[-1][1])} at the end")
    axes.set_xlabel(x)
    axes.set_ylabel(display.shortened(y, 40))
    add_legend(axes, handles, labels, "best")
    title = f"{display.shortened(y, 40)} {how}"
    return finish(figure, key, title, f"{title}, both runs.", f"Line chart. {'; '.join(words)}.")

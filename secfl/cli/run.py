"""`secfl run`: all parties of a configuration in this process, a report at the end."""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from protocols.errors import MissingExtra
from secfl.cli.console import console
from secfl.cli.errors import HALTED
from secfl.cli.live import progress_of
from secfl.config import load_config
from secfl.federation.session import simulate
from secfl.report import write_report
from secfl.report.model import RunReport

__all__ = ["EngineName", "finish", "flower", "require_report_extra", "run"]


class EngineName(StrEnum):
    """Engines that `secfl run` knows."""

    EMBEDDED = "embedded"
    FLOWER = "flower"


def run(
    config: Annotated[Path, typer.Argument(help="TOML configuration file.", dir_okay=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the run's directory; default: run.output of the configuration.", file_okay=False
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="Who carries the messages: `embedded` has all parties in this process; `flower` starts a SuperLink "
            "and a SuperNode for each party on this machine, and stops them at the end."
        ),
    ] = EngineName.EMBEDDED,
    live: Annotated[
        bool, typer.Option("--live", help="Show phases, parties, budgets and forecast while the run goes on.")
    ] = False,
) -> None:
    """Train as the configuration says and write the report."""
    settings, text = load_config(config)
    require_report_extra()
    with progress_of(settings, live=live) as progress:
        if engine is EngineName.FLOWER:
            directory, report = flower().launch(config, output=output, observer=progress.show)
        else:
            finished = simulate(
                settings, text, config.resolve().parent, output=output, observer=progress.show, watch=progress.watch
            )
            directory, report = finished.directory, finished.report
    finish(report, directory)


def flower() -> Any:
    """What starts runs on Flower.

    :raises MissingExtra: the extra ``flower`` is not installed.
    """
    from secfl.engines.flower import launch

    return launch


def require_report_extra() -> None:
    """Refuse before a budget is spent on a run whose report cannot be written.

    :raises MissingExtra: the extra ``report`` is not installed.
    """
    if any(find_spec(package) is None for package in ("jinja2", "matplotlib")):
        raise MissingExtra("the HTML report", "report")


def finish(report: RunReport, directory: Path) -> None:
    """Write the report, show the result; the last line names the report.

    :raises Exit: with `HALTED`, of a run that ended before its plan.
    """
    page = write_report(report, directory)
    _print_tables(report)
    halted = report.status == "halted"
    if halted:
        console.print(f"[bold red]halted[/]: {escape(report.status_reason)}", soft_wrap=True)
    console.print(f"Model: {escape(str(directory / 'model.safetensors'))}", soft_wrap=True)
    console.print(f"Report: {escape(str(page))}", soft_wrap=True)
    if halted:
        raise typer.Exit(HALTED)


def _print_tables(report: RunReport) -> None:
    evaluation = report.evaluation
    if evaluation.value is not None:
        console.print(f"{escape(evaluation.metric)} {evaluation.value:.4f} on {evaluation.records}", soft_wrap=True)
    silos = Table("silo", "epsilon spent", "of", "delta", "rounds left", title="Privacy, per silo")
    for silo in report.silos:
        spent = "none" if silo.spent_epsilon is None else f"{silo.spent_epsilon:.3f}"
        budget = "-" if silo.budget_epsilon is None else f"{silo.budget_epsilon:g}"
        delta = "-" if silo.delta is None else f"{silo.delta:g}"
        left = "-" if silo.rounds_left is None else str(silo.rounds_left)
        silos.add_row(silo.name, spent, budget, delta, left)
    console.print(silos)
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for row in report.rounds:
        for phase in row.phases:
            entry = totals[phase.phase]
            entry[0] += phase.bytes_up
            entry[1] += phase.bytes_down
            entry[2] += phase.seconds
    phases = Table("phase", "bytes up", "bytes down", "seconds", title="All rounds, all parties")
    for name, (up, down, seconds) in totals.items():
        phases.add_row(name, f"{up:,.0f}", f"{down:,.0f}", f"{seconds:.3f}")
    console.print(phases)

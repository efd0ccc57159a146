"""`secfl run`: all parties of a configuration in this process, a report at the end."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from secfl.cli.console import console
from secfl.config import Config, load_config
from secfl.federation.session import FinishedRun, simulate
from secfl.report import write_report
from secfl.report.model import RoundRow, RunReport

__all__ = ["run"]

HALTED = 10
"""Exit code of a run that halted at its budget or for want of parties."""


def run(
    config: Annotated[Path, typer.Argument(help="TOML configuration file.", dir_okay=False)],
    output: Annotated[
        Path | None, typer.Option(help="Directory for the run's directory; default: [run] output.", file_okay=False)
    ] = None,
) -> None:
    """Train as the configuration says, all parties in this process, and write the report."""
    settings, text = load_config(config)
    finished = _with_progress(settings, text, config.resolve().parent, output)
    report = write_report(finished.report, finished.directory)
    _print_tables(finished.report)
    console.print(f"Model: {finished.directory / 'model.safetensors'}", soft_wrap=True)
    console.print(f"Report: {report}", soft_wrap=True)
    if finished.report.status == "halted":
        console.print(f"[bold red]halted[/]: {finished.report.status_reason}", soft_wrap=True)
        raise typer.Exit(HALTED)


def _with_progress(settings: Config, text: str, directory: Path, output: Path | None) -> FinishedRun:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(settings.run.name, total=settings.run.rounds, note="")

        def show(row: RoundRow) -> None:
            notes = [f"round {row.number}: {len(row.contributors)} of {len(settings.silo)} silos"]
            if row.failure:
                notes.append(f"attempt {row.attempt + 1} failed: {row.failure}")
            if row.metric is not None:
                notes.append(f"{settings.evaluation.metric} {row.metric:.3f}")
            if row.epsilon:
                notes.append(f"epsilon {max(row.epsilon.values()):.2f}")
            note = ", ".join(notes)
            progress.update(task, advance=int(row.completed), note=note)
            if not console.is_terminal:
                progress.console.print(note, soft_wrap=True)

        return simulate(settings, text, directory, output=output, observer=show)


def _print_tables(report: RunReport) -> None:
    evaluation = report.evaluation
    if evaluation.value is not None:
        console.print(f"{evaluation.metric} {evaluation.value:.4f} on {evaluation.records}", soft_wrap=True)
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

"""`secfl compare`: baselines for a configuration. A benchmark: no claim rests on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from protocols.errors import ConfigError
from secfl.cli.console import console
from secfl.config import load_config
from secfl.federation.compare import LABEL, WARNING, Comparison, PlainTraining, Row, rounds_in_all
from secfl.federation.compare import compare as run_comparison
from secfl.files import write_whole

__all__ = ["compare"]


def compare(
    config: Annotated[Path, typer.Argument(help="TOML configuration file.", dir_okay=False)],
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of splits; their seeds count up from run.seed.")
    ] = 3,
    with_private: Annotated[
        bool, typer.Option("--with-private", help="Also the configured private training; charged to no ledger.")
    ] = False,
    plain_steps: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="steps_per_round of the rows without privacy.")
    ] = None,
    plain_learning_rate: Annotated[
        float | None, typer.Option(help="learning_rate of the rows without privacy.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also write the figures to this JSON file.", dir_okay=False)
    ] = None,
) -> None:
    """Benchmark, no claim: train each silo alone, all records pooled, and federated without privacy.

    It releases exact figures on protected records and charges no ledger: use it on records that may be shown.
    """
    settings, _text = load_config(config)
    if output is not None and not output.parent.is_dir():
        raise ConfigError("--output", f"there is no directory {output.parent}", "a file in a directory that exists")
    first = settings.run.seed
    splits = range(first, first + seeds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console.print(f"[bold red]{LABEL.upper()}[/]: {WARNING}", soft_wrap=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(LABEL, total=rounds_in_all(settings, splits, with_private=with_private))
        comparison = run_comparison(
            settings,
            config.resolve().parent,
            splits,
            plain=PlainTraining(plain_steps, plain_learning_rate),
            with_private=with_private,
            observer=lambda what: progress.update(bar, advance=1, description=f"{LABEL}: {escape(what)}"),
        )
    _print(comparison)
    if output is not None:
        write_whole(output, comparison.to_json())
        console.print(f"Figures ({LABEL}): {escape(str(output))}", soft_wrap=True)


def _print(comparison: Comparison) -> None:
    title = f"{comparison.name}: {comparison.metric} on all silos' test records ({LABEL})"
    table = Table("training", "mean", "spread", "each split", title=escape(title))
    for row in comparison.rows:
        spread = "-" if row.standard_deviation is None else f"{row.standard_deviation:.4f}"
        each = " ".join(f"{value:.3f}" for value in row.values[:10])
        table.add_row(
            _name(comparison, row), f"{row.mean:.4f}", spread, each + (" ..." if len(row.values) > 10 else "")
        )
    console.print(table)
    console.print(
        f"{comparison.rounds} rounds; without privacy {comparison.steps_per_round} steps a round at learning rate "
        f"{comparison.learning_rate:g}. Spread: standard deviation over {len(comparison.seeds)} splits.",
        soft_wrap=True,
    )


def _name(comparison: Comparison, row: Row) -> str:
    if row.silo:
        return f"{row.silo} alone"
    return row.setting if row.setting != "federated, private" else f"federated, epsilon {comparison.epsilon:g}"

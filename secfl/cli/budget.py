"""`secfl budget`: what a plan costs, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from protocols.errors import ConfigError
from secfl.cli.budget_plan import ledger_rows, planned
from secfl.cli.budget_text import show
from secfl.cli.console import console
from secfl.config import load_config
from secfl.files import write_whole
from secfl.report.plan import LedgerRow, answer
from secfl.report.plan_figure import figure_file

__all__ = ["budget"]


def budget(  # noqa: PLR0913  an option for each public constant
    config: Annotated[
        Path | None, typer.Argument(help="TOML configuration file; options change what it says.", dir_okay=False)
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="local-dp-sgd (A), distributed-dp-sgd (B) or client-level (C).")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Budget: finds the smallest noise that fits.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise: finds epsilon.")] = None,
    delta: Annotated[float | None, typer.Option(help="Of the budget.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Of the plan; those of a configuration include spare ones.")
    ] = None,
    steps_per_round: Annotated[int | None, typer.Option(help="Local steps of a round; 1 in mode B.")] = None,
    sampling_rate: Annotated[float | None, typer.Option(help="Probability of a record in a step.")] = None,
    silos: Annotated[int | None, typer.Option(help="Silos asked in a round.")] = None,
    records: Annotated[int | None, typer.Option(help="Public number of records of all silos together.")] = None,
    minimum_contributors: Annotated[int | None, typer.Option(help="Fewest silos in a sum.")] = None,
    colluding: Annotated[int | None, typer.Option(help="Silos assumed to help the server.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Of a record's gradient; in mode C of an update.")] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Coordinates of an update; default a million. It matters little.")
    ] = None,
    ledgers: Annotated[
        bool, typer.Option("--ledgers", help="Also what the configuration's lifetime ledgers leave; read only.")
    ] = False,
    roster: Annotated[
        Path | None,
        typer.Option(help="Roster whose keys the ledgers must have; default: those they name.", dir_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Also write a figure to this SVG file.", dir_okay=False)] = None,
) -> None:
    """Answer before anything is spent: epsilon of a plan, noise for an epsilon, rounds left, dropouts, modes.

    Nothing is charged and no ledger is written.
    """
    options = {
        "mode": mode,
        "epsilon": epsilon,
        "noise_multiplier": noise_multiplier,
        "delta": delta,
        "rounds": rounds,
        "steps_per_round": steps_per_round,
        "sampling_rate": sampling_rate,
        "silos": silos,
        "records": records,
        "minimum_contributors": minimum_contributors,
        "colluding": colluding,
        "clip_norm": clip_norm,
        "dimension": dimension,
    }
    if figure is not None and not figure.parent.is_dir():
        raise ConfigError("--figure", f"there is no directory {figure.parent}", "a file in a directory that exists")
    settings = None if config is None else load_config(config)[0]
    found = planned(settings, options)
    rows: tuple[LedgerRow, ...] = ()
    if ledgers:
        if settings is None or config is None:
            raise ConfigError("--ledgers", "needs a CONFIG", "the configuration whose ledgers are meant")
        rows = ledger_rows(settings, config.resolve().parent, found.plan, roster)
    elif roster is not None:
        raise ConfigError("--roster", "has no effect without --ledgers", "both, or neither")
    result = answer(found.plan, asked_epsilon=found.asked_epsilon, ledgers=rows)
    if figure is not None:
        write_whole(figure, figure_file(result))
    if as_json:
        console.file.write(result.to_json().decode())
        return
    show(result)
    if figure is not None:
        console.print(f"Figure: {escape(str(figure))}", soft_wrap=True)

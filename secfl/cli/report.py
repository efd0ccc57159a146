"""`secfl report`: the page of a run again, two runs side by side, a silo's own report; `verify` checks one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import msgspec
import typer
from rich.markup import escape
from typer.core import TyperGroup

from protocols.errors import ConfigError
from secfl.cli.console import console
from secfl.federation.compare import Comparison
from secfl.federation.local_report import write_local_report
from secfl.federation.verification import STATED, audits_of, verify_report
from secfl.files import write_whole
from secfl.report import RunReport, render_html
from secfl.report.files import HTML_NAME, JSON_NAME
from secfl.report.model import Baseline

__all__ = ["app"]

COMPARISON_NAME = "comparison.html"


class _WriteUnlessNamed(TyperGroup):
    """`secfl report RUN` is `secfl report write RUN`: what is no command's name is a run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["write", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_WriteUnlessNamed,
    help="Write and verify reports; `secfl report RUN` writes.",
    no_args_is_help=True,
)


@app.command("write")
def write(
    runs: Annotated[list[Path], typer.Argument(help="Directory of the run; two with --compare.", file_okay=False)],
    output: Annotated[Path | None, typer.Option(help="HTML file; default: the run's own.", dir_okay=False)] = None,
    silo: Annotated[str, typer.Option(help="Write this silo's own report instead. It must not leave the silo.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Show two runs side by side.")] = False,
    baselines: Annotated[
        Path | None,
        typer.Option(
            help="Figures of `secfl compare --output`: the report is headed benchmark, no claim.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Write a run's HTML report again from its report.json, with the audit that lies beside it."""
    if compare != (len(runs) == 2) or len(runs) > 2:
        raise ConfigError("RUN", f"{len(runs)} directories", "one, or two with --compare")
    if silo:
        path = write_local_report(runs[0], silo, output.parent if output else None)
        console.print(f"[bold red]Not to leave the silo[/]: {escape(str(path))}", soft_wrap=True)
        return
    if compare:
        output = output or Path(COMPARISON_NAME)
        write_whole(output, _comparison(runs))
        console.print(f"Comparison: {escape(str(output))}", soft_wrap=True)
        return
    before = _read(runs[0] / JSON_NAME)
    output = output or runs[0] / HTML_NAME
    report = msgspec.structs.replace(before, audits=audits_of(runs[0]))
    if baselines is not None:
        report = _with_baselines(report, baselines)
    if report != before:
        write_whole(output.with_suffix(".json"), report.to_json())
    write_whole(output, render_html(report).encode())
    console.print(f"Report: {escape(str(output))}", soft_wrap=True)


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A report.json in its run's directory.", dir_okay=False)],
    roster: Annotated[
        Path | None, typer.Option(help="A roster that was pinned elsewhere; default: the run's.", dir_okay=False)
    ] = None,
    ledgers: Annotated[
        Path | None, typer.Option(help="Directory of the ledgers; default: where the run kept them.", file_okay=False)
    ] = None,
) -> None:
    """Recompute a report from ledgers, events and records; the first difference is named, and ends with exit code 6."""
    found = verify_report(file, roster_path=roster, ledgers=ledgers)
    ledgers_found = sum(bool(silo.ledger_head) for silo in found.report.silos)
    page = {None: "there is no page beside it", True: "the page shows them", False: "the page was not compared"}
    console.print(
        f"verified: {found.values} values of {escape(str(file))} follow from {ledgers_found} ledgers of "
        f"{found.ledger_lines} lines, {len(found.report.rounds)} attempts at rounds and the model; {page[found.page]}",
        soft_wrap=True,
    )
    console.print(f"roster {found.roster.digest().hex()}: compare it with the one agreed on", soft_wrap=True)
    console.print(f"taken as stated: {', '.join(STATED)}", soft_wrap=True)
    if found.unchecked:
        names = ", ".join(dict.fromkeys(place.rpartition(".")[2] for place in found.unchecked))
        console.print(f"not recomputed for want of a library (extra train): {names}", soft_wrap=True)


def _read(path: Path) -> RunReport:
    try:
        return RunReport.from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the directory of a finished run") from None
    except ConfigError as error:
        raise ConfigError(str(path), f"is damaged: {str(error).partition(': ')[2]}") from None


def _comparison(runs: list[Path]) -> bytes:
    from secfl.report.side_by_side import render_comparison

    first, second = (_read(run / JSON_NAME) for run in runs)
    return render_comparison(first, second).encode()


def _with_baselines(report: RunReport, path: Path) -> RunReport:
    try:
        comparison = msgspec.json.decode(path.read_bytes(), type=Comparison)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "figures of `secfl compare`") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is damaged: {error}", "figures of `secfl compare`") from None
    rows = tuple(
        Baseline(
            setting=row.setting,
            silo=row.silo,
            mean=row.mean,
            standard_deviation=row.standard_deviation,
            splits=len(row.values),
        )
        for row in comparison.rows
    )
    return msgspec.structs.replace(report, label="benchmark, no claim", baselines=rows)

"""`secfl doctor`: is everything here that runs need, and does the system keep its promises?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from secfl.cli.console import console
from secfl.cli.diagnosis import Finding, diagnose
from secfl.cli.errors import UNFIT

__all__ = ["doctor"]

_STYLES = {"ok": "green", "missing": "yellow", "slow": "yellow", "failed": "bold red"}


def doctor(
    directory: Annotated[
        Path, typer.Option(help="Where ledgers are to live; the nearest directory that exists is tried.")
    ] = Path("ledgers"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check Python, packages and extras, speed of the ciphers, locks and durable writes, the clock.

    Ends with exit code 11 if something fails that every run needs; a missing extra is no failure.
    """
    findings = diagnose(directory)
    fit = all(finding.status != "failed" for finding in findings)
    if json:
        report = {"fit": fit, "findings": msgspec.to_builtins(findings)}
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        _print(findings, fit=fit)
    if not fit:
        raise typer.Exit(UNFIT)


def _print(findings: list[Finding], *, fit: bool) -> None:
    table = Table("about", "what", "state", "found")
    for finding in findings:
        state = f"[{_STYLES[finding.status]}]{finding.status}[/]"
        table.add_row(escape(finding.about), escape(finding.name), state, escape(finding.found))
    console.print(table)
    for remedy in dict.fromkeys(finding.remedy for finding in findings if finding.remedy):
        console.print(f"To do: {escape(remedy)}", soft_wrap=True)
    count = Counter(finding.status for finding in findings)
    verdict = "[green]fit[/]" if fit else "[bold red]not fit[/]"
    console.print(f"{verdict}: " + ", ".join(f"{number} {status}" for status, number in count.items()), soft_wrap=True)

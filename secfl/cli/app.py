"""Puts the commands together."""

from __future__ import annotations

import typer

from secfl.cli import audit, budget, compare, doctor, keys, ledger, report, resume, roster, run, version
from secfl.cli.errors import ErrorsToExitCodes

__all__ = ["app", "main"]

app = typer.Typer(
    cls=ErrorsToExitCodes,
    name="secfl",
    help="Federated training with secure aggregation and differential privacy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("resume")(resume.resume)
app.command("budget")(budget.budget)
app.command("compare")(compare.compare)
app.command("audit")(audit.audit)
app.command("doctor")(doctor.doctor)
app.command("version")(version.version)
app.add_typer(report.app, name="report")
app.add_typer(keys.app, name="keys")
app.add_typer(roster.app, name="roster")
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Entry point of the `secfl` command."""
    app()

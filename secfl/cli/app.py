"""Puts the commands together and turns errors into one line and an exit code."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from protocols.errors import (
    BudgetExceeded,
    ConfigError,
    EncodingError,
    MissingExtra,
    PrivacyError,
    ProtocolError,
    SecflError,
)
from secfl.cli import ledger, run, version
from secfl.cli.console import errors

__all__ = ["EXIT_CODES", "app", "main"]

EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 3,
    MissingExtra: 4,
    BudgetExceeded: 5,
    PrivacyError: 6,
    EncodingError: 7,
    ProtocolError: 8,
    SecflError: 1,
    OSError: 9,
}
"""Exit code of each kind of error, the first that fits; 0 is success, 2 a wrong use of the command line, 10 a run that halted."""

app = typer.Typer(
    name="secfl",
    help="Federated training with secure aggregation and differential privacy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("version")(version.version)
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Entry point of the `secfl` command."""
    try:
        app()
    except (SecflError, OSError) as error:
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        errors.print(f"[bold red]error[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(code)

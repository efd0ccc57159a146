"""Errors of this library become one line and an exit code; any other exception is a bug and keeps its traceback."""

from __future__ import annotations

import click
import typer
from rich.markup import escape
from typer.core import TyperGroup

from protocols.errors import (
    BudgetExceeded,
    ConfigError,
    EncodingError,
    MissingExtra,
    PrivacyError,
    ProtocolError,
    SecflError,
)
from secfl.cli.console import errors

__all__ = ["EXIT_CODES", "HALTED", "UNFIT", "ErrorsToExitCodes", "exit_code"]

EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 3,
    MissingExtra: 4,
    BudgetExceeded: 5,
    PrivacyError: 6,
    EncodingError: 7,
    ProtocolError: 8,
    OSError: 9,
    SecflError: 1,
}
"""Exit code of each kind of error, the first that fits. 0 is success, 1 a bug, 2 a wrong use of the command line."""

HALTED = 10
"""Exit code of a run that ended before its plan: a budget is spent, or too few silos took part."""

UNFIT = 11
"""Exit code of `secfl doctor` where something fails that every run needs."""


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))


class ErrorsToExitCodes(TyperGroup):
    """The commands, with their errors shown in one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has gone; click ends quietly
        except (SecflError, OSError) as error:
            line = " ".join(str(error).split())
            errors.print(f"[bold red]error[/]: {escape(line)}", soft_wrap=True)
            raise typer.Exit(exit_code(error)) from None

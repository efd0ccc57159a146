"""Errors become one line and an exit code; an exception that is none of ours is a bug and keeps its traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
import typer
from click.exceptions import NoArgsIsHelpError
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

__all__ = ["AUDIT_FAILED", "EXIT_CODES", "HALTED", "UNFIT", "ErrorsToExitCodes", "exit_code"]

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

AUDIT_FAILED = 12
"""Exit code of `secfl audit` where a test of the noise fails or a claim is refuted."""

UNFIT = 11
"""Exit code of `secfl doctor` where something fails that every run needs."""


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))


class ErrorsToExitCodes(TyperGroup):
    """The commands, with their errors shown in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program; a wrong use of the command line is shown in one line, too."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            usage = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
            _show(f"{error.format_message()} {usage}")
            sys.exit(error.exit_code)
        except click.Abort:
            _show("aborted")
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has gone; click ends quietly
        except (SecflError, OSError) as error:
            _show(str(error))
            raise typer.Exit(exit_code(error)) from None


def _show(error: str) -> None:
    errors.print(f"[bold red]error[/]: {escape(' '.join(error.split()))}", soft_wrap=True)

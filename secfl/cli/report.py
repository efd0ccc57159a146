"""`secfl report`: the page of a run again, from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from protocols.errors import ConfigError
from secfl.cli.console import console
from secfl.files import write_whole
from secfl.report import RunReport, render_html
from secfl.report.files import HTML_NAME, JSON_NAME

__all__ = ["report"]


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of the run.", file_okay=False)],
    output: Annotated[Path | None, typer.Option(help="HTML file; default: the run's own.", dir_okay=False)] = None,
) -> None:
    """Write a run's HTML report again from its report.json."""
    page = render_html(_read(directory / JSON_NAME)).encode()
    output = output or directory / HTML_NAME
    write_whole(output, page)
    console.print(f"Report: {escape(str(output))}", soft_wrap=True)


def _read(path: Path) -> RunReport:
    try:
        return RunReport.from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the directory of a finished run") from None
    except ConfigError as error:
        raise ConfigError(str(path), f"is damaged: {str(error).partition(': ')[2]}") from None

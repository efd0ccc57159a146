"""Writing a report's files, each whole or not at all."""

from __future__ import annotations

from pathlib import Path

from secfl.files import write_whole
from secfl.report.model import RunReport
from secfl.report.page import render_html

__all__ = ["HTML_NAME", "JSON_NAME", "write_json", "write_report"]

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def write_report(report: RunReport, directory: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into ``directory``, which is made if missing; return the page's path.

    Both are made before either is written, so that a report that cannot be shown leaves the old pair.

    :raises MissingExtra: the extra ``report`` is not installed; `write_json` needs none.
    :raises UsageError: the report holds what JSON cannot (see `RunReport.to_json`).
    :raises OSError: as the system says.
    """
    json, page = report.to_json(), render_html(report).encode()
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / JSON_NAME, json)
    write_whole(directory / HTML_NAME, page)
    return directory / HTML_NAME


def write_json(report: RunReport, directory: Path) -> Path:
    """Write ``report.json`` into ``directory``, which is made if missing; return its path. Needs no extra.

    :raises UsageError: the report holds what JSON cannot (see `RunReport.to_json`).
    :raises OSError: as the system says.
    """
    json = report.to_json()
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / JSON_NAME, json)
    return directory / JSON_NAME

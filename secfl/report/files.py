"""Writing a report's files, each whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

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
    _write_whole(directory / JSON_NAME, json)
    return _write_whole(directory / HTML_NAME, page)


def write_json(report: RunReport, directory: Path) -> Path:
    """Write ``report.json`` into ``directory``, which is made if missing; return its path. Needs no extra.

    :raises UsageError: the report holds what JSON cannot (see `RunReport.to_json`).
    :raises OSError: as the system says.
    """
    json = report.to_json()
    directory.mkdir(parents=True, exist_ok=True)
    return _write_whole(directory / JSON_NAME, json)


def _write_whole(path: Path, content: bytes) -> Path:
    """Put ``content`` in the place of the file, so that at any moment the old or the new one stands there whole."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
    # Readable by whom the user's umask allows: a report is made to be handed on.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path

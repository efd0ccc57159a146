"""From a silo's own files to its own report of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocols.errors import ConfigError, LedgerCorrupt
from secfl.config import Config, parse_config
from secfl.federation.session import CONFIGURATION
from secfl.federation.verification import ledger_home
from secfl.files import write_whole
from secfl.privacy.ledger_entries import decode_line
from secfl.privacy.ledger_file import read_mark
from secfl.privacy.ledger_replay import Replay
from secfl.report import RunReport
from secfl.report.files import JSON_NAME
from secfl.report.local import LocalReport, ledger_lines
from secfl.report.page import render_local

__all__ = ["LOCAL_HTML", "LOCAL_JSON", "local_report", "write_local_report"]

LOCAL_HTML = "local-report.html"
LOCAL_JSON = "local-report.json"


def local_report(run: Path, silo: str) -> tuple[LocalReport, Path]:
    """What a silo may see of itself, and the directory that it keeps to itself.

    :param run: directory of a finished run.
    :raises ConfigError: no such silo, or a file that cannot be read.
    :raises LedgerCorrupt: its ledger breaks a rule.
    """
    report = RunReport.from_json(_read(run / JSON_NAME))
    config = parse_config(_read(run / CONFIGURATION).decode(), str(run / CONFIGURATION))
    rows = {row.name: row for row in report.silos}
    if silo not in rows:
        raise ConfigError("--silo", f"{silo!r} is no silo of this run", ", ".join(rows))
    home = ledger_home(config, run) / silo
    lines, mark = _ledger(config, home, bytes.fromhex(rows[silo].public_key)) if rows[silo].ledger_head else ((), None)
    return (
        LocalReport(
            silo=rows[silo],
            run_id=report.run_id,
            run_name=report.name,
            mark_sequence=mark,
            lines=lines,
            rounds=report.rounds,
            notes=tuple(note for note in _notes(home / "local.jsonl") if note.get("run_id") == report.run_id),
        ),
        home,
    )


def write_local_report(run: Path, silo: str, output: Path | None = None) -> Path:
    """Write page and JSON, readable by their owner alone; return the page's path.

    :param output: directory; by default the one where the silo keeps its keys.
    """
    report, home = local_report(run, silo)
    directory = output or home
    page = render_local(report).encode()
    write_whole(directory / LOCAL_JSON, report.to_json(), mode=0o600)
    write_whole(directory / LOCAL_HTML, page, mode=0o600)
    return directory / LOCAL_HTML


def _ledger(config: Config, home: Path, public_key: bytes) -> tuple[Any, int | None]:
    path = home / f"{config.ledger.lineage}.ledger"
    try:
        raw = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise LedgerCorrupt(f"{path}: cannot be read: {error.strerror}") from None
    replay = Replay(str(path), public_key)
    entries = []
    for number, line in enumerate(raw, start=1):
        replay.add(line)
        found = decode_line(line, public_key, f"{path}, line {number}")
        entries.append((found.sequence, found.time, found.entry, replay.state.spent().filter_epsilon))
    mark = read_mark(path.with_name(f"{path.name}.mark"))
    return ledger_lines(entries), None if mark is None else mark.sequence


def _notes(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in _read(path).splitlines()]
    except ValueError:
        raise ConfigError(str(path), "is damaged: a line is not JSON", "notes that secfl wrote") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the directory of a finished run") from None

"""`secfl report`: the same page again from the JSON alone, or a line that says what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture
def run_directory(finished_run: tuple[Result, Path], tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("report.json", "report.html"):
        shutil.copy(finished_run[1] / name, copy)
    return copy


def test_the_page_comes_back_byte_for_byte(run_directory: Path, secfl: Command) -> None:
    page = run_directory / "report.html"
    before = page.read_bytes()
    page.unlink()
    json_before = (run_directory / "report.json").read_bytes()
    result = secfl("report", run_directory)
    assert (result.exit_code, result.stdout) == (0, f"Report: {page}\n")
    assert page.read_bytes() == before
    assert (run_directory / "report.json").read_bytes() == json_before


def test_another_place_leaves_the_runs_own_page(run_directory: Path, tmp_path: Path, secfl: Command) -> None:
    (run_directory / "report.html").write_text("old")
    assert secfl("report", run_directory, "--output", tmp_path / "page.html").exit_code == 0
    assert (run_directory / "report.html").read_text() == "old"
    assert (tmp_path / "page.html").read_bytes().startswith(b"<!DOCTYPE html>")


def changed(**values: Any) -> Callable[[bytes], bytes]:
    return lambda raw: json.dumps({**json.loads(raw), **values}).encode()


DAMAGES = {
    "cut": (lambda raw: raw[:-9], "truncated"),
    "empty": (lambda _raw: b"", "truncated"),
    "not text": (lambda raw: raw.replace(b"study", b"st\xffdy", 1), ""),
    "more behind it": (lambda raw: raw + b"{}", "trailing characters"),
    "another version": (changed(schema_version=1), "schema_version"),
    "unknown field": (changed(surprise=1), "surprise"),
    "text for a number": (changed(rounds="many"), "rounds"),
    "field missing": (lambda raw: raw.replace(b'"run_id"', b'"ran_id"', 1), "ran_id"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_one_line_and_writes_nothing(run_directory: Path, secfl: Command, damage: str) -> None:
    change, words = DAMAGES[damage]
    path = run_directory / "report.json"
    path.write_bytes(change(path.read_bytes()))
    (run_directory / "report.html").unlink()
    result = secfl("report", run_directory)
    assert result.exit_code == 3
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {path}: is damaged: ")
    assert words in line
    assert [item.name for item in run_directory.iterdir()] == ["report.json"]

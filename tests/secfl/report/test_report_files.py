"""Files appear whole or not at all; JSON needs no extra."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from sample_run import sample_report

from protocols.errors import MissingExtra, UsageError
from secfl.report import RunReport, page, render_html, write_json, write_report


@pytest.fixture
def written(tmp_path):
    write_report(msgspec.structs.replace(sample_report(), name="old"), tmp_path)
    return tmp_path


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_report_is_both_files_of_one_report(tmp_path):
    report = sample_report()
    path = write_report(report, tmp_path / "runs" / "heart")
    assert path == tmp_path / "runs" / "heart" / "report.html"
    assert path.read_text("utf-8") == render_html(report)
    assert RunReport.from_json((path.parent / "report.json").read_bytes()) == report
    assert names(path.parent) == ["report.html", "report.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failure_in_the_middle_leaves_the_old_files(written, monkeypatch, failing):
    before = {name: (written / name).read_bytes() for name in names(written)}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*(("os.fsync", fail) if failing == "fsync" else ("pathlib.Path.replace", fail)))
    with pytest.raises(OSError, match="No space left"):
        write_report(sample_report(), written)
    monkeypatch.undo()
    assert {name: (written / name).read_bytes() for name in names(written)} == before


def test_content_is_on_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor):
        events.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    def seen_replace(self, target):
        events.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    write_report(sample_report(), tmp_path)
    assert events == [False, "report.json", True, False, "report.html", True]


def test_report_that_json_cannot_hold_leaves_the_old_files(written):
    before = (written / "report.html").read_bytes()
    silo = msgspec.structs.replace(sample_report().silos[0], spent_epsilon=float("nan"))
    broken = msgspec.structs.replace(sample_report(), silos=(silo,))
    with pytest.raises(UsageError, match=r"silos\[0\]\.spent_epsilon"):
        write_report(broken, written)
    assert (written / "report.html").read_bytes() == before


@pytest.mark.parametrize("modules", [("jinja2",), ("matplotlib", "matplotlib.style")])
def test_without_the_extra_the_page_is_refused_and_the_json_still_written(tmp_path, monkeypatch, modules):
    page.environment.cache_clear()
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r'pip install "secfl\[report\]"') as caught:
        write_report(sample_report(), tmp_path)
    assert caught.value.extra == "report"
    assert names(tmp_path) == []
    assert RunReport.from_json(write_json(sample_report(), tmp_path).read_bytes()) == sample_report()


def test_importing_and_writing_json_loads_no_extra():
    program = (
        "import sys, secfl.report; "
        "sys.exit(', '.join({'jinja2', 'markupsafe', 'matplotlib', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

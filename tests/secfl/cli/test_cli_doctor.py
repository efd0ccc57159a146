"""`secfl doctor`: finds what is there, and notices what is not."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy
import pytest
import torch
from typer.testing import Result

from secfl.cli import diagnosis
from secfl.cli.diagnosis import Finding, diagnose

Command = Callable[..., Result]


def by_name(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    return {(finding.about, finding.name): finding for finding in findings}


def test_a_sound_machine_is_fit_and_left_as_it_was(tmp_path: Path, secfl: Command) -> None:
    result = secfl("doctor", "--json", "--directory", tmp_path / "ledgers" / "deeper")
    assert result.exit_code == 0, result.output
    raw = json.loads(result.stdout)
    assert raw["fit"] is True
    found = {(item["about"], item["name"]): item for item in raw["findings"]}
    assert found["core", "numpy"] == {
        "about": "core", "name": "numpy", "status": "ok", "found": numpy.__version__, "remedy": "",
    }  # fmt: skip
    assert found["extra train", "torch"]["found"] == importlib.metadata.version("torch")
    assert found["extra report", "jinja2"]["status"] == "ok"
    assert found["core", "Python"]["found"].endswith(f" at {sys.executable}")
    assert found["speed", "torch"]["found"].startswith(f"{torch.get_num_threads()} threads")
    assert found["disk", "durable writes"]["found"].startswith(str(tmp_path))
    assert not any(about == "extra dev" for about, _ in found)
    assert list(tmp_path.iterdir()) == []


def test_the_text_names_every_finding(tmp_path: Path, secfl: Command) -> None:
    result = secfl("doctor", "--directory", tmp_path)
    assert result.exit_code == 0
    for word in ("cryptography", "opacus", "AES-256-CTR", "file locks", "durable writes", "clock"):
        assert word in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith("fit: ")


def without(monkeypatch: pytest.MonkeyPatch, package: str, version: str | None = None) -> None:
    """A package that is not installed, or is in another version."""
    original = importlib.metadata.version

    def found(name: str) -> str:
        if name != package:
            return original(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)


@pytest.mark.parametrize("version", [None, "0.9.9"])
def test_a_missing_extra_is_no_failure_and_is_named_with_its_command(
    tmp_path: Path, secfl: Command, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    without(monkeypatch, "opacus", version)
    result = secfl("doctor", "--directory", tmp_path)
    assert result.exit_code == 0
    assert 'To do: pip install "secfl[train]"' in result.stdout
    finding = by_name(diagnose(tmp_path))["extra train", "opacus"]
    assert finding.status == "missing"
    assert finding.found == ("not installed" if version is None else "0.9.9, needed <2,>=1.6")


@pytest.mark.parametrize("version", [None, "1.26.4", "3.0"])
def test_a_core_package_that_is_missing_or_of_a_wrong_version_makes_the_machine_unfit(
    tmp_path: Path, secfl: Command, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    without(monkeypatch, "numpy", version)
    result = secfl("doctor", "--json", "--directory", tmp_path)
    assert result.exit_code == 11
    raw = json.loads(result.stdout)
    assert raw["fit"] is False
    (failed,) = (item for item in raw["findings"] if item["status"] == "failed")
    assert failed["name"] == "numpy"
    assert failed["remedy"] == "pip install --upgrade secfl"


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.0", ">=2.0,<3", True),
        ("2", ">=2.0,<3", True),
        ("1.99.9", "<3,>=2.0", False),
        ("3.0.0", ">=2.0,<3", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.9", ">=2.6", False),
        ("10.1", ">=9.9", True),
        ("5.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, bounds: str, fits: bool) -> None:
    assert diagnosis._satisfies(version, bounds) is fits


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where not even root may write")
def test_a_directory_that_cannot_be_written_makes_the_machine_unfit(secfl: Command) -> None:
    result = secfl("doctor", "--json", "--directory", "/proc/ledgers")
    assert result.exit_code == 11
    failed = {
        item["name"]: item["found"] for item in json.loads(result.stdout)["findings"] if item["status"] == "failed"
    }
    assert set(failed) == {"durable writes", "file locks"}
    assert failed["file locks"].startswith("/proc: ")


def test_locks_that_do_not_exclude_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLock(filelock.FileLock):  # type: ignore[misc]
        def acquire(self, *_arguments: Any, **_options: Any) -> Any:
            return self

        def release(self, force: bool = False) -> None: ...

    monkeypatch.setattr(diagnosis, "FileLock", NoLock)
    finding = by_name(diagnose(tmp_path))["disk", "file locks"]
    assert (finding.status, finding.found) == ("failed", f"{tmp_path}: a lock was given twice")
    monkeypatch.setattr(diagnosis, "FileLock", filelock.SoftFileLock)
    finding = by_name(diagnose(tmp_path))["disk", "file locks"]
    assert finding.found == f"{tmp_path}: this file system has no locks"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shift", "words"), [(-10 * 365 * 86400, "before this package"), (3600, "3600 s from that")])
def test_a_clock_that_is_wrong_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float, words: str
) -> None:
    now = diagnosis.time.time()
    monkeypatch.setattr(diagnosis.time, "time", lambda: now + shift)
    finding = by_name(diagnose(tmp_path))["clock", "time"]
    assert finding.status == "failed"
    assert words in finding.found


def test_a_slow_cipher_is_a_warning(tmp_path: Path, secfl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "SLOW_CIPHER", 1e15)
    result = secfl("doctor", "--directory", tmp_path)
    assert result.exit_code == 0
    assert "To do: a processor with AES instructions" in result.stdout

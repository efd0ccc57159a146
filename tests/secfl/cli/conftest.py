"""Running the commands, in this process and in one of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import TIGHT, study_text, write_study
from typer.testing import CliRunner, Result

from secfl.cli.app import app

ROOT = Path(__file__).parents[3]

Command = Callable[..., Result]


@pytest.fixture(scope="session")
def secfl() -> Command:
    """A command in this process: fast, the same code but for the interpreter's start."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def start(*arguments: object, code: str = "from secfl.cli import main; main()") -> subprocess.Popen[str]:
    """A command as a real process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, secfl: Command) -> tuple[Result, Path]:
    """One private run of two rounds, with its output and its directory."""
    home = tmp_path_factory.mktemp("study")
    config = write_study(home, study_text(private=True))
    result = secfl("run", config, "--output", home / "runs")
    (directory,) = (home / "runs").iterdir()
    return result, directory


@pytest.fixture(scope="session")
def _finished_lifetime_study(tmp_path_factory: pytest.TempPathFactory, secfl: Command) -> Path:
    home = tmp_path_factory.mktemp("lifetime")
    config = write_study(home, study_text(private=True, rounds=1, ledger="lifetime", epsilon=TIGHT))
    result = secfl("run", config, "--output", home / "runs")
    assert result.exit_code == 0, result.output
    return config


@pytest.fixture
def lifetime_study(_finished_lifetime_study: Path, tmp_path: Path) -> Path:
    """Configuration of a study whose lifetime ledgers one run has filled, in a copy of its own."""
    shutil.copytree(_finished_lifetime_study.parent, tmp_path / "lifetime")
    return tmp_path / "lifetime" / "config.toml"

"""Runs and a browser that several tests of reports look at."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from small_study import study_text, write_study

from secfl.config import load_config
from secfl.federation.session import simulate
from secfl.report import write_report

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

DROPOUT = '[[simulation.incidents]]\nparty = "west"\nphase = "MaskedInput"\nround = 2\nkind = "lose_reply"'


def finished(home: Path, text: str) -> Path:
    """Directory of a run with its report."""
    path = write_study(home, text)
    config, raw = load_config(path)
    run = simulate(config, raw, home, output=home / "runs")
    write_report(run.report, run.directory)
    return run.directory


@pytest.fixture(scope="session")
def private_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three private rounds with budget to spare; a silo drops out of the second after it was charged."""
    return finished(tmp_path_factory.mktemp("private"), study_text(private=True, rounds=3, rest=DROPOUT))


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds without privacy."""
    return finished(tmp_path_factory.mktemp("plain"), study_text())


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a run to be tampered with."""
    return lambda run: Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser; without it tests skip, and in continuous integration they fail."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not on the PATH; continuous integration must have it")
        pytest.skip("chromium is not on the PATH: no page was looked at in a browser")
    return program


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """Headless Chromium, Debian's own, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(QUIET))
        yield opened
        opened.close()

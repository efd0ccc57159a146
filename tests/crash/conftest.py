"""What the crash tests share: a folder with a short name, and a count of all kills at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_scenarios import ENDS


@pytest.fixture
def folder() -> Iterator[Path]:
    """Folders of scenarios; `tmp_path` would be too long for the name of a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="crash-"))
    yield path
    shutil.rmtree(path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many kills there were, and how their rounds ended."""
    if ENDS:
        ends = ", ".join(f"{number} {end}" for end, number in sorted(ENDS.items()) if end != "kills")
        terminalreporter.write_line(f"crash tests: {ENDS['kills']} kills; rounds: {ends}")

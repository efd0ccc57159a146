"""The example of a pipeline of one's own: real processes, real sockets, a real kill; and nothing left running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_pipeline"


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE / "run.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | (environment or {})
    )


def processes_with(mark: str) -> list[str]:
    """Command lines of live processes whose environment holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:  # it ended while we looked
            continue
    return found


def test_four_processes_and_a_server_find_the_plain_sum() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unmask: 4 answered, dropped: nobody" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "secure sum over aachen, basel, cork, delft equals the plain sum: patients, infections, days_in_ward"
    )


@pytest.mark.parametrize(
    ("arguments", "last_phase", "contributors"),
    [
        ("--protocol oneshot --drop", "Opening: 3 answered", "aachen, basel, delft"),
        ("--protocol ckks", "Decryption: 1 answered", "aachen, basel, cork, delft"),
    ],
)
def test_another_protocol_is_one_word_away(arguments: str, last_phase: str, contributors: str) -> None:
    done = run(*arguments.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert last_phase in done.stdout
    assert done.stdout.splitlines()[-1] == (
        f"secure sum over {contributors} equals the plain sum: patients, infections, days_in_ward"
    )


def test_killed_party_is_left_out_and_the_rest_is_exact() -> None:
    done = run("--drop")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed cork" in done.stdout
    assert "MaskedInput: 3 answered, dropped: cork" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "secure sum over aachen, basel, delft equals the plain sum: patients, infections, days_in_ward"
    )


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_failed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = f"OWN_PIPELINE_TEST={tmp_path}"
    name, _, value = mark.partition("=")
    done = run("--seconds", "0.8", environment={name: value})  # too short for any session
    assert done.returncode != 0
    assert processes_with(mark) == []


def test_example_imports_neither_torch_nor_anything_unpublished() -> None:
    sources = [path.read_text() for path in EXAMPLE.glob("*.py")]
    assert len(sources) == 5
    imported = {name for text in sources for name in re.findall(r"^(?:from|import) ([\w.]+)", text, re.MULTILINE)}
    assert "torch" not in imported
    assert {name for name in imported if name.startswith(("secfl", "protocols"))} <= {
        "protocols",
        "protocols.errors",
        "secfl.aggregation",
        "secfl.engines",
        "secfl.federation.identities",
        "secfl.files",
        "secfl.registry",
    }

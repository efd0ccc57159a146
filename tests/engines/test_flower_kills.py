"""kill -9 of a ClientApp, a SuperNode and the SuperLink: each is a dropout or an end, never a leak or a stuck node."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, PARTIES, SHIFTS, Federation, model, rows

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(900)]

START = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
STEPS = np.arange(12).reshape(3, 4) * 0.01


def wait_for(path: Path, seconds: float = 180.0) -> int:
    """The process that wrote its id there."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path.name}: the training did not begin"
        time.sleep(0.1)
    return int(path.read_text())


def check_without_va(output: Path) -> None:
    row = rows(output)[-1]  # on a busy machine a first attempt may end without others, too
    assert row["contributors"] == list(PARTIES[:3])
    assert "va" in row["events"]
    expected = START + np.average(SHIFTS[:3], weights=EXAMPLES[:3]) + STEPS
    np.testing.assert_allclose(model(output), expected, atol=1e-5)


def check_whole(federation: Federation) -> None:
    """All four take part again: nothing is stuck."""
    status, output = federation.run()
    assert status == "finished:completed"
    assert rows(output)[-1]["contributors"] == list(PARTIES)


def test_a_killed_client_app_is_a_dropout(federation: Federation) -> None:
    pid = federation.base / "va.pid"
    pid.unlink(missing_ok=True)
    run, output = federation.begin(waiting="va")
    os.kill(wait_for(pid), signal.SIGKILL)
    assert federation.deployment.wait(run, 400) == "finished:completed"
    check_without_va(output)
    check_whole(federation)


def test_a_killed_supernode_is_a_dropout_and_comes_back(federation: Federation) -> None:
    pid = federation.base / "va.pid"
    pid.unlink(missing_ok=True)
    run, output = federation.begin(waiting="va")
    wait_for(pid)
    os.kill(federation.deployment.process("va"), signal.SIGKILL)
    assert federation.deployment.wait(run, 400) == "finished:completed"
    check_without_va(output)
    federation.deployment.start_node("va")
    federation.deployment.wait_online(4)
    check_whole(federation)


def test_a_killed_superlink_ends_the_run_and_nothing_else(federation: Federation) -> None:
    pid = federation.base / "va.pid"
    pid.unlink(missing_ok=True)
    run, output = federation.begin(waiting="va")
    waiting = wait_for(pid)
    os.kill(federation.deployment.process("superlink"), signal.SIGKILL)
    time.sleep(2)
    assert not output.with_suffix(".json").exists()
    os.kill(waiting, signal.SIGKILL)
    federation.deployment.start_superlink()
    federation.deployment.wait_online(4)
    assert not federation.deployment.status(run).endswith("completed")
    check_whole(federation)

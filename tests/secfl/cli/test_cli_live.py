"""`secfl run --live` in a pseudo-terminal: what it shows, and that it leaves the terminal as it was."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

from conftest import ROOT, finish, start
from rich.console import Console
from small_study import study_text, write_study

from secfl.cli.live import LiveView
from secfl.config import load_config
from secfl.events import (
    BudgetCharged,
    Event,
    PartyRefused,
    PhaseClosed,
    PhaseOpened,
    RoundEvaluated,
    RoundFinished,
    SessionOpened,
)

CODE = "from secfl.cli import main; main()"
GONE = '[[simulation.incidents]]\nparty = "west"\nphase = "MaskedInput"\nround = 2'


def in_a_terminal(*arguments: object) -> tuple[int, str, bool]:
    """Exit code, everything that was written, and whether the terminal's settings are those of before."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "50"}
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    written = b""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            written += os.read(master, 65536)
        elif process.poll() is not None:
            break
    code = process.wait(timeout=10)
    same = termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    return code, written.decode(), same


def test_a_run_in_a_terminal_shows_itself_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    config = write_study(tmp_path, study_text(private=True, rounds=3, rest=GONE))
    code, written, same = in_a_terminal("run", config, "--output", tmp_path / "runs", "--live")
    assert code == 0, written
    assert same
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor hidden, and shown again
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    for shown in ("study", "round 1", "MaskedInput", "parties: all 4 present", "of 3 rounds"):
        assert shown in plain
    left = plain.rindex("Report: ")
    assert "rounds" not in plain[left:]  # nothing of the view is left below the report's line
    assert (tmp_path / "runs").exists()


def test_without_a_terminal_one_line_says_so_and_rounds_are_lines(tmp_path: Path) -> None:
    config = write_study(tmp_path, study_text(rounds=1))
    status, output, problems = finish(start("run", config, "--output", tmp_path / "runs", "--live", code=CODE))
    assert status == 0
    assert problems == "--live needs a terminal: a line for each attempt instead\n"
    assert output.startswith("round 1: 4 of 4 silos")
    assert "\x1b" not in output


SESSION = {"session": "ab" * 32, "run_id": "study-1", "round": 2, "attempt": 1}


def charged(silo: str, remaining: float, left: int | None, to_come: int = 1) -> BudgetCharged:
    return BudgetCharged(
        silo=silo, run_id="study-1", round=2, attempt=1, epsilon_spent=8 - remaining, epsilon_budget=8.0, delta=1e-5,
        epsilon_remaining=remaining, rounds_left=left, rounds_planned_left=to_come,
    )  # fmt: skip


def seen(tmp_path: Path, *events: Event) -> str:
    """The screen after some events."""
    settings, _ = load_config(write_study(tmp_path, study_text(private=True, rounds=3)))
    view = LiveView(settings)
    for event in events:
        view.watch(event)
    screen = Console(width=120, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    screen.print(view)
    screen.file.close()
    return screen.export_text()


def test_the_screen_has_what_the_events_say(tmp_path: Path) -> None:
    opened = SessionOpened(
        **SESSION, protocol="secagg", cohort=4, threshold=3, modulus_bits=30, vector_length=4, simulation=True
    )
    closed = PhaseClosed(
        **SESSION, phase="ShareKeys", seconds=0.25, bytes_up=1200, bytes_down=3400, answered=("east", "north"),
        dropped=("west",),
    )  # fmt: skip
    refused = PartyRefused(
        **SESSION, phase="ShareKeys", party="south", error="ClientFault", reason="WRONG_SESSION", rule=""
    )
    text = seen(tmp_path, opened, PhaseOpened(**SESSION, phase="ShareKeys"), refused, closed,
                PhaseOpened(**SESSION, phase="MaskedInput"))  # fmt: skip
    assert "round 2, attempt 2" in text
    assert re.search(r"ShareKeys +│ 250 ms +│ 2 +│ 1 +│ 1.2 kB +│ 3.4 kB", text)
    assert re.search(r"MaskedInput +│ \S+ m?s \.\.\.", text)
    assert "parties: 2 of 4 gone" in text
    assert "west: dropped out in ShareKeys" in text
    assert "south: refused in ShareKeys: WRONG_SESSION" in text


def test_budgets_are_shown_least_left_first_with_whether_they_last(tmp_path: Path) -> None:
    text = seen(tmp_path, charged("east", 6.0, 9), charged("west", 0.5, 0), charged("north", 1.0, 1))
    rows = [line for line in text.splitlines() if re.search(r"east|west|north", line)]
    assert [row.split()[1] for row in rows] == ["west", "north", "east"]
    assert "ends 1 rounds early" in rows[0]
    assert "7.500 of 8" in rows[0]
    assert "lasts for the 1 to come" in rows[1]


def test_a_failed_attempt_and_the_metric_are_told(tmp_path: Path) -> None:
    ended = RoundFinished(
        **SESSION, outcome="failed", contributors=(), dropped=(), seconds=1.0, error="ThresholdNotMet"
    )
    metric = RoundEvaluated(run_id="study-1", round=1, attempt=0, metric="accuracy", value=0.875)
    text = seen(tmp_path, metric, ended)
    assert "attempt 2 failed: ThresholdNotMet" in text
    assert "accuracy 0.8750" in text


def test_the_log_has_the_same_while_the_run_goes_on(finished_run: tuple[object, Path]) -> None:
    events = [json.loads(line) for line in (finished_run[1] / "events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "BudgetCharged"][-1]
    report = json.loads((finished_run[1] / "report.json").read_bytes())
    silo = next(silo for silo in report["silos"] if silo["name"] == last["silo"])
    assert last["epsilon_remaining"] == silo["remaining_epsilon"]
    assert last["rounds_left"] == silo["rounds_left"]
    assert last["rounds_planned_left"] == 0
    times = [event["time"] for event in events]
    assert times == sorted(times)
    opened = [event["phase"] for event in events if event["event"] == "PhaseOpened"]
    assert opened == [event["phase"] for event in events if event["event"] == "PhaseClosed"]
    values = [event["value"] for event in events if event["event"] == "RoundEvaluated"]
    assert values == [row["metric"] for row in report["rounds"]]

"""The command as a process of its own: extras that are missing, two at once, kills in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import finish, start
from small_study import MODEL, SILOS, study_text, write_study

import secfl as package
from secfl.privacy import Ledger

WAITING_MODEL = (
    MODEL.replace("def loss(", "def loss_of(")
    + '''

import os
import time
from pathlib import Path


def loss(outputs, targets):
    """As `loss_of`, but stands still at the call whose number the file `stop` holds, until that file is gone."""
    here = Path(__file__).parent
    with (here / "trainings").open("a") as log:
        log.write(".")
    stop = here / "stop"
    while stop.exists() and (here / "trainings").stat().st_size >= int(stop.read_text()):
        (here / "waiting").touch()
        time.sleep(0.02)
    return loss_of(outputs, targets)
'''
)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def release_states(config: Path, secfl: Any) -> dict[str, dict[str, str]]:
    """Where every release of every silo stands, after `verify` had nothing to object to."""
    states: dict[str, dict[str, str]] = {}
    for silo in SILOS:
        path = config.parent / "ledgers" / silo / "records.ledger"
        entries = [json.loads(line)["entry"] for line in path.read_bytes().splitlines()]
        result = secfl("ledger", "verify", path, "--key", entries[0]["public_key"])
        assert result.exit_code == 0, result.output
        states[silo] = {}
        for entry in entries[1:]:
            run, number = entry["release"].split("/", 1)
            states[silo][f"{run[-8:]}:{number}"] = entry["kind"]
    return states


def test_a_run_as_a_process_ends_with_code_zero_and_names_its_report_last(tmp_path: Path) -> None:
    config = write_study(tmp_path, study_text(rounds=1))
    code, output, errors = finish(start("run", config, "--output", tmp_path / "runs"))
    assert (code, errors) == (0, "")
    report = Path(output.strip().splitlines()[-1].removeprefix("Report: "))
    assert report.is_file()
    assert report.name == "report.html"


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "train"),
        pytest.param("opacus", "train", marks=pytest.mark.slow),
        ("jinja2", "report"),
        pytest.param("matplotlib", "report", marks=pytest.mark.slow),
    ],
)
def test_a_missing_extra_is_named_before_anything_is_spent(tmp_path: Path, module: str, extra: str) -> None:
    config = write_study(tmp_path, study_text(private=True, rounds=1, ledger="lifetime"))
    code = f"import sys; sys.modules[{module!r}] = None; from secfl.cli import main; main()"
    status, output, errors = finish(start("run", config, "--output", tmp_path / "runs", code=code))
    assert status == 4
    assert errors.count("\n") == 1
    assert f'pip install "secfl[{extra}]"' in errors
    assert "Report" not in output
    for ledger in tmp_path.rglob("*.ledger"):
        assert ledger.read_bytes().count(b"\n") == 1  # the first line only


def test_version_and_help_need_no_extra() -> None:
    block = (
        "import sys\nfor name in ('torch', 'opacus', 'jinja2', 'matplotlib', 'safetensors'): sys.modules[name] = None\n"
    )
    code = f"{block}from secfl.cli import main; main()"
    assert finish(start("version", code=code)) == (0, f"secfl {package.__version__}\n", "")
    status, output, _ = finish(start("--help", code=code))
    assert status == 0
    for command in ("run", "resume", "ledger", "version"):
        assert f" {command} " in output


@pytest.mark.parametrize(
    "arguments", [("trian",), ("run",), ("run", "a", "b"), ("ledger", "verify"), ("run", "--fast")]
)
def test_a_wrong_use_of_the_command_line_has_code_two(secfl: Any, arguments: tuple[str, ...]) -> None:
    result = secfl(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_a_second_run_on_the_same_lifetime_ledgers_is_refused_in_one_line(
    tmp_path: Path, secfl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Ledger.open.__func__.__kwdefaults__, "timeout", 0.1)  # type: ignore[attr-defined]
    config = write_study(tmp_path, study_text(private=True, rounds=1, ledger="lifetime"), WAITING_MODEL)
    (tmp_path / "stop").write_text("1")
    first = start("run", config, "--output", tmp_path / "first")
    wait_for(tmp_path / "waiting", first)
    # A model of its own, so that only the ledgers are in the way.
    other = write_study(tmp_path / "other", study_text(private=True, rounds=1, ledger="lifetime"))
    other.write_text(other.read_text().replace("[ledger]", f'[ledger]\ndirectory = "{tmp_path / "ledgers"}"'))
    second = secfl("run", other, "--output", tmp_path / "second")
    assert second.exit_code == 6
    (line,) = second.stderr.strip().splitlines()
    assert "[LG-24]" in line
    assert "another process holds the ledger" in line
    (tmp_path / "stop").unlink()
    code, _, errors = finish(first)
    assert (code, "Traceback" in errors) == (0, False)
    for states in release_states(config, secfl).values():
        assert list(states.values()) == ["commit"]


def killed_in_training(tmp_path: Path, number: int) -> tuple[Path, Path]:
    """A run killed with -9 in one of its trainings; its configuration and its directory."""
    config = write_study(tmp_path, study_text(private=True, ledger="lifetime"), WAITING_MODEL)
    (tmp_path / "stop").write_text(str(number))
    process = start("run", config, "--output", tmp_path / "runs")
    wait_for(tmp_path / "waiting", process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    (tmp_path / "stop").unlink()
    (directory,) = (tmp_path / "runs").iterdir()
    return config, directory


def last_kinds(config: Path, silo: str) -> list[str]:
    lines = (config.parent / "ledgers" / silo / "records.ledger").read_bytes().splitlines()
    return [json.loads(line)["entry"]["kind"] for line in lines[1:]]


def test_after_a_kill_in_training_another_run_finds_sound_ledgers(tmp_path: Path, secfl: Any) -> None:
    # In the middle of the second silo's first training; a training calls the loss a few times.
    config, _ = killed_in_training(tmp_path, calls_of_one_training(tmp_path / "probe", secfl) + 1)
    assert last_kinds(config, "east") == ["reserve", "sending", "commit"]
    assert last_kinds(config, "north") == ["reserve"]
    assert last_kinds(config, "south") == last_kinds(config, "west") == []
    result = secfl("run", config, "--output", tmp_path / "again")
    assert result.exit_code == 0, result.output
    states = {silo: list(found.values()) for silo, found in release_states(config, secfl).items()}
    assert states == {
        "east": ["commit", "commit", "commit"],
        "north": ["void", "commit", "commit"],
        "south": ["commit", "commit"],
        "west": ["commit", "commit"],
    }
    spent = {silo["name"]: silo["spent_epsilon"] for silo in report_of(tmp_path / "again")["silos"]}
    assert spent["east"] > spent["north"] == spent["south"] == spent["west"] > 0


@pytest.mark.slow
def test_after_a_kill_the_run_resumes_with_a_new_attempt_at_the_same_round(tmp_path: Path, secfl: Any) -> None:
    first = calls_of_one_training(tmp_path / "probe", secfl)
    later = 2 * calls_of_one_training(tmp_path / "probe-2", secfl, rounds=2) - first
    config, directory = killed_in_training(tmp_path, 4 * first + 2 * later + 1)  # in round 2, at the third silo
    result = secfl("resume", directory)
    assert result.exit_code == 0, result.output
    report = json.loads((directory / "report.json").read_text())
    assert [(row["number"], row["attempt"], row["completed"]) for row in report["rounds"]] == [
        (1, 0, True),
        (2, 1, True),
    ]
    run = report["run_id"][-8:]
    states = release_states(config, secfl)
    assert states["east"] == {f"{run}:1/0": "commit", f"{run}:2/0": "commit", f"{run}:2/1": "commit"}
    assert states["south"] == {f"{run}:1/0": "commit", f"{run}:2/0": "void", f"{run}:2/1": "commit"}
    assert states["west"] == {f"{run}:1/0": "commit", f"{run}:2/1": "commit"}


@pytest.mark.slow
@pytest.mark.parametrize("line", range(2, 30, 4))
def test_a_kill_at_any_line_of_the_ledgers_leaves_them_sound(tmp_path: Path, secfl: Any, line: int) -> None:
    config = write_study(tmp_path, study_text(private=True, rounds=3, ledger="lifetime", epsilon=30.0))
    process = start("run", config, "--output", tmp_path / "runs")
    deadline = time.monotonic() + 60
    while sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("ledgers/*/*.ledger")) < 4 + line:
        assert time.monotonic() < deadline
        if process.poll() is not None:
            break
    process.kill()
    process.communicate()
    kinds = {silo: last_kinds(config, silo) for silo in SILOS}
    left = {silo: found.count("sending") for silo, found in kinds.items()}
    result = secfl("run", config, "--output", tmp_path / "again")
    assert result.exit_code == 0, result.output
    for silo, states in release_states(config, secfl).items():
        charged = [state for state in states.values() if state != "void"]
        assert len(charged) == left[silo] + 3  # what was sent stays spent, once; what was not is void
        assert "reserve" not in states.values()


def calls_of_one_training(directory: Path, secfl: Any, rounds: int = 1) -> int:
    """How often one training calls the loss, on average over a run's rounds; the first one checks the model as well."""
    config = write_study(directory, study_text(private=True, rounds=rounds), WAITING_MODEL)
    assert secfl("run", config, "--output", directory / "runs").exit_code == 0
    calls, rest = divmod((directory / "trainings").stat().st_size, rounds * len(SILOS))
    assert rest == 0
    return calls


def report_of(output: Path) -> dict[str, Any]:
    (directory,) = output.iterdir()
    found: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return found

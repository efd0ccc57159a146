"""`secfl run` and `secfl resume`: a run from its files to its report; what is wrong ends in one line and a code."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_study import MODEL, PHASES, SILOS, study_text, write_study
from typer.testing import Result

from protocols.errors import (
    BudgetExceeded,
    ConfigError,
    EncodingError,
    LedgerRolledBack,
    MissingExtra,
    PrivacyError,
    SecflError,
    ServerFault,
    UsageError,
)
from secfl.cli.errors import EXIT_CODES, exit_code


def lines_of(result: Result) -> list[str]:
    return result.output.strip().splitlines()


def error_line(result: Result) -> str:
    """The one line that a failed command prints."""
    (line,) = result.stderr.strip().splitlines()
    assert "Traceback" not in result.output
    assert line.startswith("error: ")
    return line


def test_a_run_ends_with_code_zero_and_names_its_report_last(finished_run: tuple[Result, Path]) -> None:
    result, directory = finished_run
    assert result.exit_code == 0, result.output
    assert lines_of(result)[-1] == f"Report: {directory / 'report.html'}"
    assert lines_of(result)[-2] == f"Model: {directory / 'model.safetensors'}"
    for name in ("report.html", "report.json", "model.safetensors", "roster.toml", "config.toml"):
        assert (directory / name).stat().st_size > 0


def test_a_run_tells_of_each_round_what_it_cost_and_what_was_carried(finished_run: tuple[Result, Path]) -> None:
    result, directory = finished_run
    report = json.loads((directory / "report.json").read_text())
    for row in report["rounds"]:
        spent = max(row["epsilon"].values())
        expected = f"round {row['number']}: 4 of 4 silos, accuracy {row['metric']:.3f}, epsilon {spent:.2f}"
        assert expected in lines_of(result)
    for silo in report["silos"]:
        assert any(silo["name"] in line and f"{silo['spent_epsilon']:.3f}" in line for line in lines_of(result))
    for phase in PHASES:
        up = sum(item["bytes_up"] for row in report["rounds"] for item in row["phases"] if item["phase"] == phase)
        assert up > 0
        assert any(phase in line and f"{up:,}" in line for line in lines_of(result))


def test_the_files_of_a_run_hold_no_private_key_that_others_can_read(finished_run: tuple[Result, Path]) -> None:
    _, directory = finished_run
    keys = list(directory.rglob("identity.key"))
    assert len(keys) == len(SILOS)
    for path in (*keys, *directory.rglob("*.ledger"), *directory.rglob("answers.log")):
        assert path.stat().st_mode & 0o077 == 0


def test_a_run_that_halts_has_code_ten_the_reason_and_still_a_report(tmp_path: Path, secfl: Any) -> None:
    incidents = "".join(
        f'[[simulation.incidents]]\nparty = "{silo}"\nphase = "MaskedInput"\nround = 2\n' for silo in ("east", "west")
    )
    config = write_study(tmp_path, study_text(rest=incidents, aggregation="attempts = 2"))
    result = secfl("run", config, "--output", tmp_path / "runs")
    assert result.exit_code == 10, result.output
    assert lines_of(result)[-1].startswith("Report: ")
    assert lines_of(result)[-3].startswith("halted: round 2: attempt 2 was the last allowed and failed: MaskedInput: 2")
    assert "round 2: 0 of 4 silos, attempt 1 failed: MaskedInput: 2 parties present, 3 required" in lines_of(result)
    assert Path(lines_of(result)[-1].removeprefix("Report: ")).is_file()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rounds = 0", "error: run.rounds: 0 cannot be used; allowed: an integer from 1 to 100000"),
        ("runds = 2", "error: run.runds: unknown key, did you mean 'rounds'?; allowed: name, rounds, seed"),
        ("rounds = [", "is not TOML: "),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_and_code_three(
    tmp_path: Path, secfl: Any, text: str, line: str
) -> None:
    config = write_study(tmp_path, study_text().replace("rounds = 2", text))
    result = secfl("run", config)
    assert result.exit_code == 3
    assert line in error_line(result)


def test_a_configuration_that_is_not_there_is_one_line_and_code_three(tmp_path: Path, secfl: Any) -> None:
    result = secfl("run", tmp_path / "absent.toml")
    assert result.exit_code == 3
    assert error_line(result).endswith("absent.toml: cannot be read: No such file or directory; allowed: a TOML file")


RAISING = "\n    raise ValueError('patient Doe-4711\\nis ill')\n"

MODELS = [
    (None, "model: .*model.py cannot be read; allowed: a Python file"),
    ("import torch\n1 / 0\n", "model: .*failed on import: ZeroDivisionError: division by zero"),
    ("def build_model(:\n", "model: .*failed on import: SyntaxError"),
    ("import no_such_package\n", "model: .*imports no_such_package, which is not installed"),
    (MODEL.replace("def metric", "def metrics"), r"model.metric: .*does not define metric\(outputs, targets\)"),
    (MODEL.replace("load_data(silo, split_seed)", "load_data(silo)"), "model.load_data: .*not callable as load_data"),
    (MODEL.replace("    return model\n", "    return 3\n"), "model.build_model: returned int; .*torch.nn.Module"),
    (MODEL.replace("def build_model():", f"def build_model():{RAISING}"), "ValueError at line 9 while building the"),
    (MODEL.replace("def load_data(silo, split_seed):", f"def load_data(silo, split_seed):{RAISING}"), "ValueError at"),
    (MODEL.replace("def metric(outputs, targets):", f"def metric(outputs, targets):{RAISING}"), "while evaluating"),
    (MODEL.replace("    return TensorDataset(inputs, targets), test", "    return 3"), "load_data: returned int"),
]


@pytest.mark.parametrize(("model", "words"), MODELS, ids=range(len(MODELS)))
def test_a_model_file_that_cannot_be_used_is_one_line_and_code_three(
    tmp_path: Path, secfl: Any, model: str | None, words: str
) -> None:
    config = write_study(tmp_path, study_text(), model or "")
    if model is None:
        (tmp_path / "model.py").unlink()
    result = secfl("run", config, "--output", tmp_path / "runs")
    assert result.exit_code == 3, result.output
    assert re.search(words, error_line(result))


def test_training_code_that_raises_is_named_by_type_and_place_without_its_message(tmp_path: Path, secfl: Any) -> None:
    model = MODEL.replace("def loss(outputs, targets):", f"def loss(outputs, targets):{RAISING}")
    result = secfl("run", write_study(tmp_path, study_text(rounds=1), model), "--output", tmp_path / "runs")
    assert result.exit_code == 3
    place = model.splitlines().index("    raise ValueError('patient Doe-4711\\nis ill')") + 1
    assert f"model.file: ValueError at line {place} while training at silo 'east'" in error_line(result)
    kept = [path.read_bytes() for path in tmp_path.glob("runs/**/*") if path.is_file()]
    assert kept
    for text in (result.output.encode(), *kept):
        assert b"Doe-4711" not in text


def test_a_reduced_loss_is_named_with_what_to_write_instead(tmp_path: Path, secfl: Any) -> None:
    model = MODEL.replace('reduction="none"', 'reduction="mean"')
    result = secfl("run", write_study(tmp_path, study_text(rounds=1), model), "--output", tmp_path / "runs")
    assert result.exit_code == 3
    assert 'use reduction="none"' in error_line(result)


def test_a_directory_that_cannot_be_written_is_one_line_and_code_nine(tmp_path: Path, secfl: Any) -> None:
    (tmp_path / "runs").write_text("in the way")
    result = secfl("run", write_study(tmp_path, study_text()), "--output", tmp_path / "runs" / "deeper")
    assert result.exit_code == 9
    assert "Not a directory" in error_line(result)


def test_a_ledger_with_another_budget_is_refused_by_the_key_that_differs(lifetime_study: Path, secfl: Any) -> None:
    lifetime_study.write_text(lifetime_study.read_text().replace("epsilon = 2.2", "epsilon = 9.0"))
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "runs")
    assert result.exit_code == 3
    assert error_line(result).startswith("error: privacy.epsilon: 9.0, but the ledger ")
    assert error_line(result).endswith("allowed: 2.2")


def test_a_lifetime_budget_that_an_earlier_run_spent_halts_the_next(lifetime_study: Path, secfl: Any) -> None:
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "runs")
    assert result.exit_code == 10
    assert "the privacy budget of east, north, south, west is spent" in result.output


@pytest.mark.parametrize("damage", ["removed", "older", "edited", "cut"])
def test_a_damaged_lifetime_ledger_stops_the_run_with_code_six(lifetime_study: Path, secfl: Any, damage: str) -> None:
    path = lifetime_study.parent / "ledgers" / "north" / "records.ledger"
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "removed":
        path.unlink()
    else:
        changed = {"older": lines[:1], "edited": [lines[0], *lines[2:]], "cut": [*lines[:-1], lines[-1][:-9]]}
        path.write_bytes(b"".join(changed[damage]))
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "runs")
    assert result.exit_code == 6
    assert str(path) in error_line(result)


def test_a_once_only_store_that_is_no_store_stops_the_run_with_code_eight(tmp_path: Path, secfl: Any) -> None:
    config = write_study(tmp_path, study_text(rounds=1, ledger="lifetime"))
    assert secfl("run", config, "--output", tmp_path / "runs").exit_code == 0
    store = tmp_path / "ledgers" / "north" / "answers.log"
    content = store.read_bytes()
    assert len(content) % 130 == 0
    store.write_bytes(b"x" + content[1:])
    result = secfl("run", config, "--output", tmp_path / "runs")
    assert result.exit_code == 8
    assert "answers.log: line 1 is not a record" in error_line(result)


def test_a_private_key_that_others_can_read_stops_the_run(lifetime_study: Path, secfl: Any) -> None:
    (lifetime_study.parent / "ledgers" / "west" / "identity.key").chmod(0o644)
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "runs")
    assert result.exit_code == 3
    assert "others may read this private key; allowed: mode 600" in error_line(result)


def test_a_finished_run_resumed_has_nothing_left_to_do(finished_run: tuple[Result, Path], secfl: Any) -> None:
    _, directory = finished_run
    before = (directory / "model.safetensors").read_bytes()
    heads = {path: path.read_bytes() for path in directory.rglob("*.ledger")}
    result = secfl("resume", directory)
    assert result.exit_code == 0, result.output
    assert lines_of(result)[-1] == f"Report: {directory / 'report.html'}"
    assert (directory / "model.safetensors").read_bytes() == before
    assert {path: path.read_bytes() for path in heads} == heads


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path, secfl: Any) -> None:
    result = secfl("resume", tmp_path)
    assert result.exit_code == 3
    assert "config.toml: cannot be read" in error_line(result)


def test_a_run_whose_configuration_changed_is_not_resumed(
    finished_run: tuple[Result, Path], tmp_path: Path, secfl: Any
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished_run[1], copy)
    (copy / "config.toml").write_text((copy / "config.toml").read_text().replace("rounds = 2", "rounds = 3"))
    result = secfl("resume", copy)
    assert result.exit_code == 3
    assert "was changed since the run began" in error_line(result)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("run", "x"), 3),
        (MissingExtra("x", "train"), 4),
        (BudgetExceeded(2.0, 1.0), 5),
        (LedgerRolledBack("x"), 6),
        (PrivacyError("x"), 6),
        (EncodingError("w", "x"), 7),
        (UsageError("x"), 8),
        (ServerFault.__new__(ServerFault), 8),
        (FileNotFoundError(), 9),
        (SecflError("x"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_exit_codes_are_distinct_and_leave_the_shells_own_alone() -> None:
    codes = list(EXIT_CODES.values())
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 10} & set(codes)

"""`secfl run --engine flower` as a user starts it: the model of the embedded engine, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from secfl.config import load_config
from secfl.federation.session import simulate
from secfl.report.model import RunReport

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

HEART = Path(__file__).parents[2] / "examples" / "heart"
TRAINING = """
[run]
name = "heart"
rounds = 1
seed = 1
reproducible = true

[training]
mode = "none"
steps_per_round = 2
learning_rate = 1.0
sampling_rate = 0.5

[ledger]
kind = "per-run"

[aggregation]
protocol = "oneshot"
value_range = 4.0

[evaluation]
kind = "benchmark"
metric = "AUC"
"""
SIZES = {"cleveland": 227, "hungarian": 220, "switzerland": 92, "va": 150}


def test_the_heart_example_gives_the_model_of_the_embedded_engine_bit_for_bit(tmp_path: Path) -> None:
    silos = "".join(f'[[silo]]\nname = "{name}"\nnominal_size = {size}\n' for name, size in SIZES.items())
    study = tmp_path / "study"
    study.mkdir()
    (study / "data").symlink_to(HEART / "data")
    (study / "model.py").symlink_to(HEART / "model.py")
    (study / "config.toml").write_text(TRAINING + silos)
    command = [sys.executable, "-m", "secfl", "run", "--engine", "flower", str(study / "config.toml")]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "runs")], capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = (tmp_path / "runs").iterdir()
    report = RunReport.from_json((directory / "report.json").read_bytes())
    assert (report.engine, report.simulation, report.status) == ("flower", False, "completed")
    assert [row.contributors for row in report.rounds] == [tuple(SIZES)]
    config, text = load_config(study / "config.toml")
    embedded = simulate(config, text, study, output=tmp_path / "embedded")
    theirs = load_file(embedded.directory / "model.safetensors")
    ours = load_file(directory / "model.safetensors")
    assert {name: v.tobytes() for name, v in ours.items()} == {name: v.tobytes() for name, v in theirs.items()}
    assert report.evaluation.value == embedded.report.evaluation.value
    assert f"Report: {directory}" in done.stdout.replace("\n", "")
    assert not (directory / "flower" / "deployment.json").exists()
    assert _processes_with(str(directory)) == []


def _processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found

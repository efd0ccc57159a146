"""`secfl compare`: the table, the file, and the label on both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import SILOS, study_text, write_study
from typer.testing import Result

from secfl.federation.compare import LABEL

Command = Callable[..., Result]
EXAMPLE = Path(__file__).parents[3] / "examples" / "heart" / "config.toml"


def test_table_and_file_say_the_same_under_the_label(tmp_path: Path, secfl: Command) -> None:
    config = write_study(tmp_path, study_text(private=True, ledger="lifetime", run="seed = 5"))
    output = tmp_path / "figures.json"
    result = secfl("compare", config, "--seeds", 2, "--with-private", "--output", output)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{LABEL.upper()}: Figures without privacy are exact releases")
    assert lines[-1] == f"Figures ({LABEL}): {output}"
    assert LABEL in " ".join(result.stdout.split("┏")[0].split())  # the table's title
    raw = json.loads(output.read_text())
    assert raw["seeds"] == [5, 6]
    named = [f"{silo} alone" for silo in SILOS] + ["pooled", "federated", "federated, epsilon 8"]
    for name, row in zip(named, raw["rows"], strict=True):
        (line,) = (line for line in lines if line.startswith(f"│ {name} "))
        each = " ".join(f"{value:.3f}" for value in row["values"])
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        assert cells == [name, f"{row['mean']:.4f}", f"{row['standard_deviation']:.4f}", each]
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"config.toml", "figures.json", "model.py"}  # no ledger, no key, no run


def test_one_split_has_no_spread(tmp_path: Path, secfl: Command) -> None:
    config = write_study(tmp_path, study_text(rounds=1))
    result = secfl("compare", config, "--seeds", 1)
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("│ pooled "))
    assert line.split("│")[3].strip() == "-"


@pytest.mark.slow
def test_the_heart_example_takes_less_than_two_minutes_and_federation_beats_every_hospital_alone(
    tmp_path: Path, secfl: Command
) -> None:
    start = time.monotonic()
    result = secfl("compare", EXAMPLE, "--output", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    assert time.monotonic() - start < 120
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    means = {row["silo"] or row["setting"]: row["mean"] for row in rows}
    for silo in ("cleveland", "hungarian", "switzerland", "va"):
        assert means["federated"] > means[silo]

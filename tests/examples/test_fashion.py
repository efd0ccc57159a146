"""The fashion example: mode C on five hundred clients of one process."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from secfl.cli.app import app
from secfl.config import load_config

FOLDER = Path(__file__).parents[2] / "examples" / "fashion"
DATA = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
ABSENT = not (DATA / "train-images-idx3-ubyte.gz").exists()

needs_data = pytest.mark.skipif(
    ABSENT and os.environ.get("CI") != "true",
    reason="Fashion-MNIST is not installed: apt install dataset-fashion-mnist",
)


def test_five_hundred_clients_are_configured_and_protected_as_clients() -> None:
    config, _ = load_config(FOLDER / "config.toml")
    assert len({silo.name for silo in config.silo}) == 500
    assert config.privacy is not None
    assert (config.privacy.unit, config.privacy_units) == ("client", 500)
    assert (config.minimum_contributors, len(config.cast.committee)) == (450, 10)


@needs_data
def test_each_client_has_120_images_of_its_own() -> None:
    model = runpy.run_path(str(FOLDER / "model.py"))
    first, second = (model["load_data"](f"client-{number:03d}", 1)[0].tensors for number in (1, 500))
    assert first[0].shape == second[0].shape == (120, 196)
    assert not (first[0][:, None] == second[0][None]).all(2).any()
    assert 0.0 <= float(first[0].min()) < float(first[0].max()) <= 1.0
    assert len(set(second[1].tolist())) > 5


def run_with(clients: int, rounds: int, directory: Path) -> dict[str, object]:
    config, _ = load_config(FOLDER / "config.toml")
    values = config.model_dump(exclude_defaults=True)
    values["run"]["rounds"] = rounds
    values["silo"] = values["silo"][:clients]
    values["aggregation"]["minimum_contributors"] = clients * 9 // 10
    (directory / "config.toml").write_text(tomli_w.dumps(values))
    (directory / "model.py").write_text((FOLDER / "model.py").read_text())
    found = CliRunner().invoke(app, ["run", str(directory / "config.toml"), "--output", str(directory / "runs")])
    assert found.exit_code == 0, found.output
    (run,) = (directory / "runs").iterdir()
    report: dict[str, object] = json.loads((run / "report.json").read_bytes())
    return report


@needs_data
def test_a_few_clients_run_as_the_example_says(tmp_path: Path) -> None:
    report = run_with(12, 1, tmp_path)
    (row,) = report["rounds"]
    assert (report["status"], report["privacy_mode"]) == ("completed", "client-level")
    assert len(row["contributors"]) == 12
    assert all(7.9 < silo["spent_epsilon"] <= 8.0 for silo in report["silos"])


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_hundred_clients_run_in_one_process_and_learn(tmp_path: Path) -> None:
    report = run_with(500, 2, tmp_path)
    *_, last = report["rounds"]
    assert len(last["contributors"]) == 500
    assert last["metric"] > 0.5  # a tenth is chance

"""The digits example: mode B on twenty silos, through secure aggregation, and the accuracy that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from secfl.cli.app import app
from secfl.config import Config, load_config
from secfl.federation.compare import private_metric
from secfl.federation.setup import plan_run
from secfl.training import Task, load_task

FOLDER = Path(__file__).parents[2] / "examples" / "digits"
SILOS = tuple(f"silo-{number:02d}" for number in range(1, 21))

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(FOLDER / "model.py")


def configured() -> Config:
    return load_config(FOLDER / "config.toml")[0]


def test_every_image_belongs_to_one_silo_and_one_part(task: Task) -> None:
    inputs, parts = [], []
    for silo in SILOS:
        for part in task.silo_data(silo, 1):
            inputs.append(part.tensors[0])
            parts.append(len(part))
    together = torch.cat(inputs)
    assert together.shape == (1797, 64)
    assert (float(together.min()), float(together.max())) == (0.0, 1.0)
    assert len(torch.unique(together, dim=0)) == 1797  # no image is there twice
    assert sum(parts[1::2]) == round(0.2 * 1797)


def test_nominal_sizes_are_near_the_true_ones(task: Task) -> None:
    config = configured()
    assert tuple(silo.name for silo in config.silo) == SILOS
    for silo in config.silo:
        assert abs(silo.nominal_size - len(task.silo_data(silo.name, 1).train)) <= 1


def test_the_example_runs_and_its_ledgers_stay_within_the_budget(tmp_path: Path) -> None:
    text = (FOLDER / "config.toml").read_text().replace("rounds = 100", "rounds = 2")
    (tmp_path / "config.toml").write_text(text)
    (tmp_path / "model.py").write_text((FOLDER / "model.py").read_text())
    found = CliRunner().invoke(app, ["run", str(tmp_path / "config.toml"), "--output", str(tmp_path / "runs")])
    assert found.exit_code == 0, found.output
    (run,) = (tmp_path / "runs").iterdir()
    report = json.loads((run / "report.json").read_bytes())
    assert report["status"] == "completed"
    assert report["privacy_mode"] == "distributed-dp-sgd"
    assert [row["contributors"] for row in report["rounds"]] == [list(SILOS)] * 2
    assert all(2.99 < silo["spent_epsilon"] <= 3.0 for silo in report["silos"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "rounds", "rate", "least"), [(1.0, 100, 1.5, 0.87), (3.0, 100, 3.0, 0.92), (8.0, 120, 4.0, 0.935)]
)
def test_shared_noise_reaches_the_accuracy_that_it_is_for(
    epsilon: float, rounds: int, rate: float, least: float
) -> None:
    """Mean over three splits, at delta 1e-5."""
    config = configured()
    assert config.privacy is not None
    found = []
    for seed in (1, 2, 3):
        chosen = config.model_copy(
            update={
                "run": config.run.model_copy(update={"seed": seed, "rounds": rounds}),
                "privacy": config.privacy.model_copy(update={"epsilon": epsilon}),
                "training": config.training.model_copy(update={"learning_rate": rate}),
            }
        )
        found.append(private_metric(plan_run(chosen, FOLDER)))
    assert sum(found) / 3 >= least

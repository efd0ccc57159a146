from __future__ import annotations

import random
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from secfl.privacy.accounting import noise_multiplier_for, rdp_epsilon
from secfl.training import DpSgdSettings, LocalDpSgd, Task, add_update, load_task, model_state, pooled_metric

FOLDER = Path(__file__).parents[2] / "examples" / "heart"
SIZES = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
DISEASED = {"cleveland": 139, "hungarian": 106, "switzerland": 115, "va": 149}
FEATURES = 27
CHOLESTEROL, CHOLESTEROL_MISSING = 2, 22

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(FOLDER / "model.py")


def tensors(task: Task, silo: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    data = task.silo_data(silo, seed)
    return tuple(torch.cat(parts) for parts in zip(data.train.tensors, data.test.tensors, strict=True))


@pytest.mark.parametrize("silo", SIZES)
def test_all_patients_are_read_once_with_features_in_range(task: Task, silo: str) -> None:
    inputs, targets = tensors(task, silo)
    assert inputs.shape == (SIZES[silo], FEATURES)
    assert float(inputs.abs().max()) <= 1.0
    assert int(targets.sum()) == DISEASED[silo]


@pytest.mark.parametrize("silo", SIZES)
def test_split_is_repeatable_disjoint_and_three_to_one(task: Task, silo: str) -> None:
    first, again, other = (task.silo_data(silo, seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.tensors[0], again.train.tensors[0])
    assert not torch.equal(first.train.tensors[0], other.train.tensors[0])
    assert len(first.test) == round(0.25 * SIZES[silo])
    together = np.sort(tensors(task, silo, 0)[0].numpy(), axis=0)
    assert np.array_equal(together, np.sort(tensors(task, silo, 1)[0].numpy(), axis=0))
    assert len(first.train) + len(first.test) == SIZES[silo]


def test_swiss_cholesterol_of_zero_is_missing_not_low(task: Task) -> None:
    inputs, _ = tensors(task, "switzerland")
    assert torch.equal(inputs[:, CHOLESTEROL], torch.zeros(123))
    assert torch.equal(inputs[:, CHOLESTEROL_MISSING], torch.ones(123))


def test_patient_is_encoded_as_documented(task: Task) -> None:
    module = sys.modules[task.build.__module__]
    # The first patient of Cleveland, cholesterol and thal taken out.
    values = ["63.0", "1.0", "1.0", "145.0", "?", "1.0", "2.0", "150.0", "0.0", "2.3", "3.0", "0.0", "?", "0"]
    expected = [
        *(8 / 25, 15 / 50, 0.0, 10 / 60, 1.3 / 2, -1 / 2),  # age, blood pressure, cholesterol, heart rate, oldpeak, ca
        *(1, 0, 0, 0),  # typical angina
        *(0, 0, 1),  # hypertrophy
        *(0, 0, 1),  # slope down
        *(0, 0, 0),  # thal not measured
        *(1, 1, -1),  # sex, fbs, exang
        *(1, 0, 0, 0, 1),  # missing: chol, fbs, slope, ca, thal
    ]
    assert module.features(dict(zip(module.COLUMNS, values, strict=True))) == pytest.approx(expected)


def test_metric_is_the_rank_statistic_with_ties(task: Task) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(12, (200,), generator=generator).float()
    targets = torch.randint(2, (200,), generator=generator).float()
    ranks, positives = rankdata(outputs), int(targets.sum())
    statistic = ranks[targets.numpy() == 1].sum() - positives * (positives + 1) / 2
    assert task.metric(outputs, targets) == pytest.approx(statistic / (positives * (200 - positives)))


def test_federated_training_at_the_example_s_settings_learns_within_its_budget(task: Task) -> None:
    config = tomllib.loads((FOLDER / "config.toml").read_text())
    training, budget, rounds = config["training"], config["privacy"], config["run"]["rounds"]
    steps, rate, delta = training["steps_per_round"], training["sampling_rate"], budget["delta"]
    noise_multiplier = noise_multiplier_for(budget["epsilon"], delta, rate, rounds * steps)
    trainers = {
        silo["name"]: LocalDpSgd(
            task,
            DpSgdSettings(
                rate, silo["nominal_size"], noise_multiplier, training["clip_norm"], training["learning_rate"]
            ),
        )
        for silo in config["silo"]
    }
    spent = rdp_epsilon([trainers["va"].settings.event(steps)] * rounds, delta)
    assert 0.999 * budget["epsilon"] < spent <= budget["epsilon"]

    entropy = random.Random(1).randbytes  # repeatable, so that the figure below is one figure
    records = {silo: task.silo_data(silo, 6) for silo in trainers}
    weights = {silo: trainer.settings.nominal_size / 689 for silo, trainer in trainers.items()}
    assert sum(weights.values()) == pytest.approx(1.0)
    state = model_state(task.build_model())
    test_sets = [data.test for data in records.values()]
    assert pooled_metric(task, state, test_sets) == 0.5  # the start, at zero, knows nothing
    for _ in range(rounds):
        updates = {
            silo: trainer.train(state, records[silo].train, steps, entropy).update for silo, trainer in trainers.items()
        }
        mean = {name: sum(weights[silo] * update[name] for silo, update in updates.items()) for name in state}
        state = add_update(state, mean)
    assert pooled_metric(task, state, test_sets) > 0.87

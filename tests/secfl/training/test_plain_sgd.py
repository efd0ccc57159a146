from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from protocols.errors import ConfigError, EncodingError
from secfl.training import PlainSettings, PlainSgd, model_state, pooled_metric


def linear() -> nn.Module:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def rows(*values: list[float]) -> TensorDataset:
    return TensorDataset(torch.tensor(values), torch.zeros(len(values)))


def train(task, records, steps=1, settings=PlainSettings(8, 1.0), **options):  # noqa: B008  frozen
    return PlainSgd(task, settings, "north").train(model_state(task.build_model()), records, steps, **options)


def test_step_is_the_mean_gradient_of_the_batch_unclipped(make_task) -> None:
    update = train(make_task(linear), rows([3.0, 4.0], [1.0, 0.0]))
    assert update.update["weight"].tolist() == [[-2.0, -2.0]]


def test_one_pass_of_single_records_uses_each_once(make_task, make_entropy) -> None:
    update = train(
        make_task(linear), rows([1.0, 0.0], [0.0, 2.0], [4.0, 0.0]), 3, PlainSettings(1, 1.0), entropy=make_entropy(1)
    )
    assert update.update["weight"].tolist() == [[-5.0, -2.0]]


def test_silo_without_records_is_named(make_task) -> None:
    with pytest.raises(ConfigError) as caught:
        train(make_task(linear), TensorDataset(torch.zeros(0, 2), torch.zeros(0)))
    assert caught.value.key == "silos.north"


def test_update_that_is_not_finite_names_tensor_and_silo(make_task) -> None:
    with pytest.raises(EncodingError, match="silo 'north'") as caught:
        train(make_task(linear), rows([float("inf"), 0.0]))
    assert caught.value.tensor == "weight"


def test_batch_norm_is_refused_because_its_statistics_would_be_lost(make_task) -> None:
    with pytest.raises(ConfigError, match="buffer"):
        train(make_task(lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))), rows([1.0, 0.0], [0.0, 1.0]))


def test_mode_says_that_nothing_is_private(make_task) -> None:
    trainer = PlainSgd(make_task(linear), PlainSettings(8, 1.0), "north")
    assert trainer.mode == "none"
    assert "not differentially private" in trainer.noise_source


def test_metric_sees_the_records_of_all_silos_at_once(make_task) -> None:
    task = make_task(lambda: nn.Linear(2, 1))
    seen = []
    pooled = type(task)(task.name, task.build, task.load, task.loss, lambda out, want: seen.append(out.shape) or 0.25)
    state = model_state(task.build_model())
    value = pooled_metric(pooled, state, [rows(*([[1.0, 2.0]] * 1500)), rows([0.0, 1.0])])
    assert value == 0.25
    assert seen == [(1501, 1)]


def test_metric_without_test_records_is_refused(make_task) -> None:
    task = make_task(linear)
    with pytest.raises(ConfigError, match="no silo has test records"):
        pooled_metric(task, model_state(task.build_model()), [])


def test_metric_that_is_no_number_is_refused(make_task) -> None:
    task = make_task(linear)
    wrong = type(task)(task.name, task.build, task.load, task.loss, lambda out, want: out.mean())
    with pytest.raises(ConfigError) as caught:
        pooled_metric(wrong, model_state(task.build_model()), [rows([0.0, 1.0])])
    assert caught.value.key == "model.metric"
    assert np.isfinite(pooled_metric(task, model_state(task.build_model()), [rows([0.0, 1.0])]))

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from protocols.errors import EncodingError
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.training import DpSgdSettings, LocalDpSgd, add_update, model_state

# What secfl.training.dp_step filters; pytest resets filters for every test.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

METHODS = pytest.mark.parametrize("method", ["hooks", "ghost"])
NO_NOISE = 1e-30  # a noise multiplier that single precision cannot see: the mechanism runs, sums are exact


def none(count: int) -> bytes:
    """Words that leave every record out."""
    return b"\xff" * count


def linear(width: int = 2) -> nn.Module:
    model = nn.Linear(width, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def dp(rate: float, nominal: int, z: float, clip: float = 1.0, **options: object) -> DpSgdSettings:
    return DpSgdSettings(rate, nominal, z, clip, options.pop("learning_rate", 1.0), **options)


def rows(*values: list[float]) -> TensorDataset:
    return TensorDataset(torch.tensor(values), torch.zeros(len(values)))


def train(task, settings, records, steps=1, entropy=os.urandom):
    return LocalDpSgd(task, settings).train(model_state(task.build_model()), records, steps, entropy)


@METHODS
def test_each_record_is_clipped_by_itself(make_task, method: str) -> None:
    # The loss of a record is w x, its gradient x: (3, 4) has norm 5 and is cut to (.6, .8); (.3, .4) stays.
    update = train(make_task(linear), dp(1.0, 4, NO_NOISE, grad_sample=method), rows([3.0, 4.0], [0.3, 0.4]))
    assert update.update["weight"] == pytest.approx(-np.array([[0.9, 1.2]]) / 4, rel=1e-5)


@METHODS
def test_noise_of_every_step_has_the_stated_standard_deviation(make_task, make_entropy, method: str) -> None:
    width, z, clip, rate, nominal, rate_of_learning = 50_000, 1.7, 0.3, 0.25, 80, 0.5
    records = TensorDataset(torch.zeros(20, width), torch.zeros(20))  # w x with x = 0: every gradient is zero
    settings = dp(rate, nominal, z, clip, grad_sample=method, learning_rate=rate_of_learning)
    task = make_task(lambda: linear(width))
    # The same bytes each time: run k repeats run k - 1 and adds one step, so the difference is that step's noise.
    runs = [train(task, settings, records, steps, make_entropy(5)).update["weight"][0] for steps in (1, 2, 3)]
    noises = np.diff(np.array([np.zeros(width), *runs]), axis=0)
    expected = rate_of_learning * z * clip / (rate * nominal)
    for noise in noises:
        assert noise.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * width))  # five standard errors
        assert abs(noise.mean()) < 5 * expected / np.sqrt(width)
    correlation = np.corrcoef(noises)
    assert np.abs(correlation - np.eye(3)).max() < 5 / np.sqrt(width)


class Counting(Dataset):
    """Records (1, 0), as many as told, noting which are read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        self.read.append(index)
        return torch.tensor([1.0, 0.0]), torch.tensor(0.0)


@pytest.mark.parametrize("size", [30, 3000])
def test_true_number_of_records_changes_neither_rate_nor_divisor(make_task, make_entropy, size: int) -> None:
    records = Counting(size)
    settings = dp(0.3, 100, NO_NOISE)
    trainer = LocalDpSgd(make_task(linear), settings)
    state = model_state(linear())
    trainer.train(state, records, 1, os.urandom)  # the check before training reads one record's shape
    records.read.clear()
    update = trainer.train(state, records, 40, make_entropy(2)).update["weight"]
    sampled = len(records.read)
    assert sampled == pytest.approx(0.3 * size * 40, abs=5 * np.sqrt(0.21 * size * 40))
    assert update == pytest.approx(np.array([[-sampled / 30.0, 0.0]]), rel=1e-4)


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(6, 1))


@METHODS
def test_empty_samples_take_noise_only_steps(make_task, make_entropy, monkeypatch, method: str) -> None:
    records = TensorDataset(torch.randint(6, (5, 2)), torch.zeros(5))
    settings = dp(0.5, 8, 2.0, grad_sample=method)
    with monkeypatch.context() as patched:
        patched.setattr(DiscreteGaussian, "sample", lambda _self, count, _entropy: np.zeros(count, np.int64))
        silent = train(make_task(embedding), settings, records, 3, none)
    assert silent.empty_samples == silent.steps == 3
    assert not any(values.any() for values in silent.update.values())

    words = make_entropy(3)
    sampled_none = [True]

    def noise_only(count: int) -> bytes:
        return none(count) if sampled_none[0] and count == 8 * 5 else words(count)

    noisy = train(make_task(embedding), settings, records, 3, noise_only)
    assert noisy.empty_samples == 3
    assert all(values.all() for values in noisy.update.values())


@METHODS
def test_silo_without_records_takes_part_with_noise(make_task, make_entropy, method: str) -> None:
    nobody = TensorDataset(torch.zeros(0, 2), torch.zeros(0))
    width_one = train(make_task(linear), dp(1.0, 50, 3.0, grad_sample=method), nobody, 400, make_entropy(4))
    assert width_one.empty_samples == 400
    # Two coordinates, each a sum of 400 draws of standard deviation 3/50.
    assert 0.1 < np.abs(width_one.update["weight"]).max() < 5 * 3 / 50 * 20


def test_silo_with_one_class_trains(make_task) -> None:
    task = make_task(
        lambda: nn.Linear(2, 1),
        lambda out, wanted: nn.functional.binary_cross_entropy_with_logits(out[:, 0], wanted, reduction="none"),
    )
    records = TensorDataset(torch.rand(6, 2), torch.ones(6))
    assert train(task, dp(1.0, 6, NO_NOISE), records, 2).update["bias"][0] > 0


@pytest.mark.parametrize(
    ("method", "bad"),
    # 3e38 is finite and its norm in float32 is not: ghost clipping leaves the record out.
    [(method, bad) for method in ("hooks", "ghost") for bad in (float("inf"), float("nan"))] + [("ghost", 3e38)],
)
def test_gradient_that_is_not_finite_counts_as_zero(make_task, method: str, bad: float) -> None:
    settings = dp(1.0, 2, NO_NOISE, grad_sample=method)
    good = train(make_task(linear), settings, rows([0.3, 0.4], [0.6, 0.0]))
    mixed = train(make_task(linear), settings, rows([0.3, 0.4], [bad, bad], [0.6, 0.0]))
    assert good.non_finite_records == 0
    assert mixed.update["weight"] == pytest.approx(good.update["weight"], rel=1e-6)
    assert mixed.non_finite_records == 1


def test_gradient_whose_norm_float32_cannot_hold_is_clipped(make_task) -> None:
    update = train(make_task(linear), dp(1.0, 1, NO_NOISE), rows([3e38, 3e38]))
    assert update.non_finite_records == 0
    assert update.update["weight"] == pytest.approx(np.full((1, 2), -math.sqrt(0.5)), rel=1e-6)


@METHODS
def test_all_gradients_not_finite_still_take_part(make_task, method: str) -> None:
    only_bad = train(make_task(linear), dp(1.0, 2, 1.0, grad_sample=method), rows([float("nan"), 1.0]), 2)
    assert only_bad.non_finite_records == 2
    assert np.isfinite(only_bad.update["weight"]).all()
    assert only_bad.update["weight"].all()


def test_update_that_is_not_finite_becomes_zero(make_task, make_entropy) -> None:
    settings = dp(1.0, 1, 1e6, learning_rate=1e38)
    update = train(make_task(linear), settings, rows([1.0, 1.0]), 1, make_entropy(6))
    assert update.update["weight"].tolist() == [[0.0, 0.0]]


def convolution() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1))


@pytest.mark.parametrize(
    "options", [{"grad_sample": "ghost"}, {"max_physical_batch": 3}, {"grad_sample": "ghost", "max_physical_batch": 1}]
)
def test_ghost_clipping_and_physical_batches_change_nothing(make_task, make_entropy, options) -> None:
    records = TensorDataset(torch.rand(11, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(11))
    task = make_task(convolution)
    first = train(task, dp(0.7, 11, 0.5, 0.4, momentum=0.5), records, 3, make_entropy(9)).update
    other = train(task, dp(0.7, 11, 0.5, 0.4, momentum=0.5, **options), records, 3, make_entropy(9)).update
    assert first.keys() == other.keys()
    for name, values in first.items():
        assert other[name] == pytest.approx(values, rel=1e-3, abs=1e-5)


def test_seeds_reach_neither_noise_nor_sampling(make_task, make_entropy) -> None:
    records = rows([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])
    task, settings = make_task(linear), dp(0.5, 3, 1.0)

    def seeded(seed: int, entropy) -> list[list[float]]:
        torch.manual_seed(seed)
        np.random.seed(seed)
        return train(task, settings, records, 5, entropy).update["weight"].tolist()

    assert seeded(1, os.urandom) != seeded(1, os.urandom)
    assert seeded(1, make_entropy(8)) == seeded(2, make_entropy(8))


def test_training_leaves_the_global_state_alone_and_update_adds_to_it(make_task, make_entropy) -> None:
    task = make_task(convolution)
    state = model_state(task.build_model())
    kept = {name: values.copy() for name, values in state.items()}
    records = TensorDataset(torch.rand(4, 1, 6, 6), torch.zeros(4))
    trainer = LocalDpSgd(task, dp(0.5, 4, 1.0))
    first = trainer.train(state, records, 2, make_entropy(1)).update
    again = trainer.train(state, records, 2, make_entropy(1)).update
    for name, values in kept.items():
        assert np.array_equal(state[name], values)
        assert np.array_equal(first[name], again[name])
        assert first[name].dtype == np.float32
        assert np.array_equal(add_update(state, first)[name], values + first[name])


def test_only_trainable_parameters_are_in_the_update(make_task) -> None:
    def partly_frozen() -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        model[0].requires_grad_(False)
        return model

    assert train(make_task(partly_frozen), dp(1.0, 2, 1.0), rows([1.0, 0.0])).update.keys() == {"1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("change", "tensor", "problem"),
    [
        (lambda state: state.pop("weight"), "weight", "missing"),
        (lambda state: state.update(other=np.zeros(2, np.float32)), "other", "not a tensor of this model"),
        (lambda state: state.update(weight=np.zeros((1, 3), np.float32)), "weight", "shape"),
        (lambda state: state.update(weight=np.zeros((1, 2))), "weight", "float64"),
        (lambda state: state.update(weight=np.full((1, 2), np.nan, np.float32)), "weight", "not finite"),
    ],
)
def test_global_state_that_does_not_fit_is_refused_by_tensor(make_task, change, tensor: str, problem: str) -> None:
    state = model_state(linear())
    change(state)
    with pytest.raises(EncodingError, match=problem) as caught:
        LocalDpSgd(make_task(linear), dp(1.0, 2, 1.0)).train(state, rows([1.0, 0.0]), 1)
    assert caught.value.tensor == tensor


def test_update_of_another_shape_is_refused_by_tensor() -> None:
    with pytest.raises(EncodingError) as caught:
        add_update(model_state(linear()), {"weight": np.zeros((2, 2), np.float32)})
    assert caught.value.tensor == "weight"


def test_counts_that_depend_on_records_are_not_in_the_repr(make_task) -> None:
    update = train(make_task(linear), dp(1.0, 2, 1.0), rows([float("nan"), 1.0]))
    assert "non_finite" not in repr(update)
    assert "empty" not in repr(update)


def test_steps_below_one_are_refused(make_task) -> None:
    with pytest.raises(ValueError, match="steps"):
        train(make_task(linear), dp(1.0, 2, 1.0), rows([1.0, 0.0]), 0)

"""What Opacus does with our noise and our samples, seen in every step of a real training."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from torch import nn
from torch.utils.data import Dataset

from secfl.training import DpSgdSettings, LocalDpSgd, model_state
from secfl.training import local_dp_sgd as training
from secfl.training.dp_step import DpStep
from secfl.training.noise import GridNoise

# What secfl.training.dp_step filters; pytest resets filters for every test.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

METHODS = pytest.mark.parametrize(
    ("method", "optimizer"), [("hooks", DPOptimizer), ("ghost", DPOptimizerFastGradientClipping)]
)
STEPS, RECORDS = 12, 40


class Noting(Dataset):
    """Records that note which of them are read."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.rand(RECORDS, 5, generator=generator)
        self.read: list[int] = []

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int):
        self.read.append(index)
        return self.inputs[index], torch.tensor(0.0)


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))


@METHODS
def test_noise_in_every_gradient_is_ours_and_nothing_else(make_task, monkeypatch, method: str, optimizer) -> None:
    drawn: list[tuple[torch.Tensor, torch.Tensor]] = []  # sum before noise, sum after it
    gradients: list[list[torch.Tensor]] = []
    add, step = GridNoise.add, torch.optim.SGD.step

    def noted_add(self: GridNoise, values: torch.Tensor, entropy, dtype) -> torch.Tensor:
        noisy = add(self, values, entropy, dtype)
        drawn.append((values.clone(), noisy.clone()))
        return noisy

    def noted_step(self, closure=None):
        gradients.append([parameter.grad.clone() for group in self.param_groups for parameter in group["params"]])
        return step(self, closure)

    def refuse(*_arguments, **_options):
        raise AssertionError("a generator of torch's, or Opacus' own noise, was used")

    monkeypatch.setattr(GridNoise, "add", noted_add)
    monkeypatch.setattr(torch.optim.SGD, "step", noted_step)
    settings = DpSgdSettings(0.3, RECORDS, 1.3, 0.5, 0.1, grad_sample=method, padded_batch=30)
    trainer, records = LocalDpSgd(make_task(network), settings), Noting()
    state = model_state(network())
    trainer.train(state, records, 1)  # the check before training draws synthetic records
    drawn.clear()
    gradients.clear()
    for name in ("normal", "randn", "randn_like", "rand", "rand_like", "randperm", "bernoulli", "multinomial"):
        monkeypatch.setattr(torch, name, refuse)
    for name in ("normal_", "uniform_", "bernoulli_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    monkeypatch.setattr(optimizer, "add_noise", refuse)
    before, numpy_before, python_before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    trainer.train(state, records, STEPS)

    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert random.getstate() == python_before
    assert len(gradients) == STEPS
    parameters = len(gradients[0])
    assert len(drawn) == STEPS * parameters
    noises = []
    for number, grads in enumerate(gradients):
        for at, gradient in enumerate(grads):
            summed, noisy = drawn[number * parameters + at]
            assert torch.equal(gradient, noisy / (0.3 * RECORDS))  # what SGD steps by: our sum, the public divisor
            noises.append((noisy.double() - summed.double()).flatten())
    noise = torch.cat(noises)
    # 12 steps of 50 coordinates; five standard errors of a standard deviation.
    assert noise.std().item() == pytest.approx(1.3 * 0.5, rel=5 / np.sqrt(2 * len(noise)))
    assert len(torch.unique(noise)) > len(noise) - 10  # single precision may make two equal


@METHODS
def test_every_batch_is_the_sample_that_our_sampler_drew(make_task, monkeypatch, method: str, optimizer) -> None:
    samples: list[list[int]] = []
    drawing = training.poisson_sample

    def noted_sample(records, rate, entropy):
        assert (records, rate) == (RECORDS, 0.3)
        sample = drawing(records, rate, entropy)
        samples.append(sample.tolist())
        return sample

    counted: list[int] = []
    adding = training.DpStep.add

    def noted_add(self, inputs, targets, rows, count):
        counted.append(count)
        return adding(self, inputs, targets, rows, count)

    settings = DpSgdSettings(0.3, RECORDS, 1.0, 0.5, 0.1, grad_sample=method, padded_batch=30)
    trainer, records = LocalDpSgd(make_task(network), settings), Noting()
    state = model_state(network())
    trainer.train(state, records, 1)
    records.read.clear()
    monkeypatch.setattr(training, "poisson_sample", noted_sample)
    monkeypatch.setattr(training.DpStep, "add", noted_add)
    trainer.train(state, records, STEPS)
    assert len(samples) == STEPS
    assert len(set(map(tuple, samples))) == STEPS
    read = [records.read[start : start + 30] for start in range(0, 30 * STEPS, 30)]
    assert len(records.read) == 30 * STEPS
    for sample, rows, count in zip(samples, read, counted, strict=True):
        assert count == len(sample)
        assert rows[:count] == sample


def test_a_record_more_moves_the_sum_by_no_more_than_the_clip_whatever_float32_would_round(make_task) -> None:
    """Large sums of small and large gradients, where float32 loses a record altogether; exact to the last grid step."""
    torch.manual_seed(3)
    inputs, targets = torch.randn(300, 5) * 1e3, torch.randn(300)

    def linear() -> nn.Module:
        return nn.Linear(5, 1)

    def total(records: list[int], parts: int) -> np.ndarray:
        step = DpStep(linear(), make_task(linear), DpSgdSettings(1.0, 300, 1.0, 0.37, 0.1), lambda _: b"")
        step.begin()
        for part in np.array_split(np.array(records), parts):
            step.add(inputs[part], targets[part], len(part))
        return step._sum.total

    point = DpStep(linear(), make_task(linear), DpSgdSettings(1.0, 300, 1.0, 0.37, 0.1), lambda _: b"")._point
    everyone, others = total(list(range(300)), 7), total(list(range(1, 300)), 3)
    moved = [int(x) for x in everyone - others]
    assert 0.99 * point.square_bound < sum(x * x for x in moved) <= point.square_bound
    np.testing.assert_array_equal(total([0], 1), everyone - others)

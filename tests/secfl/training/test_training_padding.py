from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from secfl.training import DpSgdSettings, LocalDpSgd, model_state
from secfl.training.dp_step import DpStep
from secfl.training.padding import (
    DELTA_SHARE,
    larger_sample_probability,
    padded_batch,
    padded_parts,
    plan_padding,
)

# What secfl.training.dp_step filters; pytest resets filters for every test.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

METHODS = pytest.mark.parametrize("method", ["hooks", "ghost"])
NO_NOISE = 1e-30


def tail(size: int, rate: Fraction, batch: int) -> Fraction:
    """P[Bin(size, rate) > batch], exactly."""
    hit, miss, terms = rate.numerator, rate.denominator - rate.numerator, range(batch + 1, size + 1)
    return Fraction(sum(math.comb(size, k) * hit**k * miss ** (size - k) for k in terms), rate.denominator**size)


@given(st.integers(1, 60), st.integers(1, 64), st.integers(1, 40))
def test_batch_is_the_smallest_whose_exact_tail_is_within_the_probability(size: int, sixty_fourths: int, bits: int):
    rate, allowed = Fraction(sixty_fourths, 64), Fraction(1, 2**bits)
    batch = padded_batch(size, float(rate), float(allowed))
    assert tail(size, rate, batch) <= allowed
    assert batch == 1 or tail(size, rate, batch - 1) > allowed * (1 - Fraction(1, 10**8))


@given(st.integers(1, 80), st.floats(0.001, 1.0), st.integers(0, 80))
def test_probability_of_a_larger_sample_is_never_below_the_exact_one(size: int, rate: float, batch: int) -> None:
    exact = tail(size, Fraction(rate), batch)
    assert (
        exact <= Fraction(larger_sample_probability(size, rate, batch)) <= exact * (1 + Fraction(1, 10**8)) + 10**-300
    )


def test_larger_samples_add_at_most_their_share_to_delta_over_a_plan() -> None:
    padding = plan_padding(1000, 0.1, 3.0, 1e-5, steps=200)
    added = (1 + math.exp(3)) * 200 * padding.failure
    assert 0 < added <= DELTA_SHARE * 1e-5
    assert padding.failure == pytest.approx(float(tail(1000, Fraction(1, 10), padding.batch)), rel=1e-8)
    assert (1 + math.exp(3)) * 200 * tail(1000, Fraction(1, 10), padding.batch - 1) > DELTA_SHARE * 1e-5
    assert 100 < padding.batch < 200  # the mean, and ten standard deviations above it


def test_whole_data_set_needs_no_fillers_and_no_delta() -> None:
    padding = plan_padding(70, 1.0, 3.0, 1e-5, steps=200)
    assert (padding.batch, padding.failure) == (70, 0.0)


@given(st.data())
def test_parts_have_one_size_and_hold_the_sample_first(data: st.DataObject) -> None:
    records = data.draw(st.integers(1, 50))
    sample = np.array(sorted(data.draw(st.sets(st.integers(0, records - 1)))), dtype=np.int64)
    batch = data.draw(st.integers(1, 60))
    physical = data.draw(st.none() | st.integers(1, 60))
    entropy = data.draw(st.randoms()).randbytes
    parts = list(padded_parts(sample, records, batch, physical, entropy))
    sizes = {len(rows) for rows, _ in parts}
    assert len(sizes) == 1
    size = sizes.pop()
    assert size <= (physical or size)
    rows = size * math.ceil(batch / physical) if physical else size
    assert batch <= rows
    assert len(parts) * size == rows * max(1, math.ceil(len(sample) / rows))
    counted = np.concatenate([rows[:counts] for rows, counts in parts])
    assert np.array_equal(counted, sample)
    assert all(((rows >= 0) & (rows < records)).all() for rows, _ in parts)


def linear(width: int = 3) -> nn.Module:
    model = nn.Linear(width, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def convolution() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1))


def embedding() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(6, 1))


def clipped_sums(task, model: nn.Module, method: str, inputs, counted: int) -> list[torch.Tensor]:
    settings = DpSgdSettings(0.5, 8, 1.0, 2.0**20, 1.0, grad_sample=method)
    step = DpStep(model, task, settings, lambda count: bytes(count))
    step.begin()
    step.add(inputs, torch.zeros(len(inputs)), len(inputs), counted)
    return step.clipped_sum()


@METHODS
def test_fillers_leave_the_sum_as_it_is_bit_for_bit(make_task, method: str) -> None:
    # Whole numbers below the clip: no addition rounds, so any trace of a filler would show.
    records = torch.randint(-9, 10, (20, 3), generator=torch.Generator().manual_seed(1)).float()
    task = make_task(linear)
    for counted in (0, 1, 7, 20):
        padded = clipped_sums(task, linear(), method, records, counted)
        assert torch.equal(padded[0], records[:counted].sum(0, keepdim=True))


@METHODS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_filler_that_is_not_finite_adds_nothing_and_is_not_counted(make_task, method: str, bad: float) -> None:
    records = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [bad, bad, bad], [bad, 0.0, 0.0]])
    settings = DpSgdSettings(0.5, 8, 1.0, 2.0**20, 1.0, grad_sample=method)
    step = DpStep(linear(), make_task(linear), settings, lambda count: bytes(count))
    step.begin()
    assert step.add(records, torch.zeros(4), 4, 2) == 0
    assert step.clipped_sum()[0].tolist() == [[5.0, 7.0, 9.0]]


@METHODS
@pytest.mark.parametrize("build", [convolution, embedding], ids=["convolution", "embedding"])
@pytest.mark.parametrize("physical", [None, 4])
def test_padded_training_is_unpadded_training(make_task, monkeypatch, build, method: str, physical) -> None:
    if build is convolution:
        records = TensorDataset(torch.rand(11, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(11))
    else:
        records = TensorDataset(torch.randint(6, (11, 2), generator=torch.Generator().manual_seed(1)), torch.zeros(11))
    samples = [np.arange(0, 11, 2), np.arange(0), np.array([3]), np.arange(11)]
    updates = []
    for padded in (None, 8):
        remaining = iter(samples)
        monkeypatch.setattr("secfl.training.local_dp_sgd.poisson_sample", lambda *_arguments: next(remaining))  # noqa: B023
        settings = DpSgdSettings(
            0.5, 11, NO_NOISE, 0.4, 1.0, grad_sample=method, max_physical_batch=physical, padded_batch=padded
        )
        task = make_task(build)
        updates.append(LocalDpSgd(task, settings).train(model_state(task.build_model()), records, 4))
    unpadded, padded_ = updates
    assert padded_.empty_samples == unpadded.empty_samples == 1
    for name, values in unpadded.update.items():
        assert np.abs(values).max() > 0
        np.testing.assert_allclose(padded_.update[name], values, rtol=1e-5, atol=1e-7)


class Counting(nn.Module):
    """Notes how many rows each forward pass has."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.inner = linear()
        self.rows = rows

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(inputs))
        return self.inner(inputs)

    def __deepcopy__(self, memo) -> Counting:
        return Counting(self.rows)


@METHODS
def test_rows_of_a_step_do_not_tell_the_size_of_its_sample(make_task, method: str) -> None:
    seen: list[int] = []
    settings = DpSgdSettings(0.3, 12, 1.0, 1.0, 1.0, grad_sample=method, max_physical_batch=5, padded_batch=10)
    trainer = LocalDpSgd(make_task(lambda: Counting(seen)), settings)
    state = model_state(Counting([]))
    trainer.train(state, TensorDataset(torch.rand(12, 3), torch.zeros(12)), 1)  # the check before training
    for records in (1, 5, 12):
        seen.clear()
        trainer.train(state, TensorDataset(torch.rand(records, 3), torch.zeros(records)), 40)
        assert seen == [5, 5] * 40
    assert 0.7**12 * 120 > 1  # the samples were of many sizes, some of them empty


def test_sample_larger_than_the_batch_is_not_cut(make_task) -> None:
    records = TensorDataset(torch.ones(9, 3), torch.zeros(9))
    settings = DpSgdSettings(1.0, 4, NO_NOISE, 10.0, 1.0, padded_batch=4)
    task = make_task(linear)
    update = LocalDpSgd(task, settings).train(model_state(linear()), records, 1).update["weight"]
    assert update.tolist() == [[-9 / 4] * 3]


def test_silo_without_records_has_nothing_to_fill_with_and_sends_noise(make_task) -> None:
    nobody = TensorDataset(torch.zeros(0, 3), torch.zeros(0))
    settings = DpSgdSettings(0.5, 20, 1.0, 1.0, 1.0, padded_batch=15)
    update = LocalDpSgd(make_task(linear), settings).train(model_state(linear()), nobody, 2)
    assert update.empty_samples == 2
    assert update.update["weight"].all()

"""Mode B at one silo: the sum of clipped gradients is Opacus' own, exact in whole numbers, and there is always one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from scipy.stats import binom
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from protocols.errors import ConfigError
from secfl.privacy.fixed_point import RecordSum, square_norm
from secfl.privacy.mechanism import DistributedMechanism
from secfl.training import ClientLevel, DistributedDpSgd, GradientSumSettings, PlainSettings, PlainSgd, model_state
from secfl.training.distributed_dp_sgd import ghost_slack
from secfl.training.sampling import poisson_sample
from secfl.training.settings import largest_sample
from secfl.training.state import load_state

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

METHODS = pytest.mark.parametrize("method", ["hooks", "ghost"])
CLASSES = 3


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, CLASSES))


def images() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, CLASSES))


def records(count: int, *shape: int, scale: float = 1.0) -> TensorDataset:
    generator = torch.Generator().manual_seed(11)
    inputs = scale * torch.randn(count, *shape, generator=generator)
    return TensorDataset(inputs, torch.randint(CLASSES, (count,), generator=generator))


def each(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def mechanism(settings: GradientSumSettings, dimension: int) -> DistributedMechanism:
    return DistributedMechanism.choose(
        clip_norm=settings.clip_norm,
        noise_multiplier=1.0,
        dimension=dimension,
        minimum_contributors=3,
        maximum_contributors=4,
        maximum_records=settings.largest_sample,
        layout_digest=hashlib.sha256(b"layout").digest(),
    )


def summed(task: Any, settings: GradientSumSettings, data: TensorDataset, entropy: Any, state: Any = None) -> RecordSum:
    model = task.build_model()
    trainer = DistributedDpSgd(task, settings)
    into = mechanism(settings, sum(p.numel() for p in model.parameters())).record_sum(trainer.margin)
    trainer.add_gradients(state or model_state(model), data, into, entropy)
    return into


def in_units(total: RecordSum) -> np.ndarray:
    return np.ldexp(total.total, -total.point.bits)


def opacus_sum(model: nn.Module, state: Any, batch: tuple[torch.Tensor, ...], clip: float, method: str) -> np.ndarray:
    """What Opacus' own optimizer sums, before noise."""
    load_state(model, state)
    inputs, targets = batch
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    options = {"noise_multiplier": 0.0, "max_grad_norm": clip, "expected_batch_size": 1}
    if method == "hooks":
        wrapped = GradSampleModule(model, loss_reduction="sum")
        optimizer = DPOptimizer(sgd, **options)
        each(wrapped(inputs), targets).sum().backward()
        optimizer.clip_and_accumulate()
    else:
        wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=clip)
        optimizer = DPOptimizerFastGradientClipping(sgd, **options)
        losses = each(wrapped(inputs), targets)
        losses.sum().backward(retain_graph=True)
        optimizer.zero_grad()
        coefficients = wrapped.get_clipping_coef()
        wrapped.disable_hooks()
        (coefficients * losses).sum().backward()
        optimizer.accumulate()
    return np.concatenate([p.summed_grad.detach().numpy().ravel() for p in model.parameters()])


@METHODS
@pytest.mark.parametrize("build", [network, images])
def test_the_sum_of_every_step_is_that_of_opacus(make_task, make_entropy, method: str, build: Callable) -> None:
    task, data = make_task(build, each), records(40, *((6,) if build is network else (1, 3, 3)))
    settings = GradientSumSettings(0.4, 40, clip_norm=1.5, grad_sample=method, max_physical_batch=7)
    state, clipped = model_state(build()), 0
    for step in range(4):
        total = summed(task, settings, data, make_entropy(step), state)
        sample = poisson_sample(40, 0.4, make_entropy(step))
        assert total.records == len(sample) > 5
        expected = opacus_sum(build(), state, data[sample], 1.5, method)
        unclipped = opacus_sum(build(), state, data[sample], 1e6, method)
        clipped += not np.allclose(expected, unclipped, rtol=0.05)
        slack = ghost_slack(settings, [p.shape for p in build().parameters()]) if method == "ghost" else settings.margin
        np.testing.assert_allclose(in_units(total), expected, atol=2e-5 + 1.5 * slack * len(sample))
        assert slack < 3e-4
        names = [name for name, _ in build().named_parameters()]  # a step, so that the next sum is another one
        start = 0
        for name in names:
            size = state[name].size
            state[name] = state[name] - 0.05 * expected[start : start + size].reshape(state[name].shape)
            start += size
    assert clipped


def test_one_record_more_moves_the_whole_numbers_by_the_clip_at_most(make_task) -> None:
    task, settings = make_task(network, each), GradientSumSettings(1.0, 30, clip_norm=0.7)
    data, bound = records(30, 6, scale=50.0), 0
    whole = summed(task, settings, data, b"".join)
    for left_out in range(30):
        kept = [index for index in range(30) if index != left_out]
        other = summed(task, settings, TensorDataset(*data[kept]), b"".join)
        distance = square_norm(whole.total - other.total)
        assert distance <= whole.point.square_bound
        bound = max(bound, distance)
    # The last bits of the others move, too: without a margin the bound was exceeded by half a millionth here.
    assert bound > 0.999 * whole.point.square_bound  # gradients are far above the clip: none is cut to less than it


@METHODS
def test_an_empty_sample_makes_no_forward_pass_and_the_sum_is_zero(make_task, method: str) -> None:
    class NeverRun(nn.Linear):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            raise AssertionError("a forward pass")

    settings = GradientSumSettings(0.5, 20, clip_norm=1.0, grad_sample=method)
    data = TensorDataset(torch.zeros(0, 4), torch.zeros(0))
    total = summed(make_task(lambda: NeverRun(4, 1)), settings, data, make_no_record)
    assert total.records == 0
    assert not total.total.any()


def make_no_record(count: int) -> bytes:
    return b"\xff" * count


@METHODS
def test_records_with_gradients_that_are_not_finite_count_as_zero(make_task, method: str) -> None:
    task = make_task(lambda: nn.Linear(2, 1, bias=False))
    settings = GradientSumSettings(1.0, 4, clip_norm=1.0, grad_sample=method)
    data = TensorDataset(
        torch.tensor([[3.0, 4.0], [float("nan"), 0.0], [float("inf"), 1.0], [0.3, 0.4]]), torch.zeros(4)
    )
    total = summed(task, settings, data, b"".join)
    # (3, 4) is cut to (.6, .8), (.3, .4) stays.
    assert in_units(total) == pytest.approx([0.9, 1.2], rel=1e-3 if method == "ghost" else 1e-5)


@METHODS
def test_fillers_of_a_padded_batch_do_not_count(make_task, make_entropy, method: str) -> None:
    task, data = make_task(network, each), records(40, 6)
    plain = GradientSumSettings(0.3, 40, clip_norm=1.0, grad_sample=method, max_physical_batch=8)
    padded = GradientSumSettings(0.3, 40, 1.0, grad_sample=method, max_physical_batch=8, padded_batch=30)
    one, other = (summed(task, settings, data, make_entropy(3)) for settings in (plain, padded))
    assert one.records == other.records
    np.testing.assert_allclose(in_units(one), in_units(other), atol=1e-5)


def test_ghost_sums_of_too_many_records_at_once_are_refused_and_parts_of_them_are_not(make_task) -> None:
    task = make_task(network, each)
    with pytest.raises(ConfigError, match=r"rounding could add 42% of the clip norm") as refused:
        DistributedDpSgd(task, GradientSumSettings(0.5, 1500, 1.0, grad_sample="ghost"))
    assert refused.value.key == "training.max_physical_batch"
    DistributedDpSgd(task, GradientSumSettings(0.5, 1500, 1.0, grad_sample="ghost", max_physical_batch=64))


@pytest.mark.parametrize(("size", "rate"), [(40, 0.5), (72, 0.25), (10_000, 0.001), (100_000, 0.02), (7, 1.0)])
def test_the_largest_sample_is_exceeded_with_probability_below_2_to_minus_64(size: int, rate: float) -> None:
    largest = largest_sample(size, rate)
    assert binom.sf(largest, 2 * size, rate) <= 2.0**-64
    assert largest <= 2 * size
    assert largest <= 2 * 2 * size * rate + 100


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_client_with_broken_records_has_an_update_of_zeros(make_task, make_entropy, value: float) -> None:
    task = make_task(lambda: nn.Linear(2, 1))
    data = TensorDataset(torch.full((5, 2), value), torch.zeros(5))
    state = model_state(task.build_model())
    update = ClientLevel(task, PlainSettings(2, 0.1), "client").train(state, data, 3, make_entropy(1))
    assert all(not values.any() for values in update.update.values())
    assert update.non_finite_records == 5


def test_a_client_without_records_has_an_update_of_zeros_and_one_with_records_trains_plainly(
    make_task, make_entropy
) -> None:
    task, settings = make_task(network, each), PlainSettings(4, 0.1, momentum=0.5)
    state = model_state(task.build_model())
    client = ClientLevel(task, settings, "client")
    empty = client.train(state, records(0, 6), 3, make_entropy(1)).update
    assert all(not values.any() for values in empty.values())
    trained = client.train(state, records(9, 6), 3, make_entropy(1)).update
    plain = PlainSgd(task, settings, "client").train(state, records(9, 6), 3, make_entropy(1)).update
    assert all(np.array_equal(trained[name], plain[name]) for name in plain)
    assert all(values.any() for values in trained.values())

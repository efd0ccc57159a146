from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from protocols.errors import ConfigError
from secfl.training import DpSgdSettings, LocalDpSgd, model_state

IMAGES = TensorDataset(torch.rand(4, 3, 6, 6), torch.zeros(4))
ROWS = TensorDataset(torch.rand(4, 5), torch.zeros(4))
# What secfl.training.dp_step filters; pytest resets filters for every test.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

METHODS = pytest.mark.parametrize("method", ["hooks", "ghost"])


def settings(method: str = "hooks") -> DpSgdSettings:
    return DpSgdSettings(0.5, 4, 1.0, 1.0, 0.1, grad_sample=method)


class MyNorm(nn.BatchNorm2d):
    """A subclass under another name."""


class FrozenBatchNorm2d(nn.Module):
    """As torchvision has it: not a subclass of torch's."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def frozen() -> nn.Module:
    norm = nn.BatchNorm2d(4).requires_grad_(False)
    return norm.eval()


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        lambda: nn.SyncBatchNorm(4),
        lambda: nn.LazyBatchNorm2d(),
        frozen,
        lambda: MyNorm(4),
        FrozenBatchNorm2d,
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    ],
)
def test_batch_statistics_in_any_guise_are_refused_with_the_replacement(make_task, norm) -> None:
    task = make_task(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm())))
    with pytest.raises(ConfigError, match=r"1\.0 is a .*GroupNorm"):
        LocalDpSgd(task, settings())


def test_module_that_opacus_cannot_train_is_refused_with_its_words(make_task) -> None:
    with pytest.raises(ConfigError, match="DPMultiheadAttention"):
        LocalDpSgd(make_task(lambda: nn.MultiheadAttention(4, 2)), settings())


@pytest.mark.parametrize("build", [nn.ReLU, lambda: nn.Linear(5, 1).requires_grad_(False)])
def test_model_without_trainable_parameters_is_refused(make_task, build) -> None:
    with pytest.raises(ConfigError, match="no trainable parameters"):
        LocalDpSgd(make_task(build), settings())


def test_lazy_module_is_refused(make_task) -> None:
    with pytest.raises(ConfigError, match="lazy"):
        LocalDpSgd(make_task(lambda: nn.LazyLinear(2)), settings())


def test_half_precision_parameter_is_refused_by_name(make_task) -> None:
    with pytest.raises(ConfigError, match=r"'weight' is torch\.bfloat16"):
        LocalDpSgd(make_task(lambda: nn.Linear(5, 1).to(torch.bfloat16)), settings())


def train(task, records, method: str = "hooks"):
    trainer = LocalDpSgd(task, settings(method))
    return trainer.train(model_state(task.build_model()), records, 1)


class RunningMean(nn.Module):
    """Remembers its inputs in a buffer; ``persistent`` says whether the state shows it."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(5), persistent=persistent)

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += inputs.detach().mean(0)
        return inputs


@pytest.mark.parametrize("persistent", [True, False])
def test_buffer_that_a_forward_pass_changes_is_refused_by_name(make_task, persistent: bool) -> None:
    with pytest.raises(ConfigError, match=r"buffer '0\.seen'"):
        train(make_task(lambda: nn.Sequential(RunningMean(persistent), nn.Linear(5, 1))), ROWS)


class LateMemory(nn.Module):
    """Changes its buffer only on records that the synthetic ones, all below 1, do not resemble."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if float(inputs.max()) > 1:
            self.largest = inputs.detach().max()
        return inputs


def test_buffer_that_only_real_records_change_is_refused_after_training(make_task) -> None:
    records = TensorDataset(torch.full((4, 5), 9.0), torch.zeros(4))
    task = make_task(lambda: nn.Sequential(LateMemory(), nn.Linear(5, 1)))
    trainer = LocalDpSgd(task, DpSgdSettings(1.0, 4, 1.0, 1.0, 0.1))
    with pytest.raises(ConfigError, match=r"buffer '0\.largest'"):
        trainer.train(model_state(task.build_model()), records, 1)


class Scaled(nn.Module):
    """A constant buffer: allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((5,), 2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class NormByFunction(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return functional.batch_norm(super().forward(inputs), None, None, training=True)


class CentredByHand(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return (outputs - 0.5 * outputs.mean(0)).tanh()


@METHODS
@pytest.mark.parametrize(
    ("layer", "words"), [(NormByFunction, "more than 1 value"), (CentredByHand, "couples records")]
)
def test_statistics_of_the_batch_without_a_module_are_found(make_task, layer, words: str, method: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(make_task(lambda: nn.Sequential(nn.Linear(5, 4), layer(4, 3))), ROWS, method)


@METHODS
def test_loss_that_couples_records_is_refused(make_task, method: str) -> None:
    def contrast(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - 0.5 * outputs[:, 0].mean()) ** 2

    with pytest.raises(ConfigError, match="couples records"):
        train(make_task(lambda: nn.Linear(5, 1), contrast), ROWS, method)


class BehindTheHooks(nn.Module):
    """Uses a weight once through its module and once past it: ghost clipping would clip by half of the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs) + functional.linear(inputs, self.linear.weight)


class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.linear.weight, self.linear.bias)


@METHODS
@pytest.mark.parametrize("build", [BehindTheHooks, NeverCalled])
def test_parameter_used_behind_the_hooks_is_refused(make_task, build, method: str) -> None:
    with pytest.raises(ConfigError, match=r"per-example gradients are wrong|cannot be trained"):
        train(make_task(build), ROWS, method)


def test_parameter_shared_between_modules_is_refused_for_ghost_clipping_only(make_task) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
        model[2].weight = model[0].weight
        return model

    assert train(make_task(tied), ROWS, "hooks").update.keys() == {"0.weight", "0.bias", "2.bias"}
    with pytest.raises(ConfigError, match="Parameter tying"):
        train(make_task(tied), ROWS, "ghost")


@METHODS
@pytest.mark.parametrize(
    ("build", "records"),
    [
        (lambda: nn.Sequential(Scaled(), nn.Linear(5, 8), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 2)), ROWS),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()), IMAGES),
        (
            lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 1)),
            TensorDataset(torch.randint(9, (4, 3)), torch.zeros(4)),
        ),
    ],
    ids=["constant-buffer-dropout-layernorm", "conv-groupnorm", "embedding"],
)
def test_supported_models_train(make_task, build, records, method: str) -> None:
    update = train(make_task(build), records, method).update
    assert all(values.any() for values in update.values())

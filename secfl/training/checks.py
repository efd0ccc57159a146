"""Refusals before any training: models whose DP-SGD would not be what the accountant counts."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import Dataset

from protocols.errors import ConfigError
from secfl.training.batches import batch_of, each_tensor, rows
from secfl.training.dp_step import DpStep
from secfl.training.settings import DpSgdSettings
from secfl.training.task import Task

__all__ = ["buffers", "check_behaviour", "check_buffers_unchanged", "check_model"]

_KEY = "model.build_model"
_BY_NAME = re.compile(r"BatchNorm(\dd)?$")  # for instance torchvision's FrozenBatchNorm2d, which derives from Module
_USE_GROUP_NORM = "torch.nn.GroupNorm (or LayerNorm)"
_RECORDS = 3  # synthetic ones
_TOLERANCE = 1e-3  # of the clip norm, on single-precision gradients: a wrong gradient is off by far more


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name or "the model itself", module) for name, module in model.named_modules())


def check_model(model: nn.Module) -> None:
    """Refuse what can be seen without running the model.

    :raises ConfigError: naming the module: batch normalisation in any guise (a subclass, synchronised, frozen, or by
        name), instance normalisation with running statistics, whatever Opacus' validator reports, uninitialised or no
        trainable parameters.
    """
    for name, module in _modules(model):
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) or any(_BY_NAME.search(base.__name__) for base in type(module).__mro__):
            raise ConfigError(_KEY, f"{name} is a {kind}: it mixes the records of a batch", _USE_GROUP_NORM)
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            raise ConfigError(
                _KEY, f"{name} is a {kind} with running statistics", f"track_running_stats=False, or {_USE_GROUP_NORM}"
            )
    parameters = list(model.parameters())
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in parameters):
        raise ConfigError(_KEY, "lazy modules have no shape yet", "modules with their sizes given")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise ConfigError(_KEY, f"parameter {name!r} is {parameter.dtype}", "float32 or float64")
    if not any(parameter.requires_grad for parameter in parameters):
        raise ConfigError(_KEY, "no trainable parameters", "a model with parameters that require a gradient")
    faults = ModuleValidator.validate(model.train(), strict=False)
    if faults:
        raise ConfigError(_KEY, "Opacus cannot train it: " + "; ".join(str(fault) for fault in faults))


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers, those kept out of the state among them."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def check_buffers_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Refuse a model whose forward pass or training changed a buffer: it would carry records past the noise.

    :raises ConfigError: naming the buffer.
    """
    after = dict(model.named_buffers())
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or not _same(before[name], after[name]):
            raise ConfigError(
                _KEY,
                f"training changes buffer {name!r}, which is neither sent nor noised",
                "buffers that stay constant",
            )


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(torch.equal(left, right))


def _synthetic(batch: Any, generator: torch.Generator) -> Any:
    """Stand-ins of a batch's shapes and types: uniform on [0, 1) for floating point, else zero. No content is used."""

    def stand_in(tensor: Tensor) -> Tensor:
        shape = (_RECORDS, *tensor.shape[1:])
        if tensor.is_floating_point():
            return torch.rand(shape, generator=generator, dtype=tensor.dtype)
        return torch.zeros(shape, dtype=tensor.dtype)

    return each_tensor(batch, stand_in)


def _generic_copy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy without dropout and away from special points (a layer that starts at zero hides what is behind it)."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def _single_gradients(model: nn.Module, task: Task, inputs: Any, targets: Any) -> list[list[Tensor]]:
    """Each record's gradient by ordinary differentiation, the record alone in its batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = []
    for record in range(_RECORDS):
        alone = torch.tensor([record])
        loss = task.record_losses(model(rows(inputs, alone)), rows(targets, alone), 1).sum()
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)])
    return gradients


def check_behaviour(model: nn.Module, task: Task, settings: DpSgdSettings, records: Dataset[Any]) -> None:
    """Run a copy of the model on synthetic records and compare the sum of clipped gradients with one record at a time.

    This finds losses or layers that couple records of a batch, parameters used behind Opacus' hooks, layers whose
    per-example gradient is wrong, and buffers that a forward pass changes. Of ``records`` only the first one's shapes
    and types are used.

    :raises ConfigError: naming what was found.
    """
    generator = torch.Generator().manual_seed(0)  # synthetic records and weights: nothing private depends on it
    inputs, targets = _synthetic(batch_of(records, [0]), generator)
    model = _generic_copy(model, generator)
    before = buffers(model)
    try:
        singles = _single_gradients(model, task, inputs, targets)
        check_buffers_unchanged(model, before)
        clip, expected = _clipped_sum(singles)
        step = DpStep(
            model, task, DpSgdSettings(1.0, _RECORDS, 1.0, clip, 1.0, grad_sample=settings.grad_sample), os.urandom
        )
        step.begin()
        step.add(inputs, targets, _RECORDS)
    except (NotImplementedError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError(_KEY, f"cannot be trained with grad_sample = {settings.grad_sample!r}: {error}") from error
    check_buffers_unchanged(model, before)
    gap = max(float((a - b).abs().max()) for a, b in zip(step.clipped_sum(), expected, strict=True))
    if not gap <= _TOLERANCE * clip:
        raise ConfigError(
            _KEY,
            f"per-example gradients are wrong by {gap / clip:.1e} of the clip norm",
            "no loss or layer that couples records, no randomness outside nn.Dropout, parameters used by their modules",
        )


def _clipped_sum(singles: list[list[Tensor]]) -> tuple[float, list[Tensor]]:
    """A clip norm that cuts some of the gradients and not others, and the sum of the gradients clipped to it."""
    norms = [float(torch.cat([part.flatten() for part in single]).norm()) for single in singles]
    clip = sorted(norms)[len(norms) // 2]
    if not 0 < clip < float("inf"):
        raise ConfigError(_KEY, "gradients on synthetic records in [0, 1) are zero or not finite")
    scales = [min(1.0, clip / norm) if norm else 1.0 for norm in norms]
    return clip, [
        torch.stack([s * part for s, part in zip(scales, parts, strict=True)]).sum(0)
        for parts in zip(*singles, strict=True)
    ]

"""One step of DP-SGD through Opacus: clip each record's gradient, sum, add noise, divide by a public constant.

Opacus' ``GradSampleModule`` and ``DPOptimizer`` are used without its ``PrivacyEngine``: that one derives the sampling
rate from the data set's length, opens an accountant of its own, and draws noise from torch's generator.

Where gradients of single records are at hand (hooks), they are clipped and summed as whole numbers of the noise's grid
(`secfl.privacy.fixed_point`): exactly, whatever float32 would have rounded. Ghost clipping sums inside matrix products.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from torch import Tensor, nn

from secfl.privacy.fixed_point import EXACT, FixedPoint, RecordSum
from secfl.training.batches import rows
from secfl.training.noise import GridNoise
from secfl.training.proximal import Proximal
from secfl.training.record_gradients import RecordGradients
from secfl.training.settings import DpSgdSettings
from secfl.training.task import Task

__all__ = ["DpStep"]

_CLIP_BITS = 34

# True of every first layer, whose inputs are records and need no gradient; Opacus asks for what the hook does get.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)


class _OsNoise:
    """Replaces the noise of an Opacus optimizer; mixed in before its class."""

    entropy: Callable[[int], bytes]
    noise: GridNoise
    accumulated_iterations = 1  # the divisor is the public expected batch, however many physical batches were summed

    def add_noise(self: Any) -> None:
        for parameter in self.params:
            parameter.grad = self.noise.add(parameter.summed_grad, self.entropy, parameter.dtype)


class _Optimizer(_OsNoise, DPOptimizer):  # type: ignore[misc]  # Opacus is untyped
    """Per-example gradients materialised by hooks."""


class _GhostOptimizer(_OsNoise, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Per-example norms alone, then a second backward pass."""


class DpStep:
    """Steps of DP-SGD on ``model`` (in training mode), which is wrapped with hooks and must not be used otherwise.

    A step is ``begin()``, ``add(...)`` for each physical batch (none if the sample is empty: then the step is noise
    alone and no forward pass is made), ``finish()``.

    :raises NotImplementedError: from Opacus, for a module that it cannot handle (the checks ask first).
    """

    def __init__(self, model: nn.Module, task: Task, settings: DpSgdSettings, entropy: Callable[[int], bytes]) -> None:
        self._task = task
        self._ghost = settings.grad_sample == "ghost"
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(self._parameters, lr=settings.learning_rate, momentum=settings.momentum)
        if self._ghost:
            self._module: Any = GradSampleModuleFastGradientClipping(
                model, loss_reduction="sum", max_grad_norm=settings.clip_norm
            )
        else:
            self._gradients = RecordGradients(model, task)
        self._optimizer: Any = (_GhostOptimizer if self._ghost else _Optimizer)(
            sgd,
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clip_norm,
            expected_batch_size=settings.expected_batch,
        )
        self._optimizer.entropy = entropy
        dimension = sum(parameter.numel() for parameter in self._parameters)
        self._optimizer.noise = GridNoise(settings.noise_multiplier, settings.clip_norm, dimension)
        # Grid points of the noise, or every so many of them: fine enough for the clip, and sums of 2^19 records exact.
        finest = math.ldexp(1.0, math.frexp(settings.clip_norm)[1] - _CLIP_BITS)
        self._unit = max(self._optimizer.noise.step, finest)
        self._point = FixedPoint(settings.clip_norm, -round(math.log2(self._unit)), dimension)
        self._proximal = Proximal(self._parameters, settings.proximal)

    def begin(self) -> None:
        """Forget the last step's gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        for parameter in self._parameters:
            parameter.summed_grad = torch.zeros_like(parameter)  # type: ignore[attr-defined]
        self._sum = RecordSum(self._point, int(EXACT / self._point.clip_norm * self._unit))

    def add(self, inputs: Any, targets: Any, records: int, counted: int | None = None) -> int:
        """Add the clipped gradients of a physical batch of ``records`` >= 1 rows to the step's sum.

        :param counted: the first so many rows count, the others are fillers of weight zero; None: all count.
        :returns: records left out because their gradient was not finite (they contribute zero: whether a silo takes
            part must not depend on its records).
        """
        counted = records if counted is None else counted
        if self._ghost:
            return self._add_ghost(inputs, targets, records, counted)
        before = self._sum.left_out
        self._sum.add(self._gradients.of(inputs, targets, records, counted), counted)
        return self._sum.left_out - before

    def _add_ghost(self, inputs: Any, targets: Any, records: int, counted: int) -> int:
        losses = self._task.record_losses(self._module(inputs), targets, records)[:counted]
        torch.autograd.backward(losses.sum(), retain_graph=True)
        norms = self._module.get_norm_sample()
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            # Zero times a gradient that is not finite is not zero: the others go through both passes again, alone.
            del losses
            kept = finite.nonzero().flatten()
            left_out = int((~finite[:counted]).sum())
            if left_out < counted:
                left_out += self._add_ghost(rows(inputs, kept), rows(targets, kept), len(kept), counted - left_out)
            return left_out
        coefficients = self._module.get_clipping_coef()[:counted]
        for parameter in self._parameters:
            parameter.grad = None
        self._module.disable_hooks()
        torch.autograd.backward((coefficients.detach() * losses).sum())
        self._module.enable_hooks()
        self._optimizer.accumulate()
        return 0

    def clipped_sum(self) -> list[Tensor]:
        """The step's sum so far, before noise, one tensor a trainable parameter. Private: for checks only."""
        if self._ghost:
            return [parameter.summed_grad for parameter in self._parameters]  # type: ignore[attr-defined]
        return [part.to(parameter.dtype) for part, parameter in zip(self._exact(), self._parameters, strict=True)]

    def _exact(self) -> list[Tensor]:
        """The sum of whole numbers in units of gradients: a product with a power of two, float64."""
        ends = np.cumsum([parameter.numel() for parameter in self._parameters])
        parts = np.split(self._sum.total * self._unit, ends[:-1])
        return [
            torch.from_numpy(part).view(parameter.shape)
            for part, parameter in zip(parts, self._parameters, strict=True)
        ]

    def finish(self) -> None:
        """Add noise of standard deviation z C to the sum, divide by the expected batch and take the SGD step."""
        if not self._ghost:
            for part, parameter in zip(self._exact(), self._parameters, strict=True):
                parameter.summed_grad = part  # type: ignore[attr-defined]
        self._optimizer.add_noise()
        self._optimizer.scale_grad()
        self._proximal.add()
        self._optimizer.original_optimizer.step()

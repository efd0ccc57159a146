"""Gradients of single records through Opacus' hooks, not clipped: whoever sums them clips them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from secfl.training.task import Task

__all__ = ["RecordGradients", "per_record"]


def per_record(parameter: nn.Parameter) -> Tensor:
    """What the hooks of Opacus left at a parameter, records first.

    :raises NotImplementedError: not one gradient a record.
    """
    gradient = getattr(parameter, "grad_sample", None)
    if not isinstance(gradient, Tensor):
        # A list: the parameter took part in more than one module; None: in none.
        raise NotImplementedError("a trainable parameter takes part in no module's forward, or was accumulated twice")
    return gradient


class RecordGradients:
    """Per-example gradients of ``model`` (in training mode), which gets hooks and must not be used otherwise.

    :raises NotImplementedError: from Opacus, for a module that it cannot handle (the checks ask first).
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._task = task
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._module: Any = GradSampleModule(model, loss_reduction="sum")

    def of(self, inputs: Any, targets: Any, rows: int, counted: int) -> list[npt.NDArray[np.float32]]:
        """Gradients of a physical batch, as they are: they may be too long or not finite.

        :param rows: of the batch, >= 1.
        :param counted: the first so many are records, the others fillers, whose gradients mean nothing.
        :returns: per trainable parameter, in the model's order, float32 of shape (rows, ...).
        """
        self._module.set_grad_sample_to_none()
        losses = self._task.record_losses(self._module(inputs), targets, rows)[:counted]
        torch.autograd.backward(losses.sum())
        return [per_record(parameter).detach().float().numpy() for parameter in self._parameters]

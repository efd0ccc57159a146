"""Tasks and entropy for the tests of training."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from secfl.training import Task


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """A task around a model; the loss of a record is the sum of its outputs, so that gradients are known."""

    def make(build: Callable[[], nn.Module], loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Task:
        return Task(
            name="test",
            build=build,
            load=lambda silo, seed: (TensorDataset(torch.zeros(1)), None),
            loss=loss or (lambda outputs, targets: outputs.flatten(1).sum(1)),
            metric=lambda outputs, targets: 0.0,
        )

    return make


@pytest.fixture
def make_entropy() -> Callable[[int], Callable[[int], bytes]]:
    """Repeatable bytes from a seed."""
    return lambda seed: random.Random(seed).randbytes

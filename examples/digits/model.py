"""Handwritten digits at twenty organisations: the four functions that secfl asks of a model file.

The records come with scikit-learn: no file is read and nothing is downloaded. A pixel is a count from 0 to 16, by how
the images were made; that constant scales it, so that preparing the features costs no privacy.
"""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

SILOS = 20
TEST_SHARE = 0.2
LARGEST_PIXEL = 16.0


@cache
def _split(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """All images in a random order, the last fifth for testing."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(seed))
    inputs = torch.from_numpy(digits.data).float()[order] / LARGEST_PIXEL
    targets = torch.from_numpy(digits.target).long()[order]
    train = len(order) - round(TEST_SHARE * len(order))
    return TensorDataset(inputs[:train], targets[:train]), TensorDataset(inputs[train:], targets[train:])


def load_data(silo: str, split_seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Every twentieth image, from the silo's number on: ``silo-01`` to ``silo-20``."""
    first = int(silo.removeprefix("silo-")) - 1
    train, test = (TensorDataset(*(t[first::SILOS] for t in part.tensors)) for part in _split(split_seed))
    return train, test


def build_model() -> nn.Module:
    """Multinomial logistic regression, started at zero."""
    model = nn.Linear(64, 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss per record."""
    return cross_entropy(outputs, targets, reduction="none")


def metric(outputs: Tensor, targets: Tensor) -> float:
    """Accuracy."""
    return float((outputs.argmax(1) == targets).double().mean())

"""Clothes on five hundred telephones: the four functions that secfl asks of a model file.

A client holds 120 images, as a person might hold their own photographs, and is protected as a whole. A pixel is a byte:
that constant scales it, so that preparing the features costs no privacy.
"""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
CLIENTS = 500
LARGEST_PIXEL = 255.0


def _array(name: str, header: int) -> Tensor:
    """An IDX file (LeCun et al. 1998): big-endian header, then bytes."""
    with gzip.open(FOLDER / name) as file:
        return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())


@cache
def _records(part: str, seed: int) -> tuple[Tensor, Tensor]:
    """All images of a part in a random order, as 14 by 14 means of 2 by 2 pixels."""
    images = _array(f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / LARGEST_PIXEL
    labels = _array(f"{part}-labels-idx1-ubyte.gz", 8).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(images[order], 2).flatten(1), labels[order]


def load_data(silo: str, split_seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Every five-hundredth image, from the client's number on: ``client-001`` to ``client-500``."""
    first = int(silo.removeprefix("client-")) - 1
    train, test = (
        TensorDataset(*(tensor[first::CLIENTS] for tensor in _records(part, split_seed))) for part in ("train", "t10k")
    )
    return train, test


def build_model() -> nn.Module:
    """Multinomial logistic regression, started at zero."""
    model = nn.Linear(14 * 14, 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss per record."""
    return cross_entropy(outputs, targets, reduction="none")


def metric(outputs: Tensor, targets: Tensor) -> float:
    """Accuracy."""
    return float((outputs.argmax(1) == targets).double().mean())

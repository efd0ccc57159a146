"""The model and the records, as in Flower's PyTorch quickstart: nothing here knows of secure aggregation."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg",
    "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num",
)  # fmt: skip
# Centre and half-width of each feature: textbook ranges, not fitted to these files.
RANGES = {
    "age": (55.0, 25.0),
    "sex": (0.5, 0.5),
    "cp": (2.5, 1.5),
    "trestbps": (130.0, 50.0),
    "thalach": (140.0, 60.0),
    "exang": (0.5, 0.5),
    "oldpeak": (1.0, 2.0),
}
TEST_SHARE = 4
"""Every fourth record is for testing."""


class Net(nn.Module):
    """Logistic regression."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(len(RANGES), 1)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """One logit a record."""
        return self.fc(x).squeeze(1)


def records_of(node: Mapping[str, Any]) -> str:
    """Path of a node's records: as its own configuration says, or in a simulation by its number."""
    if "data" in node:
        return str(node["data"])
    return str(Path(os.environ["HOSPITALS_DATA"]) / f"processed.{HOSPITALS[int(node['partition-id'])]}.data")


def load_data(path: str) -> tuple[TensorDataset, TensorDataset]:
    """Train and test records of one hospital; a missing value becomes 0, the centre of its range."""
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file, fieldnames=COLUMNS))
    inputs = torch.tensor([[_scaled(row[name], *RANGES[name]) for name in RANGES] for row in rows])
    targets = torch.tensor([float(row["num"].strip() != "0") for row in rows])
    testing = torch.arange(len(rows)) % TEST_SHARE == 0
    return (
        TensorDataset(inputs[~testing], targets[~testing]),
        TensorDataset(inputs[testing], targets[testing]),
    )


def _scaled(text: str, centre: float, half_width: float) -> float:
    return 0.0 if text.strip() == "?" else max(-1.0, min(1.0, (float(text) - centre) / half_width))


def train(net: nn.Module, data: TensorDataset, steps: int, learning_rate: float) -> float:
    """Full-batch gradient descent; the last loss."""
    inputs, targets = data.tensors
    optimiser = torch.optim.SGD(net.parameters(), lr=learning_rate)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(net(inputs), targets)
        loss.backward()
        optimiser.step()
    return loss.item()


def test(net: nn.Module, data: TensorDataset) -> float:
    """Share of records that are classified right."""
    inputs, targets = data.tensors
    with torch.no_grad():
        return float(((net(inputs) > 0) == (targets > 0.5)).float().mean())

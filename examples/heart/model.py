"""Heart disease at four hospitals: the four functions that secfl asks of a model file.

Nothing here is computed from patients' records: the ranges that scale a feature, the categories and the treatment of
missing values are public constants, so that preparing the features costs no privacy.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset

FOLDER = Path(__file__).parent / "data"
TEST_SHARE = 0.25

COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg",
    "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num",
)  # fmt: skip

# Centre and half-width, in the unit of the file: round figures of textbook ranges for adults seen for chest pain, not
# fitted to these files. A value outside is cut to [-1, 1].
RANGES = {
    "age": (55.0, 25.0),  # years: 30 to 80
    "trestbps": (130.0, 50.0),  # mm Hg at rest: 80 (hypotension) to 180 (grade 3 hypertension)
    "chol": (240.0, 160.0),  # mg/dl: 80 to 400; 200 is the border of "desirable", 240 of "high"
    "thalach": (140.0, 60.0),  # beats/min under exercise: 80 to 200, since 220 - age bounds the maximum
    "oldpeak": (1.0, 2.0),  # mm of ST depression: 1 mm is the usual criterion of a positive stress test
    "ca": (1.0, 2.0),  # major vessels coloured by fluoroscopy: 0 to 3
}
# Codes as the files' documentation lists them; each becomes a column of its own.
CATEGORIES = {
    "cp": (1.0, 2.0, 3.0, 4.0),  # typical angina, atypical angina, other pain, no symptoms
    "restecg": (0.0, 1.0, 2.0),  # normal, ST-T abnormality, left ventricular hypertrophy
    "slope": (1.0, 2.0, 3.0),  # up, flat, down
    "thal": (3.0, 6.0, 7.0),  # normal, fixed defect, reversible defect
}
BINARY = ("sex", "fbs", "exang")
# What a missing value looks like besides "?": nobody has a cholesterol or a blood pressure of 0.
ZERO_IS_MISSING = ("chol", "trestbps")
# Columns that are often not measured: whether they are is a feature itself (a doctor decides on whom to test).
MISSING_INDICATORS = ("chol", "fbs", "slope", "ca", "thal")

FEATURES = len(RANGES) + sum(map(len, CATEGORIES.values())) + len(BINARY) + len(MISSING_INDICATORS)


def _number(row: dict[str, str], column: str) -> float | None:
    text = row[column].strip()
    if text == "?":
        return None
    value = float(text)
    return None if value == 0.0 and column in ZERO_IS_MISSING else value


def features(row: dict[str, str]) -> list[float]:
    """One patient as FEATURES numbers in [-1, 1]; a missing value contributes 0 and, where listed, its indicator."""
    vector = []
    for column, (centre, half_width) in RANGES.items():
        value = _number(row, column)
        vector.append(0.0 if value is None else min(1.0, max(-1.0, (value - centre) / half_width)))
    for column, codes in CATEGORIES.items():
        value = _number(row, column)
        vector.extend(float(value == code) for code in codes)
    for column in BINARY:
        value = _number(row, column)
        vector.append(0.0 if value is None else 2.0 * value - 1.0)
    vector.extend(float(_number(row, column) is None) for column in MISSING_INDICATORS)
    return vector


def load_data(silo: str, split_seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Train and test records of one hospital; the same seed gives the same split."""
    with (FOLDER / f"processed.{silo}.data").open(newline="") as file:
        rows = list(csv.DictReader(file, fieldnames=COLUMNS))
    inputs = torch.tensor([features(row) for row in rows])
    targets = torch.tensor([float(row["num"].strip() != "0") for row in rows])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(split_seed))
    test = round(TEST_SHARE * len(rows))
    return (
        TensorDataset(inputs[order[test:]], targets[order[test:]]),
        TensorDataset(inputs[order[:test]], targets[order[:test]]),
    )


def build_model() -> nn.Module:
    """Logistic regression, started at zero: no random start to agree on, and the loss is convex."""
    model = nn.Sequential(nn.Linear(FEATURES, 1), nn.Flatten(0))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    return model


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss per record."""
    return binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def metric(outputs: Tensor, targets: Tensor) -> float:
    """Area under the ROC curve (Mann-Whitney statistic, ties count one half)."""
    positive, negative = outputs[targets == 1].double(), outputs[targets == 0].double()
    difference = positive[:, None] - negative[None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())

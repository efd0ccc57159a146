"""Small-business loans at twelve banks: the four functions that secfl asks of a model file.

The model tells from what is known when a loan is approved whether it will be charged off. Nothing here is computed from
loans: scales are the programme's own limits and round figures, categories are official lists, so that preparing the
features costs no privacy.
"""

from __future__ import annotations

import csv
import gzip
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset

FILE = Path(__file__).parent / "data" / "sba_loans.csv.gz"
TEST_SHARE = 0.25

Values = npt.NDArray[np.float64]

# Silo and the bank's name in the file.
BANKS = {
    "bank-of-america": "BANK OF AMERICA NATL ASSOC",
    "bbcn": "BBCN BANK",
    "capital-one": "CAPITAL ONE NATL ASSOC",
    "citizens": "CITIZENS BANK NATL ASSOC",
    "huntington": "THE HUNTINGTON NATIONAL BANK",
    "jpmorgan-chase": "JPMORGAN CHASE BANK NATL ASSOC",
    "keybank": "KEYBANK NATIONAL ASSOCIATION",
    "m-and-t": "MANUFACTURERS & TRADERS TR CO",
    "pnc": "PNC BANK, NATIONAL ASSOCIATION",
    "readycap": "READYCAP LENDING, LLC",
    "us-bank": "U.S. BANK NATIONAL ASSOCIATION",
    "wells-fargo": "WELLS FARGO BANK NATL ASSOC",
}

# The 50 states and the District of Columbia, and the two-digit sectors of the North American Industry Classification
# System. Index 0 is what is missing or not listed (a territory; a loan from before sectors were coded).
STATES = (
    "AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN", "IA",
    "KS", "KY", "LA", "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM",
    "NY", "NC", "ND", "OH", "OK", "OR", "PA", "RI", "SC", "SD", "TN", "TX", "UT", "VT", "VA", "WA",
    "WV", "WI", "WY",
)  # fmt: skip
SECTORS = (
    "11", "21", "22", "23", "31", "32", "33", "42", "44", "45", "48", "49", "51", "52", "53", "54",
    "55", "56", "61", "62", "71", "72", "81", "92",
)  # fmt: skip

PROGRAMME_CAP = 5_000_000.0  # dollars: the largest 7(a) loan
SMALLEST_AMOUNT = 500.0  # dollars: four powers of ten below
LARGEST_HEADCOUNT = 500.0  # employees: the usual limit of a small business in manufacturing
# Guaranteed shares in the programme's rules: 50 % (Express), 75 %, 80 %, 85 %, more (temporary rules).
GUARANTEE_LIMITS = (0.50, 0.75, 0.80, 0.85)
# Dollars at which the bend of a piecewise linear function may lie, and years, one every second; before the first and
# after the last knot the function is constant.
AMOUNT_KNOTS = (10e3, 25e3, 50e3, 100e3, 300e3, 1e6)
YEAR_KNOTS = tuple(range(1988, 2015, 2))
YEAR_SCALE = 2.0  # times 0 to 1: the year decides how soon a recession comes, so its weights may move faster

BASIC = 19  # columns that are no basis function
YEAR_COLUMNS = slice(BASIC + len(AMOUNT_KNOTS), BASIC + len(AMOUNT_KNOTS) + len(YEAR_KNOTS))
FEATURES = YEAR_COLUMNS.stop + 4 * len(YEAR_KNOTS)
HIDDEN = 16


def hats(values: Values, knots: tuple[float, ...]) -> Values:
    """Basis of the piecewise linear functions with these knots: shape (values, knots), each row sums to 1."""
    corners = np.eye(len(knots))
    return np.stack([np.interp(values, knots, corner) for corner in corners], axis=1)


def _dollars(values: Values) -> Values:
    """Logarithm of an amount: -1 at the smallest, 1 at the cap."""
    clipped = np.clip(values, SMALLEST_AMOUNT, PROGRAMME_CAP)
    return 1.0 + 2.0 * np.log(clipped / PROGRAMME_CAP) / np.log(PROGRAMME_CAP / SMALLEST_AMOUNT)


def _headcount(values: Values) -> Values:
    """Logarithm of a number of people: 0 for none, 1 at the largest."""
    return np.log1p(np.clip(values, 0.0, LARGEST_HEADCOUNT)) / np.log1p(LARGEST_HEADCOUNT)


def _sign(holds: npt.NDArray[np.bool_]) -> Values:
    return np.where(holds, 1.0, -1.0)


def features(loans: dict[str, Values]) -> Values:
    """Numbers of magnitude up to about 2 from the columns of the file, shape (loans, FEATURES)."""
    share = loans["guaranteed_usd"] / loans["approved_usd"]
    level = np.searchsorted(GUARANTEE_LIMITS, share)
    amount, employees = _dollars(loans["approved_usd"]), 2.0 * _headcount(loans["employees"]) - 1.0
    revolving, half_guaranteed = _sign(loans["revolving"] == 1), _sign(level == 0)
    columns = [
        *(amount, employees, 2.0 * _headcount(loans["jobs_created"]), 2.0 * _headcount(loans["jobs_retained"]) - 1.0),
        *(loans[column] == 0 for column in ("employees", "jobs_created", "jobs_retained")),
        *(revolving, _sign(loans["low_doc"] == 1), loans["new_business"] == 1, loans["franchise"] == 1),
        *(loans["urban_rural"] == code for code in (0, 1, 2)),  # not recorded, urban, rural
        half_guaranteed,
        *(level == index for index in range(1, 5)),
    ]
    year = YEAR_SCALE * hats(loans["approval_year"], YEAR_KNOTS)
    by_year = [year * factor[:, None] for factor in (amount, employees, revolving, half_guaranteed)]
    return np.concatenate(
        [np.stack(columns, axis=1), hats(loans["approved_usd"], AMOUNT_KNOTS), year, *by_year], axis=1
    )


@cache
def _loans() -> tuple[npt.NDArray[np.str_], Tensor, Tensor]:
    """Bank, input and target of every loan. An input is FEATURES numbers, then the indices of state and sector."""
    with gzip.open(FILE, "rt", newline="") as file:
        header, *rows = csv.reader(file)
    text = dict(zip(header, zip(*rows, strict=True), strict=True))
    banks = np.array(text.pop("bank"))
    indices = [
        [{code: at for at, code in enumerate(codes, start=1)}.get(value, 0) for value in text.pop(column)]
        for column, codes in (("state", STATES), ("sector", SECTORS))
    ]
    numbers = {column: np.array(values, dtype=np.float64) for column, values in text.items()}
    inputs = np.concatenate([features(numbers), np.array(indices, dtype=np.float64).T], axis=1)
    return banks, torch.tensor(inputs, dtype=torch.float32), torch.tensor(numbers["charged_off"], dtype=torch.float32)


def load_data(silo: str, split_seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Train and test records of one bank; the same seed gives the same split."""
    banks, inputs, targets = _loans()
    own = torch.from_numpy(np.flatnonzero(banks == BANKS[silo]))
    own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(split_seed))]
    test, train = own.tensor_split([round(TEST_SHARE * len(own))])
    return TensorDataset(inputs[train], targets[train]), TensorDataset(inputs[test], targets[test])


class LoanModel(nn.Module):
    """One hidden layer; state and sector add a learned vector each to what enters it."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Linear(FEATURES, HIDDEN)
        self.state = nn.Embedding(1 + len(STATES), HIDDEN)
        self.sector = nn.Embedding(1 + len(SECTORS), HIDDEN)
        self.output = nn.Linear(HIDDEN, 1)
        nn.init.normal_(self.numbers.weight, std=2.0 / FEATURES**0.5)
        for layer in (self.state, self.sector, self.output):
            nn.init.zeros_(layer.weight)
        for layer in (self.numbers, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Log-odds of a charge-off, shape (batch,)."""
        numbers, state, sector = inputs[:, :-2], inputs[:, -2].long(), inputs[:, -1].long()
        hidden = torch.tanh(self.numbers(numbers) + self.state(state) + self.sector(sector))
        return self.output(hidden).squeeze(1)


def build_model() -> nn.Module:
    return LoanModel()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss per record."""
    return binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def metric(outputs: Tensor, targets: Tensor) -> float:
    """Area under the ROC curve (Mann-Whitney statistic, ties count one half)."""
    _, place, count = outputs.unique(return_inverse=True, return_counts=True)  # ascending
    rank = (count.cumsum(0) - (count - 1) / 2)[place].double()
    positive = targets == 1
    positives = int(positive.sum())
    surplus = float(rank[positive].sum()) - positives * (positives + 1) / 2
    return surplus / (positives * (len(targets) - positives))

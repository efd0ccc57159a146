"""What the four hospitals agreed on in a meeting: who, what is counted, the bounds. Every process imports this file."""

from __future__ import annotations

import numpy as np

from secfl.aggregation import Agreement, Limits, Rules

PARTIES = ("aachen", "basel", "cork", "delft")

# Form of a contribution; the numbers do not matter here, names and shapes do.
LIKE = {
    "patients": np.zeros(10, np.int64),  # by decade of age
    "infections": np.zeros(10, np.int64),
    "days_in_ward": np.zeros((10, 3), np.int64),  # by decade and ward
}

CONTEXT = b"infections by age, first quarter"
RUN_ID = "infections-2026-q1"


def agreement(protocol: str) -> Agreement:
    """One word chooses the protocol, the same at every process.

    No count of a hospital exceeds 100 million: the modulus follows, and no sum can wrap.
    """
    return Agreement.of(PARTIES, LIKE, limits=Limits(clip=100_000_000), rules=Rules(protocol))

"""Mode C, ``client-level``: a client's whole update is protected, by noise that all clients of a sum add together.

Unit of privacy: one client; neighbours differ by replacing its update by zero (that it took part is always visible).
The client trains without privacy; the mechanism (:mod:`secfl.privacy.mechanism`) clips its update as a whole and adds a
share of noise. A sum counts in full: which clients were asked is visible, so sampling them amplifies nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from secfl.training.batches import length
from secfl.training.plain import PlainSgd
from secfl.training.state import LocalUpdate, State

__all__ = ["ClientLevel"]


class ClientLevel(PlainSgd):
    """Trains at one client; see `PlainSgd`. Whatever its records are, there is an update to add noise to."""

    mode = "client-level"

    def train(
        self, state: State, records: Dataset[Any], steps: int, entropy: Callable[[int], bytes] = os.urandom
    ) -> LocalUpdate:
        """Take ``steps`` steps from the global ``state``; zero without records or if the update is not finite.

        :param entropy: source of the batches' order.
        :raises ConfigError: the model changes a buffer in training.
        :raises EncodingError: naming a tensor of ``state`` that does not fit the model or is not finite.
        """
        if steps < 1:
            raise ValueError(f"steps {steps!r} is not >= 1")
        update = self._difference(state, records, steps if length(records) else 0, entropy)
        if all(np.isfinite(values).all() for values in update.values()):
            return LocalUpdate(update, steps, empty_samples=0 if length(records) else steps)
        update = {name: np.zeros_like(values) for name, values in update.items()}
        return LocalUpdate(update, steps, non_finite_records=max(1, length(records)))

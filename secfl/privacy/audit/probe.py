"""The task of an audit: every gradient is known, and so is the sum of the clipped ones; some are longer than the clip.

A record is a vector x, the model one weight vector w, the loss of the record w x: its gradient is x, whatever w is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from secfl.training import Task

__all__ = ["RECORDS", "Probe"]

RECORDS = 6
"""Of each silo."""
_LONG = 1000.0
"""Norm of the long records, in clips: a clip that is left out shows through any noise."""
_SHORT = 0.5


class Probe:
    """Known records of each silo.

    :param silos: their names.
    :param dimension: d, coordinates of the model.
    :param clip_norm: C; half of the records have norm 1000 C, the others C / 2.
    """

    def __init__(self, silos: tuple[str, ...], dimension: int, clip_norm: float) -> None:
        self.dimension = dimension
        self._clip = clip_norm
        # Any directions do; these are the same in every audit, so that a fault can be looked at again.
        bits = MaskStream(tagged_hash("audit/probe"), 8).words(0, len(silos) * RECORDS * dimension) & 1
        signs = 2.0 * bits.reshape(len(silos), RECORDS, dimension) - 1.0
        lengths = np.where(np.arange(RECORDS) % 2, _SHORT, _LONG) * clip_norm / math.sqrt(dimension)
        self._records = dict(zip(silos, (signs * lengths[:, None]).astype(np.float32), strict=True))

    def clipped_sum(self, silo: str) -> npt.NDArray[np.float64]:
        """Sum of a silo's gradients, each clipped to C; shape (d,)."""
        records = self._records[silo].astype(np.float64)
        norms = np.linalg.norm(records, axis=1, keepdims=True)
        total: npt.NDArray[np.float64] = (records * np.minimum(1.0, self._clip / norms)).sum(0)
        return total

    def mean(self, silo: str) -> npt.NDArray[np.float64]:
        """Mean of a silo's gradients, as they are; shape (d,)."""
        total: npt.NDArray[np.float64] = self._records[silo].astype(np.float64).mean(0)
        return total

    def clipped(self, vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """A vector, clipped to C."""
        return vector * min(1.0, self._clip / float(np.linalg.norm(vector)))

    def task(self) -> Task:
        """As a model file would define it."""
        return Task("audit", self._model, self._load, lambda outputs, _targets: outputs[:, 0], lambda *_: 0.0)

    def _model(self) -> Any:
        import torch

        model = torch.nn.Linear(self.dimension, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    def _load(self, silo: str, _split_seed: int) -> Any:
        import torch
        from torch.utils.data import TensorDataset

        return TensorDataset(torch.from_numpy(self._records[silo]), torch.zeros(RECORDS)), None

"""Records of a map-style data set as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

__all__ = ["batch_of", "each_tensor", "length", "rows"]


def length(records: Dataset[Any]) -> int:
    """Number of records (:class:`Task` has checked that there is a length)."""
    return len(records)  # type: ignore[arg-type]


def batch_of(records: Dataset[Any], indices: npt.NDArray[np.int64] | Sequence[int]) -> tuple[Any, Any]:
    """Collate the records at ``indices`` (at least one) into ``(inputs, targets)``, batch first."""
    if type(records) is TensorDataset:  # whole arrays at once; a subclass may do something else
        inputs, targets = (tensor[torch.as_tensor(np.asarray(indices))] for tensor in records.tensors)
        return inputs, targets
    positions = [int(index) for index in indices]
    fetch_all = getattr(records, "__getitems__", None)  # what torch's DataLoader asks for, too
    inputs, targets = default_collate(fetch_all(positions) if fetch_all else [records[at] for at in positions])
    return inputs, targets


def each_tensor(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return ``batch`` (a tensor, or tuples, lists, dictionaries of them) with ``change`` applied to each tensor."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: each_tensor(value, change) for key, value in batch.items()}
    return type(batch)(each_tensor(value, change) for value in batch)


def rows(batch: Any, kept: Tensor) -> Any:
    """Return the records of a batch at the positions ``kept``."""
    return each_tensor(batch, lambda tensor: tensor[kept])

"""The metric on test records pooled over silos.

Those records are declared unprotected: an exact metric on protected records is a release of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from protocols.errors import ConfigError
from secfl.training.batches import batch_of, length
from secfl.training.state import State, load_state
from secfl.training.task import Task

__all__ = ["pooled_metric"]

_BATCH = 1024


def pooled_metric(task: Task, state: State, test_sets: Sequence[Dataset[Any]]) -> float:
    """Return the task's metric on all records of ``test_sets`` together, model in evaluation mode.

    :raises ConfigError: if there are no test records or the metric is not a finite number.
    """
    model = task.build_model()
    load_state(model, state)
    model.eval()
    outputs, targets = [], []
    with torch.no_grad():
        for records in test_sets:
            for start in range(0, length(records), _BATCH):
                inputs, wanted = batch_of(records, range(start, min(start + _BATCH, length(records))))
                outputs.append(model(inputs))
                targets.append(wanted)
    if not outputs:
        raise ConfigError("model.load_data", "no silo has test records", "test records at one silo at least")
    value = task.metric(torch.cat(outputs), torch.cat(targets))
    if not isinstance(value, int | float) or not math.isfinite(value):
        shown = value if isinstance(value, float) else type(value).__name__
        raise ConfigError("model.metric", f"returned {shown}", "a finite number")
    return float(value)

"""Scores of a model on a silo's records, counted in public bins: what secure evaluation sums over silos.

Two kinds of histograms. Of scores: one output a record is a logit, two are two classes; the score is the probability of
the positive class, and a record counts among the positives or the negatives. Of answers: the score is the largest
probability of any class, and a record counts among the right or the wrong answers. Each record counts once, whatever
the model makes of it: a score that is not finite counts as zero, and as a wrong answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from protocols.errors import ConfigError
from secfl.training.batches import batch_of, length
from secfl.training.state import State, load_state
from secfl.training.task import Task

__all__ = ["score_bins"]

_BATCH = 1024


def score_bins(
    task: Task, state: State, records: Dataset[Any], bins: int, *, answers: bool = False
) -> npt.NDArray[np.int64]:
    """Return the bin of each record, 0 to 2 bins - 1: negatives (or wrong answers) first, by rising score.

    :param state: the global model.
    :param bins: number of equal bins of [0, 1].
    :param answers: count answers instead of scores.
    :raises ConfigError: outputs or targets of another kind than described above.
    """
    model = task.build_model()
    load_state(model, state)
    model.eval()
    found = [np.empty(0, np.int64)]
    with torch.no_grad():
        for start in range(0, length(records), _BATCH):
            inputs, targets = batch_of(records, range(start, min(start + _BATCH, length(records))))
            scores, right = _scored(model(inputs), targets, answers=answers)
            scores = torch.nan_to_num(scores.double(), nan=0.0, posinf=0.0, neginf=0.0)
            cells = (scores * bins).long().clamp(0, bins - 1)
            found.append((cells + bins * right.long()).numpy())
    return np.concatenate(found)


def _scored(outputs: Tensor, targets: Tensor, *, answers: bool) -> tuple[Tensor, Tensor]:
    """Scores in [0, 1] and whether a record is a positive, or answered rightly."""
    records = len(outputs)
    if targets.numel() != records:
        raise _unfit(f"{records} outputs and targets of shape {tuple(targets.shape)}", "one target a record")
    targets = targets.reshape(records)
    single = outputs.numel() == records
    if not single and outputs.dim() != 2:
        raise _unfit(f"outputs of shape {tuple(outputs.shape)}", "(batch,) or (batch, classes)")
    if answers:
        if single:
            raise _unfit("one output a record has no classes", 'metric "auc" or "accuracy"')
        largest, found = outputs.softmax(1).max(1)
        return largest, torch.isfinite(largest) & (found == targets)
    if single:
        return torch.sigmoid(outputs.reshape(records)), targets > 0.5
    if outputs.shape[1] != 2:
        raise _unfit(f"{outputs.shape[1]} classes", 'metric "top-1"')
    return outputs.softmax(1)[:, 1], targets > 0.5


def _unfit(problem: str, allowed: str) -> ConfigError:
    return ConfigError("evaluation.metric", problem, allowed)

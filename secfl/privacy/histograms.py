"""Figures from a noised histogram of scores: AUC, accuracy, and how far the noise may have moved them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Figure", "accuracy", "auc", "right_share"]

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure and the standard deviation that the noise of the counts gives it, to first order.

    :param value: None where the noise drowns the counts.
    """

    value: float | None
    deviation: float | None


def auc(negatives: Counts, positives: Counts, deviation: float) -> Figure:
    """Area under the ROC curve; scores in one bin count as ties.

    :param negatives: noised counts by rising score, shape (bins,); ``positives`` likewise.
    :param deviation: standard deviation of a count's noise.
    """
    below = np.cumsum(negatives) - negatives / 2  # negatives beneath a positive of each bin
    above = positives.sum() - np.cumsum(positives) + positives / 2
    pairs, negative, positive = float(positives @ below), float(negatives.sum()), float(positives.sum())
    if min(negative, positive) <= 2 * deviation * np.sqrt(len(positives)):
        return Figure(None, None)
    value = pairs / (negative * positive)
    gradient = np.concatenate(
        [above / (negative * positive) - value / negative, below / (negative * positive) - value / positive]
    )
    return _figure(value, gradient, deviation)


def accuracy(negatives: Counts, positives: Counts, deviation: float) -> Figure:
    """Share of right answers when scores from 1/2 on are called positive; the number of bins is even."""
    half = len(positives) // 2
    right = np.concatenate([np.arange(len(negatives)) < half, np.arange(len(positives)) >= half])
    return _share(np.concatenate([negatives, positives]), right, deviation)


def right_share(wrong: Counts, right: Counts, deviation: float) -> Figure:
    """Share of right answers of several classes."""
    return _share(np.concatenate([wrong, right]), np.repeat([False, True], len(wrong)), deviation)


def _share(counts: Counts, chosen: npt.NDArray[np.bool_], deviation: float) -> Figure:
    total = float(counts.sum())
    if total <= 2 * deviation * np.sqrt(len(counts)):
        return Figure(None, None)
    value = float(counts[chosen].sum()) / total
    return _figure(value, (chosen.astype(np.float64) - value) / total, deviation)


def _figure(value: float, gradient: Counts, deviation: float) -> Figure:
    return Figure(min(1.0, max(0.0, value)), deviation * float(np.linalg.norm(gradient)))

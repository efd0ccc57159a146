from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from secfl.privacy.histograms import accuracy, auc, right_share

BINS = 20


def histograms(seed: int, records: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(records) < 0.3
    scores = np.clip(generator.normal(0.35 + 0.2 * labels, 0.2), 0, 0.999)
    cells = (scores * BINS).astype(int)
    lower = np.bincount(cells[~labels], minlength=BINS).astype(float)
    upper = np.bincount(cells[labels], minlength=BINS).astype(float)
    return lower, upper, scores, labels


def test_auc_without_noise_is_that_of_the_binned_scores() -> None:
    lower, upper, scores, labels = histograms(1)
    exact = roc_auc_score(labels, (scores * BINS).astype(int))
    assert auc(lower, upper, 0.0).value == pytest.approx(exact, abs=1e-12)
    assert auc(lower, upper, 0.0).value == pytest.approx(roc_auc_score(labels, scores), abs=0.01)


def test_accuracy_without_noise_is_that_at_one_half() -> None:
    lower, upper, scores, labels = histograms(2)
    assert accuracy(lower, upper, 0.0).value == pytest.approx(((scores >= 0.5) == labels).mean(), abs=1e-12)


def test_share_of_right_answers() -> None:
    assert right_share(np.array([1.0, 2.0]), np.array([3.0, 4.0]), 0.0).value == pytest.approx(0.7)


@pytest.mark.parametrize("figure", [auc, accuracy, right_share])
def test_stated_deviation_is_what_noise_does(figure) -> None:
    lower, upper, _, _ = histograms(3)
    generator = np.random.default_rng(4)
    exact, deviation = figure(lower, upper, 0.0).value, 6.0
    found = [
        figure(lower + generator.normal(0, deviation, BINS), upper + generator.normal(0, deviation, BINS), deviation)
        for _ in range(1500)
    ]
    values = np.array([one.value for one in found])
    stated = figure(lower, upper, deviation).deviation
    assert values.std() == pytest.approx(stated, rel=0.1)
    assert abs(values.mean() - exact) < 0.2 * stated


def test_noise_that_drowns_the_counts_gives_no_figure() -> None:
    few = np.ones(BINS)
    assert auc(few, few, 5.0).value is None
    assert auc(100 * few, 0 * few, 5.0).value is None
    assert accuracy(few, few, 5.0).deviation is None

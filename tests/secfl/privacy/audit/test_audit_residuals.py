from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from secfl.privacy.audit.residuals import Residual, _alone, _correlation, judge

D = 1024


def residual(values: np.ndarray, name: str = "here", inputs: np.ndarray | None = None) -> Residual:
    return Residual(name, values, inputs)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or D)


def failing(*residuals: Residual) -> set[str]:
    return {finding.test for finding in judge(residuals).findings}


def test_p_values_of_sound_noise_are_uniform() -> None:
    noise, inputs = normal(1, 400, D), np.ones(D)
    found: dict[str, list[float]] = {}
    for number in range(0, 400, 2):
        one, other = residual(noise[number], "one", inputs), residual(noise[number + 1], "other")
        for finding in (*_alone(one), _correlation(one, other)):
            found.setdefault(finding.test, []).append(finding.p_value)
    assert found.keys() == {"variance", "shape", "independence of coordinates", "trace of the input", "independence"}
    for test, p_values in found.items():
        # "shape" errs towards no alarm, for the spread is estimated; the others are uniform.
        alternative = "less" if test == "shape" else "two-sided"
        assert len(p_values) == 200
        assert kstest(p_values, "uniform", alternative="greater" if test == "shape" else alternative).pvalue > 1e-4


def test_an_audit_of_sound_noise_fails_no_more_often_than_stated() -> None:
    noise = normal(2, 300, 4, D)
    alarms = sum(judge([residual(v, str(i)) for i, v in enumerate(four)], 0.2).failed > 0 for four in noise)
    assert alarms <= 0.2 * 300 + 4 * np.sqrt(0.16 * 300)
    assert alarms > 0


@pytest.mark.parametrize("scale", [0.5, 0.85, 1.2, 0.0])
def test_noise_at_another_scale_fails_by_its_variance(scale: float) -> None:
    assert "variance" in failing(residual(scale * normal(3)))


def test_noise_of_another_shape_fails() -> None:
    heavy = np.random.default_rng(4).laplace(size=D) / np.sqrt(2)
    flat = np.random.default_rng(4).uniform(-np.sqrt(3), np.sqrt(3), D)
    assert "shape" in failing(residual(heavy))
    assert "shape" in failing(residual(flat))


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.3])
def test_noise_that_repeats_in_part_fails(factor: float) -> None:
    one, other = normal(5), normal(6)
    again = factor * one + np.sqrt(max(0.0, 1 - factor**2)) * other
    assert failing(residual(one, "a"), residual(again, "b")) == {"independence"}


def test_noise_that_repeats_along_the_vector_fails() -> None:
    assert "independence of coordinates" in failing(residual(np.repeat(normal(8, D // 2), 2)))


def test_trace_of_the_input_fails() -> None:
    inputs = np.random.default_rng(9).choice([-1.0, 1.0], D)
    assert failing(residual(normal(10) + 0.3 * inputs, inputs=inputs)) >= {"trace of the input"}


def test_values_that_are_not_finite_fail() -> None:
    values = normal(11)
    values[3] = np.nan
    assert failing(residual(values)) == {"finite"}


def test_lengths_that_differ_or_are_short_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        judge([residual(normal(1)), residual(normal(1)[:-1])])
    with pytest.raises(ValueError, match="at least 64"):
        judge([residual(normal(1)[:63])])

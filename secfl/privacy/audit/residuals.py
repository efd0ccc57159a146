"""Do residuals behave like the noise that was promised? Variance, shape, independence, and no trace of the input.

A residual is what came out less what was put in, in units of the standard deviation that it should have. If all is
well, its coordinates are independent and standard normal (the noise is discrete, in steps that are small against it).
Each test has a p-value; a test fails below the false-alarm rate divided by the number of tests, so that an audit of a
sound system fails with at most that rate in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from secfl.privacy.audit.record import Finding

__all__ = ["FALSE_ALARM", "Residual", "Verdict", "judge"]

FALSE_ALARM = 1e-6
"""Probability that an audit of a sound system fails."""
_CELLS = 32
_MOST_FINDINGS = 50

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Residual:
    """Noise as seen at one place; no two residuals have a draw in common.

    :param where: which place, for people.
    :param values: in standard deviations, shape (d,).
    :param inputs: what was put in and must not show, shape (d,); None where the input is nothing.
    """

    where: str
    values: Values = field(repr=False)
    inputs: Values | None = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """What the tests said.

    :param tests: how many there were.
    :param threshold: p-value below which one fails.
    :param findings: those that failed, the least probable first, at most 50.
    :param failed: how many failed.
    """

    tests: int
    threshold: float
    findings: tuple[Finding, ...]
    failed: int


def judge(residuals: Sequence[Residual], false_alarm: float = FALSE_ALARM) -> Verdict:
    """Test all residuals, each by itself and in pairs.

    :raises ValueError: no residuals, or lengths that differ or are below 64.
    """
    lengths = {residual.values.shape for residual in residuals}
    if len(lengths) != 1 or min(min(lengths)) < 2 * _CELLS:
        raise ValueError(f"residuals of shapes {sorted(lengths)}; allowed: one length, at least {2 * _CELLS}")
    found = [test for residual in residuals for test in _alone(residual)]
    found += [_correlation(*pair) for pair in combinations(residuals, 2)]
    threshold = false_alarm / len(found)
    failed = sorted((one for one in found if not one.p_value >= threshold), key=lambda one: one.p_value)
    return Verdict(len(found), threshold, tuple(failed[:_MOST_FINDINGS]), len(failed))


def _alone(residual: Residual) -> Iterator[Finding]:
    values = residual.values
    if not np.isfinite(values).all():
        yield Finding("finite", residual.where, 0.0)
        return
    yield Finding("variance", residual.where, _variance(values))
    yield Finding("shape", residual.where, _shape(values))
    yield Finding("independence of coordinates", residual.where, _correlated(values[:-1], values[1:]))
    if residual.inputs is not None:
        yield Finding("trace of the input", residual.where, _trace(values, residual.inputs))


def _variance(values: Values) -> float:
    """Chi-square on the sum of squares, both sides."""
    from scipy.stats import chi2  # extra train

    squares, degrees = float(values @ values), len(values)
    return min(1.0, 2 * min(float(chi2.sf(squares, degrees)), float(chi2.cdf(squares, degrees))))


def _shape(values: Values) -> float:
    """Chi-square on cells that are equally probable under the normal distribution of this very variance."""
    from scipy.stats import chi2, norm

    spread = float(np.sqrt(values @ values / len(values)))
    if spread == 0:
        return 0.0
    counts = np.bincount((norm.cdf(values / spread) * _CELLS).astype(int).clip(0, _CELLS - 1), minlength=_CELLS)
    expected = len(values) / _CELLS
    # The scale is estimated: fewer than 31 degrees of freedom, so that 31 errs towards no alarm.
    return float(chi2.sf(((counts - expected) ** 2).sum() / expected, _CELLS - 1))


def _correlated(one: Values, other: Values) -> float:
    """Two-sided test of no correlation of two vectors of mean zero, exact for normal ones."""
    from scipy.stats import t

    norms = math.sqrt(float(one @ one) * float(other @ other))
    if norms == 0:
        return 0.0
    correlation = float(one @ other) / norms
    if 1 - correlation**2 <= 1e-12:
        return 0.0
    degrees = len(one) - 1
    return 2 * float(t.sf(abs(correlation) * math.sqrt(degrees / (1 - correlation**2)), degrees))


def _trace(values: Values, inputs: Values) -> float:
    """How far the residual reaches along what was put in: standard normal, if nothing of it is left."""
    from scipy.stats import norm

    return 2 * float(norm.sf(abs(float(values @ inputs)) / math.sqrt(float(inputs @ inputs))))


def _correlation(one: Residual, other: Residual) -> Finding:
    return Finding("independence", f"{one.where} and {other.where}", _correlated(one.values, other.values))

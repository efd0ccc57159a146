"""Lower bounds on epsilon from guesses about canaries. A lower bound can refute a claim; it can never prove one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["clopper_pearson_mu", "gaussian_epsilon", "one_run_epsilon", "one_run_p_value"]

_LARGEST = 100.0
"""Epsilon up to which a bound is looked for."""


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound on the probability of so many correct guesses under (epsilon, delta)-differential privacy.

    Steinke, Nasr, Jagielski 2023, theorem 5.2: each of m canaries is in with probability 1/2, independently; of r
    guesses (the others abstain) v are right. Of an (epsilon, 0)-private mechanism no more are right than of r
    independent answers right with probability e^epsilon / (1 + e^epsilon); delta adds
    2 m delta max_i P[v - i <= answers < v] / i.

    :param canaries: m.
    :param guesses: r, at most m.
    :param correct: v, at most r.
    """
    from scipy.stats import binom  # extra train

    rate = 1 / (1 + math.exp(-epsilon))
    below = binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate).cumsum()  # P[v - i <= answers < v], i = 1 to v
    largest = float((below / np.arange(1, correct + 1)).max(initial=0.0))
    return min(1.0, float(binom.sf(correct - 1, guesses, rate)) + 2 * canaries * delta * largest)


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """Largest epsilon that the guesses refute at this confidence; 0 if none."""
    return _largest(lambda epsilon: one_run_p_value(canaries, guesses, correct, epsilon, delta) < 1 - confidence)


def clopper_pearson_mu(wrong_in: int, number_in: int, wrong_out: int, number_out: int, confidence: float) -> float:
    """Lower bound on mu if the mechanism is a Gaussian one (mu-GDP, Dong, Roth, Su 2022): an assumption, not a fact.

    Canaries that were out and are guessed in: `wrong_out` of `number_out`; that were in and are guessed out:
    `wrong_in` of `number_in`. Both rates are bounded from above (Clopper, Pearson 1934, half of the error each); a
    mu-GDP mechanism has Phi^-1(1 - false positives) - Phi^-1(false negatives) <= mu.

    :returns: mu >= 0.
    """
    from scipy.stats import beta, norm

    def upper(wrong: int, number: int) -> float:
        if wrong >= number:
            return 1.0
        return float(beta.ppf(1 - (1 - confidence) / 2, wrong + 1, number - wrong))

    high_positive, high_negative = upper(wrong_out, number_out), upper(wrong_in, number_in)
    if high_positive + high_negative >= 1:
        return 0.0
    return max(0.0, float(norm.isf(high_positive) - norm.ppf(high_negative)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon with which a mu-GDP mechanism is (epsilon, delta)-private (Dong, Roth, Su 2022, corollary 1)."""
    from scipy.stats import norm

    if mu == 0:
        return 0.0

    def fails(epsilon: float) -> bool:
        kept = math.exp(epsilon + float(norm.logsf(epsilon / mu + mu / 2)))
        return float(norm.sf(epsilon / mu - mu / 2)) - kept > delta

    return _largest(fails)


def _largest(holds: Callable[[float], bool]) -> float:
    """Largest epsilon (to 1e-6, rounded down) for which something holds that holds from 0 up to some point."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def split_guesses(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], guesses: int) -> tuple[int, int]:
    """Guess the highest half of ``guesses`` scores in and the lowest half out; return guesses made and right ones."""
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return 2 * half, int((~included[order[:half]]).sum() + included[order[len(order) - half :]].sum())

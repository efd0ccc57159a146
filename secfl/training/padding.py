"""Batches of one public size, so that the time of a step does not tell how many records were sampled.

Every step runs on ``batch`` rows: the sampled records and, behind them, fillers of weight zero. Fillers are records of
the same silo, drawn at random: reading and computing them takes what it takes for a sampled one, whatever a record is.
``batch`` is public: the smallest size that a sample of the nominal number of records exceeds with at most a given
probability. A larger sample is never cut, for a sum over part of a sample is not what the accountant assumes: it runs
on twice as many rows, which time can tell. That probability is charged to delta, so that the claim holds with the times
known, too. A silo with more records than it declared exceeds the batch more often: its sums stay as private, its times
are then no longer covered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secfl.training.sampling import with_replacement
from secfl.training.settings import DpSgdSettings, GradientSumSettings

__all__ = [
    "DELTA_SHARE",
    "Padding",
    "larger_sample_probability",
    "padded_batch",
    "padded_parts",
    "plan_padding",
    "sample_parts",
]

DELTA_SHARE = 2.0**-10
"""What larger samples may add to delta over a whole plan, in parts of delta."""

_SLACK = 1 + 1e-9
"""Of the library's binomial tails, which agree with exact sums to 1e-12."""

Indices = npt.NDArray[np.int64]


def larger_sample_probability(nominal_size: int, sampling_rate: float, batch: int) -> float:
    """Return P[Bin(N, q) > batch], rounded up: that a sample of N records does not fit into ``batch`` rows."""
    from scipy.stats import binom  # extra train

    return 0.0 if batch >= nominal_size else min(1.0, float(binom.sf(batch, nominal_size, sampling_rate)) * _SLACK)


def padded_batch(nominal_size: int, sampling_rate: float, probability: float) -> int:
    """Return the smallest batch that a sample exceeds with at most ``probability``; 1 to ``nominal_size``.

    :param nominal_size: N, the silo's public number of records, >= 1.
    :param sampling_rate: q, 0 < q <= 1.
    :param probability: of one step, > 0.
    """
    low, high = 0, nominal_size  # high always fits
    while high - low > 1:
        middle = (low + high) // 2
        fits = larger_sample_probability(nominal_size, sampling_rate, middle) <= probability
        low, high = (low, middle) if fits else (middle, high)
    return high


@dataclass(frozen=True)
class Padding:
    """Padding of a plan.

    :param batch: rows of every step.
    :param failure: probability, one step, that a sample of the nominal number of records is larger.
    """

    batch: int
    failure: float


def plan_padding(nominal_size: int, sampling_rate: float, epsilon: float, delta: float, *, steps: int) -> Padding:
    """Choose the batch so that larger samples add at most `DELTA_SHARE` of delta over a plan of ``steps`` steps.

    Times are of one length but for an event of probability p under either neighbour, so that with them (epsilon, delta)
    becomes (epsilon, delta + (1 + e^epsilon) p); p is at most ``steps`` times that of one step.
    """
    allowed = DELTA_SHARE * delta / (1 + math.exp(min(epsilon, 700.0)))
    batch = padded_batch(nominal_size, sampling_rate, allowed / steps)
    return Padding(batch, larger_sample_probability(nominal_size, sampling_rate, batch))


def sample_parts(
    sample: Indices, records: int, settings: DpSgdSettings | GradientSumSettings, entropy: Callable[[int], bytes]
) -> Iterator[tuple[Indices, int]]:
    """Split a sample into physical batches, padded if the settings say so; see :func:`padded_parts`."""
    physical = settings.max_physical_batch
    if settings.padded_batch is not None:
        yield from padded_parts(sample, records, settings.padded_batch, physical, entropy)
        return
    part = physical or max(1, len(sample))
    for start in range(0, len(sample), part):
        rows = sample[start : start + part]
        yield rows, len(rows)


def padded_parts(
    sample: Indices, records: int, batch: int, physical: int | None, entropy: Callable[[int], bytes]
) -> Iterator[tuple[Indices, int]]:
    """Split a sample and its fillers into physical batches of one size.

    :param sample: indices of the sampled records, each once, below ``records``.
    :param records: number of the silo's records; none: nothing is yielded, for there is nothing to fill with.
    :param batch: rows of a step; a sample larger than that takes the next multiple.
    :param physical: largest number of rows in memory; None: no bound.
    :param entropy: decides which records fill.
    :returns: pairs (indices of the rows, how many of them count), those that count first.
    """
    if not records:
        return
    parts = math.ceil(batch / physical) if physical else 1
    size = math.ceil(batch / parts)
    rows = parts * size
    total = rows * max(1, math.ceil(len(sample) / rows))
    padded = np.concatenate([sample, with_replacement(records, total - len(sample), entropy)])
    for start in range(0, total, size):
        yield padded[start : start + size], min(size, max(0, len(sample) - start))

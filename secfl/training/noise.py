"""Gaussian noise for local DP-SGD, from operating-system randomness.

This is the seam for the discrete Gaussian sampler of :mod:`secfl.privacy`: it replaces :func:`add_gaussian` and
:data:`NOISE_SOURCE`. Until then noise is a floating-point Gaussian, which no proof covers to the last bit (Mironov
2012). What is done against that: every draw comes from its own operating-system words (torch's generator on a CPU
starts from 32 bits of seed), four draws are summed (Holohan and Braghin 2021, as Opacus' secure mode does), and the
noisy value is formed in double precision and rounded once to the gradient's precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["NOISE_SOURCE", "add_gaussian"]

NOISE_SOURCE = (
    "floating-point Gaussian: inverse transform of 64-bit operating-system random words, four draws summed "
    "(Holohan and Braghin 2021); not the discrete Gaussian sampler"
)

_DRAWS = 4
_CHUNK = 1 << 12  # values of 4 words of 8 bytes: 128 KiB


def _standard_normal(count: int, entropy: Callable[[int], bytes]) -> Tensor:
    """Return ``count`` draws from N(0, 1), float64: 63 bits of a word choose the half-tail's quantile, one the sign."""
    words = np.frombuffer(entropy(8 * count), dtype="<u8")
    # (k + 1/2) / 2^64 with k < 2^63 lies in (0, 1/2]: neither end of the inverse is infinite.
    quantile = np.ldexp((words >> np.uint64(1)).astype(np.float64) + 0.5, -64)
    sign = 1.0 - 2.0 * (words & np.uint64(1)).astype(np.float64)
    half_tail: Tensor = torch.special.ndtri(torch.from_numpy(quantile))
    return half_tail * torch.from_numpy(sign)


def add_gaussian(values: Tensor, std: float, entropy: Callable[[int], bytes]) -> Tensor:
    """Return ``values`` plus independent N(0, ``std`` squared) noise, same shape and dtype; ``values`` is not changed.

    :param values: floating-point tensor on the CPU.
    :param entropy: ``os.urandom``, or a deterministic source in tests.
    """
    noisy = torch.empty_like(values, memory_format=torch.contiguous_format)
    source, target = values.reshape(-1), noisy.view(-1)
    for start in range(0, source.numel(), _CHUNK):
        part = source[start : start + _CHUNK]
        draws = _standard_normal(_DRAWS * part.numel(), entropy).view(_DRAWS, -1).sum(0)
        target[start : start + _CHUNK] = part.double() + draws * (std / math.sqrt(_DRAWS))
    return noisy

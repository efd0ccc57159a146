"""The grid on which local DP-SGD rounds a step's sum before it adds whole numbers of noise."""

from __future__ import annotations

import math

from secfl.privacy.distributed import rounded_l2_bound

__all__ = ["NOISE_SOURCE", "grid_bound", "grid_step"]

NOISE_SOURCE = (
    "discrete Gaussian on a grid of 2^-26 of its width or finer, sampled exactly from operating-system random words "
    "(Canonne, Kamath, Steinke 2020); gradients of records are bounded and summed in whole numbers, with ghost "
    "clipping in floating point"
)

_GRID_BITS = 26


def grid_step(noise_multiplier: float, clip_norm: float) -> float:
    """Distance of neighbouring grid points: a power of two, 2^-26 of the clip or of the noise, whichever is less."""
    finest = clip_norm * min(1.0, noise_multiplier)
    return math.ldexp(1.0, math.frexp(finest)[1] - 1 - _GRID_BITS)


def grid_bound(noise_multiplier: float, clip_norm: float, dimension: int) -> float:
    """Bound on a record's reach after rounding, in grid steps: the noise is z times this."""
    return rounded_l2_bound(clip_norm / grid_step(noise_multiplier, clip_norm), dimension, "unconditional")

"""Noise for local DP-SGD: discrete Gaussian on a grid, from operating-system randomness.

The step's sum is rounded to a grid of about 2^-26 of the noise or the clip, whichever is less, and noise is drawn on
the grid, exactly (:mod:`secfl.privacy.discrete_gaussian`): no floating-point Gaussian, whose last bits give records
away (Mironov 2012), and no generator of torch's, which on a CPU starts from 32 bits of seed. Rounding moves a sum by
less than a grid step a coordinate, so the noise is that for a clip of C + sqrt(d) steps; it never has less than z C.

Gradients of single records are clipped and added up as whole numbers of grid steps before they come here (`dp_step`).
Ghost clipping does both in floating point, by torch; the report says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.grid import NOISE_SOURCE, grid_bound, grid_step

__all__ = ["NOISE_SOURCE", "GridNoise"]


class GridNoise:
    """Noise of one step's sum.

    :param noise_multiplier: z, > 0.
    :param clip_norm: C, largest Euclidean norm of a record's gradient over all tensors together, > 0.
    :param dimension: number of coordinates of all tensors together, >= 1.
    """

    def __init__(self, noise_multiplier: float, clip_norm: float, dimension: int) -> None:
        self.step = grid_step(noise_multiplier, clip_norm)
        """Distance of neighbouring grid points, a power of two."""
        self._sampler = DiscreteGaussian(noise_multiplier * grid_bound(noise_multiplier, clip_norm, dimension))

    @property
    def standard_deviation(self) -> float:
        """Of the noise on a coordinate: z C and a little more."""
        return self._sampler.sigma * self.step

    def add(self, values: Tensor, entropy: Callable[[int], bytes], dtype: torch.dtype | None = None) -> Tensor:
        """Return ``values``, rounded to the grid, plus noise: same shape; ``values`` is not changed.

        :param values: floating-point tensor on the CPU, at most 2^52 grid steps in magnitude.
        :param entropy: ``os.urandom``, or a deterministic source in tests.
        :param dtype: of the result; None: that of ``values``.
        """
        steps = (values.detach().double() / self.step).round_()
        noise = self._sampler.sample(values.numel(), entropy)
        # Both are whole and below 2^53: the sum is exact, and rounding it to the tensor's precision comes after.
        return ((steps + torch.from_numpy(noise).view(values.shape)) * self.step).to(dtype or values.dtype)

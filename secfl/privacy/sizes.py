"""How large the sums of the distributed mechanism get, and the scale that follows from the bits at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from secfl.encoding.scheme import MINIMAL_BITS
from secfl.privacy.distributed import MINIMAL_SHARE_SIGMA, TAIL

__all__ = ["SCALES", "Sizes", "chosen_scale"]

SCALES = range(-127, 203)
"""Fraction bits that a scale may have."""
_DEFAULT_BITS = 32
# Rounding may cost this much noise before more than 32 bits are taken, and then no more than the second.
_TOLERATED_INFLATION = 1.01
_WIDE_INFLATION = 1.001


@dataclass(frozen=True)
class Sizes:
    """How large sums get, in steps."""

    clip_steps: float
    share_sigma: float
    inflation: float
    contributors: int
    records: int
    length: int
    block: int

    @property
    def largest_entry(self) -> int:
        """A rotation leaves norms as they are, so no coordinate exceeds the norm of a party's vector."""
        return math.ceil(self.records * self.clip_steps) + 1 + math.ceil(TAIL * self.share_sigma)

    @property
    def bits(self) -> int:
        """Smallest b for which the sum of all contributors, each at its largest, stays below 2^(b-1) in magnitude."""
        return max(MINIMAL_BITS, (self.contributors * self.largest_entry).bit_length() + 1)

    def wrap_bound(self, bits: int) -> float:
        """Bound on the probability that some coordinate of the sum is out of (-2^(b-1), 2^(b-1)).

        A coordinate is y + e + N: y of the exact sum, whose norm is at most n B C; e of the dither, less than a step a
        party; N the noise. With random signs y is sub-Gaussian with variance proxy (n B C)^2 / block (Hoeffding), and N
        with n sigma_i^2 (Canonne, Kamath, Steinke 2020, corollary 17; cutting a symmetric tail only helps). Without a
        rotation |y| <= n B C. The union bound over the coordinates follows.
        """
        if self.bits <= bits:
            return 0.0
        longest = self.contributors * self.records * self.clip_steps
        room, variance = 2.0 ** (bits - 1) - 1 - self.contributors, self.contributors * self.share_sigma**2
        if self.block:
            variance += longest**2 / self.block
        else:
            room -= longest
        return min(1.0, 2 * self.length * math.exp(-(room**2) / (2 * variance))) if room > 0 else 1.0


def chosen_scale(sizes: Callable[[int], Sizes], modulus_bits: int | None, wrap_probability: float) -> int:
    """Fraction bits, see `DistributedMechanism.choose`."""
    fixed = modulus_bits is not None
    bits, allowed = (modulus_bits, wrap_probability) if modulus_bits is not None else (_DEFAULT_BITS, 0.0)
    finest = max((f for f in SCALES if sizes(f).wrap_bound(bits) <= allowed), default=SCALES[0])
    at = sizes(finest)
    if fixed or (at.inflation <= _TOLERATED_INFLATION and at.share_sigma >= MINIMAL_SHARE_SIGMA):
        return finest
    return next(
        f for f in SCALES if sizes(f).inflation <= _WIDE_INFLATION and sizes(f).share_sigma >= MINIMAL_SHARE_SIGMA
    )

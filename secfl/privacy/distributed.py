"""Distributed noise: how much each party adds so that the sum is private, whoever drops out or helps the server.

Notation of Kairouz, Liu, Steinke 2021. A vector of L2 norm at most c is multiplied by a scale s, rounded to integers
and summed; C = c s is its norm in steps. Rounding lengthens it: neighbouring sums differ by at most Delta_2, and the
noise multiplier z refers to Delta_2, not to the clip. Each party adds discrete Gaussian noise of parameter sigma_i with
sigma_i^2 = (z Delta_2)^2 / (T_min - c): whatever set of at least T_min contributors is opened, of whom c add none or
tell theirs, what remains unknown is noise of z Delta_2 or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from protocols.errors import PrivacyError
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.events import DistributedGaussian

__all__ = [
    "MINIMAL_SHARE_SIGMA",
    "TAIL",
    "Adversary",
    "NoisePlan",
    "SumRounding",
    "rounded_l2_bound",
    "share_total_variation",
]

SumRounding = Literal["unconditional", "conditional"]
Adversary = Literal["outsider", "server", "another party", "server and colluding parties"]

MINIMAL_SHARE_SIGMA = 4.0
"""Below it the sum of shares is no longer close to one discrete Gaussian."""
TAIL = 12.0
"""Standard deviations of a share for which the modulus leaves room."""
_BETA = math.exp(-0.5)
_FLOAT_SLACK = 2.0**-40
"""Relative: far above the rounding of Delta_2 itself, which is computed in float64.

Vectors are bounded in whole numbers (`fixed_point`) and need none. It does not cover norms or sums in float32, where a
sum of B terms may be off by 2^-24 B of their lengths.
"""


def rounded_l2_bound(clip_steps: float, dimension: int, rounding: SumRounding) -> float:
    """Delta_2: bound on the L2 norm, in steps, of a vector of norm ``clip_steps`` after rounding.

    ``unconditional``: each coordinate moves by less than a step. ``conditional`` (one vector, rounded anew until it is
    short enough, with beta = exp(-1/2)): section 4.2 of the paper.
    """
    inflated = clip_steps * (1 + _FLOAT_SLACK)
    widest = inflated + math.sqrt(dimension)
    if rounding == "unconditional":
        return widest
    tail = math.sqrt(2 * math.log(1 / _BETA)) * (inflated + math.sqrt(dimension) / 2)
    return min(math.sqrt(inflated**2 + dimension / 4 + tail), widest)


def share_total_variation(sigma: float) -> float:
    """Bound on the distance of one coordinate of a share, as it is sent, from the exact distribution.

    The sampler's own, and the tail beyond `TAIL` standard deviations that is cut (Canonne, Kamath, Steinke 2020,
    corollary 17).
    """
    return DiscreteGaussian(sigma).total_variation + 2 * math.exp(-(TAIL**2) / 2)


@dataclass(frozen=True)
class NoisePlan:
    """Noise of one secure sum; every number is public and fixed before the first release.

    :param clip_norm: c, L2 bound of what one unit of privacy adds to the sum.
    :param fraction_bits: the scale is s = 2^fraction_bits.
    :param dimension: d', coordinates as rounded.
    :param noise_multiplier: z, of the sum over Delta_2.
    :param minimum_contributors: T_min; a smaller set is never opened.
    :param colluding: c_max, contributors whose noise does not count: colluders, and those that leave theirs out.
    :param rounding: ``conditional`` for one vector a party (mode C), ``unconditional`` where a party sums many.
    :raises PrivacyError: no honest contributor, or so little noise a share that no bound holds.
    """

    clip_norm: float
    fraction_bits: int
    dimension: int
    noise_multiplier: float
    minimum_contributors: int
    colluding: int
    rounding: SumRounding = "unconditional"

    def __post_init__(self) -> None:
        if not 0 <= self.colluding < self.minimum_contributors:
            raise PrivacyError(
                f"colluding: {self.colluding} of {self.minimum_contributors} contributors; allowed: 0 to "
                f"{self.minimum_contributors - 1}"
            )
        if self.share_sigma < MINIMAL_SHARE_SIGMA:
            raise PrivacyError(
                f"fraction_bits: {self.fraction_bits} leaves a share of noise of {self.share_sigma:.3g} steps; "
                f"allowed: at least {MINIMAL_SHARE_SIGMA:g} steps, so a finer scale, a larger clip or more noise"
            )

    @property
    def clip_steps(self) -> float:
        """C, the clip in steps."""
        return math.ldexp(self.clip_norm, self.fraction_bits)

    @property
    def l2_sensitivity(self) -> float:
        """Delta_2, in steps."""
        return rounded_l2_bound(self.clip_steps, self.dimension, self.rounding)

    @property
    def inflation(self) -> float:
        """How much longer than the clip a vector may be after rounding: the noise grows with it."""
        return self.l2_sensitivity / self.clip_steps

    @property
    def total_sigma(self) -> float:
        """z Delta_2, in steps: the noise that remains against the strongest adversary."""
        return self.noise_multiplier * self.l2_sensitivity

    @property
    def share_sigma(self) -> float:
        """sigma_i, in steps."""
        return self.total_sigma / math.sqrt(self.minimum_contributors - self.colluding)

    @property
    def noise_tail(self) -> float:
        """Noise of one share for which the modulus leaves room, in steps."""
        return TAIL * self.share_sigma

    def unknown_shares(self, adversary: Adversary, colluding: int | None = None) -> int:
        """m: shares of noise, at the fewest contributors, that an adversary does not know.

        :param colluding: parties that help the server; by default those that the plan assumes.
        :raises PrivacyError: nobody's noise is left.
        """
        helpers = self.colluding if colluding is None else colluding
        missing = {"outsider": 0, "server": 0, "another party": 1, "server and colluding parties": helpers}[adversary]
        if missing >= self.minimum_contributors:
            raise PrivacyError(f"colluding: {missing} of {self.minimum_contributors} contributors leave no noise")
        return self.minimum_contributors - missing

    def event(
        self, steps: int, *, sampling_rate: float = 1.0, adversary: Adversary | None = None
    ) -> DistributedGaussian:
        """What ``steps`` sums cost against an adversary.

        :param adversary: None for whoever knows most of those that the plan is made for, which is what a ledger is
            charged: the server with the assumed colluders, or another party where nobody is assumed to collude.
        """
        unknown = (
            min(map(self.unknown_shares, get_args(Adversary))) if adversary is None else self.unknown_shares(adversary)
        )
        return DistributedGaussian(
            sampling_rate=sampling_rate,
            l2_sensitivity=self.l2_sensitivity,
            dimension=self.dimension,
            share_sigma=self.share_sigma,
            shares=unknown,
            steps=steps,
            known_shares=self.minimum_contributors - unknown,
        )

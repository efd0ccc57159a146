"""Privacy events: frozen records of what was released, whose meaning never changes.

A ledger stores these records for years. A change of meaning is a new kind with a new tag; old kinds stay.
"""

from __future__ import annotations

import math

import msgspec

from protocols.errors import PrivacyError

__all__ = ["AnyPrivacyEvent", "DistributedGaussian", "PrivacyEvent", "SampledGaussian"]

MAX_STEPS = 10**9
MIN_NOISE_MULTIPLIER = 1e-3
MAX_NOISE_MULTIPLIER = 1e6
MIN_SHARE_SIGMA = 0.5
"""Condition of the bound on sums of shares (Kairouz, Liu, Steinke 2021, theorem 1)."""
MAX_LENGTH = 2.0**52
MAX_DIMENSION = 2**40
MAX_SHARES = 2**24


class PrivacyEvent(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of all kinds of events; each kind has its own tag and its own Rényi curve (``accounting.rdp_curve``)."""


class SampledGaussian(PrivacyEvent, frozen=True, tag="sampled-gaussian"):
    """Poisson-subsampled Gaussian mechanism, repeated; neighbours differ by adding or removing one record.

    Each step includes every record independently with probability ``sampling_rate`` and releases a sum of vectors of
    L2 norm at most 1 (in units of the sensitivity) plus Gaussian noise (Mironov, Talwar, Zhang 2019).

    :param sampling_rate: above 0, at most 1 (1: the plain Gaussian mechanism).
    :param noise_multiplier: standard deviation of the noise over the L2 sensitivity, 1e-3 to 1e6.
    :param steps: number of steps, 1 to 1e9.
    :raises PrivacyError: a parameter is out of its range or not a number.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        require_sampling_rate(self.sampling_rate)
        require_noise_multiplier(self.noise_multiplier)
        if type(self.steps) is not int or not 1 <= self.steps <= MAX_STEPS:
            raise PrivacyError(f"steps: {self.steps!r}; allowed: a whole number from 1 to {MAX_STEPS}")
        # An integer or a numpy scalar means the same event: one record, one cache entry, one line in the ledger.
        msgspec.structs.force_setattr(self, "sampling_rate", float(self.sampling_rate))
        msgspec.structs.force_setattr(self, "noise_multiplier", float(self.noise_multiplier))


class DistributedGaussian(PrivacyEvent, frozen=True, tag="distributed-gaussian"):
    """Sum over parties of integer vectors, with a share of discrete Gaussian noise from each, repeated.

    Only the sum is released; ``shares`` shares of noise are unknown to the adversary (Kairouz, Liu, Steinke 2021). With
    ``sampling_rate`` below 1 neighbours differ by adding or removing one record, which each step includes with that
    probability (Poisson); at 1 by replacing one client's vector by zero. Lengths are in integer steps, after scaling.

    :param sampling_rate: above 0, at most 1.
    :param l2_sensitivity: bound on the L2 distance of neighbouring sums, rounding included; above 0.
    :param dimension: coordinates of the vector as rounded.
    :param share_sigma: sigma of one share, from 0.5 on.
    :param shares: m, from 1 on.
    :param steps: number of sums released, 1 to 1e9.
    :param known_shares: shares beyond these that even the smallest sum holds and that the adversary is assumed to know:
        ``shares + known_shares`` is the fewest contributors. It changes no curve; it tells what weaker and stronger
        adversaries learn.
    :raises PrivacyError: a parameter is out of its range or not a number.
    """

    sampling_rate: float
    l2_sensitivity: float
    dimension: int
    share_sigma: float
    shares: int
    steps: int
    known_shares: int = 0

    def __post_init__(self) -> None:
        require_sampling_rate(self.sampling_rate)
        for name, least in (("l2_sensitivity", 0.0), ("share_sigma", MIN_SHARE_SIGMA)):
            value = getattr(self, name)
            if not _is_number(value) or not least <= value <= MAX_LENGTH or value == 0:
                raise PrivacyError(f"{name}: {value!r}; allowed: above {least:g}, at most {MAX_LENGTH:g}")
            msgspec.structs.force_setattr(self, name, float(value))
        for name, low, high in (
            ("dimension", 1, MAX_DIMENSION),
            ("shares", 1, MAX_SHARES),
            ("steps", 1, MAX_STEPS),
            ("known_shares", 0, MAX_SHARES),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise PrivacyError(f"{name}: {value!r}; allowed: a whole number from {low} to {high}")
        msgspec.structs.force_setattr(self, "sampling_rate", float(self.sampling_rate))

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise that the adversary does not know, over the sensitivity."""
        return math.sqrt(self.shares) * self.share_sigma / self.l2_sensitivity


AnyPrivacyEvent = SampledGaussian | DistributedGaussian
"""The kinds that a ledger may hold."""


def require_sampling_rate(value: float) -> None:
    """Refuse a sampling rate that is not above 0 and at most 1.

    :raises PrivacyError: names the parameter.
    """
    if not _is_number(value) or not 0.0 < value <= 1.0:
        raise PrivacyError(f"sampling_rate: {value!r}; allowed: above 0, at most 1")


def require_noise_multiplier(value: float) -> None:
    """Refuse a noise multiplier for which no accountant means anything.

    :raises PrivacyError: names the parameter.
    """
    if not _is_number(value) or not MIN_NOISE_MULTIPLIER <= value <= MAX_NOISE_MULTIPLIER:
        raise PrivacyError(
            f"noise_multiplier: {value!r}; allowed: from {MIN_NOISE_MULTIPLIER:g} to {MAX_NOISE_MULTIPLIER:g}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

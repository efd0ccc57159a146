"""Privacy events: frozen records of what was released, whose meaning never changes.

A ledger stores these records for years. A change of meaning is a new kind with a new tag; old kinds stay.
"""

from __future__ import annotations

import math

import msgspec

from protocols.errors import PrivacyError

__all__ = ["AnyPrivacyEvent", "PrivacyEvent", "SampledGaussian"]

MAX_STEPS = 10**9
MIN_NOISE_MULTIPLIER = 1e-3
MAX_NOISE_MULTIPLIER = 1e6


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


# The kinds that a ledger may hold; B and C add theirs with ``|``.
AnyPrivacyEvent = SampledGaussian


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

"""Public weights as integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real

from protocols.errors import UsageError
from secfl.encoding.scheme import MAXIMAL_WEIGHT

__all__ = ["Weights", "is_number"]

FLOAT_WEIGHT_STEPS = 2**16


@dataclass(frozen=True)
class Weights:
    """Public weights as the integers that the protocol works with.

    Integer weights (0 to 2^29 - 1) are taken as they are. If one is a float, all are quantised: w becomes
    round(2^16 w / largest w), so that each is off by at most 2^-17 of the largest. Weight 0 leaves a party out of the
    session: it is neither asked nor waited for.

    :param units: integer weight of each party of the cohort; ``step`` is the worth of one unit.
    :param excluded: parties of weight 0.
    """

    units: dict[str, int]
    step: Fraction
    excluded: tuple[str, ...] = ()

    @classmethod
    def of(cls, parties: Iterable[str], weights: Mapping[str, float] | None) -> Weights:
        """Check and quantise.

        :raises UsageError: a weight that is missing, unknown, negative, not finite, too large or too small beside the
            largest; weights that sum to zero.
        """
        names = tuple(parties)
        if weights is None:
            return cls(dict.fromkeys(names, 1), Fraction(1))
        _check_weights(names, weights)
        largest = max(weights[name] for name in names)
        if largest == 0:
            raise UsageError("weights: they sum to zero")
        if all(isinstance(weights[name], Integral) for name in names):
            units = {name: int(weights[name]) for name in names}
            step = Fraction(1)
            if largest > MAXIMAL_WEIGHT:
                raise UsageError(f"weights: the largest is {largest}; allowed: up to {MAXIMAL_WEIGHT}")
        else:
            step = Fraction(float(largest)) / FLOAT_WEIGHT_STEPS
            units = {name: round(Fraction(float(weights[name])) / step) for name in names}
            for name in names:
                if units[name] == 0 and weights[name] > 0:
                    raise UsageError(f"weights: party {name!r}'s is below 2^-17 of the largest: make it 0 or larger")
        excluded = tuple(name for name in names if units[name] == 0)
        return cls({name: unit for name, unit in units.items() if unit}, step, excluded)

    @property
    def largest(self) -> int:
        """Largest integer weight."""
        return max(self.units.values())

    def total(self, contributors: Iterable[str]) -> int:
        """Sum of the integer weights of these parties."""
        return sum(self.units[party] for party in contributors)

    def used(self, contributors: Iterable[str]) -> dict[str, float]:
        """The weights of these parties after quantisation."""
        return {
            party: int(worth) if worth.denominator == 1 and self.step == 1 else float(worth)
            for party, worth in ((party, self.units[party] * self.step) for party in contributors)
        }


def _check_weights(names: tuple[str, ...], weights: Mapping[str, float]) -> None:
    for party in weights:
        if party not in names:
            raise UsageError(f"weights: {party!r} is no party of this aggregation; known: {', '.join(names)}")
    for party in names:
        if party not in weights:
            raise UsageError(f"weights: party {party!r} has none")
        weight = weights[party]
        if not (is_number(weight) and 0 <= weight < math.inf):
            raise UsageError(f"weights: party {party!r} has {weight!r}; allowed: a finite number from 0 on")


def is_number(value: object) -> bool:
    """Whether a value is a real number, numpy's included, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)

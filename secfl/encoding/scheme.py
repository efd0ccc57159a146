"""The encoding that all parties of a session agree on, and the modulus that follows from it.

With step h = 2^-f (f = ``fraction_bits``), range R, largest weight W and n contributors, a party sends the integers
k = round(w x / h), |x| <= R, 1 <= w <= W. Stochastic rounding gives floor or ceiling, so |k| <= P = ceil(R W / h);
rounding to nearest (ties to even) is monotone, so |k| <= P = round(R W / h). A party that adds noise stays within
P + ceil(noise_tail). The sum of n parties lies in [-n P', n P'] and can be read from its residue modulo 2^b exactly
when n P' <= 2^(b-1) - 1. All of this is integer arithmetic on exact fractions.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal

import msgspec
import numpy as np

from protocols.errors import EncodingError, UsageError
from protocols.primitives.ring import MAXIMAL_BITS, word_dtype
from secfl.encoding.canonical import decode_canonical
from secfl.encoding.vectors import UNNAMED

__all__ = ["MAXIMAL_WEIGHT", "MINIMAL_BITS", "EncodingScheme", "OnOverflow", "Rounding", "Weighting"]

Rounding = Literal["stochastic", "nearest"]
Weighting = Literal["none", "public", "private"]
OnOverflow = Literal["error", "clip"]

MINIMAL_BITS = 8
# A float32 coordinate (24 significant bits) times such a weight (29) is exact in float64.
MAXIMAL_WEIGHT = 2**29 - 1
# Integers up to here are exact in float64, in which coordinates are scaled.
_MAXIMAL_PEAK = 2**53
_MAXIMAL_CONTRIBUTORS = 2**32
_DIGEST_BYTES = 32
_MAXIMAL_BYTES = 1024
_CHOICES = {
    "rounding": ("stochastic", "nearest"),
    "weighting": ("none", "public", "private"),
    "on_overflow": ("error", "clip"),
}


class EncodingScheme(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What turns coordinates into words modulo 2^b, the same for all parties of a session.

    :param version: of this record.
    :param value_range: R, bound of each coordinate's magnitude; a float32 number in [2^-126, 2^127].
    :param fraction_bits: f; the grid has 2^f steps a unit (f may be negative) and at least one step within R.
    :param rounding: ``"stochastic"`` (unbiased) or ``"nearest"``.
    :param maximum_weight: W; weights are integers in [1, W]; 1 without weighting.
    :param weighting: ``"public"``: the weights are known to all. ``"private"``: a party sends w x and, as one
        coordinate more, w; without noise only.
    :param maximum_contributors: n, at least 2.
    :param noise_tail: bound of the integer noise that one party adds to a coordinate, in steps (12 standard
        deviations).
    :param on_overflow: a coordinate beyond R is an ``"error"``, or clipped and counted.
    :param layout_digest: 32-byte digest of the ``TensorLayout``.
    :raises EncodingError: a field outside its range, or a modulus of more than 64 bits.
    """

    version: Literal[1] = 1
    value_range: float
    fraction_bits: int
    maximum_contributors: int
    layout_digest: bytes
    rounding: Rounding = "stochastic"
    weighting: Weighting = "none"
    maximum_weight: int = 1
    noise_tail: float = 0.0
    on_overflow: OnOverflow = "error"

    def __post_init__(self) -> None:
        _check_choice("version", self.version, (1,))
        for name, allowed in _CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        _check_float("value_range", self.value_range, 2.0**-126, 2.0**127)
        if float(np.float32(self.value_range)) != self.value_range:
            raise _refused("value_range", self.value_range, "a float32 number, one bound at every precision")
        _check_float("noise_tail", self.noise_tail, 0.0, 2.0**63)
        _check_integer("fraction_bits", self.fraction_bits, -127, 202)
        _check_integer("maximum_contributors", self.maximum_contributors, 2, _MAXIMAL_CONTRIBUTORS)
        _check_integer("maximum_weight", self.maximum_weight, 1, MAXIMAL_WEIGHT)
        if type(self.layout_digest) is not bytes or len(self.layout_digest) != _DIGEST_BYTES:
            raise _refused("layout_digest", type(self.layout_digest).__name__, "32 bytes")
        self._check_together()

    def _check_together(self) -> None:
        if self.weighting == "none" and self.maximum_weight != 1:
            raise _refused("maximum_weight", self.maximum_weight, "1 without weighting")
        if self.weighting == "private" and self.noise_tail > 0:
            raise _refused("noise_tail", self.noise_tail, "0 with private weights")
        if self._range_in_steps < 1:
            raise _refused("fraction_bits", self.fraction_bits, "at least one step within value_range")
        if self.peak > _MAXIMAL_PEAK:
            raise _refused("fraction_bits", self.fraction_bits, "value_range * maximum_weight within 2^53 steps")
        if self.modulus_bits > MAXIMAL_BITS:
            raise EncodingError(
                UNNAMED,
                f"encoding scheme: the sum of {self.maximum_contributors} contributors needs {self.modulus_bits} bits, "
                f"at most {MAXIMAL_BITS} are possible: take fewer value bits, a smaller weight or fewer contributors",
            )

    @classmethod
    def choose(  # noqa: PLR0913  an argument for each field of the record
        cls,
        value_range: float,
        value_bits: int,
        *,
        maximum_contributors: int,
        layout_digest: bytes,
        maximum_weight: int = 1,
        weighting: Weighting = "none",
        rounding: Rounding = "stochastic",
        noise_tail: float = 0.0,
        on_overflow: OnOverflow = "error",
    ) -> EncodingScheme:
        """Scheme with the finest grid of at most 2^(value_bits - 1) steps on each side of zero, before weights.

        Steps are powers of two, so that grid values are encoded and decoded exactly; R is rounded up to float32. R a
        power of two uses all the steps, R just above one about half of them.

        :param value_bits: 8..32.
        :raises EncodingError: see the class.
        :raises UsageError: ``value_bits`` out of range.
        """
        if type(value_bits) is not int or not 8 <= value_bits <= 32:
            raise UsageError(f"value_bits is an integer from 8 to 32, not {value_bits}")
        _check_float("value_range", float(value_range), 2.0**-126, 2.0**127)
        bound = np.float32(value_range)
        if float(bound) < value_range:
            bound = np.nextafter(bound, np.float32(np.inf))
        mantissa, exponent = math.frexp(float(bound))  # R = mantissa 2^exponent, mantissa in [1/2, 1)
        return cls(
            value_range=float(bound),
            fraction_bits=value_bits - 1 - exponent + (mantissa == 0.5),
            rounding=rounding,
            maximum_weight=maximum_weight,
            weighting=weighting,
            maximum_contributors=maximum_contributors,
            noise_tail=noise_tail,
            on_overflow=on_overflow,
            layout_digest=layout_digest,
        )

    @property
    def step(self) -> float:
        """Distance h of neighbouring grid points, a power of two."""
        return math.ldexp(1.0, -self.fraction_bits)

    @property
    def steps(self) -> float:
        """Grid steps a unit, 1/h, a power of two."""
        return math.ldexp(1.0, self.fraction_bits)

    @property
    def _range_in_steps(self) -> Fraction:
        return Fraction(self.value_range) * Fraction(2) ** self.fraction_bits

    @property
    def peak(self) -> int:
        """Largest magnitude P of an encoded coordinate (of a weight too, if weights are private), before noise."""
        exact = self._range_in_steps * self.maximum_weight
        peak = math.ceil(exact) if self.rounding == "stochastic" else round(exact)
        return max(peak, self.maximum_weight) if self.weighting == "private" else peak

    @property
    def largest_entry(self) -> int:
        """Largest magnitude of an entry that one party sends, weight and noise within its tail included."""
        return self.peak + math.ceil(self.noise_tail)

    @property
    def modulus_bits(self) -> int:
        """Smallest b >= 8 for which the sum of all contributors cannot wrap modulo 2^b."""
        return max(MINIMAL_BITS, (self.maximum_contributors * self.largest_entry).bit_length() + 1)

    @property
    def word_dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Smallest unsigned dtype that holds ``modulus_bits``."""
        return word_dtype(self.modulus_bits)

    def word_count(self, dimension: int) -> int:
        """Number of words for ``dimension`` coordinates: one more with private weights."""
        return dimension + (self.weighting == "private")

    def reachable_sum(self, contributors_weight: int) -> int:
        """Largest magnitude, in steps, of a sum over contributors whose weights add up to ``contributors_weight``.

        Noise within its tail and one step of rounding for each contributor are included.
        """
        contributors = min(self.maximum_contributors, contributors_weight)
        rounded = min(
            math.floor(self._range_in_steps * contributors_weight) + contributors,
            math.ceil(self._range_in_steps) * contributors_weight,
        )
        return rounded + contributors * math.ceil(self.noise_tail)

    def describe(self) -> dict[str, int | float | str]:
        """Figures for the user, by name; no secret among them."""
        per_coordinate = 1.0 if self.rounding == "stochastic" else 0.5
        return {
            "value_range": self.value_range,
            "step": self.step,
            "rounding": self.rounding,
            "weighting": self.weighting,
            "maximum_weight": self.maximum_weight,
            "maximum_contributors": self.maximum_contributors,
            "noise_tail_in_steps": self.noise_tail,
            "on_overflow": self.on_overflow,
            "modulus_bits": self.modulus_bits,
            "bytes_per_parameter": self.modulus_bits / 8,
            "contributors_before_wrap": (2 ** (self.modulus_bits - 1) - 1) // self.largest_entry,
            "largest_rounding_error_of_sum": self.maximum_contributors * per_coordinate * self.step,
        }

    def to_bytes(self) -> bytes:
        """Canonical encoding (MessagePack array of the fields in order)."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, encoded: bytes) -> EncodingScheme:
        """Inverse of :meth:`to_bytes`.

        :raises EncodingError: anything but what :meth:`to_bytes` gives for a valid scheme.
        """
        return decode_canonical(encoded, cls, "encoding scheme", _MAXIMAL_BYTES)


def _refused(name: str, value: object, allowed: str) -> EncodingError:
    return EncodingError(UNNAMED, f"encoding scheme: {name} is {value}; allowed: {allowed}")


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or isinstance(value, bool):
        raise _refused(name, value, " or ".join(str(choice) for choice in allowed))


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise _refused(name, value, f"an integer from {low} to {high}")


def _check_float(name: str, value: object, low: float, high: float) -> None:
    """One bit pattern a value: no integer in a float's place, no negative zero, no NaN."""
    if type(value) is not float or not low <= value <= high or math.copysign(1.0, value) < 0:
        raise _refused(name, value, f"a float from {low:.3g} to {high:.3g}")

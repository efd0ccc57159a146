"""Updates to words modulo 2^b, and the words of a sum back to floats."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError
from protocols.primitives.ring import Words, centre, check_words, reduce_in_place
from secfl.encoding.layout import TensorLayout
from secfl.encoding.rounding import Entropy, NearestRounder, StochasticRounder
from secfl.encoding.scheme import EncodingScheme, Rounding
from secfl.encoding.vectors import (
    UNNAMED,
    Vector,
    check_out,
    check_vector,
    chunks,
    largest_magnitude,
    locate,
)

__all__ = ["Encoder", "LocalReport", "decode_mean", "decode_sum"]


@dataclass(frozen=True, slots=True)
class LocalReport:
    """What encoding did to one party's vector. It depends on the records behind it and stays with the party.

    :param clipped_count: coordinates beyond the range, clipped to it.
    :param largest_magnitude: of a coordinate, before clipping.
    :param rounding: how coordinates were rounded.
    :param step: distance of neighbouring grid points: the bound of a coordinate's rounding error, half of it for
        ``"nearest"`` (after weighting: of w x).
    """

    clipped_count: int = field(repr=False)
    largest_magnitude: float = field(repr=False)
    rounding: Rounding
    step: float


class Encoder:
    """One party's side: float vectors to words modulo 2^b.

    :param entropy: secure source of random bytes (``os.urandom``); one 32-byte key is drawn for each encoding.
    :param layout: names the tensors in errors and fixes the length.
    :raises EncodingError: the layout is not the one of the scheme.
    """

    def __init__(self, scheme: EncodingScheme, entropy: Entropy, layout: TensorLayout | None = None) -> None:
        _check_layout(scheme, layout)
        self.scheme = scheme
        self._entropy = entropy
        self._layout = layout

    def encode(self, vector: Vector, weight: int = 1, *, out: Words | None = None) -> tuple[Words, LocalReport]:
        """Round ``weight * x / step`` coordinate by coordinate and reduce modulo 2^b.

        :param vector: float32 or float64, shape ``[d]``, magnitudes at most ``value_range`` unless they are clipped.
        :param weight: integer in [1, ``maximum_weight``]; 1 without weighting.
        :param out: where to; shape ``[word_count(d)]``, dtype ``word_dtype``. Untouched when the input is refused.
        :returns: words of shape ``[word_count(d)]``, each below 2^b, the last one the weight if weights are private;
            and the local report.
        :raises EncodingError: NaN, infinity or (unless clipped) a coordinate beyond the range: names tensor and
            position; a weight out of its range; another length than the layout's.
        :raises UsageError: ``out`` not as described.
        """
        scheme = self.scheme
        self._check_weight(weight)
        if self._layout is None:
            check_vector(vector)
        else:
            self._layout.check_length(vector)
        largest = largest_magnitude(vector, self._layout)
        exceeds = largest > scheme.value_range
        if exceeds and scheme.on_overflow == "error":
            raise self._beyond_range(vector)
        words = self._words(vector.size, out)
        clipped = self._fill(words, vector, weight, clip=exceeds)
        if scheme.weighting == "private":
            words[-1] = weight
        return words, LocalReport(clipped, largest, scheme.rounding, scheme.step)

    def _fill(self, words: Words, vector: Vector, weight: int, *, clip: bool) -> int:
        scheme = self.scheme
        bound = scheme.value_range
        factor = math.ldexp(weight, scheme.fraction_bits)
        rounder: NearestRounder | StochasticRounder = (
            StochasticRounder.keyed(factor, scheme.peak, self._entropy)
            if scheme.rounding == "stochastic"
            else NearestRounder(factor)
        )
        bits = scheme.modulus_bits  # computed from fractions: once, not a chunk
        clipped = 0
        for part in chunks(vector.size):
            chunk = vector[part]
            if clip:
                clipped += int(np.count_nonzero(np.abs(chunk) > bound))
                chunk = np.clip(chunk, -bound, bound)  # the bound is a float32 number: exact in both dtypes
            target = words[part]
            np.copyto(target, rounder.round(chunk, part.start), casting="unsafe")  # modulo the width of a word
            reduce_in_place(target, bits)
        return clipped

    def _words(self, dimension: int, out: Words | None) -> Words:
        count = self.scheme.word_count(dimension)
        if out is None:
            return np.empty(count, self.scheme.word_dtype)
        check_out(out, count, self.scheme.word_dtype)
        return out

    def _check_weight(self, weight: int) -> None:
        if type(weight) is not int:
            raise EncodingError(UNNAMED, f"a weight is an int, not {type(weight).__name__}")
        if not 1 <= weight <= self.scheme.maximum_weight:
            # A private weight is not shown.
            shown = "this" if self.scheme.weighting == "private" else str(weight)
            raise EncodingError(UNNAMED, f"the weight is {shown}; allowed: 1 to {self.scheme.maximum_weight}")

    def _beyond_range(self, vector: Vector) -> EncodingError:
        bound = self.scheme.value_range
        name, position = locate(self._layout, int(np.argmax(np.abs(vector) > bound)))
        return EncodingError(name, f"the value at position {position} is beyond the range, {bound:.9g}")


def decode_sum(
    words: Words,
    scheme: EncodingScheme,
    contributors_weight: int | None = None,
    *,
    layout: TensorLayout | None = None,
    out: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Weighted sum of the contributors' vectors from the sum of their words modulo 2^b.

    Exact while the sum in steps stays below 2^53 (b <= 54), correctly rounded beyond.

    :param words: shape ``[word_count(d)]``, dtype ``word_dtype``, each below 2^b.
    :param contributors_weight: sum of the public weights of those in the sum; their number without weighting; None if
        weights are private: then it is read from the last word.
    :param layout: names the tensors in errors and fixes the length.
    :param out: where to; float64, shape ``[d]``. Its content is undefined after an error.
    :returns: float64, shape ``[d]``.
    :raises EncodingError: a weight of zero or more than the scheme's contributors can have; another length; a word of
        more than b bits; a sum out of these contributors' reach (something else than their encodings was added up).
    :raises UsageError: words or ``out`` of another shape or dtype; a weight where it is private, or none where it is
        not.
    """
    weight = _weight_in_sum(words, scheme, contributors_weight)
    return _decode(words, scheme, weight, math.ldexp(1.0, scheme.fraction_bits), layout, out)


def decode_mean(
    words: Words,
    scheme: EncodingScheme,
    contributors_weight: int | None = None,
    *,
    layout: TensorLayout | None = None,
    out: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Weighted mean: the sum over ``contributors_weight``; arguments and errors as for :func:`decode_sum`."""
    weight = _weight_in_sum(words, scheme, contributors_weight)
    return _decode(words, scheme, weight, math.ldexp(weight, scheme.fraction_bits), layout, out)


def _weight_in_sum(words: Words, scheme: EncodingScheme, contributors_weight: int | None) -> int:
    check_words(words, scheme.modulus_bits)
    private = scheme.weighting == "private"
    if (contributors_weight is None) != private:
        raise UsageError("contributors_weight is given exactly when weights are not private")
    if words.size <= private:
        raise EncodingError(UNNAMED, "empty: there is nothing to decode")
    weight = int(words[-1]) if contributors_weight is None else contributors_weight
    if type(weight) is not int:
        raise UsageError(f"contributors_weight is an int, not {type(weight).__name__}")
    largest = scheme.maximum_contributors * scheme.maximum_weight
    if not 1 <= weight <= largest:
        raise EncodingError(UNNAMED, f"the contributors' weights sum to {weight}; allowed: 1 to {largest}")
    return weight


def _decode(
    words: Words,
    scheme: EncodingScheme,
    weight: int,
    divisor: float,
    layout: TensorLayout | None,
    out: npt.NDArray[np.float64] | None,
) -> npt.NDArray[np.float64]:
    _check_layout(scheme, layout)
    dimension = words.size - (scheme.weighting == "private")
    if layout is not None and dimension != layout.size:
        raise EncodingError(UNNAMED, f"{dimension} coordinates, the layout has {layout.size}")
    if out is None:
        out = np.empty(dimension)
    else:
        check_out(out, dimension, np.float64)
    reachable = scheme.reachable_sum(weight)
    bits = scheme.modulus_bits
    for part in chunks(dimension):
        chunk = words[part]
        if int(chunk.max()) >> bits:
            raise EncodingError(UNNAMED, f"a word has more than {bits} bits")
        signed = centre(chunk, bits)
        if int(signed.max()) > reachable or int(signed.min()) < -reachable:
            raise _beyond_reach(signed, reachable, part.start, layout)
        np.divide(signed, divisor, out=out[part])
    return out


def _beyond_reach(
    signed: npt.NDArray[np.int64], reachable: int, start: int, layout: TensorLayout | None
) -> EncodingError:
    beyond = (signed > reachable) | (signed < -reachable)
    name, position = locate(layout, start + int(np.argmax(beyond)))
    return EncodingError(name, f"the sum at position {position} is out of its contributors' reach")


def _check_layout(scheme: EncodingScheme, layout: TensorLayout | None) -> None:
    if layout is not None and layout.digest != scheme.layout_digest:
        raise EncodingError(UNNAMED, "the layout is not the one whose digest the scheme carries")

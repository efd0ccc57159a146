"""What a party contributes, and how it becomes words modulo 2^b and comes back: one array or named arrays, of floats
(through `secfl.encoding`) or of integers (exact).

Integers x with |x| <= R and weights w in [1, W] of n parties: |sum of w x| <= n R W <= 2^(b-1) - 1, so the sum can be
read from its residue modulo 2^b. All bounds are fixed before a value is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError
from protocols.primitives.labels import tagged_hash
from protocols.primitives.ring import MAXIMAL_BITS, Words, centre, reduce_in_place, word_dtype
from protocols.shape import Entropy
from secfl.encoding import Encoder, EncodingScheme, TensorLayout, decode_sum
from secfl.encoding.scheme import MINIMAL_BITS, OnOverflow
from secfl.encoding.tensors import INTEGER_DTYPES, Container, TensorForm, inspect_tensor
from secfl.encoding.vectors import largest_magnitude

__all__ = [
    "ARRAY",
    "Codec",
    "FloatCodec",
    "IntegerCodec",
    "Totals",
    "Value",
    "blame",
    "check_integer_range",
    "named",
    "tensor_forms",
]

Value: TypeAlias = "npt.NDArray[Any] | np.generic | int | float | Mapping[str, Any]"
"""One array (or number), or arrays by name. Torch tensors of floats are taken as well."""
Totals: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64]

ARRAY = "array"
"""Name of an array that came without one."""


class Codec(Protocol):
    """Values to words and back, the same for all parties of a session."""

    @property
    def modulus_bits(self) -> int:
        """b."""

    @property
    def vector_length(self) -> int:
        """Number of words."""

    @property
    def peak(self) -> int:
        """Largest magnitude of an entry, weight included."""

    def to_bytes(self) -> bytes:
        """Canonical encoding of all that parties must agree on."""

    def encode(self, value: Value, weight: int, entropy: Entropy) -> tuple[Words, int]:
        """Words of ``weight`` times a value, and the number of coordinates that were clipped.

        :raises EncodingError: names the tensor.
        """

    def decode(self, words: Words, weight: int) -> Totals:
        """The weighted sum, flat.

        :param weight: sum of the contributors' weights.
        :raises EncodingError: a sum that these contributors cannot have.
        """

    def shaped(self, flat: Totals) -> Any:
        """A flat vector in the shape and container of a value."""


def blame(party: str, error: EncodingError) -> EncodingError:
    """The same error with the party's name in it."""
    problem = str(error).removeprefix(f"tensor {error.tensor!r}: ")
    return EncodingError(error.tensor, f"party {party!r}: {problem}")


def named(value: Value) -> dict[str, Any]:
    """The arrays of a value by name; numbers become arrays of shape ``()``."""
    if isinstance(value, Mapping):
        return {name: _array(item) for name, item in value.items()}
    return {ARRAY: _array(value)}


def tensor_forms(value: Value) -> dict[str, TensorForm]:
    """Dtype and shape of each array of a value.

    :raises EncodingError: no array, something else than an array, integers and floats together.
    """
    forms = {name: inspect_tensor(name, item) for name, item in named(value).items()}
    if not forms:
        raise EncodingError(ARRAY, "empty: there is nothing to sum")
    integers = [name for name, form in forms.items() if form.dtype in INTEGER_DTYPES]
    if integers and len(integers) != len(forms):
        floats = [name for name in forms if name not in integers]
        raise EncodingError(
            integers[0], f"integers beside floats ({floats[0]!r}): sum them apart, or turn them into floats"
        )
    return forms


def _array(item: Any) -> Any:
    return np.asarray(item) if isinstance(item, int | float | np.generic) else item


@dataclass(frozen=True)
class FloatCodec:
    """Floats within the scheme's range, rounded to its grid."""

    layout: TensorLayout
    scheme: EncodingScheme
    single: bool
    container: Container

    @classmethod
    def choose(
        cls,
        like: Value,
        *,
        clip: float,
        bits: int,
        contributors: int,
        maximum_weight: int,
        rounding: Literal["stochastic", "nearest"],
        on_overflow: OnOverflow,
    ) -> FloatCodec:
        """Codec for values of the same form as ``like``.

        :raises EncodingError: a form, range or weight that cannot be encoded.
        """
        tensors = named(like)
        layout = TensorLayout.of(tensors)
        scheme = EncodingScheme.choose(
            clip,
            bits,
            maximum_contributors=contributors,
            layout_digest=layout.digest,
            maximum_weight=maximum_weight,
            weighting="none" if maximum_weight == 1 else "public",
            rounding=rounding,
            on_overflow=on_overflow,
        )
        torch = all(type(item).__module__.partition(".")[0] == "torch" for item in tensors.values())
        return cls(layout, scheme, not isinstance(like, Mapping), "torch" if torch else "numpy")

    @property
    def modulus_bits(self) -> int:
        """See `Codec`."""
        return self.scheme.modulus_bits

    @property
    def vector_length(self) -> int:
        """See `Codec`."""
        return self.layout.size

    @property
    def peak(self) -> int:
        """See `Codec`."""
        return self.scheme.peak

    def to_bytes(self) -> bytes:
        """The scheme; the layout's digest is in it."""
        return self.scheme.to_bytes()

    def encode(self, value: Value, weight: int, entropy: Entropy) -> tuple[Words, int]:
        """See `Codec`. float64 arrays keep their precision up to the scheme's grid."""
        _check_single(value, single=self.single)
        words, report = Encoder(self.scheme, entropy, self.layout).encode(self._flatten(named(value)), weight)
        return words, report.clipped_count

    def decode(self, words: Words, weight: int) -> Totals:
        """See `Codec`."""
        return decode_sum(words, self.scheme, weight, layout=self.layout)

    def shaped(self, flat: Totals) -> Any:
        """See `Codec`; the dtypes are those that came in.

        :raises EncodingError: a value beyond the range of its dtype (the sum of float16 arrays, for instance).
        """
        tensors = self.layout.unflatten(flat.astype(np.float64, copy=False), container=self.container)
        return tensors[ARRAY] if self.single else tensors

    def _flatten(self, tensors: dict[str, Any]) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
        if self.container == "torch" or all(entry.dtype != "float64" for entry in self.layout.entries):
            return self.layout.flatten(tensors)
        _check_forms(tensors, {entry.name: TensorForm(entry.dtype, entry.shape) for entry in self.layout.entries})
        flat = np.concatenate([np.ravel(tensors[entry.name]) for entry in self.layout.entries], dtype=np.float64)
        largest_magnitude(flat, self.layout)
        return flat


class _IntegerRecord(msgspec.Struct, array_like=True, frozen=True):
    """What parties agree on about integers, in the order in which it is hashed."""

    version: Literal[1]
    kind: Literal["integers"]
    bound: int
    maximum_weight: int
    maximum_contributors: int
    on_overflow: OnOverflow
    layout_digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


@dataclass(frozen=True)
class IntegerCodec:
    """Integers within +-bound, summed exactly.

    :param shapes: of the arrays, by name, in order. Parties may hold any integer dtype.
    """

    shapes: dict[str, tuple[int, ...]]
    bound: int
    maximum_contributors: int
    maximum_weight: int = 1
    on_overflow: OnOverflow = "error"
    single: bool = field(default=False)

    def __post_init__(self) -> None:
        if self.vector_length == 0:
            raise EncodingError(next(iter(self.shapes)), "empty: there is nothing to sum")
        check_integer_range(self.bound, self.maximum_contributors, self.maximum_weight)

    @property
    def modulus_bits(self) -> int:
        """See `Codec`."""
        return max(MINIMAL_BITS, (self.maximum_contributors * self.peak).bit_length() + 1)

    @property
    def vector_length(self) -> int:
        """See `Codec`."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def peak(self) -> int:
        """See `Codec`."""
        return self.bound * self.maximum_weight

    def to_bytes(self) -> bytes:
        """See `Codec`."""
        layout = msgspec.msgpack.encode([[name, shape] for name, shape in self.shapes.items()])
        return msgspec.msgpack.encode(
            _IntegerRecord(
                1,
                "integers",
                self.bound,
                self.maximum_weight,
                self.maximum_contributors,
                self.on_overflow,
                tagged_hash("aggregation/integer layout", layout),
            )
        )

    def encode(self, value: Value, weight: int, entropy: Entropy) -> tuple[Words, int]:  # noqa: ARG002  nothing random
        """See `Codec`."""
        _check_single(value, single=self.single)
        tensors = named(value)
        _check_forms(tensors, {name: TensorForm("integer", shape) for name, shape in self.shapes.items()})
        words = np.empty(self.vector_length, word_dtype(self.modulus_bits))
        clipped, start = 0, 0
        for name, shape in self.shapes.items():
            array, outside = self._within_bound(name, np.ravel(tensors[name]))
            clipped += outside
            target = words[start : start + math.prod(shape)]
            np.multiply(array.astype(np.int64), weight, out=target, casting="unsafe")
            start += target.size
        reduce_in_place(words, self.modulus_bits)
        return words, clipped

    def decode(self, words: Words, weight: int) -> Totals:
        """See `Codec`; exact."""
        signed = centre(words, self.modulus_bits)
        reachable = self.bound * weight
        if int(signed.max()) > reachable or int(signed.min()) < -reachable:
            raise EncodingError(next(iter(self.shapes)), "a sum is out of its contributors' reach")
        return signed

    def shaped(self, flat: Totals) -> Any:
        """See `Codec`: int64 for sums, float64 for means."""
        tensors, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            tensors[name] = flat[start : start + size].reshape(shape).copy()
            start += size
        return tensors[ARRAY] if self.single else tensors

    def _within_bound(self, name: str, array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
        """The array with entries beyond the bound clipped, if that is allowed, and their number."""
        if array.size == 0 or (int(array.max()) <= self.bound and int(array.min()) >= -self.bound):
            return array, 0
        beyond = array > self.bound if array.dtype.kind == "u" else (array > self.bound) | (array < -self.bound)
        if self.on_overflow == "error":
            position = int(np.argmax(beyond))
            raise EncodingError(name, f"the value at position {position} is beyond the range, {self.bound}")
        low = 0 if array.dtype.kind == "u" else max(-self.bound, int(np.iinfo(array.dtype).min))
        return np.clip(array, low, min(self.bound, int(np.iinfo(array.dtype).max))), int(np.count_nonzero(beyond))


def check_integer_range(bound: int, contributors: int, maximum_weight: int = 1) -> None:
    """Refuse a range whose sum over all contributors could wrap modulo 2^64.

    :raises UsageError: says what is possible.
    """
    needed = (contributors * bound * maximum_weight).bit_length() + 1
    if needed > MAXIMAL_BITS:
        allowed = (2 ** (MAXIMAL_BITS - 1) - 1) // (contributors * maximum_weight)
        raise UsageError(
            f"the sum over {contributors} parties of integers up to {bound} with weights up to {maximum_weight} needs "
            f"{needed} bits and could wrap: the range can be up to {allowed} (bits up to {(allowed + 1).bit_length()})"
        )


def _check_single(value: Value, *, single: bool) -> None:
    if isinstance(value, Mapping) == single:
        raise EncodingError(ARRAY, "one array expected, not a dict" if single else "a dict of arrays expected, not one")


def _check_forms(tensors: dict[str, Any], expected: dict[str, TensorForm]) -> None:
    """Names and shapes as agreed on, and dtypes too ("integer" stands for any integer dtype).

    :raises EncodingError: names the first tensor that differs.
    """
    for name, form in expected.items():
        if name not in tensors:
            raise EncodingError(name, "missing")
        found = inspect_tensor(name, tensors[name])
        if not isinstance(tensors[name], np.ndarray):
            raise EncodingError(name, "a numpy array is expected for integers and in a dict of numpy arrays")
        if found.dtype != form.dtype and not (form.dtype == "integer" and found.dtype in INTEGER_DTYPES):
            raise EncodingError(name, f"dtype {found.dtype}, the layout has {form.dtype}")
        if found.shape != form.shape:
            raise EncodingError(name, f"shape {found.shape}, the layout has {form.shape}")
    for name in tensors:
        if name not in expected:
            raise EncodingError(str(name), "extra: not in the layout")

"""The order, shapes and dtypes in which named tensors become one flat vector.

All parties of a session must hold the same layout: its digest is part of the encoding scheme, and so of the session id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError
from protocols.primitives.labels import tagged_hash
from secfl.encoding.canonical import decode_canonical
from secfl.encoding.tensors import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    Container,
    TensorForm,
    copy_into,
    inspect_tensor,
    make_tensor,
)
from secfl.encoding.vectors import UNNAMED, Vector, check_out, check_vector, largest_magnitude

__all__ = ["MAXIMAL_SIZE", "TensorEntry", "TensorLayout"]

MAXIMAL_SIZE = 2**40
_MAXIMAL_DIMENSIONS = 64  # of a numpy array
_MAXIMAL_BYTES = 16 * 2**20
_LABEL = "encoding/layout"


class TensorEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Name, dtype and shape of one tensor of a layout."""

    name: str
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    shape: tuple[int, ...]


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    entries: tuple[TensorEntry, ...]
    skipped: tuple[str, ...]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise EncodingError(UNNAMED, f"a tensor's name is a non-empty str, not {type(name).__name__}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise EncodingError(ascii(name), "the name has no UTF-8 encoding") from None


def _check_shape(entry: TensorEntry) -> None:
    if len(entry.shape) > _MAXIMAL_DIMENSIONS:
        raise EncodingError(entry.name, f"{len(entry.shape)} dimensions, at most {_MAXIMAL_DIMENSIONS} are possible")
    if any(type(length) is not int or length < 0 for length in entry.shape):
        raise EncodingError(entry.name, f"shape {entry.shape}: lengths are integers from 0 on")
    if math.prod(length or 1 for length in entry.shape) > MAXIMAL_SIZE:  # numpy takes no (0, 2^40, 2^40) either
        raise EncodingError(entry.name, f"shape {entry.shape}: more than {MAXIMAL_SIZE} coordinates")


@dataclass(frozen=True)
class TensorLayout:
    """Float tensors in a fixed order, and the integer tensors that were left out by decision.

    :param entries: the tensors of the vector, in order; at least one coordinate in total, at most ``MAXIMAL_SIZE``.
    :param skipped: names of integer tensors that :meth:`flatten` passes over.
    :raises EncodingError: no coordinate, a name twice, an unknown dtype, a negative dimension.
    """

    entries: tuple[TensorEntry, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in (*(entry.name for entry in self.entries), *self.skipped):
            _check_name(name)
            if name in seen:
                raise EncodingError(name, "listed twice in the layout")
            seen.add(name)
        for entry in self.entries:
            if entry.dtype not in FLOAT_DTYPES:
                raise EncodingError(entry.name, f"dtype {entry.dtype}; allowed: {', '.join(sorted(FLOAT_DTYPES))}")
            _check_shape(entry)
        if not 0 < self.size <= MAXIMAL_SIZE:
            raise EncodingError(UNNAMED, f"a layout has 1 to {MAXIMAL_SIZE} coordinates, not {self.size}")

    @classmethod
    def of(cls, mapping: Mapping[str, Any], *, integers: Literal["refuse", "skip"] = "refuse") -> TensorLayout:
        """Layout of a ``state_dict`` or any mapping of names to numpy arrays or torch tensors, in its order.

        :param integers: what to do about integer and boolean tensors (counters of BatchNorm, for instance).
        :raises EncodingError: integer tensors under ``"refuse"`` (names them all), a dtype that is not float, no float
            coordinate.
        """
        if integers not in ("refuse", "skip"):
            raise UsageError(f"integers is 'refuse' or 'skip', not {integers!r}")
        entries: list[TensorEntry] = []
        skipped: list[str] = []
        for name, value in mapping.items():
            _check_name(name)
            form = inspect_tensor(name, value)
            if form.dtype in INTEGER_DTYPES:
                skipped.append(name)
            else:
                entries.append(TensorEntry(name, form.dtype, form.shape))  # type: ignore[arg-type]
        if skipped and integers == "refuse":
            raise EncodingError(skipped[0], f"integer tensors need a decision, integers='skip': {', '.join(skipped)}")
        return cls(tuple(entries), tuple(skipped))

    @cached_property
    def size(self) -> int:
        """Number of coordinates."""
        return sum(math.prod(entry.shape) for entry in self.entries)

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        sizes = [math.prod(entry.shape) for entry in self.entries]
        return np.cumsum([0, *sizes], dtype=np.int64)

    def _segments(self, vector: Vector) -> list[Vector]:
        """Views of the vector, one a tensor, each of its tensor's shape."""
        starts = self._starts.tolist()
        return [
            vector[low:high].reshape(entry.shape)
            for entry, low, high in zip(self.entries, starts, starts[1:], strict=False)
        ]

    def locate(self, index: int) -> tuple[str, int]:
        """Name of the tensor at a flat index, and the flat index within it.

        :raises UsageError: the index is not in ``[0, size)``.
        """
        if not 0 <= index < self.size:
            raise UsageError(f"index {index} is not in [0, {self.size})")
        at = int(np.searchsorted(self._starts, index, side="right")) - 1  # the last start: tensors may be empty
        return self.entries[at].name, index - int(self._starts[at])

    def to_bytes(self) -> bytes:
        """Canonical encoding (MessagePack): version, entries, skipped names."""
        return msgspec.msgpack.encode(_Wire(1, self.entries, self.skipped))

    @classmethod
    def from_bytes(cls, encoded: bytes) -> TensorLayout:
        """Inverse of :meth:`to_bytes`.

        :raises EncodingError: anything but what :meth:`to_bytes` gives for a valid layout.
        """
        wire = decode_canonical(encoded, _Wire, "tensor layout", _MAXIMAL_BYTES)
        return cls(wire.entries, wire.skipped)

    @cached_property
    def digest(self) -> bytes:
        """32-byte hash of :meth:`to_bytes`."""
        return tagged_hash(_LABEL, self.to_bytes())

    def flatten(
        self, mapping: Mapping[str, Any], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Copy the tensors, each in C order, into one float32 vector of shape ``[size]``; the mapping's order is free.

        :param out: where to; float32, C-contiguous, shape ``[size]``. Its content is undefined after an error.
        :raises EncodingError: names the first tensor that differs and how (missing, dtype, shape, extra), or that holds
            NaN, infinity or a float64 beyond the range of float32.
        """
        self._check_mapping(mapping)
        if out is None:
            out = np.empty(self.size, np.float32)
        else:
            check_out(out, self.size, np.float32)
        for entry, segment in zip(self.entries, self._segments(out), strict=True):
            copy_into(segment, mapping[entry.name])
        largest_magnitude(out, self)
        return out

    def unflatten(self, vector: Vector, *, container: Container = "numpy") -> dict[str, Any]:
        """Copy a vector (float32 or float64, shape ``[size]``) back into tensors of the original shapes and dtypes.

        :param container: ``"numpy"`` arrays or ``"torch"`` tensors on the CPU; bfloat16 exists as torch tensors only.
        :raises EncodingError: another length; not finite; a value beyond the range of its tensor's dtype.
        :raises MissingExtra: torch tensors without torch.
        """
        if container not in ("numpy", "torch"):
            raise UsageError(f"container is 'numpy' or 'torch', not {container!r}")
        self.check_length(vector)
        largest_magnitude(vector, self)
        return {
            entry.name: make_tensor(entry.name, segment, entry.dtype, container)
            for entry, segment in zip(self.entries, self._segments(vector), strict=True)
        }

    def check_length(self, vector: Vector) -> None:
        """Refuse what is not a float vector of this layout's size.

        :raises EncodingError: see :func:`~secfl.encoding.vectors.check_vector`; or another length.
        """
        check_vector(vector)
        if vector.size != self.size:
            raise EncodingError(UNNAMED, f"{vector.size} coordinates, the layout has {self.size}")

    def _check_mapping(self, mapping: Mapping[str, Any]) -> None:
        for entry in self.entries:
            if entry.name not in mapping:
                raise EncodingError(entry.name, "missing")
            form = inspect_tensor(entry.name, mapping[entry.name])
            expected = TensorForm(entry.dtype, entry.shape)
            if form.dtype != expected.dtype:
                raise EncodingError(entry.name, f"dtype {form.dtype}, the layout has {expected.dtype}")
            if form.shape != expected.shape:
                raise EncodingError(entry.name, f"shape {form.shape}, the layout has {expected.shape}")
        known = {entry.name for entry in self.entries}
        skipped = set(self.skipped)
        for name, value in mapping.items():
            if name in known:
                continue
            if name not in skipped:
                raise EncodingError(str(name), "extra: not in the layout")
            if (form := inspect_tensor(name, value)).dtype not in INTEGER_DTYPES:
                raise EncodingError(name, f"dtype {form.dtype}, the layout skips it as an integer tensor")

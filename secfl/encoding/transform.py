"""What happens to coordinates between clipping and rounding: choose some, then rotate them; and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError
from secfl.encoding.rotation import Rotation
from secfl.encoding.subset import choose_coordinates
from secfl.encoding.vectors import UNNAMED, Vector

__all__ = ["Transform"]

_Float = TypeVar("_Float", bound=np.floating[Any])


@dataclass(frozen=True)
class Transform:
    """Optional subset of coordinates, optional rotation, in this order.

    :param dimension: d, coordinates of a vector.
    :param kept: size of the random subset; 0 for all.
    :param block: of the rotation; 0 for none.
    :raises EncodingError: a subset or a block that cannot be.
    """

    dimension: int
    kept: int = 0
    block: int = 0

    def __post_init__(self) -> None:
        if self.dimension < 1 or not 0 <= self.kept <= self.dimension:
            allowed = f"0 for all, or 1 to {self.dimension}"
            raise EncodingError(UNNAMED, f"kept: {self.kept} of {self.dimension} coordinates; allowed: {allowed}")
        if self.block:
            self._rotation()

    def _rotation(self) -> Rotation:
        return Rotation(self.kept or self.dimension, self.block)

    @property
    def length(self) -> int:
        """d', coordinates as sent, padding included."""
        return self._rotation().length if self.block else self.kept or self.dimension

    @property
    def side_bits(self) -> int:
        """log2 of the factor that :meth:`whole` leaves in."""
        return self._rotation().side_bits if self.block else 0

    def select(self, vector: npt.NDArray[_Float], seed: bytes) -> npt.NDArray[_Float]:
        """The coordinates that are sent, of the vector's dtype."""
        return vector[choose_coordinates(self.dimension, self.kept, seed)] if self.kept else vector

    def forward(self, vector: Vector, seed: bytes) -> Vector:
        """From shape (d,) to (length,): float64 if there is a rotation."""
        selected = self.select(vector, seed)
        return self._rotation().forward(selected, seed) if self.block else selected

    def rotate_whole(self, selected: npt.NDArray[np.float64], seed: bytes) -> npt.NDArray[np.float64]:
        """2^side_bits times the rotation of selected coordinates; see `Rotation.whole`."""
        return self._rotation().whole(selected, seed) if self.block else selected

    def inverse(self, values: npt.NDArray[np.float64], seed: bytes) -> npt.NDArray[np.float64]:
        """From shape (length,) to (d,): zero where nothing was sent."""
        selected = self._rotation().inverse(values, seed) if self.block else values
        if not self.kept:
            return selected
        whole = np.zeros(self.dimension)
        whole[choose_coordinates(self.dimension, self.kept, seed)] = selected
        return whole

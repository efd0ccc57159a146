"""Randomized Hadamard rotation: public random signs, then a Walsh-Hadamard transform in blocks.

It spreads a vector evenly over its coordinates, so that few bits lose little and sums that wrap are rare (Suresh, Yu,
Kumar, McMahan 2017, section 3). It is orthogonal: norms stay. The signs come from a public seed of one sum, the same
for all parties; nothing private rests on them, and no bound of privacy either.

Blocks have a power of four coordinates, n = m^2: H_n = H_m (x) H_m makes a block of n, seen as a square, into
H_m X H_m, and the norm of a row, m, is a power of two. On whole numbers the transform without its factor 1/m is exact
as long as all sums stay within 2^53.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError
from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from secfl.encoding.vectors import UNNAMED, Vector

__all__ = ["BLOCKS", "Rotation"]

BLOCKS = (16, 64, 256, 1024, 4096)
"""Lengths of a block. Beyond 4096 a linear algebra library would start threads for one product."""

_PIECE = 16384
"""Coordinates worked on at a time, a multiple of every block: 128 KiB of float64."""


class Rotation:
    """Rotation of vectors of one length in blocks of one size.

    :param dimension: d, coordinates of a vector, at least 1.
    :param block: coordinates of a block, one of `BLOCKS`; the vector is padded with zeros to a multiple of it.
    :raises EncodingError: another block or dimension.
    """

    def __init__(self, dimension: int, block: int) -> None:
        if block not in BLOCKS or dimension < 1:
            raise EncodingError(UNNAMED, f"rotation: {dimension} coordinates in blocks of {block}; allowed: {BLOCKS}")
        self.dimension = dimension
        self.block = block
        self.length = -(-dimension // block) * block
        """Coordinates as rotated, padding included."""
        self._side = math.isqrt(block)

    @property
    def side_bits(self) -> int:
        """log2 of m, the norm of a row of the transform without its factor."""
        return self._side.bit_length() - 1

    def whole(self, vector: npt.NDArray[np.float64], seed: bytes) -> npt.NDArray[np.float64]:
        """m times the rotated vector: exact for whole numbers whose norm times m is at most 2^53.

        :param vector: float64, shape (d,).
        :param seed: public, not empty; signs of each seed are its own.
        :returns: float64, shape (length,).
        """
        return self._forward(vector, seed, 1.0)

    def forward(self, vector: Vector, seed: bytes) -> npt.NDArray[np.float64]:
        """The rotated vector.

        :param vector: float32 or float64, shape (d,).
        :returns: float64, shape (length,).
        """
        return self._forward(vector, seed, 1.0 / self._side)

    def inverse(self, rotated: Vector, seed: bytes) -> npt.NDArray[np.float64]:
        """Undo :meth:`forward`.

        :param rotated: float32 or float64, shape (length,).
        :returns: float64, shape (d,).
        """
        if rotated.shape != (self.length,):
            raise EncodingError(UNNAMED, f"rotated: shape {rotated.shape}, not ({self.length},)")
        signs, out = _Signs(seed), np.empty(self.length)
        buffer = np.empty(_PIECE)
        for low in range(0, self.length, _PIECE):
            part = slice(low, min(low + _PIECE, self.length))
            piece = buffer[: part.stop - low]
            np.multiply(rotated[part], 1.0 / self._side, out=piece, dtype=np.float64)
            self._transform(piece, out[part])
            signs.flip(out[part], low)
        return out[: self.dimension]

    def _forward(self, vector: Vector, seed: bytes, factor: float) -> npt.NDArray[np.float64]:
        if vector.shape != (self.dimension,):
            raise EncodingError(UNNAMED, f"vector: shape {vector.shape}, not ({self.dimension},)")
        signs, out = _Signs(seed), np.empty(self.length)
        buffer = np.zeros(_PIECE)
        for low in range(0, self.length, _PIECE):
            part = slice(low, min(low + _PIECE, self.length))
            piece, values = buffer[: part.stop - low], vector[part]
            np.multiply(values, factor, out=piece[: values.size], dtype=np.float64)
            piece[values.size :] = 0.0
            signs.flip(piece, low)
            self._transform(piece, out[part])
        return out

    def _transform(self, piece: npt.NDArray[np.float64], out: npt.NDArray[np.float64]) -> None:
        """H_m X H_m for each block; ``piece`` is overwritten."""
        side, matrix = self._side, _hadamard(self._side)
        squares, rotated = piece.reshape(-1, side, side), out.reshape(-1, side, side)
        np.matmul(squares, matrix, out=rotated)
        np.copyto(squares, rotated)
        np.matmul(matrix, squares, out=rotated)


class _Signs:
    """Public signs: bit j of an AES-256-CTR stream under a hash of the seed, 0 for plus."""

    def __init__(self, seed: bytes) -> None:
        if not seed:
            raise UsageError("seed: empty; a rotation takes the public seed of its sum")
        self._stream = MaskStream(tagged_hash("encoding/rotation", seed), 8)

    def flip(self, values: npt.NDArray[np.float64], start: int) -> None:
        """Negate in place where the sign is minus; ``start`` is a multiple of 8."""
        bits = np.unpackbits(self._stream.words(start // 8, -(-values.size // 8)), count=values.size, bitorder="little")
        sign_bits = bits.astype(np.uint64)
        np.left_shift(sign_bits, 63, out=sign_bits)
        words = values.view(np.uint64)
        np.bitwise_xor(words, sign_bits, out=words)


@lru_cache(maxsize=8)
def _hadamard(side: int) -> npt.NDArray[np.float64]:
    """H_m of Sylvester's construction; symmetric."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix.flags.writeable = False
    return matrix

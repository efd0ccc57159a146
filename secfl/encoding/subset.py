"""A random subset of coordinates, chosen by a public seed, so that all parties of a sum send the same ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError
from protocols.primitives.labels import tagged_hash
from protocols.primitives.prg import MaskStream
from secfl.encoding.vectors import UNNAMED

__all__ = ["choose_coordinates"]

_WORD_BITS = 64


def choose_coordinates(dimension: int, kept: int, seed: bytes) -> npt.NDArray[np.int64]:
    """Uniform subset of coordinates: those with the smallest words of an AES-256-CTR stream under a hash of the seed.

    :param kept: size of the subset, 1 to ``dimension``.
    :param seed: public, not empty.
    :returns: int64, ascending, shape (kept,).
    :raises EncodingError: another size.
    """
    if not seed:
        raise UsageError("seed: empty; a subset takes the public seed of its sum")
    if not 1 <= kept <= dimension:
        raise EncodingError(UNNAMED, f"kept: {kept} of {dimension} coordinates; allowed: 1 to {dimension}")
    words = MaskStream(tagged_hash("encoding/subset", seed), _WORD_BITS).words(0, dimension)
    # By rank, and by position among equal words: which ones are kept does not depend on how numpy sorts.
    largest = np.partition(words, kept - 1)[kept - 1]
    below = np.flatnonzero(words < largest)
    equal = np.flatnonzero(words == largest)[: kept - below.size]
    return np.sort(np.concatenate([below, equal])).astype(np.int64, copy=False)

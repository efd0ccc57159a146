"""Registry of lattice parameters. A record never changes its meaning; a new one gets a new id."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

__all__ = ["LATTICES", "WORD_BITS", "LatticeRecord", "Polynomial", "Words64"]

Words64 = npt.NDArray[np.uint64]
Polynomial = npt.NDArray[np.int64]

WORD_BITS = 64
"""Most bits of the modulus, a power of two: addition of machine words is addition in the ring."""


@dataclass(frozen=True)
class LatticeRecord:
    """Parameters of ring-LWE in Z[X]/(X^N + 1) modulo 2^Q, Q <= 64 (`protocols.oneshot.slots` chooses it).

    The homomorphic encryption standard (Albrecht et al. 2018, table 1; sigma 3.2) allows log2 q = 109 at N = 4096 for
    128 bits of security; the modulus here has at most 64, and secret and error have deviation 4.

    :param id: number in the registry, what travels.
    :param degree: N.
    :param random_bits: of which secret and error coefficients are the centred popcount.
    """

    id: int
    degree: int
    random_bits: int

    @property
    def variance(self) -> float:
        """Of a coefficient of secret or error."""
        return self.random_bits / 4

    @property
    def largest(self) -> int:
        """Largest absolute value of a coefficient of secret or error."""
        return self.random_bits // 2


LATTICES = MappingProxyType({1: LatticeRecord(1, degree=4096, random_bits=64)})
"""The registry, by id."""

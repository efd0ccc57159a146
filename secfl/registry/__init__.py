"""The protocols that secfl offers, by the word that chooses one. Nothing outside this package asks for a name."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.errors import UsageError
from secfl.registry.base import Cast, Entry, Figures
from secfl.registry.ckks import Ckks
from secfl.registry.oneshot import OneShot
from secfl.registry.secagg import SecAgg, SparseSecAgg

__all__ = ["PROTOCOLS", "Cast", "Entry", "Figures", "SparseSecAgg", "offered"]

PROTOCOLS: Mapping[str, Entry] = {entry.name: entry for entry in (SecAgg(), OneShot(), Ckks())}
"""By name, the default first."""


def offered(name: str) -> Entry:
    """The protocol of a name.

    :raises UsageError: there is none.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"protocol: {name!r}; allowed: {', '.join(map(repr, PROTOCOLS))}")
    return PROTOCOLS[name]

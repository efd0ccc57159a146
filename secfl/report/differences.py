"""Where two records differ, by places that people can find: ``silos[va].spent_epsilon``, ``rounds[3.0].metric``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["differences"]

_NAMES = ("name", "adversary", "phase", "delta", "size", "colluding", "noise_multiplier", "rounds")
"""What stands for an item of a list, the first that it has, instead of its position."""
# Another processor's logarithms differ in the last digits; loss distributions are discretised and convolved.
_TOLERANCE = 1e-9
_LOOSE_TOLERANCE = 1e-5
_LOOSE = ("prv_epsilon", "pld", "pld_unamplified")


def differences(found: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    """Place, value found, value expected, in the order of the records; equal floats may differ in the last digits."""
    yield from _walk("", msgspec.to_builtins(found), msgspec.to_builtins(expected))


def _walk(where: str, found: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in dict.fromkeys((*expected, *found)):
            place = f"{where}.{key}" if where and key.isidentifier() else f"{where}[{key}]" if where else key
            yield from _walk(place, found.get(key), expected.get(key))
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        if len(found) != len(expected):
            yield where, f"{len(found)} items", f"{len(expected)} items"
            return
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from _walk(f"{where}[{_label(index, other)}]", one, other)
    elif not _equal(where, found, expected):
        yield where, found, expected


def _label(index: int, item: Any) -> str:
    if isinstance(item, dict):
        if "number" in item and "attempt" in item:
            return f"{item['number']}.{item['attempt']}"
        if "first_round" in item:
            return f"{item['first_round']}-{item['last_round']}"
        for key in _NAMES:
            if key in item:
                return str(item[key])
    return str(index)


def _equal(where: str, found: Any, expected: Any) -> bool:
    if isinstance(found, float | int) and isinstance(expected, float) and not isinstance(found, bool):
        tolerance = _LOOSE_TOLERANCE if where.rpartition(".")[2] in _LOOSE else _TOLERANCE
        return math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-12)
    return type(found) is type(expected) and bool(found == expected)

"""How numbers and untrusted text are shown.

What is shown is never better than what is: spends and bounds are rounded up, what is left is rounded down.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

__all__ = [
    "DASH",
    "byte_size",
    "decimal",
    "duration",
    "grouped",
    "inflation",
    "measured",
    "moment",
    "rounded_down",
    "rounded_up",
    "rounded_up_constant",
    "shortened",
    "visible",
]

DASH = "\u2013"
_REPLACEMENT = "\ufffd"
_THIN_SPACE = "\u2009"
_PLACES = 3
_SMALLEST_DECIMAL = Decimal("1e-7")


def visible(text: str) -> str:
    """Replace control, format and unassigned characters, which could hide or reorder what stands beside them."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character)[0] != "C" else _REPLACEMENT
        for character in text
    )


def shortened(text: str, length: int) -> str:
    """At most ``length`` characters, on one line, for the inside of a figure."""
    line = " ".join(visible(text).split())
    return line if len(line) <= length else f"{line[: length - 1]}\u2026"


def rounded_up(value: float) -> str:
    """A spend or a bound: upwards to 3 decimals, or to 2 significant digits where those would hide it."""
    exact = Decimal(repr(value))
    exponent = min(-_PLACES, exact.adjusted() - 1)
    if exact == 0:
        return "0"
    shown = _quantised(exact, exponent, ROUND_CEILING)
    if exponent == -_PLACES:
        return f"{shown:.{_PLACES}f}"
    return f"{shown:f}" if shown >= _SMALLEST_DECIMAL else f"{float(shown):.2g}"


def rounded_down(value: float) -> str:
    """What is left: downwards to 3 decimals."""
    shown = _quantised(Decimal(repr(value)), -_PLACES, ROUND_FLOOR)
    return f"{shown:.{_PLACES}f}" if shown else "0"


def decimal(value: float) -> str:
    """A constant: to 6 significant digits, as a decimal fraction unless it is tiny or huge."""
    exact = Decimal(repr(value))
    if exact == 0:
        return "0"
    shown = _quantised(exact, exact.adjusted() - 5, ROUND_HALF_EVEN)
    if _SMALLEST_DECIMAL <= abs(shown) < Decimal("1e9"):
        return f"{shown:f}"
    mantissa, _, exponent = f"{float(shown):e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def rounded_up_constant(value: float) -> str:
    """A small bound, such as a delta: upwards to 3 significant digits; a constant of fewer digits stays as it is."""
    exact = Decimal(repr(value))
    return "0" if exact == 0 else decimal(float(_quantised(exact, exact.adjusted() - 2, ROUND_CEILING)))


def inflation(value: float) -> str:
    """A factor just above 1: what it adds to 1, upwards to 2 significant digits."""
    more = Decimal(repr(value)) - 1
    return "1" if more <= 0 else f"1 + {decimal(float(_quantised(more, more.adjusted() - 1, ROUND_CEILING)))}"


def grouped(value: int) -> str:
    """A count, with thin spaces between thousands."""
    return f"{value:,}".replace(",", _THIN_SPACE)


def measured(value: float) -> str:
    """A measured value: to 4 significant digits, all of them shown so that a column lines up."""
    return f"{value:#.4g}".removesuffix(".") if 1e-4 <= abs(value) < 9999.5 else decimal(value)


def byte_size(value: int) -> str:
    """Bytes in decimal (SI) units, 3 significant digits."""
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{value} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 999.5 else f"{size:.0f} TB"


def moment(text: str) -> str:
    """An ISO 8601 time for people; any other text as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = time.tzname()
    return f"{time:%Y-%m-%d %H:%M:%S}{f' {zone}' if zone else ''}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _quantised(exact: Decimal, exponent: int, rounding: str) -> Decimal:
    """Round to a power of ten without the zeros that follow."""
    if exact.as_tuple().exponent >= exponent:  # type: ignore[operator]  # finite, hence a number
        return exact.normalize() + 0
    return exact.quantize(Decimal(1).scaleb(exponent), rounding=rounding).normalize() + 0

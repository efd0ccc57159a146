"""Writes tables and hexadecimal examples into the pages of messages: ``python docs/_build/specification.py``.

A page is prose with blocks that open with ``<!-- generated: NAME -->`` and end with ``<!-- end -->``. Each
``specification_*.py`` beside this file has a ``PAGE`` and ``BLOCKS``, a function by name for each block of it. Tables of
fields come from the message types, examples from bytes that the code made; a test compares the pages with both.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from msgspec import inspect as types

__all__ = ["dump", "example", "field_table", "loaded", "pages", "rewritten", "shortened"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCS = HERE.parent
WHOLE = 40
"""Bytes of a field that are shown whole; of a longer one the first `OPENING`."""
OPENING = 16
COMMENT_COLUMN = 52
OPENING_FIELDS = 5


def loaded(path: Path) -> ModuleType:
    """A script of this repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: no script")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- tables of fields --------------------------------------------------------------------------------------------------


def field_table(kind: type[msgspec.Struct], meanings: dict[str, str], *, opening: bool = False) -> str:
    """What a message or record holds: a row a field, with its encoding and bounds from the type itself.

    :param meanings: of fields that have no docstring of their own.
    :param opening: whether the five fields that open every message are listed as well.
    :raises SystemExit: a field without a meaning, or a meaning without a field.
    """
    fields = types.type_info(kind).fields  # type: ignore[attr-defined]
    skipped = 0 if opening or fields[0].name != "version" or fields[1].name != "protocol" else OPENING_FIELDS
    if "nonce" in {field.name for field in fields}:
        skipped = 0  # parameters open alike, but are no message
    said = _docstrings(kind) | meanings
    rows = ["| | field | encoding | meaning |", "|---|---|---|---|"]
    for number, field in enumerate(fields):
        if number < skipped:
            continue
        if field.name not in said:
            raise SystemExit(f"{kind.__name__}.{field.name}: no meaning")
        rows.append(f"| {number} | `{field.name}` | {_described(field.type)} | {said[field.name]} |")
    unknown = set(meanings) - {field.name for field in fields}
    if unknown:
        raise SystemExit(f"{kind.__name__}: no field {', '.join(sorted(unknown))}")
    return "\n".join(rows)


def _described(kind: types.Type) -> str:
    """Encoding and bounds in words."""
    if isinstance(kind, types.IntType):
        least = kind.ge if kind.ge is not None else 0 if kind.gt is None else kind.gt + 1
        most = kind.le if kind.le is not None else None if kind.lt is None else kind.lt - 1
        bounds = f"{_number(least)} and more" if most is None else f"{_number(least)} to {_number(most)}"
        if least == most:
            bounds = _number(least)
        return f"integer, {bounds}" + (f", multiple of {kind.multiple_of}" if kind.multiple_of else "")
    if isinstance(kind, types.BytesType):
        return f"bytes{_lengths(kind)}"
    if isinstance(kind, types.StrType):
        return f"string{_lengths(kind)}"
    if isinstance(kind, types.BoolType):
        return "boolean"
    if isinstance(kind, types.FloatType):
        return f"float of 8 bytes, {kind.ge} to below {kind.lt}"
    if isinstance(kind, types.LiteralType):
        return " or ".join(f'`"{value}"`' for value in kind.values)
    if isinstance(kind, types.NoneType):
        return "nil"
    if isinstance(kind, types.VarTupleType | types.ListType):
        return f"array{_lengths(kind)}, each: {_described(kind.item_type)}"
    if isinstance(kind, types.StructType):
        return f"array: `{kind.cls.__name__}`"
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_described, kind.types))
    raise SystemExit(f"{kind}: no words for it")


def _lengths(kind: Any) -> str:
    least, most = kind.min_length or 0, kind.max_length
    if most is None:
        return f", {_number(least)} or more" if least else ""
    return f", {_number(most)}" if least == most else f", {_number(least)} to {_number(most)}"


def _number(value: int) -> str:
    """Powers of two as such, from 2^14 on."""
    for offset in (0, 1):
        whole = value + offset
        if whole >= 1 << 14 and whole & (whole - 1) == 0:
            return f"2^{whole.bit_length() - 1}" + (" - 1" if offset else "")
    return str(value)


@cache
def _source_notes(path: str) -> dict[tuple[str, str], str]:
    """The string below a field, by class and field."""
    notes = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                notes[node.name, before.target.id] = " ".join(after.value.value.split()).replace("|", "\\|")
    return notes


def _docstrings(kind: type[msgspec.Struct]) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            notes = _source_notes(inspect.getsourcefile(base) or "")
            found |= {field: note for (name, field), note in notes.items() if name == base.__name__}
    return found


# -- annotated bytes ---------------------------------------------------------------------------------------------------


def example(raw: bytes, kind: type[msgspec.Struct]) -> str:
    """A fenced block: every byte of a message or record, a line a field; long fields by their first bytes."""
    return "```text\n" + "\n".join(dump(raw, kind)) + "\n```"


def shortened(raw: bytes, comment: str) -> str:
    """A fenced block of bytes that are no MessagePack: a chunk, a trailer."""
    return "```text\n" + "\n".join(_lines(raw, comment, 0)) + "\n```"


def dump(raw: bytes, kind: type[msgspec.Struct], depth: int = 0) -> Iterator[str]:
    """Lines of an annotated dump.

    :raises SystemExit: bytes that are not this record's canonical encoding.
    """
    if msgspec.msgpack.encode(msgspec.msgpack.decode(raw, type=kind)) != raw:
        raise SystemExit(f"{kind.__name__}: not canonical")
    at, count = _array(raw, 0)
    yield from _lines(raw[:at], f"{kind.__name__}, array of {count}", depth)
    for field in types.type_info(kind).fields:  # type: ignore[attr-defined]
        end = _end(raw, at)
        yield from _value(raw[at:end], field.name, field.type, depth + 1)
        at = end
    if at != len(raw):
        raise SystemExit(f"{kind.__name__}: {len(raw) - at} bytes more")


def _value(raw: bytes, name: str, kind: types.Type, depth: int) -> Iterator[str]:
    if isinstance(kind, types.StructType):
        lines = dump(raw, kind.cls, depth)
        first, _, comment = next(lines).rpartition("  ")
        yield f"{first}  {name}: {comment}"
        yield from lines
    elif isinstance(kind, types.VarTupleType) and isinstance(
        kind.item_type, types.StructType | types.StrType | types.BytesType
    ):
        at, count = _array(raw, 0)
        yield from _lines(raw[:at], f"{name}: array of {count}", depth)
        for number in range(count):
            end = _end(raw, at)
            yield from _value(raw[at:end], f"{name}[{number}]", kind.item_type, depth + 1)
            at = end
    else:
        yield from _lines(raw, f"{name}: {_shown(msgspec.msgpack.decode(raw))}", depth)


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"array of {len(value)}: {value}" if 0 < len(value) <= 8 else f"array of {len(value)}"
    return "nil" if value is None else str(value)


def _lines(raw: bytes, comment: str, depth: int) -> Iterator[str]:
    """Hexadecimal digits, sixteen bytes a line, and the comment beside the first."""
    indent = "  " * depth
    shown = raw if len(raw) <= WHOLE else raw[:OPENING]
    parts = [shown[low : low + OPENING].hex() for low in range(0, len(shown), OPENING)]
    if len(shown) < len(raw):
        parts[-1] += " ..."
    yield f"{indent + parts[0]:<{COMMENT_COLUMN}}  {comment}"
    yield from (indent + part for part in parts[1:])


def _array(raw: bytes, at: int) -> tuple[int, int]:
    """Where an array's first item begins, and how many it has."""
    first = raw[at]
    if 0x90 <= first <= 0x9F:
        return at + 1, first & 0x0F
    size = {0xDC: 2, 0xDD: 4}[first]
    return at + 1 + size, int.from_bytes(raw[at + 1 : at + 1 + size], "big")


def _end(raw: bytes, at: int) -> int:
    """Where the MessagePack value that begins here ends; of the kinds that messages use."""
    first = raw[at]
    if first <= 0x7F or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
        return at + 1
    if 0xA0 <= first <= 0xBF:
        return at + 1 + (first & 0x1F)
    if first in _LENGTHS:
        size = _LENGTHS[first]
        return at + 1 + size + int.from_bytes(raw[at + 1 : at + 1 + size], "big")
    if first in _FIXED:
        return at + 1 + _FIXED[first]
    at, count = _array(raw, at)
    for _ in range(count):
        at = _end(raw, at)
    return at


_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


# -- pages -------------------------------------------------------------------------------------------------------------


def pages() -> dict[Path, dict[str, Callable[[], str]]]:
    """The pages with generated blocks, and what makes each block."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    modules = [importlib.import_module(path.stem) for path in sorted(HERE.glob("specification_*.py"))]
    return {module.PAGE: module.BLOCKS for module in modules}


def rewritten(page: str, blocks: dict[str, Callable[[], str]]) -> str:
    """The page with its blocks as the code makes them.

    :raises SystemExit: a block that is missing, double or that nothing makes.
    """
    names = re.findall(r"<!-- generated: (.*?) -->", page)
    if sorted(names) != sorted(blocks):
        raise SystemExit(f"blocks of the page: {sorted(names)}; made: {sorted(blocks)}")
    for name, block in blocks.items():
        begin = f"<!-- generated: {name} -->\n"
        content = f"{begin}\n{block()}\n\n<!-- end -->"
        page, count = re.subn(re.escape(begin) + r".*?<!-- end -->", lambda _, new=content: new, page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{name}: {count} blocks")
    return page


if __name__ == "__main__":
    for path, blocks in pages().items():
        path.write_text(rewritten(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")

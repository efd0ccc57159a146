"""Tables and examples on the pages of messages are what the code makes."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import msgspec
import pytest

BUILD = Path(__file__).parents[2] / "docs" / "_build"
sys.path.insert(0, str(BUILD))
specification = importlib.import_module("specification")
PAGES = specification.pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_of_messages_is_what_the_code_makes(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert specification.rewritten(page, PAGES[path]) == page, "run: python docs/_build/specification.py"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_hexadecimal_digits_stand_in_generated_blocks_alone(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    prose = re.sub(r"<!-- generated: .*?<!-- end -->", "", page, flags=re.DOTALL)
    assert re.findall(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{16,}\b", prose) == []


class Inner(msgspec.Struct, array_like=True):
    number: int
    raw: bytes


class Outer(msgspec.Struct, array_like=True):
    names: tuple[str, ...]
    inner: tuple[Inner, ...]
    flag: bool
    more: int | None = None


def test_dump_shows_every_byte_of_short_fields_and_the_beginning_of_long_ones() -> None:
    value = Outer(("a", "bc"), (Inner(300, b"\x07"), Inner(70_000, bytes(41))), True)
    lines = list(specification.dump(msgspec.msgpack.encode(value), Outer))
    digits = [line[:52].split() for line in lines]
    assert digits == [
        ["94"],
        ["92"],
        ["a161"],
        ["a26263"],
        ["92"],
        ["92"],
        ["cd012c"],
        ["c40107"],
        ["92"],
        ["ce00011170"],
        ["c429" + "00" * 14, "..."],
        ["c3"],
        ["c0"],
    ]
    assert [line[52:].strip() for line in lines][5:8] == ["inner[0]: Inner, array of 2", "number: 300", "raw: 1 bytes"]


def test_bytes_that_are_not_canonical_are_not_shown() -> None:
    raw = msgspec.msgpack.encode(Outer((), (), True))
    with pytest.raises(SystemExit, match="not canonical"):
        list(specification.dump(b"\xdc\x00\x04" + raw[1:], Outer))


def test_field_without_a_meaning_and_block_that_nobody_makes_are_refused() -> None:
    with pytest.raises(SystemExit, match=r"Outer\.names: no meaning"):
        specification.field_table(Outer, {})
    with pytest.raises(SystemExit, match="no field nothing"):
        specification.field_table(Inner, {"number": "n", "raw": "r", "nothing": "?"})
    with pytest.raises(SystemExit, match="blocks of the page"):
        specification.rewritten("<!-- generated: a -->\n<!-- end -->", {})

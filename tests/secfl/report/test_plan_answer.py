"""The page about the JSON of `secfl budget` names its fields, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from secfl.report import plan

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "budget.md"


def test_every_field_is_on_the_page_and_none_that_does_not_exist() -> None:
    records = [value for value in vars(plan).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)]
    fields = {name for record in records for name in record.__struct_fields__}
    rows = re.findall(r"^\| (`.+?) \|", PAGE.read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == fields

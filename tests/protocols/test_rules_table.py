"""docs/reference/rules.md says what code and tests say."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules_table", Path(__file__).with_name("rules_table.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = load()


def without_lines(text: str) -> str:
    """Line numbers move with any edit; the command refreshes them, the test does not insist."""
    return re.sub(r"#L\d+", "", text)


def test_page_is_what_its_command_writes() -> None:
    assert without_lines(TABLE.PAGE.read_text()) == without_lines(TABLE.page()), "run tests/protocols/rules_table.py"


def test_every_rule_in_code_has_exactly_one_row_and_every_row_a_rule_in_code() -> None:
    written = Counter(
        re.findall(r"^\| ((?:SP|PT|OG|SV|SA|SS|OS|OV|KS|KV)-\d+) \|", TABLE.PAGE.read_text(), re.MULTILINE)
    )
    assert set(written.values()) == {1}
    assert written.keys() == TABLE.places().keys()


def test_every_rule_has_a_test_and_every_numbered_test_a_rule() -> None:
    assert TABLE.tests().keys() == TABLE.places().keys()


def test_every_prefix_counts_from_one_without_a_gap() -> None:
    for prefix, (_, meanings) in TABLE.SECTIONS.items():
        assert list(meanings) == list(range(1, len(meanings) + 1)), prefix

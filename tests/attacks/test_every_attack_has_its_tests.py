"""The table of attacks in docs/explanation/threat-model.md and the tests here: nothing may vanish from either."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "threat-model.md"
PROTOCOLS = frozenset({"secagg", "secagg-sparse", "oneshot", "ckks"})
SECFL = frozenset({"secfl"})
REFERENCE = re.compile(r"([a-z, -]+): `(test_\w+\.py)::(test_\w+)`")

ATTACKS = {
    "mask seeds of 28 or 32 bits": PROTOCOLS,
    "one client listed as survivor and dropout": PROTOCOLS,
    "threshold 1, modulus 2": PROTOCOLS,
    "the cohort is split": PROTOCOLS - {"ckks"},  # against an active server CKKS promises nothing
    "different global models": PROTOCOLS,
    "the same round opened twice": PROTOCOLS,
    "replay of a contribution": PROTOCOLS,
    "the sum wraps": PROTOCOLS | SECFL,
    "shares or vectors in the clear": PROTOCOLS,
    "a shared or group key": PROTOCOLS,
    "an unsigned, foreign or revoked client": PROTOCOLS,
    "predictable or reused masks": PROTOCOLS,
    "noise from a clock": SECFL,
    "a budget reset": SECFL,
    "a model file or checkpoint": PROTOCOLS | SECFL,
    "message and archive bombs": PROTOCOLS,
    "half a vector and silence": PROTOCOLS,
}
"""How each row begins, and whose sessions it must be tried on."""


def rows() -> dict[str, list[tuple[str, str, str]]]:
    """Per row of the table: what its tests run, their files and names."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and "::" in cells[2]:
            found[cells[0]] = [match.groups() for match in map(REFERENCE.fullmatch, cells[2].split("<br>")) if match]
            assert len(found[cells[0]]) == cells[2].count("::"), cells[0]
    return found


def names_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_table_has_every_attack_and_no_other() -> None:
    titles = list(rows())
    assert len(titles) == len(ATTACKS)
    for title, beginning in zip(titles, ATTACKS, strict=True):
        assert title.startswith(beginning)


@pytest.mark.parametrize(("beginning", "concerned"), ATTACKS.items(), ids=list(ATTACKS))
def test_attack_has_tests_on_every_protocol_that_it_concerns(beginning: str, concerned: frozenset[str]) -> None:
    (tests,) = (listed for title, listed in rows().items() if title.startswith(beginning))
    tried: set[str] = set()
    for whose, file, name in tests:
        assert name in names_in(HERE / file), f"{file} has no {name}"
        tried |= PROTOCOLS if whose == "all" else set(whose.split(", "))
    assert tried >= concerned


def test_every_file_of_attacks_is_in_the_table() -> None:
    listed = {file for tests in rows().values() for _, file, _ in tests}
    assert listed == {path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name}

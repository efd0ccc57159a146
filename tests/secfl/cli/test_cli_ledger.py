"""`secfl ledger show|verify`: what a ledger says, and that nobody is fooled by an edited one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_study import SILOS
from typer.testing import Result


@pytest.fixture
def run_directory(finished_run: tuple[Result, Path], tmp_path: Path) -> Path:
    """A copy of a finished run's files, to be damaged."""
    copy = tmp_path / "run"
    shutil.copytree(finished_run[1], copy)
    return copy


def ledger_of(directory: Path, silo: str = "north") -> Path:
    return directory / "ledgers" / silo / "records.ledger"


def test_every_ledger_of_a_run_verifies_under_its_roster(run_directory: Path, secfl: Any) -> None:
    report = json.loads((run_directory / "report.json").read_text())
    for silo in report["silos"]:
        result = secfl(
            "ledger", "verify", ledger_of(run_directory, silo["name"]), "--roster", run_directory / "roster.toml"
        )
        assert result.exit_code == 0, result.output
        assert result.output.strip() == (
            f"verified: 7 lines of silo {silo['name']!r}, lineage 'records', head {silo['ledger_head']}"
        )


def test_the_public_key_of_the_report_does_as_well(run_directory: Path, secfl: Any) -> None:
    report = json.loads((run_directory / "report.json").read_text())
    keys = {silo["name"]: silo["public_key"] for silo in report["silos"]}
    assert secfl("ledger", "verify", ledger_of(run_directory), "--key", keys["north"]).exit_code == 0
    other = secfl("ledger", "verify", ledger_of(run_directory), "--key", keys["east"])
    assert other.exit_code == 6
    assert other.stderr.startswith("error: ")


def test_show_lists_budget_and_releases(run_directory: Path, secfl: Any) -> None:
    result = secfl("ledger", "show", ledger_of(run_directory), "--roster", run_directory / "roster.toml")
    assert result.exit_code == 0
    report = json.loads((run_directory / "report.json").read_text())
    silo = next(silo for silo in report["silos"] if silo["name"] == "north")
    assert "silo north, lineage records: synthetic" in result.output
    assert f"budget epsilon 8, delta 1e-05, unit record; spent {silo['spent_epsilon']:.4f}" in result.output
    assert result.output.count("committed") == 2
    assert result.output.strip().splitlines()[-1] == f"head 6 {silo['ledger_head']}"


def edited(raw: bytes) -> bytes:
    assert raw.count(b'"noise_multiplier":2.0') == 2
    return raw.replace(b'"noise_multiplier":2.0', b'"noise_multiplier":9.0', 1)


DAMAGES = {
    "edited": edited,
    "cut": lambda raw: raw[:-5],
    "shortened": lambda raw: b"".join(raw.splitlines(keepends=True)[:-1]),
    "line removed": lambda raw: b"".join(raw.splitlines(keepends=True)[:2] + raw.splitlines(keepends=True)[3:]),
    "line repeated": lambda raw: raw + raw.splitlines(keepends=True)[-1],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_tampered_ledger_ends_with_code_six_and_one_line(
    run_directory: Path, secfl: Any, damage: str, command: str
) -> None:
    path = ledger_of(run_directory)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    result = secfl("ledger", command, path, "--roster", run_directory / "roster.toml")
    assert result.exit_code == 6
    assert "Traceback" not in result.output
    *before, last = result.stderr.strip().splitlines()
    assert last.startswith("error: [LG-")
    assert str(path) in last
    assert before == (["not to be trusted past this point"] if command == "show" else [])
    if command == "show":
        assert "silo north" in result.stdout  # as far as it can be trusted


def test_a_ledger_that_is_missing_but_remembered_is_no_slip_of_the_keyboard(run_directory: Path, secfl: Any) -> None:
    path = ledger_of(run_directory)
    path.unlink()
    for choice in (["--roster", run_directory / "roster.toml"], ["--key", "ab" * 32]):
        result = secfl("ledger", "verify", path, *choice)
        assert result.exit_code == 6
        assert str(path) in result.stderr


def test_the_roster_is_asked_for_the_silo_in_the_ledger_wherever_the_file_lies(
    run_directory: Path, tmp_path: Path, secfl: Any
) -> None:
    elsewhere = tmp_path / "audit" / "some.ledger"
    elsewhere.parent.mkdir()
    shutil.copy(ledger_of(run_directory), elsewhere)
    shutil.copy(f"{ledger_of(run_directory)}.mark", f"{elsewhere}.mark")
    result = secfl("ledger", "verify", elsewhere, "--roster", run_directory / "roster.toml")
    assert result.exit_code == 0, result.output
    assert "silo 'north'" in result.output


def test_a_ledger_in_another_silos_place_is_not_taken_for_its_own(run_directory: Path, secfl: Any) -> None:
    for suffix in ("", ".mark"):
        shutil.copy(f"{ledger_of(run_directory, 'east')}{suffix}", f"{ledger_of(run_directory)}{suffix}")
    result = secfl("ledger", "verify", ledger_of(run_directory), "--roster", run_directory / "roster.toml")
    assert result.exit_code == 6
    assert "is of silo 'east', but lies in the directory of 'north'" in result.stderr


def test_a_ledger_that_claims_another_silos_name_fails_under_that_silos_key(run_directory: Path, secfl: Any) -> None:
    path = ledger_of(run_directory)
    target = run_directory / "x.ledger"
    target.write_bytes(path.read_bytes().replace(b'"silo":"north"', b'"silo":"east"'))
    result = secfl("ledger", "verify", target, "--roster", run_directory / "roster.toml")
    assert result.exit_code == 6


@pytest.mark.parametrize("first_line", [b"", b"{}\n", b"\xff\n", b'{"entry":{"silo":3}}\n', b"[" * 100_000])
def test_a_file_that_is_no_ledger_is_named(run_directory: Path, secfl: Any, first_line: bytes) -> None:
    path = run_directory / "x.ledger"
    path.write_bytes(first_line)
    result = secfl("ledger", "verify", path, "--roster", run_directory / "roster.toml")
    assert result.exit_code == 6
    assert result.stderr.strip() == f"error: {path}: its first line does not name a silo"


def test_a_silo_that_the_roster_does_not_have_is_named_with_those_it_has(run_directory: Path, secfl: Any) -> None:
    path = run_directory / "x.ledger"
    path.write_bytes(ledger_of(run_directory).read_bytes().replace(b'"silo":"north"', b'"silo":"nobody"'))
    result = secfl("ledger", "verify", path, "--roster", run_directory / "roster.toml")
    assert result.exit_code == 3
    assert f"--roster: has no silo 'nobody', of which this ledger is; allowed: {', '.join(SILOS)}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 3, "--key: missing; allowed: 64 hex digits, or --roster FILE"),
        (["--key", "abc"], 3, "--key: 'abc' is no public key; allowed: 64 hex digits, or --roster FILE"),
        (["--roster", "absent"], 3, "absent: cannot be read: No such file or directory; allowed: a roster file"),
        (["--roster", __file__], 3, "is not TOML: "),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line(
    run_directory: Path, secfl: Any, arguments: list[str], code: int, words: str
) -> None:
    result = secfl("ledger", "verify", ledger_of(run_directory), *arguments)
    assert result.exit_code == code
    (line,) = result.stderr.strip().splitlines()
    assert words in line

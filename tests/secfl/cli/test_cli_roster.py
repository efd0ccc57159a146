"""`secfl roster`: from keys to a roster, and from statements to the next one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from protocols.primitives.signing import fingerprint
from secfl.federation.committee_keys import load_committee_key
from secfl.federation.keys import load_key
from secfl.federation.roster_file import read_roster

Command = Callable[..., Result]


@pytest.fixture
def keys(tmp_path: Path, secfl: Command) -> dict[str, Path]:
    paths = {silo: tmp_path / f"{silo}.key" for silo in ("east", "north", "west")}
    for silo, path in paths.items():
        assert secfl("keys", "new", path, "--silo", silo).exit_code == 0
    return paths


@pytest.fixture
def roster(tmp_path: Path, keys: dict[str, Path], secfl: Command) -> Path:
    path = tmp_path / "roster.toml"
    result = secfl("roster", "new", path, f"{keys['north']}.pub", f"{keys['east']}.pub")
    assert result.exit_code == 0, result.output
    return path


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]


def statement(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return next(line.split(": ")[1] for line in result.stdout.splitlines() if line.startswith("for the roster"))


def test_show_lists_members_fingerprints_standing_and_the_hash(
    roster: Path, keys: dict[str, Path], secfl: Command
) -> None:
    result = secfl("roster", "show", roster)
    assert rows(result) == [[silo, fingerprint(load_key(keys[silo]).public), "good", "-"] for silo in ("east", "north")]
    assert result.stdout.strip().splitlines()[-1] == f"hash {read_roster(roster).digest().hex()}"


def test_members_come_from_introductions_and_from_hex(roster: Path, keys: dict[str, Path], secfl: Command) -> None:
    before = read_roster(roster).digest()
    assert len(rows(secfl("roster", "add", roster, f"{keys['west']}.pub"))) == 3
    found = rows(secfl("roster", "add", roster, "--member", f"south={'ab' * 32}"))
    assert [row[0] for row in found] == ["east", "north", "south", "west"]
    assert read_roster(roster).member("south").identity_key == b"\xab" * 32
    assert read_roster(roster).digest() != before


def test_a_rotation_and_a_revocation_reach_the_roster(roster: Path, keys: dict[str, Path], secfl: Command) -> None:
    rotation = statement(secfl("keys", "rotate", keys["north"]))
    revocation = statement(secfl("keys", "revoke", keys["north"]))
    found = rows(secfl("roster", "apply", roster, rotation, revocation))
    assert found[1] == ["north", fingerprint(load_key(keys["north"]).public), "revoked", "-"]
    assert found[0][2] == "good"


def test_a_committee_key_reaches_the_roster_is_renewed_and_ends(
    roster: Path, keys: dict[str, Path], secfl: Command
) -> None:
    north, own = keys["north"], Path(f"{keys['north']}.committee")
    first = statement(secfl("keys", "committee", north))
    before = own.read_bytes()
    assert own.stat().st_mode & 0o777 == 0o600
    assert secfl("keys", "committee", north).stderr == (
        f"error: {own}: there is a committee key already; allowed: --renew for the next epoch, or --end\n"
    )
    found = rows(secfl("roster", "apply", roster, first))
    assert [row[3] for row in found] == ["-", fingerprint(load_committee_key(own).public)]
    second = statement(secfl("keys", "committee", north, "--renew"))
    assert own.read_bytes() != before
    assert rows(secfl("roster", "apply", roster, second))[1][3] == fingerprint(load_committee_key(own).public)
    replayed = secfl("roster", "apply", roster, first)
    assert (replayed.exit_code, "replaces a committee key that 'north' does not have now" in replayed.stderr) == (
        8,
        True,
    )
    last = statement(secfl("keys", "committee", north, "--end"))
    assert not own.exists()
    assert rows(secfl("roster", "apply", roster, last))[1][3] == "-"
    for option in ("--renew", "--end"):
        assert secfl("keys", "committee", north, option).exit_code == 3


def test_a_committee_key_comes_with_a_new_identity_key(tmp_path: Path, secfl: Command) -> None:
    path = tmp_path / "south.key"
    result = secfl("keys", "new", path, "--silo", "south", "--committee")
    assert result.exit_code == 0, result.output
    shown = fingerprint(load_committee_key(Path(f"{path}.committee")).public)
    assert f"committee key fingerprint: {shown}" in secfl("keys", "show", path).stdout


def test_statements_are_applied_all_or_none(roster: Path, keys: dict[str, Path], secfl: Command) -> None:
    before = roster.read_bytes()
    good = statement(secfl("keys", "rotate", keys["north"]))
    forged = Path(f"{keys['east']}.forged.json")
    fields = json.loads(Path(statement(secfl("keys", "revoke", keys["east"]))).read_text())
    forged.write_text(json.dumps({**fields, "reason": "forged"}))
    result = secfl("roster", "apply", roster, good, forged)
    assert result.exit_code == 8
    assert result.stderr == f"error: peer: signature does not verify: {forged}: under public_key\n"
    assert roster.read_bytes() == before


def test_a_revocation_by_the_keeper(roster: Path, secfl: Command) -> None:
    assert [row[2] for row in rows(secfl("roster", "revoke", roster, "east"))] == ["revoked", "good"]
    assert not read_roster(roster).in_good_standing("east")


def test_verify_compares_the_hash_with_that_of_the_others(roster: Path, secfl: Command) -> None:
    digest = read_roster(roster).digest().hex()
    assert secfl("roster", "verify", roster).stdout == f"verified: hash {digest}\n"
    assert secfl("roster", "verify", roster, "--hash", digest.upper()).exit_code == 0
    for other in ("", digest[:16], "ab" * 32):
        result = secfl("roster", "verify", roster, "--hash", other)
        assert result.exit_code == 3
        assert (
            result.stderr
            == f"error: --hash: {other!r}, but {roster} has {digest}; allowed: one roster for all members\n"
        )


def test_a_roster_edited_by_hand_is_refused_by_every_command(
    roster: Path, keys: dict[str, Path], secfl: Command
) -> None:
    roster.write_text(roster.read_text().replace('"good"', '"revoked"', 1))
    edited = roster.read_bytes()
    for arguments in (["show"], ["verify"], ["add", f"{keys['west']}.pub"], ["revoke", "north"]):
        result = secfl("roster", arguments[0], roster, *arguments[1:])
        assert result.exit_code == 3
        assert "its hash is not that of its members" in result.stderr
    assert roster.read_bytes() == edited

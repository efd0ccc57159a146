"""The roster as a file for people: the same roster back, and no slip of the hand gets through."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import SILOS, study_text, write_study

from protocols.errors import ConfigError, PeerFault
from protocols.identity import Member, Roster
from protocols.primitives.signing import SigningKey
from secfl.config import load_config
from secfl.federation.key_statements import Introduction, Revocation, Rotation
from secfl.federation.keys import rotate_key
from secfl.federation.roster_file import (
    add_members,
    apply_statement,
    create_roster_file,
    read_roster,
    revoke_member,
    roster_text,
    write_roster,
)
from secfl.federation.session import resume, simulate

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def key(number: int) -> SigningKey:
    return SigningKey(bytes([number]) * 32)


def member(name: str, number: int, **fields: object) -> Member:
    return Member(name, key(number).public, **fields)  # type: ignore[arg-type]


ROSTER = Roster([member("north", 1), member("east", 2, revoked=True), member("west", 3, sealing_key=b"\x00\xff")])


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
members = st.builds(member, names, st.integers(0, 255), revoked=st.booleans(), sealing_key=st.binary(max_size=40))


@given(found=st.lists(members, min_size=1, max_size=6, unique_by=(lambda m: m.id, lambda m: m.identity_key)))
def test_every_roster_comes_back_from_its_file(tmp_path_factory: pytest.TempPathFactory, found: list[Member]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-roster.toml"
    roster = Roster(found)
    path.write_text(roster_text(roster))
    assert read_roster(path).to_bytes() == roster.to_bytes()
    values = tomllib.loads(roster_text(roster))
    assert values["hash"] == roster.digest().hex()
    assert [line["id"] for line in values["member"]] == sorted(item.id for item in found)


def test_the_file_shows_the_hash_that_enters_session_ids(tmp_path: Path) -> None:
    path = tmp_path / "roster.toml"
    create_roster_file(path, ROSTER)
    assert read_roster(path).to_bytes() == ROSTER.to_bytes()
    assert f'hash = "{ROSTER.digest().hex()}"' in path.read_text()
    assert path.read_text().count("\n[[member]]\n") == 3
    with pytest.raises(ConfigError, match=r"roster.toml: there is a file already"):
        create_roster_file(path, ROSTER)
    smaller = Roster([member("north", 1)])
    write_roster(path, smaller)
    assert read_roster(path).digest() == smaller.digest()


TEXT = roster_text(ROSTER)
NORTH = key(1).public.hex()
SWAPPED = TEXT.replace('id = "north"', 'id = "a"').replace('id = "west"', 'id = "north"').replace('"a"', '"west"')
FAULTS = {
    "empty": ("", "is no roster: .*missing required field"),
    "no TOML": ("member = [", "is not TOML: "),
    "not text": (TEXT.replace("Public", "\udcff"), "is not TOML: "),
    "nobody": (TEXT[: TEXT.index("[[member]]")] + "member = []\n", "is no roster: .*length >= 1"),
    "another format": (TEXT.replace("format = 1", "format = 2"), r"is no roster: .*\$\.format"),
    "format as text": (TEXT.replace("format = 1", 'format = "1"'), r"is no roster: .*\$\.format"),
    "unknown key": (TEXT.replace("format = 1", "format = 1\nname = 1"), "is no roster: .*`name`"),
    "unknown key of a member": (TEXT.replace("standing", "state", 1), "is no roster: "),
    "unknown standing": (TEXT.replace('"revoked"', '"suspended"'), "is no roster: .*suspended"),
    "no standing": (TEXT.replace('standing = "revoked"\n', ""), "is no roster: .*standing"),
    "upper-case hex": (TEXT.replace(NORTH, NORTH.upper()), "is no roster: .*identity_key"),
    "short key": (TEXT.replace(NORTH, NORTH[:-2]), "is no roster: .*identity_key"),
    "name with a space": (TEXT.replace('"north"', '"the north"'), r"is no roster: .*\.id"),
    "another key": (TEXT.replace(NORTH, key(9).public.hex()), "its hash is not that of its members, which is "),
    "revived": (TEXT.replace('"revoked"', '"good"'), "its hash is not that of its members"),
    "another hash": (
        TEXT.replace(ROSTER.digest().hex(), "ab" * 32),
        f"its hash is not .* which is {ROSTER.digest().hex()}",
    ),
    "out of order": (SWAPPED, "members are not in the order of their ids; allowed: east, north, west"),
    "twice": (TEXT.replace('"north"', '"east"'), "an id is listed twice"),
    "one key for two": (TEXT.replace(NORTH, key(3).public.hex()), "two members share one identity key"),
    "key of small order": (TEXT.replace(NORTH, "01" + 31 * "00"), "'north': .*small order"),
    "too long": ("#" * (17 << 20), "more than 16777216 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_sound_roster_is_named(tmp_path: Path, fault: str) -> None:
    text, words = FAULTS[fault]
    assert text != TEXT
    path = tmp_path / "roster.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=f"^{path}: {words}"):
        read_roster(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent: cannot be read: No such file or directory"):
        read_roster(tmp_path / "absent")


def test_members_are_added_under_ids_and_keys_of_their_own() -> None:
    grown = add_members(ROSTER, [member("south", 4)])
    assert [item.id for item in grown] == ["east", "north", "south", "west"]
    assert grown.digest() != ROSTER.digest()
    with pytest.raises(ConfigError, match="'north' is a member already"):
        add_members(ROSTER, [member("north", 4)])
    with pytest.raises(ConfigError, match="'south' has the key of 'north'"):
        add_members(ROSTER, [member("south", 1)])
    with pytest.raises(ConfigError, match="'b' has the key of 'a'"):
        add_members((), [member("a", 7), member("b", 7)])


def test_a_revoked_member_stays_in_the_roster_and_changes_its_hash() -> None:
    after = revoke_member(ROSTER, "north")
    assert not after.in_good_standing("north")
    assert after.in_good_standing("west")
    assert len(after) == 3
    assert after.digest() != ROSTER.digest()
    with pytest.raises(ConfigError, match="'north' is revoked; allowed: a member in good standing"):
        revoke_member(after, "north")
    with pytest.raises(ConfigError, match="'south' is no member; allowed: east, north, west"):
        revoke_member(ROSTER, "south")


def test_a_rotation_changes_the_identity_key_and_nothing_else() -> None:
    after = apply_statement(ROSTER, Rotation.make("west", key(3), key(5), NOW))
    assert after.member("west") == msgspec.structs.replace(ROSTER.member("west"), identity_key=key(5).public)
    assert after.member("north") == ROSTER.member("north")
    with pytest.raises(PeerFault, match="about a key that 'west' does not have now"):
        apply_statement(after, Rotation.make("west", key(3), key(5), NOW))
    assert apply_statement(after, Rotation.make("west", key(5), key(6), NOW)).member("west").identity_key == (
        key(6).public
    )


def test_a_revocation_by_the_holder_revokes() -> None:
    after = apply_statement(ROSTER, Revocation.make("north", key(1), NOW))
    assert after.digest() == revoke_member(ROSTER, "north").digest()


REFUSED = {
    "revocation under another member's key": (Revocation.make("north", key(3), NOW), PeerFault, "does not have now"),
    "rotation of a stranger's key": (Rotation.make("north", key(8), key(9), NOW), PeerFault, "does not have now"),
    "rotation to a member's key": (Rotation.make("north", key(1), key(3), NOW), ConfigError, "has the key of 'west'"),
    "rotation to a revoked member's key": (Rotation.make("north", key(1), key(2), NOW), ConfigError, "key of 'east'"),
    "rotation of a revoked member": (Rotation.make("east", key(2), key(9), NOW), ConfigError, "'east' is revoked"),
    "no member": (Revocation.make("south", key(1), NOW), ConfigError, "'south' is no member"),
    "introduction": (Introduction.make("south", key(1), NOW), ConfigError, "is an introduction"),
    "signed by another key": (
        msgspec.structs.replace(Revocation.make("north", key(1), NOW), signature="ab" * 64),
        PeerFault,
        "signature does not verify",
    ),
    "new key that did not sign": (
        msgspec.structs.replace(Rotation.make("north", key(1), key(9), NOW), new_signature="ab" * 64),
        PeerFault,
        "signature does not verify: under new_public_key",
    ),
    "old key that did not sign": (
        msgspec.structs.replace(Rotation.make("north", key(1), key(9), NOW), old_signature="ab" * 64),
        PeerFault,
        "signature does not verify: under old_public_key",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_statement_that_must_not_be_followed_is_refused(case: str) -> None:
    statement, error, words = REFUSED[case]
    before = ROSTER.digest()
    with pytest.raises(error, match=words):
        apply_statement(ROSTER, statement)
    assert ROSTER.digest() == before


def test_a_run_writes_its_roster_and_resumes_only_under_the_same_keys(tmp_path: Path) -> None:
    config, text = load_config(write_study(tmp_path, study_text(rounds=1, ledger="lifetime")))
    run = simulate(config, text, tmp_path, output=tmp_path / "runs").directory
    roster = read_roster(run / "roster.toml")
    assert [item.id for item in roster] == list(SILOS)
    before = (run / "roster.toml").read_bytes()
    resume(run)
    assert (run / "roster.toml").read_bytes() == before
    rotate_key(tmp_path / "ledgers" / "north" / "identity.key", silo="north")
    with pytest.raises(ConfigError, match=r"roster.toml: is not the roster of the parties' keys"):
        resume(run)

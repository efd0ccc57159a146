"""Committee keys as files: what they hold, how an epoch follows another, what a statement of one proves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import ConfigError, PeerFault
from protocols.identity import Member, Role, Roster
from protocols.oneshot import CommitteeIdentity, CommitteeKey
from protocols.primitives.signing import SigningKey
from secfl.federation import committee_keys
from secfl.federation.committee_keys import (
    committee_key_path,
    end_committee_key,
    load_committee_key,
    load_or_create_committee_key,
    renew_committee_key,
)
from secfl.federation.identities import load_or_create_identity
from secfl.federation.key_statements import CommitteeStatement, read_statement, sealing_key_hash
from secfl.federation.keys import create_key, introduce
from secfl.federation.private_files import ENVIRONMENT, private_pem
from secfl.federation.roster_file import apply_statement, read_roster, write_roster

NOW = datetime(2026, 3, 1, 12, 30, 0, tzinfo=UTC)
SECRET = b"correct horse battery"


def asked(_path: Path) -> bytes:
    return SECRET


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    introduce(path, "north", create_key(path), NOW)
    return path


def roster(path: Path) -> Roster:
    return Roster([Member("north", read_public(path)), other_member("south")])


def read_public(path: Path) -> bytes:
    statement = read_statement(path.with_name(f"{path.name}.pub"))
    return bytes.fromhex(statement.public_key)  # type: ignore[union-attr]


def other_member(name: str) -> Member:
    return Member(name, SigningKey(bytes([len(name)] * 32)).public)


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_committee_key_is_for_its_owner_alone_and_under_the_identity_keys_passphrase(
    tmp_path: Path, passphrase: bytes | None
) -> None:
    path = tmp_path / "identity.key"
    introduce(path, "north", create_key(path, passphrase), NOW)
    stated = renew_committee_key(path, passphrase=asked, now=NOW)
    own = committee_key_path(path)
    assert own.stat().st_mode & 0o777 == 0o600
    loaded = load_committee_key(own, asked)
    assert loaded.public.hex() == stated.statement.sealing_key
    for block in own.read_bytes().split(b"-----END")[:2]:
        assert (b"ENCRYPTED" in block) is (passphrase is not None)
    if passphrase is not None:
        with pytest.raises(ConfigError, match="committee: is encrypted; allowed: its passphrase in the environment"):
            load_committee_key(own)
        with pytest.raises(ConfigError, match="committee: does not open; allowed: the passphrase"):
            load_committee_key(own, lambda _: b"hunter2 hunter2")


def test_a_classical_key_is_kept_as_well(tmp_path: Path) -> None:
    path = tmp_path / "classical"
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    path.write_bytes(private_pem(private, None))
    path.chmod(0o600)
    assert load_committee_key(path).public == private.public_key().public_bytes_raw()


ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MLKEM, X25519 = MLKEM768PrivateKey.from_seed_bytes(bytes(64)), X25519PrivateKey.generate()
WRONG = {
    "empty": (b"", "is not a private key"),
    "an identity key": (private_pem(ED25519, None), "holds .*Ed25519PrivateKey; allowed: ML-KEM-768 and X25519"),
    "half of one": (private_pem(MLKEM, None), "holds MLKEM768PrivateKey"),
    "the wrong way round": (private_pem(X25519, None) + private_pem(MLKEM, None), "holds X25519PrivateKey, MLKEM"),
    "too many": (private_pem(MLKEM, None) * 2 + private_pem(X25519, None), "holds MLKEM768PrivateKey, MLKEM"),
    "cut": (private_pem(MLKEM, None)[:80], "is a damaged private key"),
    "followed by text": (private_pem(MLKEM, None) + private_pem(X25519, None) + b"hello", "is a damaged private key"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_no_committee_key_is_named(tmp_path: Path, wrong: str) -> None:
    content, words = WRONG[wrong]
    path = tmp_path / "identity.key.committee"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=f"identity.key.committee: {words}"):
        load_or_create_committee_key(path)
    assert path.read_bytes() == content


def test_a_committee_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_committee_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read this private key; allowed: mode 600"):
        load_committee_key(path)


def test_the_key_of_an_epoch_is_made_once_and_deleted_when_the_next_begins(key: Path) -> None:
    first = renew_committee_key(key, now=NOW)
    own = committee_key_path(key)
    old = own.read_bytes()
    assert load_or_create_committee_key(own).public.hex() == first.statement.sealing_key
    second = renew_committee_key(key, now=NOW)
    assert second.statement.replaces == sealing_key_hash(bytes.fromhex(first.statement.sealing_key))
    assert second.statement.sealing_key != first.statement.sealing_key
    for path in key.parent.iterdir():
        assert old.splitlines()[1] not in path.read_bytes()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["_create", "write_whole", "sync_directory"])
def test_an_interrupted_epoch_leaves_a_whole_key_and_ends_in_one_that_was_stated(
    key: Path, step: str, after: bool
) -> None:
    first = renew_committee_key(key, now=NOW)
    original = getattr(committee_keys, step)

    def dying(*arguments: object, **options: object) -> None:
        if after:
            original(*arguments, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committee_keys, step, dying)
        with pytest.raises(Killed):
            renew_committee_key(key, now=NOW)
    present = load_committee_key(committee_key_path(key)).public
    stated = {
        statement.sealing_key
        for path in key.parent.glob("*.committee-*.json")
        if isinstance(statement := read_statement(path), CommitteeStatement)
    }
    assert present.hex() in stated
    changed = apply_statement(roster(key), first.statement)
    if present.hex() != first.statement.sealing_key:  # the rename was through: the epoch has begun
        (second,) = (
            found
            for path in key.parent.glob("*.committee-*.json")
            if isinstance(found := read_statement(path), CommitteeStatement) and found.replaces
        )
        changed = apply_statement(changed, second)
    last = renew_committee_key(key, now=NOW)
    assert not list(key.parent.glob("*.next"))
    assert load_committee_key(committee_key_path(key)).public.hex() == last.statement.sealing_key
    assert apply_statement(changed, last.statement).member("north").sealing_key.hex() == last.statement.sealing_key


def test_a_statement_puts_the_key_into_the_roster_and_an_old_one_is_refused(key: Path, tmp_path: Path) -> None:
    first, second = (renew_committee_key(key, now=NOW).statement for _ in range(2))
    before = roster(key)
    with pytest.raises(PeerFault, match="replaces a committee key that 'north' does not have now"):
        apply_statement(before, second)
    one = apply_statement(before, first)
    two = apply_statement(one, second)
    for old in (first, second):
        with pytest.raises(PeerFault, match="replaces a committee key that 'north' does not have now"):
            apply_statement(two, old)
    assert [member.sealing_key.hex() for member in two] == [second.sealing_key, ""]
    write_roster(tmp_path / "roster.toml", two)
    assert read_roster(tmp_path / "roster.toml").digest() == two.digest()
    left = apply_statement(two, end_committee_key(key, now=NOW).statement)
    assert left.digest() == before.digest()
    assert not committee_key_path(key).exists()


def test_a_statement_of_another_identity_key_or_of_anothers_committee_key_is_refused(key: Path) -> None:
    stated = renew_committee_key(key, now=NOW).statement
    stranger = SigningKey(bytes(range(32)))
    sealing_key = bytes.fromhex(stated.sealing_key)
    forged = CommitteeStatement.make("north", stranger, sealing_key, b"", NOW)
    with pytest.raises(PeerFault, match="about a key that 'north' does not have now"):
        apply_statement(roster(key), forged)
    taken = apply_statement(roster(key), stated)
    copied = CommitteeStatement.make("south", SigningKey(bytes([5] * 32)), sealing_key, b"", NOW)
    with pytest.raises(ConfigError, match="'south' has the committee key of 'north'"):
        apply_statement(taken, copied)


OTHER = CommitteeKey(bytes(range(96))).public.hex()


@pytest.mark.parametrize(
    ("field", "value"),
    [("silo", "south"), ("time", "2027-01-01T00:00:00+00:00"), ("sealing_key", OTHER), ("replaces", "ab" * 32)],
)
def test_every_field_of_a_committee_statement_is_signed(key: Path, field: str, value: str) -> None:
    stated = renew_committee_key(key, now=NOW)
    changed = msgspec.structs.replace(stated.statement, **{field: value})
    assert changed != stated.statement
    stated.statement_path.write_bytes(changed.to_json())
    with pytest.raises(PeerFault, match=r"signature does not verify: .* under public_key"):
        read_statement(stated.statement_path)


def test_a_sealing_key_that_nothing_can_be_sealed_to_is_refused() -> None:
    signer = SigningKey(bytes(range(32)))
    for bad in (b"x", bytes(1216), bytes(32)):
        with pytest.raises(PeerFault):
            CommitteeStatement.make("north", signer, bad, b"", NOW).verify()


def test_an_identity_has_the_keys_that_its_roles_need(tmp_path: Path) -> None:
    path = tmp_path / "north" / "identity.key"
    client = load_or_create_identity(path, "north", {Role.CLIENT})
    assert not isinstance(client, CommitteeIdentity)
    assert not committee_key_path(path).exists()
    member = load_or_create_identity(path, "north", {Role.CLIENT, Role.COMMITTEE})
    assert isinstance(member, CommitteeIdentity)
    assert member.signing_key.public == client.signing_key.public
    again = load_or_create_identity(path, "north", {Role.COMMITTEE})
    assert again.member() == member.member()

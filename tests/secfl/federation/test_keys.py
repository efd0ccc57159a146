"""Identity keys as files: what opens them, what they never become, and rotations that stop half-way."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocols.errors import ConfigError, PeerFault, UsageError
from protocols.primitives.signing import SigningKey, fingerprint
from secfl.federation import keys
from secfl.federation.key_statements import Introduction, Revocation, Rotation, read_statement
from secfl.federation.keys import (
    ENVIRONMENT,
    create_key,
    introduce,
    introduction_path,
    is_encrypted,
    load_key,
    load_or_create_key,
    revoke_key,
    rotate_key,
)

NOW = datetime(2026, 3, 1, 12, 30, 0, 999_999, tzinfo=UTC)
SECRET = b"correct horse battery"

# `openssl pkcs8 -topk8 -scrypt` of a key made for this test; passphrase "correct horse battery".
SCRYPT_PEM = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGTME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAg2lN4aXiMo3wICQAAC
AQgCAQEwHQYJYIZIAWUDBAEqBBChrxoSIJqTihyxz5mlrNfNBECHIU1rj7wkc9qM
VbfQQR6RbPF0Uj2ltj9Qm0n6adGk8Ywt7MBMi87SftcsvAIgpr3jAR+HEWIlkzZz
2RG4W18n
-----END ENCRYPTED PRIVATE KEY-----
"""
SCRYPT_PUBLIC = "235f41e23ce87cb8400c45bedb73732954094fe98e36151e999fa24d6f8662a7"


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(private: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def asked(_path: Path) -> bytes:
    return SECRET


def unasked(path: Path) -> bytes:
    raise AssertionError(f"the passphrase of {path} was asked for")


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_new_key_is_pkcs8_for_its_owner_alone_and_opens_again(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "identity.key"
    made = create_key(path, passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = load_pem_private_key(path.read_bytes(), passphrase)
    assert isinstance(loaded, Ed25519PrivateKey)
    assert loaded.private_bytes_raw() == made.private_bytes()
    assert is_encrypted(path) is (passphrase is not None)
    opened = load_key(path, asked if passphrase else unasked)
    assert opened.public == made.public
    assert [item.name for item in tmp_path.iterdir()] == ["identity.key"]


def test_an_encrypted_key_holds_no_byte_of_the_private_one(tmp_path: Path) -> None:
    made = create_key(tmp_path / "key", SECRET)
    plain = pem(Ed25519PrivateKey.from_private_bytes(made.private_bytes())).splitlines()[1]
    raw = (tmp_path / "key").read_bytes()
    assert plain not in raw
    assert raw.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="key: there is a file already; allowed: another path"):
        create_key(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("passphrase", [b"", b"eleven byte"])
def test_a_short_passphrase_is_refused_before_anything_is_written(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(ConfigError, match=f"has {len(passphrase)} bytes; allowed: at least 12"):
        create_key(tmp_path / "key", passphrase)
    assert list(tmp_path.iterdir()) == []


def test_the_passphrase_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_key(tmp_path / "key", SECRET)
    with pytest.raises(ConfigError, match=f"key: is encrypted; allowed: its passphrase in .*{ENVIRONMENT}"):
        load_key(tmp_path / "key")
    monkeypatch.setenv(ENVIRONMENT, SECRET.decode())
    assert load_key(tmp_path / "key").public == made.public
    assert load_or_create_key(tmp_path / "key").public == made.public
    plain = create_key(tmp_path / "plain")
    assert load_key(tmp_path / "plain").public == plain.public  # a passphrase is no hindrance where none is needed


def test_a_wrong_passphrase_names_the_file_and_not_the_passphrase(tmp_path: Path) -> None:
    create_key(tmp_path / "key", SECRET)
    with pytest.raises(ConfigError) as caught:
        load_key(tmp_path / "key", lambda _: b"hunter2 hunter2")
    text = str(caught.value)
    assert text == f"{tmp_path / 'key'}: does not open; allowed: the passphrase that it was encrypted under"
    assert caught.value.__cause__ is None


def test_a_key_that_openssl_encrypted_under_scrypt_opens(tmp_path: Path) -> None:
    path = write(tmp_path / "key", SCRYPT_PEM.encode())
    assert load_key(path, asked).public.hex() == SCRYPT_PUBLIC


PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OPENSSH = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
FAULTS = {
    "empty": (b"", 0o600, "is not a private key"),
    "text": (b"hello", 0o600, "is not a private key"),
    "OpenSSH": (OPENSSH, 0o600, "is not a private key"),
    "cut": (pem(PRIVATE)[:60], 0o600, "is a damaged private key"),
    "X25519": (pem(X25519PrivateKey.generate()), 0o600, "holds a X25519PrivateKey"),
    "group may read": (pem(PRIVATE), 0o640, "others may read this private key; allowed: mode 600"),
    "others may write": (pem(PRIVATE), 0o602, "others may read this private key; allowed: mode 600"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_usable_key_is_named(tmp_path: Path, fault: str) -> None:
    content, mode, words = FAULTS[fault]
    path = write(tmp_path / "identity.key", content, mode)
    with pytest.raises(ConfigError, match=f"identity.key: {words}"):
        load_key(path, unasked)
    with pytest.raises(ConfigError, match=f"identity.key: {words}"):
        load_or_create_key(path)
    assert path.read_bytes() == content


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent: cannot be read: No such file or directory"):
        load_key(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_key(tmp_path)


def test_an_introduction_proves_the_key(tmp_path: Path) -> None:
    key = create_key(tmp_path / "key")
    path = introduce(tmp_path / "key", "north", key, NOW)
    found = read_statement(path)
    assert isinstance(found, Introduction)
    assert (found.silo, found.public_key, found.time) == ("north", key.public.hex(), "2026-03-01T12:30:00+00:00")
    with pytest.raises(UsageError, match="party name 'North'"):
        introduce(tmp_path / "key", "North", key, NOW)


def rotated(directory: Path, passphrase: bytes | None = None) -> tuple[SigningKey, keys.RotatedKey]:
    path = directory / "key"
    old = create_key(path, passphrase)
    introduce(path, "north", old, NOW)
    return old, rotate_key(path, passphrase=asked if passphrase else unasked, now=NOW)


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_rotation_keeps_the_old_key_aside_and_is_signed_by_both(tmp_path: Path, passphrase: bytes | None) -> None:
    old, result = rotated(tmp_path, passphrase)
    opened = asked if passphrase else unasked
    new = load_key(tmp_path / "key", opened)
    assert new.public != old.public
    assert load_key(result.old_key_path, opened).public == old.public
    assert result.old_key_path.name == f"key.{fingerprint(old.public)}.old"
    for path in (tmp_path / "key", result.old_key_path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert is_encrypted(path) is (passphrase is not None)
    statement = read_statement(result.statement_path)
    assert isinstance(statement, Rotation)
    assert statement == result.statement
    assert statement.silo == "north"
    assert (statement.old_public_key, statement.new_public_key) == (old.public.hex(), new.public.hex())
    introduction = read_statement(introduction_path(tmp_path / "key"))
    assert isinstance(introduction, Introduction)
    assert introduction.public_key == new.public.hex()
    assert len(list(tmp_path.iterdir())) == 4


STEPS = ["create_key", "write_whole", "_keep", "introduce", "sync_directory"]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_rotation_leaves_a_whole_key_and_goes_on_with_the_same_new_one(
    tmp_path: Path, step: str, after: bool
) -> None:
    path = tmp_path / "key"
    old = create_key(path)
    introduce(path, "north", old, NOW)
    original = getattr(keys, step)

    def dying(*arguments: object, **options: object) -> None:
        if after:
            original(*arguments, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, step, dying)
        with pytest.raises(Killed):
            rotate_key(path, now=NOW)
    staged = tmp_path / "key.next"
    planned = load_key(staged).public if staged.exists() else None
    assert load_key(path).public == old.public
    result = rotate_key(path, now=NOW)
    assert not staged.exists()
    assert result.statement.old_public_key == old.public.hex()
    assert load_key(path).public.hex() == result.statement.new_public_key
    assert planned in (None, load_key(path).public)
    assert load_key(result.old_key_path).public == old.public
    assert len(list(tmp_path.iterdir())) == 4


def test_a_rotation_does_not_write_over_what_stands_where_the_old_key_goes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = create_key(path)
    introduce(path, "north", old, NOW)
    aside = write(tmp_path / f"key.{fingerprint(old.public)}.old", b"something else")
    with pytest.raises(ConfigError, match="old: stands where the old key goes"):
        rotate_key(path, now=NOW)
    assert aside.read_bytes() == b"something else"
    assert load_key(path).public == old.public


def test_a_revocation_is_signed_and_leaves_the_key(tmp_path: Path) -> None:
    key = create_key(tmp_path / "key")
    introduce(tmp_path / "key", "north", key, NOW)
    path = revoke_key(tmp_path / "key", reason="laptop stolen", now=NOW)
    found = read_statement(path)
    assert isinstance(found, Revocation)
    assert (found.silo, found.public_key, found.reason) == ("north", key.public.hex(), "laptop stolen")
    assert load_key(tmp_path / "key").public == key.public
    with pytest.raises(ConfigError, match=r"revocation.json: there is a file already"):
        revoke_key(tmp_path / "key", now=NOW)


def test_whose_key_it_is_must_be_known_and_agree(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = create_key(path)
    with pytest.raises(ConfigError, match=r"--silo: missing, and there is no .*key.pub"):
        rotate_key(path, now=NOW)
    assert not (tmp_path / "key.next").exists()
    introduce(path, "north", key, NOW)
    with pytest.raises(ConfigError, match=r"--silo: 'south', but .*key.pub says 'north'"):
        rotate_key(path, silo="south", now=NOW)
    introduce(path, "north", create_key(tmp_path / "other"), NOW)
    with pytest.raises(ConfigError, match=r"key.pub: is the introduction of another key"):
        revoke_key(path, now=NOW)


def statements(directory: Path) -> list[Path]:
    _, result = rotated(directory)
    return [
        introduction_path(directory / "key"),
        result.statement_path,
        revoke_key(directory / "key", reason="x", now=NOW),
    ]


def test_every_field_of_a_statement_is_signed(tmp_path: Path) -> None:
    """A change of any field that the schema lets through breaks a signature."""
    other = "ab" * 64
    changes = {"silo": "south", "time": "2027-01-01T00:00:00+00:00", "reason": "y"}
    for path in statements(tmp_path):
        original = path.read_text()
        fields = read_statement(path).__struct_fields__
        for name in fields:
            value = getattr(read_statement(path), name)
            if name == "format":
                continue
            path.write_text(original.replace(f'"{value}"', f'"{changes.get(name) or other[: len(value)]}"'))
            assert path.read_text() != original
            with pytest.raises(PeerFault, match=f"{path.name}: under "):
                read_statement(path)
            path.write_text(original)


def test_a_statement_is_not_taken_for_one_of_another_kind(tmp_path: Path) -> None:
    key = SigningKey(bytes(range(32)))
    introduction = Introduction.make("north", key, NOW)
    revocation = Revocation.make("north", key, NOW)
    assert introduction.message() != revocation.message()
    path = tmp_path / "forged.json"
    path.write_bytes(introduction.to_json().replace(b'"introduction"', b'"revocation"'))
    with pytest.raises(PeerFault, match=r"signature does not verify: .*forged.json: under public_key"):
        read_statement(path)


def test_a_rotation_to_the_same_key_is_refused(tmp_path: Path) -> None:
    key = SigningKey(bytes(range(32)))
    (tmp_path / "x").write_bytes(Rotation.make("north", key, key, NOW).to_json())
    with pytest.raises(PeerFault, match="new_public_key is the old one"):
        read_statement(tmp_path / "x")


GOOD = Introduction.make("north", SigningKey(bytes(range(32))), NOW).to_json()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no statement"),
        (b"{}", "is no statement"),
        (b"[" * 50_000, "is no statement"),
        (b"\xff", "is no statement"),
        (GOOD + b"x", "is no statement"),
        (GOOD.replace(b'"introduction"', b'"promise"'), "is no statement"),
        (GOOD.replace(b'"format": 1', b'"format": 2'), "is no statement.*format"),
        (GOOD.replace(b'"silo": "north"', b'"silo": "north\\n"'), "is no statement.*silo"),
        (GOOD.replace(b'"silo"', b'"extra": 1, "silo"'), "is no statement.*extra"),
        (GOOD.replace(b"+00:00", b"Z"), "is no statement.*time"),
        (b" " * 70_000, "more than 65536 bytes"),
    ],
)
def test_a_file_that_is_no_statement_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "statement.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"statement.json: {words}"):
        read_statement(path)


@pytest.mark.slow
def test_openssl_reads_the_files(tmp_path: Path) -> None:
    made = create_key(tmp_path / "key", SECRET)
    command = ["openssl", "pkey", "-in", tmp_path / "key", "-passin", f"pass:{SECRET.decode()}", "-pubout", "-outform"]
    done = subprocess.run([*command, "DER"], capture_output=True, check=True)
    assert done.stdout[-32:] == made.public

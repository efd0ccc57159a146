"""`secfl keys`: files, questions, and nothing secret in what is printed."""

from __future__ import annotations

import base64
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import Result

from protocols.primitives.signing import fingerprint
from secfl.federation.key_statements import Introduction, Revocation, Rotation, read_statement
from secfl.federation.keys import ENVIRONMENT, load_key

Command = Callable[..., Result]
PASSPHRASE = "correct horse battery"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def error_line(result: Result) -> str:
    (line,) = result.stderr.strip().splitlines()
    return line


def assert_shows_nothing_secret(text: str, path: Path, passphrase: str | None = None) -> None:
    private = load_pem_private_key(path.read_bytes(), passphrase.encode() if passphrase else None)
    raw = private.private_bytes_raw()  # type: ignore[union-attr]
    body = path.read_text().splitlines()[1]
    for secret in (raw.hex(), base64.b64encode(raw).decode(), body, PASSPHRASE):
        assert secret not in text


def test_a_new_key_is_shown_by_silo_public_key_and_fingerprint_alone(tmp_path: Path, secfl: Command) -> None:
    path = tmp_path / "keys" / "identity.key"
    made = secfl("keys", "new", path, "--silo", "north")
    assert made.exit_code == 0, made.output
    public = load_key(path).public
    shown = secfl("keys", "show", path)
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines == ["silo north", f"public key {public.hex()}", f"fingerprint {fingerprint(public)}"]
    assert made.stdout.startswith(shown.stdout)
    assert made.stdout.splitlines()[3:] == [f"private key: {path}", f"for the roster: {path}.pub"]
    assert_shows_nothing_secret(made.output + shown.output, path)
    introduction = read_statement(Path(f"{path}.pub"))
    assert isinstance(introduction, Introduction)
    assert (introduction.silo, introduction.public_key) == ("north", public.hex())


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path, secfl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    monkeypatch.setenv(ENVIRONMENT, PASSPHRASE)
    made = secfl("keys", "new", path, "--silo", "north", "--encrypt")
    assert made.exit_code == 0, made.output
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    rotated = secfl("keys", "rotate", path)
    assert rotated.exit_code == 0, rotated.output
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert_shows_nothing_secret(made.output + rotated.output, path, PASSPHRASE)
    monkeypatch.setenv(ENVIRONMENT, "another passphrase")
    wrong = secfl("keys", "show", path)
    assert wrong.exit_code == 3
    assert error_line(wrong) == f"error: {path}: does not open; allowed: the passphrase that it was encrypted under"
    assert "another passphrase" not in wrong.output
    monkeypatch.delenv(ENVIRONMENT)
    missing = secfl("keys", "show", path)
    assert missing.exit_code == 3
    assert f"{path}: is encrypted; allowed: its passphrase in the environment variable {ENVIRONMENT}" in missing.stderr


def at_terminal(answers: list[str], *arguments: object) -> tuple[int, str]:
    """A command in a terminal of its own, which answers each question; exit code and all that the terminal shows."""
    command = [sys.executable, "-c", "from secfl.cli import main; main()", *map(str, arguments)]
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"})
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        shown += part
        # The last space of a question comes after the echo is off; what was typed before that is thrown away.
        if shown.endswith(b": ") and answers:
            os.write(terminal, f"{answers.pop(0)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def test_a_passphrase_is_asked_for_at_a_terminal_and_not_echoed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    code, shown = at_terminal([PASSPHRASE, PASSPHRASE], "keys", "new", path, "--silo", "north", "--encrypt")
    assert code == 0, shown
    assert f"New passphrase of {path}, at least 12 bytes" in shown
    assert PASSPHRASE not in shown
    assert load_key(path, lambda _: PASSPHRASE.encode()).public.hex() in shown
    code, shown = at_terminal(["wrong wrong wrong"], "keys", "show", path)
    assert code == 3
    assert f"Passphrase of {path}" in shown
    assert f"{path}: does not open" in shown
    assert "wrong wrong" not in shown


def test_a_rotation_names_the_old_key_and_the_statement(tmp_path: Path, secfl: Command) -> None:
    path = tmp_path / "identity.key"
    secfl("keys", "new", path, "--silo", "north")
    old = load_key(path).public
    result = secfl("keys", "rotate", path)
    assert result.exit_code == 0, result.output
    kept, statement = (Path(line.split(": ")[1]) for line in result.stdout.splitlines()[3:5])
    assert load_key(kept).public == old
    found = read_statement(statement)
    assert isinstance(found, Rotation)
    assert (found.old_public_key, found.new_public_key) == (old.hex(), load_key(path).public.hex())
    assert "Ledgers here" not in result.stdout
    (tmp_path / "records.ledger").touch()
    assert "Ledgers here were begun under the old key" in secfl("keys", "rotate", path).stdout


def test_a_revocation_goes_where_it_is_told(tmp_path: Path, secfl: Command) -> None:
    path, output = tmp_path / "key", tmp_path / "revoked.json"
    secfl("keys", "new", path, "--silo", "north")
    result = secfl("keys", "revoke", path, "--reason", "lost", "--output", output)
    assert result.exit_code == 0, result.output
    found = read_statement(output)
    assert isinstance(found, Revocation)
    assert (found.silo, found.reason) == ("north", "lost")


def test_the_key_of_a_run_is_introduced_afterwards(finished_run: Any, tmp_path: Path, secfl: Command) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes((finished_run[1] / "ledgers" / "north" / "identity.key").read_bytes())
    path.chmod(0o600)
    assert f"not recorded: there is no {path}.pub" in secfl("keys", "show", path).stdout
    assert secfl("keys", "introduce", path, "--silo", "north").exit_code == 0
    assert "north" in secfl("keys", "show", path).stdout

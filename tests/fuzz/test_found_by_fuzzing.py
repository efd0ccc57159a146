"""What fuzzing found, one test a finding: the input as it was found or shorter, and the error that it ends in now."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.errors import ConfigError, LedgerCorrupt
from secfl.cli.ledger import _first_entry
from secfl.federation.checkpoint import DirectoryJournal
from secfl.federation.keys import load_key
from secfl.privacy.ledger_file import read_mark
from secfl.report.model import RunReport

NO_TEXT = b'{"sequence":1,"hash":"0000\xff\xff"}\n'
"""A string that is not UTF-8: not a `msgspec.DecodeError`, but a `UnicodeDecodeError`."""
DEEP = b"[" * 100_000


@pytest.mark.parametrize("raw", [NO_TEXT, DEEP])
def test_high_water_mark_that_is_no_text_or_nested_deeply_is_corrupt(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "mark"
    path.write_bytes(raw)
    with pytest.raises(LedgerCorrupt, match="LG-19"):
        read_mark(path)


@pytest.mark.parametrize("raw", [b'{"\xff":1}', DEEP])
def test_record_of_an_attempt_that_is_no_text_or_nested_deeply_is_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "attempt.json").write_bytes(raw)
    with pytest.raises(ConfigError, match=r"attempt\.json: is damaged"):
        DirectoryJournal(tmp_path).next_attempt(1)


@pytest.mark.parametrize("raw", [b'{"entry":{"silo":"\xff"}}', DEEP])
def test_first_line_of_a_ledger_that_is_no_text_or_nested_deeply_names_no_silo(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "records.ledger"
    path.write_bytes(raw)
    with pytest.raises(LedgerCorrupt, match="does not name a silo"):
        _first_entry(path)


def test_private_key_whose_length_is_not_its_kinds_is_named(tmp_path: Path) -> None:
    """An X448 key of 32 bytes: `cryptography` raises an InternalError."""
    path = tmp_path / "identity.key"
    path.write_bytes(
        b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VvBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
        b"-----END PRIVATE KEY-----\n"
    )
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"identity\.key: is a damaged private key"):
        load_key(path)


def test_report_that_is_nested_deeply_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="schema version"):
        RunReport.from_json(b'{"protocol_parameters":' + DEEP)

"""What an audit found, as a record: for people, for a run's directory, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from protocols.errors import ConfigError
from secfl.files import write_whole

__all__ = ["FILE", "AuditKind", "AuditResult", "Finding", "read_audits", "write_audits"]

FILE = "audit.json"
AuditKind = Literal["conformance", "lower bound"]
_MAXIMAL_BYTES = 1 << 24


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One statistical test that failed.

    :param test: what was tested.
    :param where: which residuals.
    :param p_value: probability of a value as far out, were all as it should be; 0 where it is too small for a float.
    """

    test: str
    where: str
    p_value: float


class AuditResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of an audit. A conformance test that passes, or a low lower bound, shows that no fault was found.

    :param summary: one sentence for people.
    :param details: figures by name.
    :param findings: tests that failed, the least probable first; empty for the lower bound.
    """

    kind: AuditKind
    mode: str
    passed: bool
    summary: str
    details: dict[str, str | int | float]
    findings: tuple[Finding, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    audits: tuple[AuditResult, ...]


def write_audits(directory: Path, audits: tuple[AuditResult, ...]) -> Path:
    """Write the parts of an audit into a directory as one JSON file, whole; returns its path."""
    path = directory / FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(_File(1, audits)), indent=2) + b"\n")
    return path


def read_audits(directory: Path) -> tuple[AuditResult, ...]:
    """Read what :func:`write_audits` wrote; empty if there is no such file.

    :raises ConfigError: the file is something else.
    """
    path = directory / FILE
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAXIMAL_BYTES + 1)
    except FileNotFoundError:
        return ()
    try:
        return msgspec.json.decode(raw, type=_File).audits
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is no audit: {error}", "a file that `secfl audit` wrote") from None

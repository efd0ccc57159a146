"""A report against the records that it was made from: everything that can be computed is computed again.

Nothing of the report is believed but what no record can tell (`STATED`). Ledgers prove themselves, under keys that the
roster pins: lines are replayed up to the head that the report names, and all that follows from them is worked out by
the same functions that made the report. The model file's code is never run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from protocols.errors import ConfigError, LedgerCorrupt, MissingExtra, ReportMismatch
from protocols.identity import Roster
from secfl.config import Config, parse_config
from secfl.federation.checkpoint import load_checkpoint
from secfl.federation.reporting import assemble
from secfl.federation.roster_file import ROSTER_NAME, read_roster
from secfl.federation.run_records import RunRecords
from secfl.federation.secure_evaluation import metric_of_counts
from secfl.federation.session import CONFIGURATION, EVENTS
from secfl.privacy.accountants import require_accountant
from secfl.privacy.audit.record import read_audits
from secfl.privacy.ledger_replay import Replay
from secfl.report import RunReport, render_html
from secfl.report.accounts import Account, epsilon_after
from secfl.report.differences import differences
from secfl.report.files import HTML_NAME
from secfl.report.model import Audit, RoundRow, SiloRow
from secfl.report.signatures import verify_head

__all__ = ["STATED", "Verification", "audits_of", "ledger_home", "verify_report"]

STATED = ("started", "finished", "status_reason", "engine", "versions", "baselines")
"""What no record can prove: taken as the report has it."""


@dataclass(frozen=True)
class Verification:
    """What was recomputed.

    :param values: numbers and texts of the report that were compared, one by one.
    :param unchecked: places whose value could not be computed here, for want of a library.
    :param page: whether the HTML page was compared as well; None if there is none.
    """

    report: RunReport
    roster: Roster
    ledger_lines: int
    values: int
    unchecked: tuple[str, ...]
    page: bool | None


def verify_report(path: Path, *, roster_path: Path | None = None, ledgers: Path | None = None) -> Verification:
    """Verify a ``report.json`` and the page beside it.

    :param roster_path: a roster that was pinned elsewhere; by default the run's own.
    :param ledgers: directory with one directory a silo; by default where the run kept them.
    :raises ReportMismatch: naming the first number, hash or signature that differs.
    :raises LedgerCorrupt: a ledger breaks a rule; names the line and the rule.
    :raises ConfigError: a file that is needed cannot be read.
    :raises MissingExtra: the accountant of a claim is not installed, so that the claim cannot be computed again.
    """
    directory = path.parent
    report = RunReport.from_json(_read(path))
    for claim in report.claims:
        require_accountant(claim.accountant)
    text = _read(directory / CONFIGURATION).decode()
    _same("configuration", report.configuration, text)
    config = parse_config(text, str(directory / CONFIGURATION))
    roster = _roster(report, roster_path or directory / ROSTER_NAME)
    home = ledgers or ledger_home(config, directory)
    accounts = {silo.name: _account(config, silo, home) for silo in report.silos if config.privacy is not None}
    model_hash = hashlib.sha256(_read(directory / "model.safetensors")).hexdigest()
    _same("model_hash", report.model_hash, model_hash)
    _check_signatures(report, accounts)
    _check_rounds(report, directory, accounts)
    records = _records(report, config, text, roster, accounts, directory)
    _check_opened(records, _told(directory / EVENTS))
    expected = assemble(records)
    compared, unchecked = _compare(report, expected)
    page = _check_page(report, directory / HTML_NAME)
    lines = sum(account.head.sequence + 1 for account in accounts.values())
    return Verification(report, roster, lines, compared, unchecked, page)


def ledger_home(config: Config, directory: Path) -> Path:
    """Where a run's ledgers lie, a directory a silo.

    :param directory: of the run.
    """
    if config.ledger.kind == "per-run":
        return directory / "ledgers"
    origin = Path(_read(directory / "origin.txt").decode().rstrip("\n"))
    return origin / config.ledger.directory


# -- what is read ------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the directory of a finished run") from None


def _roster(report: RunReport, path: Path) -> Roster:
    """The pinned keys; the report must name the same for every silo."""
    roster = read_roster(path)
    _same("roster_hash", report.roster_hash, roster.digest().hex())
    members = {str(member.id): member.identity_key.hex() for member in roster}
    for silo in report.silos:
        _same(f"silos[{silo.name}].public_key", silo.public_key, members.get(silo.name, "no such member"))
    return roster


def _account(config: Config, silo: SiloRow, home: Path) -> Account:
    """A silo's ledger, every line verified, up to the head that the report names."""
    path = home / silo.name / f"{config.ledger.lineage}.ledger"
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LedgerCorrupt(f"{path}: cannot be read: {error.strerror}") from None
    replay = Replay(str(path), bytes.fromhex(silo.public_key))
    where = f"silos[{silo.name}].ledger_sequence"
    if silo.ledger_sequence is None or silo.ledger_sequence + 1 >= len(lines):
        raise ReportMismatch(where, silo.ledger_sequence, f"{len(lines) - 1} lines in {path}")
    for line in lines[: silo.ledger_sequence + 1]:
        replay.add(line + b"\n")
    _same(f"silos[{silo.name}].ledger_head", silo.ledger_head, replay.head.hash)
    return Account(replay.state, replay.head)


def _check_signatures(report: RunReport, accounts: dict[str, Account]) -> None:
    for silo in report.silos:
        account = accounts.get(silo.name)
        if account is not None:
            verify_head(
                bytes.fromhex(silo.public_key),
                silo.head_signature,
                run_id=report.run_id,
                model_hash=report.model_hash,
                silo=silo.name,
                lineage=account.state.genesis.lineage,
                head=account.head,
            )


# -- rounds ------------------------------------------------------------------------------------------------------------


def _check_rounds(report: RunReport, directory: Path, accounts: dict[str, Account]) -> None:
    """Rounds against the checkpoint, the events and the ledgers."""
    progress = load_checkpoint(directory).progress
    _same("run_id", report.run_id, progress.run_id)
    digest = hashlib.sha256(report.configuration.encode()).hexdigest()
    _same("configuration", f"SHA-256 {digest}", f"SHA-256 {progress.configuration_hash}")
    for difference in differences({"rounds": report.rounds}, {"rounds": progress.rounds}):
        raise ReportMismatch(*difference)
    told = _told(directory / EVENTS)
    for row in report.rounds:
        _check_told(row, told)
        for silo, account in accounts.items():
            spent = epsilon_after(account.state, report.run_id, row.number, row.attempt)
            found = row.epsilon.get(silo)
            if found is None or abs(found - spent) > 1e-9 * max(spent, 1.0):
                raise ReportMismatch(f"{_row(row)}.epsilon[{silo}]", found, spent)


def _row(row: RoundRow) -> str:
    return f"rounds[{row.number}.{row.attempt}]"


def _told(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Events by session."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        try:
            event = json.loads(line)
        except ValueError:
            raise ConfigError(str(path), f"line {number} is not JSON", "a file that secfl wrote") from None
        if isinstance(event, dict) and "session" in event:
            sessions.setdefault(event["session"], []).append(event)
    return sessions


def _check_opened(records: RunRecords, told: dict[str, list[dict[str, Any]]]) -> None:
    """What every session was announced as."""
    words = records.scheme.word_count(records.update_size)
    for event in (event for events in told.values() for event in events if event.get("event") == "SessionOpened"):
        _same("simulation", records.simulation, event.get("simulation"))
        _same("protocol_parameters[vector length]", words, event.get("vector_length"))


def _check_told(row: RoundRow, told: dict[str, list[dict[str, Any]]]) -> None:
    """A row against what was logged while the session ran."""
    events = told.get(row.session, [])
    phases = [event for event in events if event.get("event") == "PhaseClosed"]
    _same(f"{_row(row)}.phases", [phase.phase for phase in row.phases], [event.get("phase") for event in phases])
    for phase, event in zip(row.phases, phases, strict=True):
        for key in ("seconds", "bytes_up", "bytes_down", "answered", "dropped"):
            value = getattr(phase, key)
            found = list(value) if isinstance(value, tuple) else value
            _same(f"{_row(row)}.phases[{phase.phase}].{key}", found, event.get(key))
    ended = [event for event in events if event.get("event") == "RoundFinished"]
    outcome = [(event.get("outcome") == "summed", event.get("contributors")) for event in ended]
    _same(f"{_row(row)}.contributors", [(row.completed, list(row.contributors))], outcome)


# -- everything else ---------------------------------------------------------------------------------------------------


def audits_of(directory: Path) -> tuple[Audit, ...]:
    """What `secfl audit` left in a run's directory, as reports show it."""
    return tuple(
        Audit(kind=found.kind, passed=found.passed, summary=found.summary, details=found.details)
        for found in read_audits(directory)
    )


def _records(
    report: RunReport, config: Config, text: str, roster: Roster, accounts: dict[str, Account], directory: Path
) -> RunRecords:
    size = report.protocol_parameters.get("vector length")
    if not isinstance(size, int) or not 0 < size <= 2**40:
        raise ReportMismatch("protocol_parameters[vector length]", size, "a number of coordinates")
    finished = max((row.number for row in report.rounds if row.completed), default=0)
    metrics = [row.metric for row in report.rounds if row.completed]
    metric = metrics[-1] if metrics else report.evaluation.value
    if config.evaluation.kind == "secure":
        metric = metric_of_counts(directory, config.evaluation.metric)
    return RunRecords(
        config=config,
        configuration=text,
        run_id=report.run_id,
        started=report.started,
        finished=report.finished,
        status="completed" if finished == config.run.rounds else "halted",
        reason=report.status_reason,
        engine=report.engine,
        simulation=report.simulation,
        rounds=report.rounds,
        metric=metric,
        model_hash=report.model_hash,
        update_size=size,
        keys={silo.name: silo.public_key for silo in report.silos},
        roster_hash=roster.digest().hex(),
        accounts=accounts,
        signatures={silo.name: silo.head_signature for silo in report.silos},
        versions=report.versions,
        audits=audits_of(directory),
        baselines=report.baselines,
    )


def _compare(report: RunReport, expected: RunReport) -> tuple[int, tuple[str, ...]]:
    """Every value of the report against the one that follows from the records."""
    unchecked: list[str] = []
    for what, found, wanted in differences(report, expected):
        if wanted is None and what.rpartition(".")[2] in ("prv_epsilon", "pld", "pld_unamplified"):
            unchecked.append(what)
            continue
        raise ReportMismatch(what, found, wanted)
    return sum(1 for _ in _leaves(msgspec.to_builtins(report))), tuple(unchecked)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _check_page(report: RunReport, path: Path) -> bool | None:
    """The page must be the one of this report, figures in their words; None: no page, False: it cannot be made here."""
    if not path.exists():
        return None
    try:
        made = render_html(report)
    except MissingExtra:
        return False
    from secfl.report.page import readable

    for line, (found, wanted) in enumerate(zip(readable(_read(path).decode()), readable(made), strict=False), start=1):
        if found != wanted:
            raise ReportMismatch(f"{path.name}, text {line}", repr(found), repr(wanted))
    _same(f"{path.name}, texts", len(readable(_read(path).decode())), len(readable(made)))
    return True


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ReportMismatch(what, _short(found), _short(expected))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:119]}\u2026"

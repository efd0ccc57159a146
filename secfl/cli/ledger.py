"""`secfl ledger show|verify|hand-over`: read a privacy ledger, or end it in a successor. Nothing here repairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from protocols.errors import ConfigError, LedgerCorrupt
from secfl.cli.console import console, errors
from secfl.federation.keys import load_key
from secfl.federation.roster_file import read_roster
from secfl.privacy.hand_over import hand_over
from secfl.privacy.ledger import LedgerSummary, inspect, verify

__all__ = ["app", "public_key_of"]

_LONGEST_LINE = 1 << 20
_KEY_BYTES = 32

app = typer.Typer(help="Read and verify privacy ledgers, and hand them over.", no_args_is_help=True)

LedgerPath = Annotated[Path, typer.Argument(help="Ledger file.", dir_okay=False)]
KeyOption = Annotated[str, typer.Option(help="The silo's Ed25519 public key, 64 hex digits.")]
RosterOption = Annotated[
    Path | None, typer.Option(help="Roster file of the run (roster.toml), instead of --key.", dir_okay=False)
]


@app.command("verify")
def verify_command(ledger: LedgerPath, key: KeyOption = "", roster: RosterOption = None) -> None:
    """Verify every line: chain, signatures, rules, arithmetic. Any fault ends with exit code 6."""
    summary = verify(ledger, _public_key(ledger, key, roster))
    console.print(
        f"verified: {summary.head.sequence + 1} lines of silo {summary.silo!r}, lineage {summary.lineage!r}, "
        f"head {summary.head.hash}",
        soft_wrap=True,
    )


@app.command("show")
def show(ledger: LedgerPath, key: KeyOption = "", roster: RosterOption = None) -> None:
    """Show what a ledger says, as far as it can be trusted; a fault is named, and ends with exit code 6."""
    found = inspect(ledger, _public_key(ledger, key, roster))
    if found.summary is not None:
        _print(found.summary)
    if found.fault is not None:
        errors.print("[bold red]not to be trusted past this point[/]")
        raise found.fault


@app.command("hand-over")
def hand_over_command(
    ledger: LedgerPath,
    successor: Annotated[str, typer.Argument(help="Name of the new lineage: ledger.lineage of later configurations.")],
    key: Annotated[Path, typer.Option(help="The silo's identity key as it is now.", dir_okay=False)],
    old_key: Annotated[
        Path | None, typer.Option(help="The key that the ledger began with, if it was rotated.", dir_okay=False)
    ] = None,
    source: Annotated[str, typer.Option(help="Where the records come from; default: as before.")] = "",
) -> None:
    """End a ledger in a successor that inherits all spend: after a key rotation, or for a new version of the records.

    Nothing is gained by it: the budget, and what is left of it, stay the same. The old ledger admits nothing any more.
    """
    now = load_key(key)
    before = now if old_key is None else load_key(old_key)
    path = hand_over(ledger, before, now, successor, source=source)
    summary = verify(path, now.public)
    console.print(
        f"lineage {summary.lineage!r} of silo {summary.silo!r} goes on, spent {summary.spent.filter_epsilon:.4f} of "
        f"{summary.budget.epsilon:g}: {escape(str(path))}",
        soft_wrap=True,
    )


def _public_key(ledger: Path, key: str, roster: Path | None) -> bytes:
    if roster is not None:
        return _key_in_roster(ledger, roster)
    try:
        public = bytes.fromhex(key)
    except ValueError:
        public = b""
    if len(public) != _KEY_BYTES:
        problem = f"{key!r} is no public key" if key else "missing"
        raise ConfigError("--key", problem, "64 hex digits, or --roster FILE")
    return public


def _key_in_roster(ledger: Path, path: Path) -> bytes:
    """The key that the roster has for the silo that the ledger says it is of: verifying under it proves the rest."""
    roster = read_roster(path)
    claimed = _first_entry(ledger).silo
    members = {str(member.id): member.identity_key for member in roster}
    if claimed not in members:
        raise ConfigError("--roster", f"has no silo {claimed!r}, of which this ledger is", ", ".join(members))
    place = ledger.resolve().parent.name
    if place in members and place != claimed:
        raise LedgerCorrupt(f"{ledger}: is of silo {claimed!r}, but lies in the directory of {place!r}")
    return members[claimed]


def public_key_of(ledger: Path, roster: Path | None) -> bytes:
    """The key that a ledger is to be verified under: its silo's in the roster, or else the one that it names itself.

    :raises ConfigError: the roster cannot be used, or lacks the silo.
    :raises LedgerCorrupt: the file does not begin like a ledger.
    """
    if roster is not None:
        return _key_in_roster(ledger, roster)
    try:
        key = bytes.fromhex(_first_entry(ledger).public_key)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise LedgerCorrupt(f"{ledger}: its first line does not name a public key")
    return key


class _FirstEntry(msgspec.Struct):
    silo: str
    public_key: str = ""


class _FirstLine(msgspec.Struct):
    entry: _FirstEntry


def _first_entry(ledger: Path) -> _FirstEntry:
    """Whose ledger it claims to be, unverified."""
    try:
        with ledger.open("rb") as file:
            return msgspec.json.decode(file.readline(_LONGEST_LINE), type=_FirstLine).entry
    except FileNotFoundError:
        raise LedgerCorrupt(f"{ledger}: no such ledger") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise LedgerCorrupt(f"{ledger}: its first line does not name a silo") from None


def _print(summary: LedgerSummary) -> None:
    console.print(f"silo {summary.silo}, lineage {summary.lineage}: {escape(summary.source)}", soft_wrap=True)
    console.print(
        f"budget epsilon {summary.budget.epsilon:g}, delta {summary.budget.delta:g}, unit {summary.budget.unit}; "
        f"spent {summary.spent.filter_epsilon:.4f}, reserved {summary.reserved.filter_epsilon:.4f}, "
        f"remaining {summary.remaining.filter_epsilon:.4f} (RDP filter, order {summary.order})",
        soft_wrap=True,
    )
    table = Table("release", "state", "reserved at", "event")
    for release in summary.releases:
        event = release.reservation.event
        table.add_row(release.reservation.release_id, release.state.value, release.reserved_at, escape(repr(event)))
    console.print(table)
    console.print(f"head {summary.head.sequence} {summary.head.hash}", soft_wrap=True)

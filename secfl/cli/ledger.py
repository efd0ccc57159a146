"""`secfl ledger show|verify`: read a privacy ledger. Nothing here writes or repairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from protocols.errors import ConfigError
from protocols.identity import Roster
from secfl.cli.console import console, errors
from secfl.privacy.ledger import LedgerSummary, inspect, verify

__all__ = ["app"]

app = typer.Typer(help="Read and verify privacy ledgers.", no_args_is_help=True)

LedgerPath = Annotated[Path, typer.Argument(help="Ledger file.", exists=True, dir_okay=False)]
KeyOption = Annotated[str, typer.Option(help="The silo's Ed25519 public key, 64 hex digits.")]
RosterOption = Annotated[Path | None, typer.Option(help="Roster file of the run, instead of --key.", dir_okay=False)]


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


def _public_key(ledger: Path, key: str, roster: Path | None) -> bytes:
    if roster is not None:
        return Roster.from_bytes(roster.read_bytes()).member(ledger.resolve().parent.name).identity_key
    try:
        public = bytes.fromhex(key)
    except ValueError:
        public = b""
    if len(public) != 32:
        raise ConfigError("--key", f"{len(key)} characters", "64 hex digits, or --roster FILE")
    return public


def _print(summary: LedgerSummary) -> None:
    console.print(f"silo {summary.silo}, lineage {summary.lineage}: {summary.source}", soft_wrap=True)
    console.print(
        f"budget epsilon {summary.budget.epsilon:g}, delta {summary.budget.delta:g}, unit {summary.budget.unit}; "
        f"spent {summary.spent.filter_epsilon:.4f}, reserved {summary.reserved.filter_epsilon:.4f}, "
        f"remaining {summary.remaining.filter_epsilon:.4f} (RDP filter, order {summary.order})",
        soft_wrap=True,
    )
    table = Table("release", "state", "reserved at", "event")
    for release in summary.releases:
        event = release.reservation.event
        table.add_row(release.reservation.release_id, release.state.value, release.reserved_at, repr(event))
    console.print(table)
    console.print(f"head {summary.head.sequence} {summary.head.hash}", soft_wrap=True)

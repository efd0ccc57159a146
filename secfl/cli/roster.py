"""`secfl roster`: the file of pinned public keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from protocols.errors import ConfigError
from protocols.identity import Member, Roster, client_id
from protocols.primitives.signing import fingerprint
from secfl.cli.console import console
from secfl.federation.key_statements import Introduction, read_statement
from secfl.federation.roster_file import (
    add_members,
    apply_statement,
    create_roster_file,
    read_roster,
    revoke_member,
    write_roster,
)

__all__ = ["app"]

app = typer.Typer(help="Make, show, verify and change the roster of public keys.", no_args_is_help=True)

RosterPath = Annotated[Path, typer.Argument(help="Roster file (TOML).", dir_okay=False, metavar="ROSTER")]
Introductions = Annotated[
    list[Path] | None, typer.Argument(help="KEY.pub files of `secfl keys`.", dir_okay=False, metavar="[KEY.pub]...")
]
MemberOption = Annotated[
    list[str] | None,
    typer.Option("--member", help="ID=KEY with the public key in 64 hex digits; nothing proves who holds it."),
]


@app.command("new")
def new(roster: RosterPath, introductions: Introductions = None, member: MemberOption = None) -> None:
    """Make a roster of one member or more. Never in the place of another."""
    made = add_members((), _new_members(introductions or [], member or []))
    create_roster_file(roster, made)
    _print(made)


@app.command("add")
def add(roster: RosterPath, introductions: Introductions = None, member: MemberOption = None) -> None:
    """Add members."""
    changed = add_members(read_roster(roster), _new_members(introductions or [], member or []))
    write_roster(roster, changed)
    _print(changed)


@app.command("show")
def show(roster: RosterPath) -> None:
    """Show members, the fingerprints of their keys, their standing, who is on a committee, and the hash of it all."""
    _print(read_roster(roster))


@app.command("verify")
def verify(
    roster: RosterPath,
    expected: Annotated[str | None, typer.Option("--hash", help="Hash that the others have, 64 hex digits.")] = None,
) -> None:
    """Verify the file, and that its hash is the one that the others have."""
    found = read_roster(roster).digest().hex()
    if expected is not None and expected.lower() != found:
        raise ConfigError("--hash", f"{expected!r}, but {roster} has {found}", "one roster for all members")
    console.print(f"verified: hash {found}", soft_wrap=True)


@app.command("revoke")
def revoke(roster: RosterPath, member: Annotated[str, typer.Argument(metavar="ID", help="Of the member.")]) -> None:
    """Revoke a member; no session takes it any more."""
    changed = revoke_member(read_roster(roster), member)
    write_roster(roster, changed)
    _print(changed)


@app.command("apply")
def apply(
    roster: RosterPath,
    statements: Annotated[list[Path], typer.Argument(metavar="STATEMENT...", help="Of `secfl keys`.", dir_okay=False)],
) -> None:
    """Apply statements of rotation, revocation or a committee key in turn, all of them or none; every signature is
    verified."""
    changed = read_roster(roster)
    for path in statements:
        try:
            changed = apply_statement(changed, read_statement(path))
        except ConfigError as error:
            key, _, problem = str(error).partition(": ")
            raise ConfigError(str(path), problem) if key in ("statement", "roster") else error from None
    write_roster(roster, changed)
    _print(changed)


def _new_members(introductions: Iterable[Path], lines: Iterable[str]) -> Iterator[Member]:
    members = [*map(_introduced, introductions), *map(_member, lines)]
    if not members:
        raise ConfigError("KEY.pub", "nobody to put into the roster", "one file or more, or --member ID=KEY")
    return iter(members)


def _introduced(path: Path) -> Member:
    statement = read_statement(path)
    if not isinstance(statement, Introduction):
        raise ConfigError(str(path), "is no introduction", "a KEY.pub; `secfl roster apply` takes other statements")
    return Member(statement.silo, bytes.fromhex(statement.public_key))


def _member(line: str) -> Member:
    silo, _, key = line.partition("=")
    try:
        public = bytes.fromhex(key)
    except ValueError:
        public = b""
    if len(public) != 32:
        raise ConfigError("--member", f"{line!r} is not ID=KEY", "a name, =, and 64 hex digits")
    return Member(client_id(silo), public)


def _print(roster: Roster) -> None:
    table = Table("member", "fingerprint", "standing", "committee key")
    for member in roster:
        standing = "[bold red]revoked[/]" if member.revoked else "good"
        committee = fingerprint(member.sealing_key) if member.sealing_key else "-"
        table.add_row(escape(member.id), fingerprint(member.identity_key), standing, committee)
    console.print(table)
    console.print(f"hash {roster.digest().hex()}", soft_wrap=True)

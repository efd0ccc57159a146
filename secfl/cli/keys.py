"""`secfl keys`: identity keys as files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from protocols.errors import ConfigError
from protocols.identity import client_id
from protocols.primitives.signing import fingerprint
from secfl.cli.console import console
from secfl.federation.committee_keys import (
    StatedCommitteeKey,
    committee_key_path,
    end_committee_key,
    load_committee_key,
    renew_committee_key,
)
from secfl.federation.identities import ckks_key_path
from secfl.federation.key_holder_keys import renew_ckks_key
from secfl.federation.keys import (
    create_key,
    introduce,
    introduction_path,
    load_key,
    revoke_key,
    rotate_key,
    silo_of,
)
from secfl.federation.private_files import ENVIRONMENT, MINIMUM_PASSPHRASE, environment_passphrase

__all__ = ["app"]

app = typer.Typer(
    help="Make, show, rotate and revoke identity keys, and make committee keys. The passphrase of an encrypted one "
    f"comes from {ENVIRONMENT}, or is asked for.",
    no_args_is_help=True,
)

KeyPath = Annotated[Path, typer.Argument(help="Private key file (PEM).", dir_okay=False, metavar="KEY")]
SiloOption = Annotated[str, typer.Option(help="The silo's name, where no KEY.pub says.")]


@app.command("new")
def new(
    key: KeyPath,
    silo: Annotated[str, typer.Option(help="The silo's name in the roster.")],
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Encrypt the file under a passphrase.")] = False,
    committee: Annotated[
        bool, typer.Option("--committee", help="Make a committee key as well, as `secfl keys committee` does.")
    ] = False,
) -> None:
    """Make a key, and beside it KEY.pub for the roster's keeper. Never in the place of another."""
    client_id(silo)
    if key.exists():
        raise ConfigError(str(key), "there is a file already", "another path, or `secfl keys rotate`")
    passphrase = _new_passphrase(key) if encrypt else None
    key.parent.mkdir(parents=True, exist_ok=True)
    made = create_key(key, passphrase)
    public = introduce(key, silo, made)
    _print(silo, made.public)
    _print_path("private key", key)
    _print_path("for the roster", public)
    if committee:
        _print_committee(renew_committee_key(key, passphrase=lambda _: passphrase or b""), key)


@app.command("show")
def show(key: KeyPath) -> None:
    """Show whose key it is, its public key and fingerprint; never the private key."""
    loaded = load_key(key, _passphrase)
    known = introduction_path(key).exists()
    silo = silo_of(key, loaded) if known else f"not recorded: there is no {introduction_path(key)}"
    _print(silo, loaded.public)
    committee = committee_key_path(key)
    if committee.exists():
        shown = fingerprint(load_committee_key(committee, _passphrase).public)
        console.print(f"committee key fingerprint: {shown}", soft_wrap=True)


@app.command("introduce")
def introduce_command(key: KeyPath, silo: Annotated[str, typer.Option(help="The silo's name in the roster.")]) -> None:
    """Write KEY.pub for the roster's keeper, for a key that has none, such as one that a run made."""
    _print_path("for the roster", introduce(key, silo, load_key(key, _passphrase)))


@app.command("rotate")
def rotate(key: KeyPath, silo: SiloOption = "") -> None:
    """Put a new key in the place of KEY; keep the old one aside and write a statement signed by both."""
    rotated = rotate_key(key, silo=silo, passphrase=_passphrase)
    _print(rotated.statement.silo, bytes.fromhex(rotated.statement.new_public_key))
    _print_path("old key, kept", rotated.old_key_path)
    _print_path("for the roster", rotated.statement_path)
    if any(key.parent.glob("*.ledger")):
        console.print(
            "Ledgers here were begun under the old key, and only it continues them: `secfl run` refuses them under the "
            "new one until `secfl ledger hand-over` has ended them in a successor.",
            soft_wrap=True,
        )


@app.command("committee")
def committee(
    key: KeyPath,
    silo: SiloOption = "",
    renew: Annotated[
        bool, typer.Option("--renew", help="Begin the next epoch; what was sealed under the key before is lost.")
    ] = False,
    end: Annotated[bool, typer.Option("--end", help="Leave the committee and delete the key.")] = False,
) -> None:
    """Make the key that shares are sealed to, of an epoch (protocol oneshot), and a statement of it signed by KEY.

    The private half stands beside KEY. The key of the epoch before is deleted.
    """
    own = committee_key_path(key)
    if renew and end:
        raise ConfigError("--renew, --end", "are given both", "one of them")
    if own.exists() and not (renew or end):
        raise ConfigError(str(own), "there is a committee key already", "--renew for the next epoch, or --end")
    if not own.exists() and (renew or end):
        raise ConfigError(
            str(own), "there is no committee key", f"neither --renew nor --end: `secfl keys committee {key}`"
        )
    if end:
        _print_path("for the roster", end_committee_key(key, silo=silo, passphrase=_passphrase).statement_path)
    else:
        _print_committee(renew_committee_key(key, silo=silo, passphrase=_passphrase), key)


@app.command("key-holder")
def key_holder(
    key: KeyPath,
    silo: SiloOption = "",
    renew: Annotated[
        bool, typer.Option("--renew", help="Put another key in the place of the one there is, which is deleted.")
    ] = False,
    record: Annotated[int | None, typer.Option(help="Record of CKKS parameters; left out: the default.")] = None,
) -> None:
    """Make the key that opens sums (protocol ckks), its public context, and a statement of it signed by KEY.

    The secret key stands beside KEY, encrypted: it opens with KEY alone.
    """
    own = ckks_key_path(key)
    if own.exists() and not renew:
        raise ConfigError(str(own), "there is a CKKS key already", "--renew for another one in its place")
    if renew and not own.exists():
        raise ConfigError(str(own), "there is no CKKS key", f"no --renew: `secfl keys key-holder {key}`")
    stated = renew_ckks_key(key, silo=silo, record=record, passphrase=_passphrase)
    console.print(f"key version: {stated.key.version}", soft_wrap=True)
    _print_path("secret key", own)
    _print_path("public context", stated.context_path)
    _print_path("for the roster, signed", stated.statement_path)


@app.command("revoke")
def revoke(
    key: KeyPath,
    silo: SiloOption = "",
    reason: Annotated[str, typer.Option(help="For people.")] = "",
    output: Annotated[Path | None, typer.Option(help="The statement's file.", dir_okay=False)] = None,
) -> None:
    """Write a statement, signed by the key, that it is revoked. The key stays; the roster's keeper acts on it."""
    _print_path("for the roster", revoke_key(key, silo=silo, reason=reason, passphrase=_passphrase, output=output))


def _print(silo: str, public: bytes) -> None:
    for name, value in (("silo", silo), ("public key", public.hex()), ("fingerprint", fingerprint(public))):
        console.print(f"{name:12} {escape(value)}", soft_wrap=True)


def _print_committee(stated: StatedCommitteeKey, key: Path) -> None:
    _print_path("committee key", committee_key_path(key))
    _print_path("for the roster, signed", stated.statement_path)


def _print_path(name: str, path: Path) -> None:
    console.print(f"{name}: {escape(str(path))}", soft_wrap=True)


def _passphrase(key: Path) -> bytes:
    if ENVIRONMENT in os.environ or not sys.stdin.isatty():
        return environment_passphrase(key)
    return os.fsencode(typer.prompt(f"Passphrase of {key}", hide_input=True, err=True))


def _new_passphrase(key: Path) -> bytes:
    if ENVIRONMENT in os.environ:
        return os.fsencode(os.environ[ENVIRONMENT])
    if not sys.stdin.isatty():
        raise ConfigError(
            "--encrypt", "no passphrase", f"the environment variable {ENVIRONMENT}, or a terminal to ask at"
        )
    question = f"New passphrase of {key}, at least {MINIMUM_PASSPHRASE} bytes"
    return os.fsencode(typer.prompt(question, hide_input=True, confirmation_prompt=True, err=True))

"""Writes docs/reference/cli.md from the commands themselves: ``python docs/_build/cli.py``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import click
import typer

from secfl.cli.app import app
from secfl.cli.errors import AUDIT_FAILED, EXIT_CODES, HALTED, UNFIT

PAGE = Path(__file__).parents[1] / "reference" / "cli.md"

_HEAD = """# Command line

Results go to the standard output; an error is one line on the standard error that names the culprit and what is
allowed. `secfl --install-completion` sets up completion for bash, zsh, fish or PowerShell, `secfl --show-completion`
prints it.

This page is written by `python docs/_build/cli.py`; a test compares it with the commands.
"""

# What a class's docstring says in the words of the library, in those of a user.
_CODES = {
    0: "success",
    1: "any other error of this library; also an interrupted question, or a bug (which keeps its traceback)",
    2: "wrong use of the command line: the line ends with the command's usage",
    3: "a file, key or option that cannot be used",
    4: "an extra that is not installed: the line says what to install",
    5: "the privacy budget does not allow it; nothing was spent",
    6: "a ledger that is corrupt, rolled back or held by another process, or a budget that no noise reaches",
    7: "a tensor that cannot be encoded: not finite, out of range, wrong shape or type",
    8: "a fault of the protocol or a signature that does not verify",
    9: "the operating system refused: disk, permissions",
    HALTED: "a run that ended before its plan: a budget is spent, or too few silos took part; it still has a report",
    UNFIT: "`secfl doctor` found a fault that no run survives",
    AUDIT_FAILED: "`secfl audit`: a test of the noise failed, or a claim was refuted",
    130: "interrupted by Ctrl-C",
}

_NOTES = {
    "budget": """
Without a configuration give mode, sampling rate, rounds, delta, silos and records, and a noise multiplier or an epsilon.
Options change what a configuration says; its rounds include the spare ones. With another mode or another number of
silos the floors are a run's defaults, unless they are given. [How to plan](../how-to/plan-a-budget.md),
[what the JSON says](budget.md).

Ledgers are verified, read, and left as they are. Without `--roster` each is verified under the key that it names itself,
which shows slips and damage, not a forger.
""",
    "resume": "The run must have been begun under the same configuration and the same keys.",
    "compare": """
What is printed and written is labelled "benchmark, no claim". Every way to train takes the configuration's rounds and
server optimiser, in plain floating point: no masks, no encoding, and no ledger, with `--with-private` neither. A silo
alone is a federation of one; pooled is a silo that holds all training records. Few steps at a high rate suit noise, so
that the rows without privacy may be far from their best: `--plain-steps` and `--plain-learning-rate` change them. The
metric is that on the test records of all silos together; the configuration must declare those unprotected
(`evaluation.kind`).
""",
    "audit": """
[Audit a configuration](../how-to/audit.md) says what the figures mean. The lower bound trains on the canaries for the
whole plan: minutes for thousands of steps.
""",
    "doctor": """
`missing` is an extra that is not installed and `slow` a warning; only `failed` makes a machine unfit. The directory is
left as it was.
""",
    "keys": """
A key is a PKCS #8 PEM file of mode 600. `--encrypt` uses AES-256-CBC under 2048 rounds of PBKDF2, which stretch a
passphrase only a little: take a long random one, or encrypt the file anew by `openssl pkcs8 -topk8 -scrypt`, which is
read as well.

Beside `identity.key` stand `identity.key.pub` (silo, public key, a signature that proves the private key) and, after a
rotation, the statement of it for the roster's keeper and the old key, which still opens what it signed. A rotation that
was interrupted goes on when called again.
""",
    "report": """
`secfl report RUN` is `secfl report write RUN`: the word may be left out. [Read a report](../how-to/read-a-report.md) goes
through one, and says what `verify` recomputes.
""",
    "roster": """
A roster is a TOML file: one table a member with id, public key in hex and standing, in the order of ids, and the hash
that enters every session id. Whoever keeps it compares fingerprints with the members over another channel; the members
compare the hash. A file that was edited by hand, so that its hash is another one, is refused.

A rotation must be signed by the key that the roster has now and by the new one; a revocation by the key that the roster
has now. Nothing revives a revoked member.
""",
}


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    parts = [_HEAD, *_commands(root, "secfl"), _exit_codes()]
    return "\n".join(parts)


def _commands(group: click.Command, path: str) -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        yield from _command(command, f"{path} {name}")


def _command(command: click.Command, path: str) -> Iterator[str]:
    level = "#" * (len(path.split()))
    help_text = inspect.cleandoc(command.help or "")
    lines = [f"{level} `{path}`", "", help_text, ""]
    note = _NOTES.get(path.removeprefix("secfl "))
    if note:
        lines += [note.strip(), ""]
    if hasattr(command, "commands"):
        yield "\n".join(lines)
        yield from _commands(command, path)
        return
    with click.Context(command, info_name=path) as context:
        lines += ["```text", " ".join([path, *command.collect_usage_pieces(context)]), "```", ""]
        meanings = _meanings(command)
        rows = [_row(parameter, meanings, context) for parameter in command.params]
    if rows:
        lines += ["| | meaning | default |", "|---|---|---|", *rows, ""]
    yield "\n".join(lines)


def _meanings(command: click.Command) -> dict[str, str]:
    """What the source says of each parameter."""
    if command.callback is None:
        return {}
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    return {name: hint.__metadata__[0].help or "" for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def _row(parameter: click.Parameter, meanings: dict[str, str], context: click.Context) -> str:
    meaning = meanings[parameter.name or ""].replace("|", "\\|")
    if isinstance(parameter.type, click.IntRange):
        meaning += f" From {parameter.type.min} to {parameter.type.max}."
    if isinstance(parameter, click.Option):
        metavar = "" if parameter.is_flag else f" {parameter.make_metavar(context)}".replace(" RANGE", "")
        name = ", ".join(parameter.opts) + metavar
    else:
        name = parameter.make_metavar(context)
    return f"| `{name}` | {meaning} | {_default(parameter)} |"


def _default(parameter: click.Parameter) -> str:
    if parameter.required:
        return "**required**"
    value = parameter.default
    return f"`{value}`" if not isinstance(value, bool | None) and str(value) else ""


def _exit_codes() -> str:
    names: dict[int, str] = {code: kind.__name__ for kind, code in EXIT_CODES.items()}
    rows = [f"| {code} | {f'`{names[code]}`' if code in names else ''} | {text} |" for code, text in _CODES.items()]
    head = "## Exit codes\n\n| code | error | meaning |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

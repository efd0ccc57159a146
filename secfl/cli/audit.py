"""`secfl audit`: test the noise of a configuration on known inputs, and try to refute its epsilon."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from protocols.errors import ConfigError
from secfl.cli.console import console
from secfl.cli.errors import AUDIT_FAILED
from secfl.config import Config, load_config
from secfl.federation.session import CONFIGURATION, origin, torch_threads
from secfl.privacy.audit.record import FILE, AuditResult, write_audits

__all__ = ["audit"]


def audit(
    target: Annotated[Path, typer.Argument(help="TOML configuration file, or the directory of a run.")],
    canaries: Annotated[
        int, typer.Option(min=100, max=20_000, help="Canaries of the lower bound; more bring it nearer.")
    ] = 1000,
    dimension: Annotated[
        int, typer.Option(min=64, max=1_000_000, help="Coordinates of the conformance test's model.")
    ] = 4096,
    output: Annotated[
        Path | None,
        typer.Option(help=f"Directory for {FILE}; default: the run's, or none.", file_okay=False),
    ] = None,
) -> None:
    """Test the noise on made-up records through the real path, then look for a lower bound on epsilon.

    No private record is read and no ledger is charged. What passes is not proven.
    """
    settings, directory = _settings(target)
    output = output or (target if target.is_dir() else None)
    if output is not None and not output.is_dir():
        raise ConfigError("--output", f"there is no directory {output}", "a directory that exists")
    results = _audit(settings, directory, canaries, dimension)
    for result in results:
        _print(result)
    if output is not None:
        console.print(f"Audit: {escape(str(write_audits(output, results)))}", soft_wrap=True)
    if not all(result.passed for result in results):
        raise typer.Exit(AUDIT_FAILED)


def _settings(target: Path) -> tuple[Config, Path]:
    if target.is_dir():
        return load_config(target / CONFIGURATION)[0], origin(target)
    return load_config(target)[0], target.resolve().parent


def _audit(settings: Config, directory: Path, canaries: int, dimension: int) -> tuple[AuditResult, ...]:
    from secfl.privacy.audit.bound import claimed_and_refuted  # need torch
    from secfl.privacy.audit.conformance import conformance

    with tempfile.TemporaryDirectory(prefix="secfl-audit-") as work, torch_threads(settings.run.threads):
        tested = conformance(settings, directory, Path(work), dimension=dimension)
        return tested, claimed_and_refuted(settings, directory, canaries)


def _print(result: AuditResult) -> None:
    verdict = "[bold green]passed[/]" if result.passed else "[bold red]failed[/]"
    console.print(f"[bold]{result.kind}[/] ({result.mode}): {verdict}", soft_wrap=True)
    console.print(escape(result.summary), soft_wrap=True)
    table = Table("figure", "value")
    for name, value in result.details.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    console.print(table)
    for finding in result.findings[:10]:
        console.print(f"  {finding.test}: {escape(finding.where)}, p = {finding.p_value:.3g}", soft_wrap=True)

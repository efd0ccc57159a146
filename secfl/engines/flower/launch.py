"""What `secfl run --engine flower` does: a run's directory, a deployment on this machine, the app in it, its report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from protocols.errors import ConfigError, ProtocolError
from protocols.identity import Roster
from secfl.config import Config, load_config
from secfl.engines.flower.deployment import Deployment, NodeSettings
from secfl.engines.flower.run_server import PUBLIC_CONTEXT, RUN_DIRECTORY
from secfl.engines.flower.study import STUDY, check_engine
from secfl.federation.checkpoint import FILE, load_checkpoint
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import ROSTER_NAME, read_roster, write_roster
from secfl.federation.session import CONFIGURATION, ENGINE_FILE, begin_run, origin
from secfl.files import write_whole
from secfl.report.model import RoundRow, RunReport

__all__ = ["launch", "relaunch"]

WAIT_SECONDS = 7 * 24 * 3600.0
APP = Path(__file__).parent / "app"

Observer = Callable[[RoundRow], None]


def launch(path: Path, *, output: Path | None = None, observer: Observer | None = None) -> tuple[Path, RunReport]:
    """Run a configuration on a deployment of this machine: its directory and its report.

    :param path: of the configuration file.
    :param observer: told of every attempt at a round.
    :raises ConfigError: a value that does not go with this engine.
    :raises ProtocolError: the run failed; `relaunch` goes on from its last checkpoint.
    """
    config, text = load_config(path)
    check_engine(config)
    directory = begin_run(config, text, path.resolve().parent, output).resolve()
    write_whole(directory / ENGINE_FILE, b"flower\n")
    write_whole(directory / "study.txt", f"{path.resolve()}\n".encode())
    return directory, _run(config, directory, observer)


def relaunch(directory: Path, *, observer: Observer | None = None) -> tuple[Path, RunReport]:
    """Go on with a run that was interrupted, in a deployment like the one before."""
    config, _text = load_config(directory / CONFIGURATION)
    return directory, _run(config, directory.resolve(), observer)


def _run(config: Config, directory: Path, observer: Observer | None) -> RunReport:
    roster, homes, public_context = _homes(config, directory)
    roster_path = directory / ROSTER_NAME
    if roster_path.exists() and read_roster(roster_path).digest() != roster.digest():
        raise ConfigError(
            str(roster_path), "is not the roster of the parties' keys", "the keys that the run began with"
        )
    write_roster(roster_path, roster)
    if public_context:
        write_whole(directory / PUBLIC_CONTEXT, public_context)
    study = (directory / "study.txt").read_text(encoding="utf-8").rstrip("\n")
    nodes = {name: NodeSettings(home, {STUDY: study}) for name, home in homes.items()}
    app = directory / "flower" / "app"
    shutil.copytree(APP, app, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    with Deployment(directory / "flower", nodes).running() as deployment:
        run = deployment.submit(app, {RUN_DIRECTORY: str(directory)})
        seen = 0

        def look() -> None:
            nonlocal seen
            if observer is not None and (directory / FILE).exists():
                rounds = load_checkpoint(directory).progress.rounds
                for row in rounds[seen:]:
                    observer(row)
                seen = len(rounds)

        status = deployment.wait(run, WAIT_SECONDS, look)
        if status != "finished:completed":
            log = deployment.flwr("log", str(run), "loopback", "--show")
            raise ProtocolError(f"Flower's run {run} ended as {status}\n{log[-4000:]}")
    return RunReport.from_json((directory / "report.json").read_bytes())


def _homes(config: Config, directory: Path) -> tuple[Roster, dict[str, Path], bytes]:
    """Each party's folder, the same as the embedded engine uses: keys and ledgers go on under both."""
    base = origin(directory) / config.ledger.directory if config.ledger.kind == "lifetime" else directory / "ledgers"
    cast = config.cast
    homes = {name: (base / name).resolve() for name in (*cast.clients, *cast.offices)}
    identities = [
        load_or_create_identity(home / "identity.key", name, cast.roles(name), os.urandom)
        for name, home in homes.items()
    ]
    roster = Roster(identity.member() for identity in identities)
    for home in homes.values():
        write_roster(home / ROSTER_NAME, roster)
    return roster, homes, config.protocol.public_context(identities)

"""The four hospitals on this machine: a SuperLink and four SuperNodes, TLS, node keys, SQLite.

python deploy.py start     makes keys, roster and certificates where they are missing, and starts five services
python deploy.py run       submits the app, waits for its end, prints the server's log and where the model is
python deploy.py show      what runs, and what was run
python deploy.py stop      stops everything; keys, database and once-only stores stay
python deploy.py all       start, run, stop
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from protocols.identity import Role, Roster
from secfl.engines.flower.deployment import Deployment, NodeSettings, simulate
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import ROSTER_NAME, write_roster

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "heart" / "data"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
SECONDS = 600.0


def deployment(directory: Path) -> Deployment:
    """The deployment in a directory; each hospital's folder is made once and then kept."""
    homes = {hospital: directory / "nodes" / hospital / "secfl" for hospital in HOSPITALS}
    identities = [
        load_or_create_identity(home / "identity.key", hospital, {Role.CLIENT, Role.COMMITTEE})
        for hospital, home in homes.items()
    ]
    roster = Roster(identity.member() for identity in identities)
    for folder in (*homes.values(), directory):  # in earnest each hospital compares it over the telephone
        write_roster(folder / ROSTER_NAME, roster)
    nodes = {
        hospital: NodeSettings(home, {"data": str(DATA / f"processed.{hospital}.data")})
        for hospital, home in homes.items()
    }
    os.environ["SECFL_ROSTER"] = str(directory / ROSTER_NAME)
    return Deployment(directory, nodes)


def run(hospitals: Deployment, app: Path, **config: str | int | float) -> None:
    """Run the app to its end."""
    output = hospitals.directory / "model.safetensors"
    number = hospitals.submit(app, {"output": str(output), **config})
    print(f"run {number}: {hospitals.wait(number, SECONDS)}")
    print(hospitals.flwr("log", str(number), "loopback", "--show"))
    print(f"model: {output}")


def simulation(hospitals: Deployment, protocol: str) -> str:
    """The app on Ray; nodes are numbered, and find their folders by that."""
    directory = hospitals.directory / "simulation"
    directory.mkdir(exist_ok=True)
    for number, settings in enumerate(hospitals.nodes.values()):
        link = directory / f"node-{number}"
        if not link.exists():
            link.symlink_to(settings.home.resolve())
    environment = {"SECFL_HOME": str(directory / "node-{partition-id}"), "HOSPITALS_DATA": str(DATA)}
    config = {"protocol": protocol, "output": str(directory / "model.safetensors")}
    return simulate(directory, HERE, len(hospitals.nodes), config, environment)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "run", "show", "stop", "all", "simulate"))
    parser.add_argument("--directory", type=Path, default=HERE / "deployment")
    parser.add_argument("--protocol", choices=("oneshot", "secagg"), default="oneshot")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    hospitals = deployment(arguments.directory.resolve())
    if arguments.what in ("start", "all"):
        hospitals.start()
        print(f"five services, nodes online: {hospitals.online()}")
    try:
        if arguments.what in ("run", "all"):
            run(hospitals, HERE, protocol=arguments.protocol)
    finally:
        if arguments.what in ("stop", "all"):
            hospitals.stop()
    if arguments.what == "simulate":
        print(simulation(hospitals, arguments.protocol))
    if arguments.what == "show":
        print(f"processes: {hospitals.processes()}")
        print(hospitals.flwr("supernode", "list", "loopback"), hospitals.flwr("list", "loopback"))


if __name__ == "__main__":
    main()

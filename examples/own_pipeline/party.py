"""One hospital: its key, its once-only store and its counts are in a directory that nobody else reads.

python party.py keygen DIRECTORY NAME        make the key; print the public one, for the roster
python party.py join DIRECTORY NAME PORT     take part in one session
"""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path

import numpy as np
from agreed import AGREEMENT, CONTEXT
from channel import Channel

from protocols import Identity, Roster, SigningKey
from secfl.aggregation import AggregationParty, FrameLimits
from secfl.engines import FileStore
from secfl.federation.keys import load_key, load_or_create_key

HOST = "127.0.0.1"


def keygen(directory: Path) -> None:
    """Make the key if there is none; print its public half."""
    print(load_or_create_key(directory / "identity.key").public.hex())


def join(directory: Path, name: str, port: int, *, seconds: float, hold: bool) -> None:
    """Answer requests until the server hangs up."""
    key: SigningKey = load_key(directory / "identity.key")
    roster = Roster.from_bytes((directory / "roster.bin").read_bytes())

    def counts() -> dict[str, np.ndarray]:
        # Called when the server asks for the masked vector, and only then.
        print("contributing", flush=True)
        if hold:
            time.sleep(seconds)  # --hold: wait to be killed in this phase
        with np.load(directory / "counts.npz") as file:
            return dict(file)

    deadline = time.monotonic() + seconds
    store = FileStore(directory / "answers.log")
    connection = socket.create_connection((HOST, port), timeout=seconds)
    channel = Channel(connection)
    try:
        party = AggregationParty(Identity(name, key), roster, AGREEMENT, store=store)
        connection.sendall(name.encode().ljust(64))
        while (request := channel.receive(FrameLimits.of_request(), deadline)) is not None:
            channel.send(party.answer(request, counts, CONTEXT), deadline)
    finally:
        channel.close()
        store.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["keygen", "join"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("name")
    parser.add_argument("port", type=int, nargs="?")
    parser.add_argument("--seconds", type=float, default=60.0, help="give up after")
    parser.add_argument("--hold", action="store_true", help="stop before contributing (for the demonstration)")
    arguments = parser.parse_args()
    if arguments.command == "keygen":
        keygen(arguments.directory)
    elif arguments.port is None:
        parser.error("join needs a port")
    else:
        join(arguments.directory, arguments.name, arguments.port, seconds=arguments.seconds, hold=arguments.hold)


if __name__ == "__main__":
    main()

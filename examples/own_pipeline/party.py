"""One hospital: its key, its once-only store and its counts are in a directory that nobody else reads.

python party.py keygen DIRECTORY NAME        make the keys; print the public ones, for the roster
python party.py join DIRECTORY NAME PORT     take part in one session

Under the protocol ckks there is one party more, the key holder: it has a key and no counts.
"""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path

import numpy as np
from agreed import CONTEXT, PARTIES, agreement
from channel import Channel

from protocols import Identity, Role, Roster
from secfl.aggregation import AggregationParty
from secfl.engines import FileStore
from secfl.federation.identities import load_or_create_identity
from secfl.files import write_whole
from secfl.registry import PROTOCOLS, offered

HOST = "127.0.0.1"


def load_identity(directory: Path, name: str, protocol: str) -> Identity:
    """The party's keys, as its roles need them; what is missing is made."""
    roles = offered(protocol).cast(PARTIES).roles(name)
    return load_or_create_identity(directory / "identity.key", name, roles)


def keygen(directory: Path, name: str, protocol: str) -> None:
    """Make the keys if there are none; print the public halves, and keep what is too long for a roster in a file."""
    identity = load_identity(directory, name, protocol)
    member = identity.member()
    print(member.identity_key.hex(), member.sealing_key.hex())
    if Role.KEY_HOLDER in offered(protocol).cast(PARTIES).roles(name):
        write_whole(directory / "public_context.bin", offered(protocol).public_context([identity]))


def join(directory: Path, name: str, port: int, protocol: str, *, seconds: float, hold: bool) -> None:
    """Answer requests until the server hangs up."""
    identity = load_identity(directory, name, protocol)
    roster = Roster.from_bytes((directory / "roster.bin").read_bytes())

    def counts() -> dict[str, np.ndarray]:
        # Called when the server asks for the contribution, and only then.
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
        party = AggregationParty(identity, roster, agreement(protocol), store=store)
        connection.sendall(name.encode().ljust(64))
        while (request := channel.receive(party.request_limits, deadline)) is not None:
            channel.send(party.answer(request, counts if name in PARTIES else None, CONTEXT), deadline)
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
    parser.add_argument("--protocol", choices=PROTOCOLS, default="secagg")
    parser.add_argument("--seconds", type=float, default=60.0, help="give up after")
    parser.add_argument("--hold", action="store_true", help="stop before contributing (for the demonstration)")
    arguments = parser.parse_args()
    if arguments.command == "keygen":
        keygen(arguments.directory, arguments.name, arguments.protocol)
    elif arguments.port is None:
        parser.error("join needs a port")
    else:
        options = {"seconds": arguments.seconds, "hold": arguments.hold}
        join(arguments.directory, arguments.name, arguments.port, arguments.protocol, **options)


if __name__ == "__main__":
    main()

"""The server: it carries messages, learns the sum and nothing else, and writes it to a file.

python server.py DIRECTORY     roster.bin is there, under ckks public_context.bin too; writes port and sum.npz
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from agreed import CONTEXT, RUN_ID, agreement
from channel import Channel

from protocols import Roster
from protocols.errors import ProtocolError
from secfl.aggregation import AggregationServer, FrameLimits
from secfl.files import write_whole
from secfl.registry import PROTOCOLS

HOST = "127.0.0.1"
NAME_BYTES = 64
NAME_SECONDS = 2.0


def accept_parties(listener: socket.socket, roster: Roster, deadline: float) -> dict[str, Channel]:
    """One connection a party. A name is a claim that nothing proves yet: the signatures in the replies do."""
    channels: dict[str, Channel] = {}
    while len(channels) < len(roster) and (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _address = listener.accept()
        except TimeoutError:
            break
        connection.settimeout(min(left, NAME_SECONDS))
        try:
            name = connection.recv(NAME_BYTES, socket.MSG_WAITALL).decode("ascii", "replace").rstrip()
        except OSError:
            name = ""
        if name not in roster or name in channels:
            print(f"refused a connection in the name of {name!r}", flush=True)
            connection.close()
            continue
        channels[name] = Channel(connection)
    return channels


def exchange(channel: Channel, request: bytes, limits: FrameLimits, deadline: float) -> bytes | None:
    """Send a request and wait for its reply."""
    channel.send(request, deadline)
    return channel.receive(limits, deadline)


def run_phase(server: AggregationServer, channels: dict[str, Channel], seconds: float) -> None:
    """Ask every party at once; who is gone, too slow or refused drops out."""
    deadline = time.monotonic() + seconds
    phase, limits = server.phase, server.reply_limits
    with ThreadPoolExecutor(max(1, len(channels))) as pool:
        waiting = {
            item.party: pool.submit(exchange, channels[item.party], item.message, limits, deadline)
            for item in server.requests()
            if item.party in channels
        }
    for party, future in waiting.items():
        try:
            reply = future.result()
            if reply is None:
                raise ConnectionError("it hung up")
            server.receive(reply)
        except (OSError, ProtocolError) as error:
            print(f"{phase}: lost {party}: {error}", flush=True)
            channels.pop(party).close()
    summary = server.close_phase()
    print(f"{phase}: {len(summary.answered)} answered, dropped: {', '.join(summary.dropped) or 'nobody'}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="secagg")
    parser.add_argument("--phase-seconds", type=float, default=15.0, help="deadline of each phase")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    roster = Roster.from_bytes((directory / "roster.bin").read_bytes())
    context_file = directory / "public_context.bin"
    public_context = context_file.read_bytes() if context_file.exists() else b""
    agreed = agreement(arguments.protocol)
    server = AggregationServer(agreed, roster, run_id=RUN_ID, context=CONTEXT, public_context=public_context)
    channels: dict[str, Channel] = {}
    with socket.create_server((HOST, 0)) as listener:
        write_whole(directory / "port", str(listener.getsockname()[1]).encode())
        channels = accept_parties(listener, roster, time.monotonic() + arguments.phase_seconds)
    try:
        while server.phase is not None:
            run_phase(server, channels, arguments.phase_seconds)
    finally:
        for channel in channels.values():
            channel.close()
    result = server.result()
    np.savez(directory / "sum.npz", **result.sum)
    print(json.dumps({"contributors": result.contributors, "dropped": result.dropped, "checks": result.checks}))


if __name__ == "__main__":
    main()

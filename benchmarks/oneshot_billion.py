"""One-shot with vectors of 10^9 entries on one machine: time, peak memory, disk.

    python benchmarks/oneshot_billion.py [--entries D] [--directory DIR] [--json FILE] [--quick]

Three clients, four committee members and the server take turns in one process on one pinned core, so that the peak
(`VmHWM`: unlike `ru_maxrss` it forgets the process that started this one) is that of all of them. Vectors are 16-bit
words, made from a seeded stream as they are read; uploads wait in files in DIR, on a disk with 10 bytes of room an
entry. Every entry of the sum is compared with the sum of the streams.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, pin_to_one_core
from rich.console import Console
from rich.table import Table

from protocols import ClientPolicy, Identity, Role, Roster, SigningKey, oneshot
from protocols.primitives.prg import MaskStream
from protocols.shape import Chunk
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore
from secfl.engines.spool import FileSpool

BITS = 16
CLIENTS, MEMBERS, COLLUSION = 3, 4, 1
CHECKED = 2**20


@dataclass(frozen=True)
class StreamSource:
    """A vector that exists only while it is read."""

    key: bytes
    length: int

    def read(self, start: int, stop: int) -> np.ndarray:
        return MaskStream(self.key, BITS).words(start, stop - start)


class CountedSpool(FileSpool):
    """A file spool that keeps count of the disk that all of them take."""

    now = 0
    most = 0

    def append(self, chunk: Chunk) -> None:
        super().append(chunk)
        CountedSpool.now += memoryview(chunk).nbytes
        CountedSpool.most = max(CountedSpool.most, CountedSpool.now)

    def discard(self) -> None:
        CountedSpool.now -= self._end
        super().discard()


def _peak_memory() -> int:
    """Largest resident size of this program so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


class Steps:
    """Elapsed and processor seconds by step, and the peak of memory until its end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, step: str, function: Callable[[], Any]) -> Any:
        elapsed, processor = time.monotonic(), time.process_time()
        outcome = function()
        self.rows.append(
            {
                "step": step,
                "elapsed": time.monotonic() - elapsed,
                "processor": time.process_time() - processor,
                "peak memory": _peak_memory(),
                "peak disk": CountedSpool.most,
            }
        )
        print(f"{step}: {self.rows[-1]['elapsed']:.1f} s", flush=True)
        return outcome


def run(entries: int, directory: str) -> Steps:
    clients = [Identity(f"c{index}", SigningKey.generate(os.urandom)) for index in range(CLIENTS)]
    members = [
        oneshot.CommitteeIdentity(
            f"m{index}", SigningKey.generate(os.urandom), oneshot.CommitteeKey.generate(os.urandom)
        )
        for index in range(MEMBERS)
    ]
    roster = Roster([identity.member() for identity in [*clients, *members]])
    parameters = oneshot.parameters(
        roster,
        [identity.id for identity in clients],
        nonce=os.urandom(32),
        run_id="benchmark",
        round_number=0,
        modulus_bits=BITS,
        vector_length=entries,
        context_hash=bytes(32),
        collusion_bound=COLLUSION,
    )
    policy = ClientPolicy(protocols=frozenset({oneshot.PROTOCOL}), collusion_bound=COLLUSION)

    def spool() -> CountedSpool:
        return CountedSpool(directory)

    def party(role: Role, identity: Identity) -> Any:
        return oneshot.party(role, identity, roster, policy, entropy=os.urandom, store=MemoryStore(), spool=spool)

    steps = Steps()
    server = steps.run("server, start", lambda: oneshot.server(parameters, roster, spool=spool))
    header = next(iter(server.requests())).header
    sources = [StreamSource(os.urandom(32), entries) for _ in clients]
    for identity, source in zip(clients, sources, strict=True):
        client = party(Role.CLIENT, identity)
        reply = steps.run(f"{identity.id}, contribution", partial(client.handle, header, vector=source))
        steps.run(f"server, upload of {identity.id}", partial(deliver, server, reply))
        del client, reply
    committee = {identity.id: party(Role.COMMITTEE, identity) for identity in members}
    while server.phase is not None:
        phase = server.phase
        for request in server.requests() if phase != "Contribution" else ():
            deliver(server, committee[request.party].handle(request.header, request.chunks))
        steps.run(f"server, closing {phase}", server.close_phase)
    total = server.result().sum
    peak = dict(steps.rows[-1])
    steps.run("comparison of all entries", lambda: compare(total, sources))
    whole = {key: sum(row[key] for row in steps.rows[:-1]) for key in ("elapsed", "processor")}
    steps.rows.append({**peak, "step": "all but the comparison", **whole})
    return steps


def compare(total: np.ndarray, sources: list[StreamSource]) -> None:
    for low in range(0, total.size, CHECKED):
        stop = min(total.size, low + CHECKED)
        expected = sum((source.read(low, stop) for source in sources), np.zeros(stop - low, np.uint16))
        if not np.array_equal(total[low:stop], expected):
            raise SystemExit(f"the sum is wrong between entries {low} and {stop}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10**9)
    parser.add_argument("--directory", help="for uploads; by default the system's temporary directory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="10^6 entries")
    arguments = parser.parse_args()
    entries = 10**6 if arguments.quick else arguments.entries
    pin_to_one_core()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        steps = run(entries, directory)
    table = Table("step", "elapsed", "processor", "peak memory", "peak disk", title=f"one-shot, {entries:.0e} entries")
    for row in steps.rows:
        times = (f"{row[key]:.2f} s" for key in ("elapsed", "processor"))
        table.add_row(row["step"], *times, *(f"{row[key] / 1e9:.2f} GB" for key in ("peak memory", "peak disk")))
    Console(width=120).print(table)
    if arguments.json is not None:
        content = {"machine": machine(), "entries": entries, "clients": CLIENTS, "bits": BITS, "steps": steps.rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""A server in a process of its own: its peak memory at d = 10^8, and threads against one, at 32 bits and n = 10.

    python benchmarks/streaming.py [--json FILE] [--quick] [--directory DIR]

The clients live in another process. They leave their masked vectors as files in DIR (400 MB each, deleted when read);
the server reads a file chunk by chunk into a spool on disk, verifies it, adds it to its accumulator. Its peak is
`ru_maxrss`, from start to result, interpreter and libraries included. Elapsed time, since threads are the question;
ratios are those of alternating turns. Beside them stands what two threads gain with the bare cipher: if other work
holds the second core, that is nothing, whatever the code does. Needs 8 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from measure import Figures

from protocols import ArraySource, ClientPolicy, Identity, Role, Roster, SigningKey, secagg
from protocols.secagg.masking import Mask, masked_chunks, remove_masks
from protocols.session import SessionParameters
from protocols.shape import ServerSession
from protocols.testing.storage import MemoryStore
from protocols.workers import SERIAL, Workers
from secfl.engines.spool import FileSpool
from secfl.engines.workers import ThreadWorkers

BITS = 32
PEAK_LIMIT = 1.6e9
THREADS_GOAL = 1.3
TURNS = 5


def identities(n: int) -> tuple[list[Identity], Roster]:
    named = [Identity(f"c{index:03}", SigningKey.generate(os.urandom)) for index in range(n)]
    return named, Roster(identity.member() for identity in named)


def session_parameters(members: list[Identity], roster: Roster, d: int) -> SessionParameters:
    return secagg.parameters(
        roster,
        [identity.id for identity in members],
        nonce=os.urandom(32),
        run_id="benchmark",
        round_number=0,
        modulus_bits=BITS,
        vector_length=d,
        context_hash=bytes(32),
    )


# -- the clients' process ----------------------------------------------------------------------------------------------


def serve_clients(pipe: Connection, members: list[bytes], directory: Path, d: int) -> None:
    """Answer requests until there are no more; vectors go to files."""
    named = [Identity(f"c{index:03}", SigningKey(raw)) for index, raw in enumerate(members)]
    roster = Roster(identity.member() for identity in named)
    parties = {
        identity.id: secagg.party(
            Role.CLIENT,
            identity,
            roster,
            ClientPolicy(),
            entropy=os.urandom,
            store=MemoryStore(),
            spool=partial(FileSpool, directory),
            workers=ThreadWorkers(2),
        )
        for identity in named
    }
    vector = np.arange(d, dtype=np.uint32)
    while (asked := pipe.recv()) is not None:
        party, header = asked
        source = ArraySource(vector) if parties[party].inspect(header).vector else None
        reply = parties[party].handle(header, vector=source)
        path, sizes = directory / f"{party}.upload", []
        with path.open("wb") as file:
            for chunk in reply.chunks:
                file.write(chunk)
                sizes.append(len(chunk))
        pipe.send((reply.header, sizes, path, reply.trailer))


# -- the server's process ----------------------------------------------------------------------------------------------


def chunks_of(path: Path, sizes: list[int]) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        for size in sizes:
            yield file.read(size)
    path.unlink()


def run_server(report: Connection, clients: Connection, d: int, threads: int, parts: tuple[Any, ...]) -> None:
    """A whole session; tells peak memory before and after, and the time of its parts."""
    raw_parameters, members, directory = parts
    roster = Roster(members)
    workers: Workers = ThreadWorkers(threads) if threads > 1 else SERIAL
    before = peak_memory()
    parameters = SessionParameters.from_bytes(raw_parameters)
    server = secagg.server(parameters, roster, spool=partial(FileSpool, directory), workers=workers)
    took: dict[str, float] = {}
    while server.phase is not None:
        phase = server.phase
        took[f"uploads of {phase}"] = uploads(server, clients)
        began = time.perf_counter()
        server.close_phase()
        took[f"closing {phase}"] = time.perf_counter() - began
    clients.send(None)
    total = server.result().sum
    n = np.uint32(len(parameters.cohort))
    pieces = ((low, min(d, low + 2**20)) for low in range(0, d, 2**20))
    right = all(np.array_equal(total[low:high], np.arange(low, high, dtype=np.uint32) * n) for low, high in pieces)
    report.send((before, peak_memory(), took, right))


def uploads(server: ServerSession, clients: Connection) -> float:
    """Ask everybody, one after another; seconds spent on what came in."""
    spent = 0.0
    for request in server.requests():
        clients.send((str(request.party), request.header))
        header, sizes, path, trailer = clients.recv()
        began = time.perf_counter()
        upload = server.begin(header)
        for chunk in chunks_of(path, sizes):
            upload.write(chunk)
        upload.commit(trailer)
        spent += time.perf_counter() - began
    return spent


def peak_memory() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- what is measured --------------------------------------------------------------------------------------------------


def measure_session(figures: Figures, n: int, d: int, threads: int, directory: Path) -> None:
    """One session, its server alone in a process."""
    named, roster = identities(n)
    parameters = session_parameters(named, roster, d).to_bytes()
    spawn = get_context("spawn")
    to_clients, clients_end = spawn.Pipe()
    results, report = spawn.Pipe()
    keys = [identity.signing_key.private_bytes() for identity in named]
    members = [identity.member() for identity in named]
    processes = [
        spawn.Process(target=serve_clients, args=(clients_end, keys, directory, d)),
        spawn.Process(target=run_server, args=(report, to_clients, d, threads, (parameters, members, directory))),
    ]
    for process in processes:
        process.start()
    clients_end.close()
    to_clients.close()
    report.close()
    before, peak, took, right = results.recv()
    for process in processes:
        process.join()
    if not right:
        raise SystemExit("the sum is wrong: no figure of this run means anything")
    where = {"n": n, "d": d, "threads": threads}
    figures.add("server, peak memory", peak / 1e6, "MB", **where, goal=verdict(peak < PEAK_LIMIT, "< 1600"))
    figures.add("server, memory before the session", before / 1e6, "MB", **where)
    figures.add("server, peak above start and accumulator", (peak - before - d * BITS // 8) / 1e6, "MB", **where)
    for part, seconds in took.items():
        if part in ("uploads of MaskedInput", "closing Unmask"):
            figures.add(f"server, {part}", seconds, "s", **where)


def measure_threads(figures: Figures, n: int, d: int) -> None:
    """Masking and unmasking on one, and on two threads, in alternating turns; the results are compared."""
    named, roster = identities(n)
    parameters = session_parameters(named, roster, d)
    masks = [Mask(os.urandom(32), 1 if index % 2 else -1) for index in range(n)]
    source = ArraySource(np.arange(d, dtype=np.uint32))
    pool = ThreadWorkers(2)
    sums = {1: source.array.copy(), 2: source.array.copy()}
    kinds: dict[str, Callable[[int, Workers], Any]] = {
        "server unmasking": lambda threads, workers: remove_masks(sums[threads], masks, BITS, workers),
        "client masking": lambda _threads, workers: [None for _ in masked_chunks(parameters, source, masks, workers)],
        "bare keystream": lambda _threads, workers: list(workers.map(bare_keystream, [n * d * BITS // 8 // 4] * 4)),
    }
    for kind, work in kinds.items():
        least = {1: float("inf"), 2: float("inf")}
        for _ in range(TURNS):
            for threads, workers in ((1, SERIAL), (2, pool)):
                began = time.perf_counter()
                work(threads, workers)
                least[threads] = min(least[threads], time.perf_counter() - began)
        for threads, seconds in least.items():
            figures.add(kind, seconds, "s", n=n, d=d, threads=threads)
        ratio = least[1] / least[2]
        goal = verdict(ratio >= THREADS_GOAL, f">= {THREADS_GOAL}") if kind == "server unmasking" else ""
        figures.add(f"{kind}, one thread / two", ratio, "ratio", n=n, d=d, goal=goal)
    if not np.array_equal(sums[1], sums[2]):
        raise SystemExit("two threads gave another sum: no figure of this run means anything")


def bare_keystream(size: int) -> None:
    """The cipher alone, in the cache: what two threads gain here is all that the machine has to give."""
    zeros, buffer = bytes(2**18), bytearray(2**18)
    update = Cipher(AES(bytes(32)), CTR(bytes(16))).encryptor().update_into
    for _ in range(max(1, size // len(zeros))):
        update(zeros, buffer)


def verdict(reached: bool, goal: str) -> str:
    return f"{goal}, {'reached' if reached else 'not reached'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="d = 10^6 only")
    parser.add_argument("--directory", type=Path, help="where vectors are put (default: the temporary directory)")
    arguments = parser.parse_args()
    figures = Figures("SecAgg, a server of its own, 32 bits")
    # Sessions first: a new process starts with the peak of the one that made it.
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for d in (10**6,) if arguments.quick else (10**7, 10**8):
            for threads in (1, 2):
                measure_session(figures, 10, d, threads, Path(directory))
    for d in (10**6,) if arguments.quick else (10**6, 10**7):
        for n in (10, 100):
            measure_threads(figures, n, d)
    figures.describe()
    figures.show()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()

"""Ways to a secret sum side by side: one-shot, SecAgg, CKKS and BFV through TenSEAL, the same vectors in one run.

    python benchmarks/homomorphic.py [--json FILE] [--quick]

Vectors are of signed 16-bit integers; words have the bits that hold the sum over n clients: 20 for n = 10, 23 for 100.
CKKS is set up as NVIDIA FLARE does (N = 8192, moduli 60/40/40, scale 2^40, 4096 values a ciphertext); BFV with N = 4096
and a 20-bit plaintext modulus, which holds sums over 10 clients but not over 100: its sums are checked modulo that.
Sessions are the real ones and every message is bytes. At 30 % dropouts so many clients are lost before their vector is
in; at the opening as many of the one-shot committee as may be.

"Client" is all that a client computes, "an upload" all that the server computes for one vector, adding it included,
"opening" what the server or the holder of the secret key computes once; processor time on one pinned core, medians. The
one-shot openings with and without dropouts take turns; their ratio is that of the least times, which other work on the
machine can only lengthen.
Encrypting with TenSEAL takes so long that one client's ciphertext stands for all; "encrypted" and "added" say how many.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tenseal
from measure import machine, pin_to_one_core, spent
from rich.console import Console
from rich.table import Table

from protocols import ArraySource, ClientPolicy, Identity, Role, Roster, SigningKey, oneshot, secagg
from protocols.signed import MemorySpool
from protocols.testing.storage import MemoryStore
from secfl.engines.spool import FileSpool

BOUND = 2**15 - 1
COMMITTEE = 5
COLLUSION = 1
SLOTS = 4096
PLAIN_MODULUS = 1032193
REPEATS = 41
"""Openings of each one-shot session at most."""
OPENED = 10**8
"""Parameters opened in all these repetitions at most, but three repetitions at least."""
MOST_ADDED = 10**8
"""Parameters added up at most with TenSEAL, over all clients."""
IN_MEMORY = 10**9
"""Parameters, over all clients, from which on vectors wait in files."""
NANO = 1e9


@dataclass
class Row:
    """What a scheme costs at one size: nanoseconds and bytes a parameter."""

    scheme: str
    n: int
    d: int
    dropouts: float | None
    client: float
    vector_bytes: float
    other_bytes: int
    """In all, beside the vector."""
    upload: float
    opening: float
    encrypted: int
    added: int
    least_opening: float | None = None
    """The least of several openings."""


def values(client: int, d: int) -> np.ndarray:
    return np.random.default_rng([client, d]).integers(-BOUND, BOUND, d, dtype=np.int32, endpoint=True)


def word_bits(n: int) -> int:
    return (2 * n * BOUND).bit_length()


@dataclass
class Session:
    """A session, driven step by step so that each can be timed.

    :param parties: makes, or finds, the party session that a phase asks.
    :param lost: by phase, who is not heard of in it.
    """

    server: Any
    parties: Callable[[str, str], Any]
    n: int
    d: int
    lost: dict[str, set[str]]
    share_chunks: int
    client: dict[str, float] = field(default_factory=dict)
    uploads: list[float] = field(default_factory=list)
    closing: dict[str, float] = field(default_factory=dict)
    vector_bytes: int = 0
    other_bytes: int = 0

    def __post_init__(self) -> None:
        self.expected = np.zeros(self.d, np.int64)

    def run_to(self, last: str) -> Iterator[None]:
        """All phases before this one, and its replies, which stays open; stops after every reply."""
        while True:
            phase = self.server.phase
            lost = self.lost.get(phase, set())
            for request in list(self.server.requests()):
                if request.party not in lost:
                    self._answer(phase, request)
                    yield
            if phase == last:
                return
            self.closing[phase] = spent(self.server.close_phase)

    def _answer(self, phase: str, request: Any) -> None:
        party = self.parties(phase, request.party)
        vector = party.inspect(request.header).vector
        mine = values(int(request.party[1:]), self.d) if vector else None
        source = None if mine is None else ArraySource(mine.view(np.uint32) & np.uint32(2 ** word_bits(self.n) - 1))
        replies: list[Any] = []
        seconds = spent(lambda: replies.append(party.handle(request.header, request.chunks, vector=source)))
        reply, chunks = replies[0], list(replies[0].chunks)
        if request.party.startswith("c"):
            self.client[request.party] = self.client.get(request.party, 0.0) + seconds
        if request.party == "c000":
            sizes = [memoryview(chunk).nbytes for chunk in chunks]
            self.vector_bytes += sum(sizes[self.share_chunks :])
            self.other_bytes += len(reply.header) + len(reply.trailer) + sum(sizes[: self.share_chunks])
        seconds = spent(lambda: self._deliver(reply, chunks))
        if mine is not None:
            self.uploads.append(seconds)
            self.expected += mine

    def _deliver(self, reply: Any, chunks: list[Any]) -> None:
        upload = self.server.begin(reply.header)
        for chunk in chunks:
            upload.write(chunk)
        upload.commit(reply.trailer)

    def check(self, server: Any) -> None:
        if not np.array_equal(server.result().sum, self.expected % 2 ** word_bits(self.n)):
            raise SystemExit("the sum is wrong: no figure of this run means anything")

    def row(self, scheme: str, dropouts: float, openings: list[float]) -> Row:
        """Costs; what the server does at the end of phases, before the opening, is part of the uploads."""
        lost = set().union(*self.lost.values())
        client = median(seconds for party, seconds in self.client.items() if party not in lost)
        count = len(self.uploads)
        upload = median(self.uploads) + sum(self.closing.values()) / count
        costs = (seconds / self.d * NANO for seconds in (client, upload, median(openings)))
        first, second, third = costs
        return Row(
            scheme,
            self.n,
            self.d,
            dropouts,
            first,
            self.vector_bytes / self.d,
            self.other_bytes,
            second,
            third,
            count,
            count,
            min(openings) / self.d * NANO,
        )


def make_parties(n: int, members: int) -> tuple[dict[str, Identity], Roster]:
    clients = [Identity(f"c{index:03}", SigningKey.generate(os.urandom)) for index in range(n)]
    committee = [
        oneshot.CommitteeIdentity(
            f"m{index}", SigningKey.generate(os.urandom), oneshot.CommitteeKey.generate(os.urandom)
        )
        for index in range(members)
    ]
    identities = {identity.id: identity for identity in [*clients, *committee]}
    return identities, Roster([identity.member() for identity in identities.values()])


def agreed(n: int, d: int) -> dict[str, Any]:
    return {
        "nonce": os.urandom(32),
        "run_id": "benchmark",
        "round_number": 0,
        "modulus_bits": word_bits(n),
        "vector_length": d,
        "context_hash": bytes(32),
    }


def lost_clients(n: int, dropouts: float) -> set[str]:
    return {f"c{index:03}" for index in range(n - int(n * dropouts), n)}


def oneshot_session(n: int, d: int, dropouts: float, spool: Callable[[], Any]) -> tuple[Session, Roster]:
    identities, roster = make_parties(n, COMMITTEE)
    cohort = [party for party in identities if party.startswith("c")]
    parameters = oneshot.parameters(roster, cohort, **agreed(n, d), value_bound=BOUND, collusion_bound=COLLUSION)
    policy = ClientPolicy(protocols=frozenset({oneshot.PROTOCOL}), collusion_bound=COLLUSION, value_range=BOUND)
    members: dict[str, Any] = {}

    def party(phase: str, name: str) -> Any:
        role = Role.CLIENT if phase == "Contribution" else Role.COMMITTEE
        if name not in members or role is Role.CLIENT:
            members[name] = oneshot.party(
                role, identities[name], roster, policy, entropy=os.urandom, store=MemoryStore(), spool=spool
            )
        return members.pop(name) if role is Role.CLIENT else members[name]

    away = {f"m{index}" for index in range(COMMITTEE - parameters.threshold if dropouts else 0)}
    lost = {"Contribution": lost_clients(n, dropouts), "Opening": away}
    return Session(oneshot.server(parameters, roster, spool=spool), party, n, d, lost, COMMITTEE), roster


def measure_oneshot(n: int, d: int, spool: Callable[[], Any]) -> list[Row]:
    """Without and with dropouts, reply by reply in turns; then the openings in turns."""
    dropouts = (0.0, 0.3)
    sessions, rosters = zip(*(oneshot_session(n, d, share, spool) for share in dropouts), strict=True)
    deque(zip_longest(*(session.run_to("Opening") for session in sessions)), maxlen=0)
    blobs = [(session.server.save(), roster) for session, roster in zip(sessions, rosters, strict=True)]
    seconds: list[list[float]] = [[], []]
    for turn in range(max(3, min(REPEATS, OPENED // d))):
        for position in (0, 1) if turn % 2 else (1, 0):
            server = oneshot.restore_server(*blobs[position])
            seconds[position].append(spent(server.close_phase))
            sessions[position].check(server)
    return [
        session.row("one-shot", share, taken) for session, share, taken in zip(sessions, dropouts, seconds, strict=True)
    ]


def measure_secagg(n: int, d: int, dropouts: float, spool: Callable[[], Any]) -> Row:
    identities, roster = make_parties(n, 0)
    parameters = secagg.parameters(roster, list(identities), **agreed(n, d))
    parties = {
        name: secagg.party(
            Role.CLIENT, identity, roster, ClientPolicy(), entropy=os.urandom, store=MemoryStore(), spool=spool
        )
        for name, identity in identities.items()
    }
    lost = dict.fromkeys(("MaskedInput", "Unmask"), lost_clients(n, dropouts))
    server = secagg.server(parameters, roster, spool=spool)
    session = Session(server, lambda _, name: parties[name], n, d, lost, 0)
    deque(session.run_to("Unmask"), maxlen=0)
    opening = spent(server.close_phase)
    session.check(server)
    return session.row("SecAgg", dropouts, [opening])


@dataclass(frozen=True)
class Tenseal:
    """CKKS or BFV through TenSEAL."""

    name: str
    context: Any
    encrypt: Callable[[Any, Any], Any]
    load: Callable[[Any, bytes], Any]
    modulus: int | None

    def right(self, opened: list[float], expected: np.ndarray) -> bool:
        if self.modulus is None:
            return bool(np.abs(np.asarray(opened) - expected).max() < 0.5)
        return bool(((np.asarray(opened) - expected) % self.modulus == 0).all())


def tenseal_schemes() -> list[Tenseal]:
    ckks = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], n_threads=1)
    ckks.global_scale = 2**40
    bfv = tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, plain_modulus=PLAIN_MODULUS, n_threads=1)
    return [
        Tenseal("CKKS (TenSEAL)", ckks, tenseal.ckks_vector, tenseal.ckks_vector_from, None),
        Tenseal("BFV (TenSEAL)", bfv, tenseal.bfv_vector, tenseal.bfv_vector_from, PLAIN_MODULUS),
    ]


def measure_tenseal(scheme: Tenseal, n: int, d: int) -> Row:
    """Ciphertext by ciphertext, so that nothing piles up in memory; the median ciphertext counts."""
    vector = values(0, d)
    added = max(2, min(n, MOST_ADDED // d))
    client, upload, opening = [], [], []
    size = 0
    for low in range(0, d, SLOTS):
        part = vector[low : low + SLOTS]
        sent: list[bytes] = []
        opened: list[list[float]] = []
        client.append(spent(lambda part=part, sent=sent: sent.append(scheme.encrypt(scheme.context, part).serialize())))
        size += len(sent[0])
        total = scheme.load(scheme.context, sent[0])

        def add(total: Any = total, raw: bytes = sent[0]) -> None:
            for _ in range(added - 1):
                total += scheme.load(scheme.context, raw)

        upload.append(spent(add) / (added - 1))
        opening.append(spent(lambda total=total, opened=opened: opened.append(total.decrypt())))
        if not scheme.right(opened[0], part.astype(np.int64) * added):
            raise SystemExit(f"{scheme.name}: the sum is wrong")
    first, second, third = (median(seconds) / min(SLOTS, d) * NANO for seconds in (client, upload, opening))
    return Row(scheme.name, n, d, None, first, size / d, 0, second, third, 1, added)


def reached(rows: list[Row], n: int, d: int) -> list[dict[str, Any]]:
    """The figures that this library is to reach, and whether it does."""
    found = {(row.scheme, row.dropouts): row for row in rows if (row.n, row.d) == (n, d)}
    ours, dropped, ckks = found["one-shot", 0.0], found["one-shot", 0.3], found["CKKS (TenSEAL)", None]
    openings = [row.least_opening or row.opening for row in (dropped, ours)]
    where = f", n = {n}, d = {d:.0e}"
    figures = [
        ("one-shot client, ns a parameter" + where, ours.client, "<=", 25),
        ("CKKS client / one-shot client" + where, ckks.client / ours.client, ">=", 40),
        ("CKKS bytes / one-shot bytes" + where, ckks.vector_bytes / ours.vector_bytes, ">=", 12),
        ("one-shot bits / (d b), shares apart" + where, 8 * ours.vector_bytes / word_bits(n), "<=", 1.30),
        ("one-shot opening, 30 % dropouts / none" + where, openings[0] / openings[1], "<=", 1.05),
        ("one-shot upload, 30 % dropouts / none" + where, dropped.upload / ours.upload, "<=", 1.05),
    ]
    return [
        {"figure": name, "value": value, "to reach": f"{sign} {bound}", "reached": (value <= bound) == (sign == "<=")}
        for name, value, sign, bound in figures
    ]


def show(rows: list[Row], figures: list[dict[str, Any]]) -> None:
    headings = (
        "scheme",
        "n",
        "d",
        "dropouts",
        "client",
        "an upload",
        "opening",
        "bytes up",
        "other bytes",
        "encrypted",
    )
    table = Table(*headings, "added", title="nanoseconds and bytes a parameter")
    for row in rows:
        dropouts = "" if row.dropouts is None else f"{row.dropouts:.0%}"
        costs = (f"{cost:.4g}" for cost in (row.client, row.upload, row.opening, row.vector_bytes))
        counts = (f"{count}" for count in (row.other_bytes, row.encrypted, row.added))
        table.add_row(row.scheme, str(row.n), f"{row.d:.0e}", dropouts, *costs, *counts)
    Console(width=140).print(table)
    for figure in figures:
        verdict = "reached" if figure["reached"] else "NOT reached"
        print(f"{figure['figure']}: {figure['value']:.3g} ({figure['to reach']}): {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="n = 10, d = 10^5 only")
    arguments = parser.parse_args()
    pin_to_one_core()
    schemes = tenseal_schemes()
    rows: list[Row] = []
    sizes = [(10, 10**5)] if arguments.quick else [(n, d) for n in (10, 100) for d in (10**5, 10**6, 10**7)]
    with tempfile.TemporaryDirectory() as directory:
        for n, d in sizes:
            spool = MemorySpool if n * d < IN_MEMORY else partial(FileSpool, directory)
            rows += measure_oneshot(n, d, spool)
            rows += [measure_secagg(n, d, dropouts, spool) for dropouts in (0.0, 0.3)]
            rows += [measure_tenseal(scheme, n, d) for scheme in schemes]
    figures = reached(rows, *(sizes[0] if arguments.quick else (100, 10**6)))
    show(rows, figures)
    if arguments.json is not None:
        content = {"machine": machine(), "rows": [asdict(row) for row in rows], "figures": figures}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

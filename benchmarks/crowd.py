"""SecAgg+ from 10^2 to 10^4 clients on one machine, and the complete graph beside the figures of Bonawitz et al. 2017.

    python benchmarks/crowd.py [--json FILE] [--plot FILE] [--clients N ...] [--published N ...]

Every session is whole: all clients take part, some are lost in each phase, the sum is compared with the plain one. What
the server does is measured in full. What a client does is measured on a sample that shares nothing with anybody; the
other clients of the process share what comes out the same for all of them (signatures that were verified, the session's
parameters, keys that were probed), or 10^4 clients would verify 5 * 10^7 signatures here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import Figures, pin_to_one_core

from protocols import ArraySource, ClientPolicy, Identity, Role, Roster, SigningKey, secagg, wire
from protocols.secagg import client as client_module
from protocols.secagg import graph, messages
from protocols.session import SessionParameters
from protocols.shape import Reply
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore

BITS = 32
SAMPLE = 5
RATES = {"adversary_rate": 0.05, "dropout_rate": 0.05}
POLICY = ClientPolicy(adversary_rate=0.05)
PHASES = (
    messages.ADVERTISE_KEYS,
    messages.SHARE_KEYS,
    messages.MASKED_INPUT,
    messages.CONSISTENCY_CHECK,
    messages.UNMASK,
)

PUBLISHED = {
    # Bonawitz et al. 2017 (CCS), running times per round in ms: vectors of 100,000 entries, one thread, Java, Xeon
    # E5-1650 v3. Not yet compared with the paper's own tables: check before quoting.
    # (clients, dropouts): client total at no dropouts, server's unmasking, server total.
    (500, 0.0): (849, 1268, 2018),
    (500, 0.1): (None, 61586, 62239),
    (500, 0.3): (None, 142847, 143389),
    (1000, 0.0): (1699, 3253, 4887),
    (1000, 0.1): (None, 179320, 180875),
    (1000, 0.3): (None, 412446, 413767),
}


def memoised(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed once for each key."""
    known: dict[Any, Any] = {}

    def once(*arguments: Any, **named: Any) -> Any:
        at = key(*arguments, **named)
        if at not in known:
            known[at] = function(*arguments, **named)
        return known[at]

    return once


class SharedWork:
    """Computes once what comes out the same for every client of a process, except while a sampled client is asked."""

    def __init__(self) -> None:
        self.alone = False
        self._places: list[tuple[Any, str, Any]] = []
        decode = wire.decode
        self._share(
            Roster, "verify", lambda _, party, message, signature, *scheme: (party, message, signature, *scheme)
        )
        self._share(Roster, "digest", id)
        self._share(SessionParameters, "session_id", id)
        self._share(client_module, "check_exchange_key", bytes)
        self._share(client_module, "check_graph", lambda parameters, policy: (id(parameters), id(policy)))
        self._share(ClientPolicy, "check", lambda self, parameters, roster: (id(self), id(parameters), id(roster)))
        # One session shows everybody one certificate.
        self._share(client_module.SecAggClient, "_check_certificate", lambda _, state, _request: state.root)
        from_bytes = SessionParameters.from_bytes
        shared = memoised(from_bytes, lambda raw: raw)
        self._put(SessionParameters, "from_bytes", lambda raw: from_bytes(raw) if self.alone else shared(raw))
        large = memoised(decode, lambda raw, kind, **_: (hashlib.sha256(raw).digest(), kind))
        self._put(
            wire,
            "decode",
            lambda raw, kind, **named: (decode if self.alone or len(raw) < 2**17 else large)(raw, kind, **named),
        )

    def _share(self, owner: Any, name: str, key: Callable[..., Any]) -> None:
        genuine = getattr(owner, name)
        shared = memoised(genuine, key)
        self._put(owner, name, lambda *arguments: (genuine if self.alone else shared)(*arguments))

    def _put(self, owner: Any, name: str, value: Any) -> None:
        self._places.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, value)

    def close(self) -> None:
        for owner, name, genuine in reversed(self._places):
            setattr(owner, name, genuine)


@contextmanager
def shared_work() -> Iterator[SharedWork]:
    shared = SharedWork()
    try:
        yield shared
    finally:
        shared.close()


class Crowd:
    """All parties of one session and what each part of it took."""

    def __init__(self, n: int, d: int, **options: Any) -> None:
        self.n, self.d = n, d
        names = [f"client-{number:05}" for number in range(n)]
        self.identities = {name: Identity(name, SigningKey.generate(os.urandom)) for name in names}
        self.roster = Roster(identity.member() for identity in self.identities.values())
        self.parameters = secagg.parameters(
            self.roster,
            names,
            nonce=os.urandom(32),
            run_id="crowd",
            round_number=0,
            modulus_bits=BITS,
            vector_length=d,
            context_hash=bytes(32),
            **options,
        )
        self.server = secagg.server(self.parameters, self.roster)
        self.parties = {
            name: secagg.party(Role.CLIENT, identity, self.roster, POLICY, entropy=os.urandom, store=MemoryStore())
            for name, identity in self.identities.items()
        }
        rng = np.random.default_rng(0)
        self.vectors = {name: rng.integers(0, 2**BITS, d, dtype=np.uint32) for name in names}
        self.sample = set(names[:: max(1, n // SAMPLE)][:SAMPLE])
        self.client_seconds = dict.fromkeys(PHASES, 0.0)
        self.server_seconds = dict.fromkeys(PHASES, 0.0)
        self.bytes_down = dict.fromkeys(PHASES, 0)
        self.bytes_up = dict.fromkeys(PHASES, 0)

    def run_phase(self, shared: SharedWork, lost: Iterable[str] = ()) -> None:
        """One phase; those that are lost do not answer."""
        phase = self.server.phase or ""
        asked, gone = 0, set(lost)
        began = time.process_time()
        spent_on_clients = 0.0
        for request in self.server.requests():
            party = str(request.party)
            if party in gone:
                continue
            start = time.process_time()
            reply = self.answer(phase, party, request.header, shared)
            elapsed = time.process_time() - start
            spent_on_clients += elapsed
            if party in self.sample:
                asked += 1
                self.client_seconds[phase] += elapsed
                self.bytes_down[phase] += len(request.header)
                self.bytes_up[phase] += len(reply.header) + len(reply.trailer) + sum(map(len, reply.chunks))
            deliver(self.server, reply)
        self.server.close_phase()
        self.server_seconds[phase] = time.process_time() - began - spent_on_clients
        for totals in (self.client_seconds, self.bytes_down, self.bytes_up):
            totals[phase] /= max(1, asked)  # type: ignore[assignment]

    def answer(self, phase: str, party: str, header: bytes, shared: SharedWork) -> Reply:
        """What a client says; a sampled one shares no work."""
        shared.alone = party in self.sample
        if shared.alone:
            graph._ring.cache_clear()
        vector = ArraySource(self.vectors[party]) if phase == messages.MASKED_INPUT else None
        try:
            reply = self.parties[party].handle(header, vector=vector)
            return Reply(reply.party, reply.header, list(reply.chunks), reply.trailer)
        finally:
            shared.alone = False

    def check(self) -> None:
        """The sum is the plain one.

        :raises SystemExit: it is not.
        """
        aggregate = self.server.result()
        plain = np.zeros(self.d, np.uint32)
        for party in aggregate.contributors:
            plain += self.vectors[party]
        if not np.array_equal(plain, aggregate.sum):
            raise SystemExit(f"n = {self.n}: the sum is wrong")


def measure_crowd(figures: Figures, n: int, d: int) -> dict[str, float]:
    """A session of n clients, one in a hundred of them lost in each phase."""
    crowd = Crowd(n, d, graph="harary", **RATES)
    names = sorted(crowd.parties)
    gone: set[str] = set()
    with shared_work() as shared:
        for number, phase in enumerate(PHASES):
            gone |= set([name for name in names if name not in crowd.sample][number::100][: n // 100])
            crowd.run_phase(shared, gone)
            print(f"n = {n}: {phase} done", flush=True)
    crowd.check()
    where = {"n": n, "d": d, "degree": graph.graph_parameters(crowd.parameters).degree}
    figures.add("contributors", len(crowd.server.result().contributors), "clients", **where)
    for phase in PHASES:
        figures.add(f"client, {phase}", crowd.client_seconds[phase], "s", **where)
        figures.add(f"client, {phase}, down", crowd.bytes_down[phase], "B", **where)
        figures.add(f"client, {phase}, up", crowd.bytes_up[phase], "B", **where)
        figures.add(f"server, {phase}", crowd.server_seconds[phase], "s", **where)
    figures.add("client, all phases", sum(crowd.client_seconds.values()), "s", **where)
    figures.add("server, all phases", sum(crowd.server_seconds.values()), "s", **where)
    return parts(crowd)


def parts(crowd: Crowd) -> dict[str, float]:
    """A client's bytes by what they are."""
    return {
        "parameters, O(n)": crowd.bytes_down[messages.ADVERTISE_KEYS],
        "advertisements and path, O(k log n)": crowd.bytes_down[messages.SHARE_KEYS],
        "shares, O(k)": (
            crowd.bytes_up[messages.SHARE_KEYS]
            + crowd.bytes_down[messages.MASKED_INPUT]
            + crowd.bytes_up[messages.UNMASK]
        ),
        "vector, O(d)": crowd.bytes_up[messages.MASKED_INPUT],
        "contributors and signatures, O(n)": (
            crowd.bytes_down[messages.CONSISTENCY_CHECK] + crowd.bytes_down[messages.UNMASK]
        ),
    }


def measure_published(figures: Figures, n: int, d: int) -> None:
    """The complete graph at the sizes of Bonawitz et al. 2017: one session, closed with each rate of dropouts."""
    crowd = Crowd(n, d, graph="complete", collusion_bound=n // 20)
    with shared_work() as shared:
        crowd.run_phase(shared)
        crowd.run_phase(shared)
        at_masked_input = crowd.server.save()
        replies = {}
        for request in crowd.server.requests():
            start = time.process_time()
            replies[str(request.party)] = crowd.answer(
                messages.MASKED_INPUT, str(request.party), request.header, shared
            )
            if request.party in crowd.sample:
                crowd.client_seconds[messages.MASKED_INPUT] += (time.process_time() - start) / len(crowd.sample)
        states = {name: (party._state, party._answered) for name, party in crowd.parties.items()}
        for rate in (0.0, 0.1, 0.3):
            crowd.server = secagg.restore_server(at_masked_input, crowd.roster)
            kept = sorted(replies, key=lambda name: (name not in crowd.sample, name))
            kept = kept[: n - int(rate * n)]
            began = time.process_time()
            for name in sorted(kept):
                deliver(crowd.server, replies[name])
            crowd.server.close_phase()
            crowd.server_seconds[messages.MASKED_INPUT] = time.process_time() - began
            for name, (state, answered) in states.items():
                crowd.parties[name]._state, crowd.parties[name]._answered = state, answered
                crowd.parties[name]._store = MemoryStore()
            for phase in (messages.CONSISTENCY_CHECK, messages.UNMASK):
                for totals in (crowd.client_seconds, crowd.bytes_down, crowd.bytes_up):
                    totals[phase] = 0
                crowd.run_phase(shared)
            crowd.check()
            report_published(figures, crowd, rate)


def report_published(figures: Figures, crowd: Crowd, rate: float) -> None:
    where = {"n": crowd.n, "d": crowd.d, "dropouts": rate}
    client, unmasking, total = PUBLISHED[crowd.n, rate]
    if client is not None:
        figures.add("client, all phases", sum(crowd.client_seconds.values()), "s", **where)
        figures.add("client, all phases, published 2017", client / 1000, "s", **where)
    figures.add("server, Unmask", crowd.server_seconds[messages.UNMASK], "s", **where)
    figures.add("server, Unmask, published 2017", unmasking / 1000, "s", **where)
    figures.add("server, all phases", sum(crowd.server_seconds.values()), "s", **where)
    figures.add("server, all phases, published 2017", total / 1000, "s", **where)


def plot(by_size: dict[int, dict[str, float]], seconds: dict[int, dict[str, float]], path: Path) -> None:
    """A client's cost against the number of clients: bytes by part, seconds by phase."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "crowd"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    sizes = sorted(by_size)
    for axis, rows, unit in ((axes[0], by_size, "bytes"), (axes[1], seconds, "processor seconds")):
        for part in rows[sizes[0]]:
            axis.loglog(sizes, [rows[n][part] for n in sizes], marker="o", label=part)
        axis.set_xlabel("clients")
        axis.set_ylabel(f"{unit} a client")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--clients", type=int, nargs="*", default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--published", type=int, nargs="*", default=[500, 1000], choices=[500, 1000])
    options = parser.parse_args()
    pin_to_one_core()
    figures = Figures("SecAgg+, processor time on one core; a client's is the mean of a sample")
    by_size, seconds = {}, {}
    for n in options.clients:
        by_size[n] = measure_crowd(figures, n, options.length)
        own = {row["name"]: row["value"] for row in figures.rows if row["n"] == n and row["unit"] == "s"}
        growth = ("O(n)", "O(k)", "O(k d)", "O(n)", "O(n)")
        seconds[n] = {f"{phase}, {order}": own[f"client, {phase}"] for phase, order in zip(PHASES, growth, strict=True)}
    for n in options.published:
        measure_published(figures, n, 100_000)
    figures.show()
    figures.write(options.json)
    if options.plot is not None and by_size:
        plot(by_size, seconds, options.plot)


if __name__ == "__main__":
    main()

"""One-shot: security estimate, failure probability and error bound of each lattice record; time of client and server.

    python benchmarks/oneshot_parameters.py [--json FILE] [--quick]

The security figure is the usual rough one: block size of the primal attack by the estimate of Alkim, Ducas, Poppelmann
and Schwabe 2016 ("New Hope", section 6.3) with as many samples as serve the attacker best, at 2^(.292 beta) classical
and 2^(.265 beta) quantum operations. The homomorphic encryption standard (Albrecht et al. 2018, table 1) is the
reference: at N = 4096 it allows log2 q = 109 for 128 bits and 75 for 192. "Two honest clients" is the deviation that
Hint-RLWE (Kim, Lee, Seo, Song 2023) leaves when the sum of two honest keys is revealed: variance
1 / (2 (1/16 + 1/16)) = 4. Times are processor time on one pinned core, best of a few turns.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
from measure import Figures, best_of, pin_to_one_core

from protocols import ArraySource, ClientPolicy, Identity, Reply, Role, Roster, SigningKey, oneshot
from protocols.oneshot.lattice import Encryption, decrypt_sum, sample_key
from protocols.oneshot.negacyclic import NegacyclicProduct, error_bound
from protocols.oneshot.records import LATTICES, WORD_BITS, LatticeRecord
from protocols.oneshot.slots import Layout, choose_slots
from protocols.primitives.bitpack import pack, unpack
from protocols.session import SessionId
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore

CLASSICAL, QUANTUM = 0.292, 0.265
REPEATS = 7


def block_size(degree: int, log_modulus: int, deviation: float) -> int:
    """Least block size at which the primal attack succeeds, over the number of samples."""
    samples = np.arange(degree // 4, 3 * degree, 16)
    dimension = samples + degree + 1
    volume = samples / dimension * log_modulus * math.log(2)
    for beta in range(60, 4 * degree):
        root = math.log((math.pi * beta) ** (1 / beta) * beta / (2 * math.pi * math.e)) / (2 * (beta - 1))
        if (math.log(deviation * math.sqrt(beta)) <= (2 * beta - dimension - 1) * root + volume).any():
            return beta
    raise ValueError("no block size breaks these parameters")


def security(figures: Figures, record: LatticeRecord) -> None:
    for name, variance in (("alone", record.variance), ("two honest clients", record.variance / 4)):
        beta = block_size(record.degree, WORD_BITS, math.sqrt(variance))
        where = {"record": record.id, "case": name}
        figures.add("block size", beta, "", **where)
        figures.add("core-SVP, classical", CLASSICAL * beta, "bits", **where)
        figures.add("core-SVP, quantum", QUANTUM * beta, "bits", **where)


def log_failure(layout: Layout, clients: int, entries: float) -> float:
    """log2 of a bound on the probability that any coefficient of the sum is wrong."""
    margin = 2.0 ** (layout.delta_bits - 1) - clients / 2
    exponent = margin**2 / (2 * clients * layout.variance)
    return 1 - exponent / math.log(2) + math.log2(entries / layout.slots)


def layouts(figures: Figures, record: LatticeRecord) -> None:
    for clients, bits in ((4, 16), (10, 16), (100, 8), (100, 16), (100, 24), (1000, 16), (10_000, 16), (100_000, 16)):
        layout = choose_slots(record, clients, bits, 0).layout
        where = {"record": record.id, "n": clients, "bits": bits}
        shape = f"{layout.slots} x {layout.width}, Q {layout.modulus_bits}, rho {layout.dropped_bits}"
        figures.add(f"ciphertext ({shape})", layout.bits_per_entry(), "bits an entry", **where)
        figures.add("log2 failure, d = 1e9", log_failure(layout, clients, 1e9), "", **where)


def errors(figures: Figures, record: LatticeRecord) -> None:
    generator = np.random.default_rng(1)
    for bits, clients in ((57, 1), (57, 100), (64, 1), (64, 10_000), (64, 1_000_000)):
        key = np.rint(generator.normal(0, math.sqrt(record.variance * clients), record.degree)).astype(np.int64)
        product = NegacyclicProduct(key, bits)
        largest = 0.0
        for _ in range(50):
            images = product._images(generator.integers(0, 2**64, (4, record.degree), dtype=np.uint64))
            for part in (images.real, images.imag):
                largest = max(largest, float(np.abs(part - np.rint(part)).max()))
        norm, peak = float(np.linalg.norm(key)), float(np.abs(product._transform).max())
        where = {"record": record.id, "n": clients, "bits": bits, "case": f"{len(product.limbs)} limbs"}
        figures.add("error bound", error_bound(record.degree, max(product.limbs), norm, peak), "", **where)
        figures.add("largest error seen", largest, "", **where)


def times(figures: Figures, record: LatticeRecord, n: int, d: int) -> None:
    slots = choose_slots(record, n, 16, 0)
    layout, session = slots.layout, SessionId(os.urandom(32))
    vector = np.random.default_rng(1).integers(0, 2**16, d).astype(np.uint16)
    key = sample_key(record, os.urandom)
    plain = np.empty(layout.coefficients(d), np.uint64)
    encryption = Encryption(record, layout, session, key, os.urandom)
    packed = np.empty((plain.size * layout.sent_bits + 7) // 8, np.uint8)
    total = np.zeros_like(plain)

    def client() -> None:
        slots.encode(vector, plain)
        encryption.encrypt(plain, 0, plain)
        pack(plain, layout.sent_bits, out=packed)

    def add() -> None:
        np.add(total, unpack(packed, total.size, layout.sent_bits), out=total)

    blocks = plain[: plain.size // record.degree * record.degree].reshape(-1, record.degree)
    accumulator = np.zeros_like(blocks)
    product = NegacyclicProduct(key, layout.modulus_bits)
    seconds = best_of(REPEATS, client, add, lambda: product.add_into(accumulator, blocks))
    client()
    out = np.empty(d, np.uint16)
    ciphertext = unpack(packed, total.size, layout.sent_bits)

    def opening() -> None:
        opened = ciphertext.copy()
        decrypt_sum(record, layout, session, key, 1, opened)
        slots.decode(opened, 1, out)

    seconds += best_of(REPEATS, opening)
    if not (out == vector).all():
        raise SystemExit("the sum is wrong")
    where = {"record": record.id, "n": n, "bits": 16, "case": f"d = {d:.0e}"}
    for name, value in zip(("client", "server, an upload", "product", "server, opening"), seconds, strict=True):
        count = accumulator.size if name == "product" else d
        figures.add(name, value / count * 1e9, "ns a coefficient" if name == "product" else "ns an entry", **where)


def session(figures: Figures, n: int, members: int, d: int) -> None:
    """A client's whole contribution and the server's whole upload: sharing, sealing, hashing and signing included."""
    policy = ClientPolicy(protocols=frozenset({oneshot.PROTOCOL}), collusion_bound=1)
    identities: list[Identity] = []
    for number in range(n):
        key = SigningKey.generate(os.urandom)
        committee_key = oneshot.CommitteeKey.generate(os.urandom)
        on_committee = number < members
        name = f"silo-{number:04}"
        identities.append(oneshot.CommitteeIdentity(name, key, committee_key) if on_committee else Identity(name, key))
    roster = Roster([identity.member() for identity in identities])
    parameters = oneshot.parameters(
        roster,
        [identity.id for identity in identities],
        nonce=os.urandom(32),
        run_id="benchmark",
        round_number=1,
        modulus_bits=16,
        vector_length=d,
        context_hash=bytes(32),
        collusion_bound=1,
    )
    server = oneshot.server(parameters, roster)
    header = next(iter(server.requests())).header
    vector = ArraySource(np.random.default_rng(1).integers(0, 2**16, d).astype(np.uint16))
    seconds, seconds_server, size, shares = [], [], 0, 0
    for identity in identities[:REPEATS]:
        client = oneshot.party(Role.CLIENT, identity, roster, policy, entropy=os.urandom, store=MemoryStore())
        began = time.process_time()
        reply = client.handle(header, vector=vector)
        chunks = list(reply.chunks)
        seconds.append(time.process_time() - began)
        began = time.process_time()
        deliver(server, Reply(reply.party, reply.header, chunks, reply.trailer))
        seconds_server.append(time.process_time() - began)
        shares = sum(memoryview(chunk).nbytes for chunk in chunks[:members])
        size = sum(memoryview(chunk).nbytes for chunk in chunks[members:])
    where = {"n": n, "bits": 16, "case": f"d = {d:.0e}, m = {members}"}
    figures.add("client, whole contribution", min(seconds) / d * 1e9, "ns an entry", **where)
    figures.add("server, whole upload", min(seconds_server) / d * 1e9, "ns an entry", **where)
    figures.add("ciphertext", size, "bytes", **where)
    figures.add("sealed shares", shares, "bytes", **where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="shorter vectors")
    arguments = parser.parse_args()
    pin_to_one_core()
    figures = Figures("one-shot")
    for record in LATTICES.values():
        security(figures, record)
        layouts(figures, record)
        errors(figures, record)
        times(figures, record, 100, 10**5 if arguments.quick else 10**6)
    session(figures, 100, 5, 10**5 if arguments.quick else 10**6)
    figures.show()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()

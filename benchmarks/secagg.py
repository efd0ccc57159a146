"""SecAgg: client masking and server unmasking beside the keystream that they need and a plain sum, in one run.

    python benchmarks/secagg.py [--json FILE] [--quick]

One pinned core, processor time, best of a few turns. The keystream is the best of three buffer sizes, into a
preallocated buffer, one cipher a mask; setting the ciphers up counts on both sides. Sessions are the real ones: every
client of the cohort masks, every message is bytes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from measure import Figures, best_of, pin_to_one_core

from protocols import ArraySource, ClientPolicy, Identity, Role, Roster, SigningKey, secagg
from protocols.primitives.bitpack import packed_size
from protocols.primitives.ring import word_dtype
from protocols.secagg.masking import Mask, masked_chunks, remove_masks
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore

BITS = 32
REPEATS = 5


def beside_keystream(work: Callable[[], object], streams: int, words: int, bits: int) -> tuple[float, float]:
    """Least processor seconds of the work, and of `streams` keystreams of `words` words each; they take turns."""
    total = words * word_dtype(bits).itemsize
    keys = [os.urandom(32) for _ in range(streams)]
    buffers = {size: (bytes(size * 1024), bytearray(size * 1024)) for size in (64, 128, 256)}

    def run(size: int) -> None:
        zeros, buffer = buffers[size // 1024]
        for key in keys:
            update = Cipher(AES(key), CTR(bytes(16))).encryptor().update_into
            for _ in range(total // size):
                update(zeros, buffer)
            if total % size:
                update(zeros[: total % size], buffer)

    entries = streams * words
    turns = 50 if entries < 2 * 10**7 else REPEATS if entries < 5 * 10**8 else 1
    spent, *limits = best_of(turns, work, *(lambda size=size: run(size * 1024) for size in (64, 128, 256)))
    return spent, min(limits)


def new_masks(number: int) -> list[Mask]:
    return [Mask(os.urandom(32), 1 if index % 2 else -1) for index in range(number)]


def measure_masks(figures: Figures, n: int, d: int, drops: float, bits: int) -> None:
    """Masking and unmasking alone, against the keystream that they need."""
    where = {"n": n, "d": d, "dropouts": drops, "bits": bits}
    parameters = make_session(n, d, bits)[0]
    vector = np.random.default_rng(1).integers(0, 2**bits, d, dtype=np.uint64).astype(word_dtype(bits))
    if drops == 0:
        masks = new_masks(n)
        client, limit = beside_keystream(
            lambda: [None for _ in masked_chunks(parameters, ArraySource(vector), masks)], n, d, bits
        )
        figures.add("client masking", client, "s", **where)
        figures.add("client masking / keystream", client / limit, "ratio", **where)
    dropped = int(n * drops)
    left = (n - dropped) + dropped * (n - dropped)
    accumulator = vector.copy()
    masks = new_masks(left)
    server, limit = beside_keystream(lambda: remove_masks(accumulator, masks, bits), left, d, bits)
    figures.add("server unmasking", server, "s", **where)
    figures.add("server unmasking / keystream", server / limit, "ratio", **where)
    total = np.zeros(d, word_dtype(bits))
    (plain,) = best_of(REPEATS, lambda: [np.add(total, vector, out=total) for _ in range(n)])
    figures.add("plain numpy sum of n vectors", plain, "s", **where)


def make_session(n: int, d: int, bits: int):
    identities = [Identity(f"c{index:03}", SigningKey.generate(os.urandom)) for index in range(n)]
    roster = Roster(identity.member() for identity in identities)
    parameters = secagg.parameters(
        roster,
        [identity.id for identity in identities],
        nonce=os.urandom(32),
        run_id="benchmark",
        round_number=0,
        modulus_bits=bits,
        vector_length=d,
        context_hash=bytes(32),
    )
    return parameters, identities, roster


def measure_session(figures: Figures, n: int, d: int, drops: float, bits: int) -> None:
    """A whole session: time of one client and of the server by phase, bytes of one client."""
    where = {"n": n, "d": d, "dropouts": drops, "bits": bits}
    parameters, identities, roster = make_session(n, d, bits)
    server = secagg.server(parameters, roster)
    policy = ClientPolicy()
    parties = {
        identity.id: secagg.party(Role.CLIENT, identity, roster, policy, entropy=os.urandom, store=MemoryStore())
        for identity in identities
    }
    vector = np.random.default_rng(1).integers(0, 2**bits, d, dtype=np.uint64).astype(word_dtype(bits))
    first = identities[0].id
    lost = {identity.id for identity in identities[n - int(n * drops) :]}
    while server.phase is not None:
        phase = server.phase
        for request in list(server.requests()):
            if phase != "AdvertiseKeys" and phase != "ShareKeys" and request.party in lost:
                continue
            party = parties[request.party]
            source = ArraySource(vector) if party.inspect(request.header).vector else None
            began = time.process_time()
            reply = party.handle(request.header, vector=source)
            spent = time.process_time() - began
            chunks = list(reply.chunks)
            if request.party == first:
                up = len(reply.header) + len(reply.trailer) + sum(map(len, chunks))
                figures.add(f"client, whole phase {phase}", spent, "s", **where)
                figures.add(f"client bytes up, {phase}", up, "B", **where)
                if phase == "MaskedInput":
                    ratio = up / packed_size(d, bits)
                    figures.add("client vector bytes / (d b / 8)", ratio, "ratio", **where)
            deliver(server, replace(reply, chunks=chunks))
        began = time.process_time()
        server.close_phase()
        figures.add(f"server, closing {phase}", time.process_time() - began, "s", **where)
    contributors = n - len(lost)
    expected = (vector.astype(np.uint64) * contributors) & np.uint64(2**bits - 1)
    if not np.array_equal(server.result().sum.astype(np.uint64), expected):
        raise SystemExit("the sum is wrong: no figure of this run means anything")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="n = 10, d = 10^5 only")
    arguments = parser.parse_args()
    pin_to_one_core()
    figures = Figures("SecAgg, complete graph")
    for n in (10,) if arguments.quick else (10, 50, 100):
        for d in (10**5,) if arguments.quick else (10**5, 10**6):
            for drops in (0.0, 0.3):
                measure_masks(figures, n, d, drops, BITS)
                measure_session(figures, n, d, drops, BITS)
            measure_masks(figures, n, d, 0.0, 16)
    figures.describe()
    figures.show()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()

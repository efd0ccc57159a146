"""Write the test vectors of the one-shot protocol: ``python tests/vectors/generate_oneshot.py``.

The messages to be refused are made by `generate_oneshot_malformed.py`.

HPKE draws its ephemeral keys inside OpenSSL, and nothing can hand it others: sealing is recorded, not reproduced. The
sealed shares are inputs of the vectors, with the keys that open them; everything else follows byte for byte from keys,
entropy and vectors. Sealed shares on record that still open to the shares of this code are kept, so that a second run
writes the same file. Parts longer than `WHOLE` bytes stand there as length and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np

from protocols import oneshot, wire
from protocols.errors import PeerFault
from protocols.identity import Roster
from protocols.oneshot import client
from protocols.oneshot import messages as m
from protocols.oneshot.sealing import CommitteeIdentity, CommitteeKey, seal_share, share_label
from protocols.organisation import Organisation
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import ArraySource, BasedVector, Chunk, Reply
from protocols.testing.network import deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore

FILE = Path(__file__).parent / "v1" / "oneshot_session.json"
WHOLE = 1024
NAMES = ("c00", "c01", "c02")
LOST = {"c02": "Opening"}
BITS, LENGTH = 12, 150
POLICY = ClientPolicy(protocols=frozenset({"oneshot"}), minimum_cohort=3, minimum_contributors=3, collusion_bound=0)
Sealer = Callable[[bytes, bytes, bytes], bytes]


def model(version: int) -> bytes:
    """Hash of a global model."""
    return hashlib.sha256(f"vectors v1/model {version}".encode()).digest()


BASES = {"c00": model(2), "c01": model(1), "c02": model(2)}


def identities() -> dict[str, CommitteeIdentity]:
    """Three silos, clients and committee in one."""
    return {
        name: CommitteeIdentity(
            name,
            SigningKey.generate(DeterministicEntropy(f"oneshot vectors v1/{name}/identity")),
            CommitteeKey.generate(DeterministicEntropy(f"oneshot vectors v1/{name}/committee")),
        )
        for name in NAMES
    }


def parameters(roster: Roster) -> SessionParameters:
    """An asynchronous session with a window of two models; any two of three members open it."""
    return oneshot.parameters(
        roster,
        NAMES,
        nonce=DeterministicEntropy("oneshot vectors v1/nonce")(32),
        run_id="vectors",
        round_number=1,
        modulus_bits=BITS,
        vector_length=LENGTH,
        context_hash=model(2),
        chunk_length=64,
        collusion_bound=0,
        minimum_contributors=3,
        bases=[model(1)],
        quota=3,
    )


def vector(name: str) -> np.ndarray:
    """Uniform words of 12 bits."""
    drawn = np.frombuffer(DeterministicEntropy(f"oneshot vectors v1/{name}/vector")(2 * LENGTH), np.uint16)
    return drawn & np.uint16((1 << BITS) - 1)


def part(raw: Chunk) -> Any:
    """As it stands in the file: in hex, or what identifies it."""
    raw = bytes(raw)
    if len(raw) <= WHOLE:
        return raw.hex()
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def run(
    sealer: Sealer,
    parties: dict[str, Organisation],
    server: Any,
    vectors: dict[str, BasedVector],
    keep: Callable[[Chunk], Any],
    until: str | None = None,
) -> list[dict[str, Any]]:
    """All messages of a session whose clients seal by `sealer`, part by part; the last phase is closed."""
    messages = []
    while server.phase not in (None, until):
        phase = server.phase
        for request in list(server.requests()):
            if LOST.get(request.party) == phase:
                continue
            chunks = [bytes(chunk) for chunk in request.chunks]
            party = parties[request.party]
            source = vectors[request.party] if party.inspect(request.header).vector else None
            with patch.object(client, "seal_share", sealer):
                reply = party.handle(request.header, chunks, vector=source)
            carried = [bytes(chunk) for chunk in reply.chunks]
            deliver(server, Reply(reply.party, reply.header, carried, reply.trailer))
            messages.append(
                {
                    "phase": phase,
                    "party": str(request.party),
                    "request": [keep(item) for item in (request.header, *chunks)],
                    "reply": [keep(item) for item in (reply.header, *carried, reply.trailer)],
                }
            )
        server.close_phase()
    return messages


class Recorder:
    """Entropy that remembers what it gave."""

    def __init__(self, name: str) -> None:
        self.source, self.drawn = DeterministicEntropy(name), []

    def __call__(self, count: int) -> bytes:
        self.drawn.append(self.source(count))
        return self.drawn[-1]


class Keeper:
    """Seals, or takes what is on record if it opens to the same share."""

    def __init__(self, keys: Iterable[CommitteeKey], session_id: bytes, recorded: dict[str, dict[str, str]]) -> None:
        self.keys = {key.public: key for key in keys}
        self.members = dict(zip(self.keys, NAMES, strict=True))
        self.labels = {
            share_label(session_id, index, position): (name, member)
            for index, name in enumerate(NAMES)
            for position, member in enumerate(NAMES)
        }
        self.recorded = recorded
        self.sealed: dict[str, dict[str, str]] = {name: {} for name in NAMES}
        self.shares: dict[str, dict[str, str]] = {name: {} for name in NAMES}

    def __call__(self, public: bytes, share: bytes, label: bytes) -> bytes:
        dealer, member = self.labels[label]
        if self.members[public] != member:
            raise ValueError(f"the share for {member} is sealed for {self.members[public]}")
        sealed = bytes.fromhex(self.recorded.get(dealer, {}).get(member, ""))
        try:
            kept = self.keys[public].open_share(sealed, label) == share
        except PeerFault:
            kept = False
        if not kept:
            sealed = seal_share(public, share, label)
        self.sealed[dealer][member] = sealed.hex()
        self.shares[dealer][member] = hashlib.sha256(share).hexdigest()
        return sealed


class Cast:
    """Parties and server of the session, with sealed shares from a record as far as they fit."""

    def __init__(self, recorded: dict[str, dict[str, str]]) -> None:
        self.who = identities()
        self.roster = Roster([identity.member() for identity in self.who.values()])
        self.chosen = parameters(self.roster)
        self.server = oneshot.server(self.chosen, self.roster)
        self.entropy = {name: Recorder(f"oneshot vectors v1/{name}/entropy") for name in NAMES}
        self.parties = {
            name: Organisation(
                oneshot, self.who[name], self.roster, POLICY, entropy=self.entropy[name], store=MemoryStore()
            )
            for name in NAMES
        }
        self.vectors = {name: vector(name) for name in NAMES}
        self.keeper = Keeper([self.who[name].committee_key for name in NAMES], self.chosen.session_id(), recorded)
        self.messages: list[dict[str, Any]] = []
        self.sources = {name: BasedVector(ArraySource(self.vectors[name]), BASES[name]) for name in NAMES}

    def run(self, keep: Callable[[Chunk], Any], until: str | None = None) -> list[dict[str, Any]]:
        """All messages up to a phase, or of the whole session."""
        self.messages = run(self.keeper, self.parties, self.server, self.sources, keep, until)
        return self.messages


def blame(cast: Cast) -> tuple[list[bytes], list[bytes]]:
    """What a server would ask c00 if the sum had not opened, and the answer; of a session that is run to its end."""
    checked = next(item for item in cast.messages if (item["phase"], item["party"]) == (m.CHECK, "c00"))["request"]
    header = msgspec.msgpack.decode(checked[0], type=m.CheckRequest)
    opened = next(item for item in cast.messages if (item["phase"], item["party"]) == (m.OPENING, "c00"))["reply"]
    digest = msgspec.msgpack.decode(opened[0], type=m.OpeningReply).contributors_hash
    fields = m.opening_fields(cast.chosen.session_id(), m.BlameRequest, cast.chosen.suite)
    request = [wire.encode(m.BlameRequest(*fields, digest, header.groups, header.content)), *checked[1:]]
    reply = cast.parties["c00"].handle(request[0], request[1:])
    return request, [reply.header, *(bytes(chunk) for chunk in reply.chunks), reply.trailer]


def session(recorded: dict[str, dict[str, str]], keep: Callable[[Chunk], Any] = part) -> dict[str, Any]:
    """The session, with sealed shares from the record as far as they fit; its messages as `keep` makes them."""
    cast = Cast(recorded)
    messages = cast.run(keep)
    server, chosen, roster, who, entropy, vectors, keeper = (
        cast.server,
        cast.chosen,
        cast.roster,
        cast.who,
        cast.entropy,
        cast.vectors,
        cast.keeper,
    )
    aggregate = server.result()
    return {
        "protocol": "oneshot",
        "version": 1,
        "parameters": chosen.to_bytes().hex(),
        "session_id": chosen.session_id().hex(),
        "roster": roster.to_bytes().hex(),
        "identity_keys": {name: identity.signing_key.private_bytes().hex() for name, identity in who.items()},
        "committee_keys": {name: identity.committee_key.private_bytes().hex() for name, identity in who.items()},
        "entropy": {name: [drawn.hex() for drawn in recorder.drawn] for name, recorder in entropy.items()},
        "vectors": {name: entries.tolist() for name, entries in vectors.items()},
        "bases": {name: base.hex() for name, base in BASES.items()},
        "sealed_shares": keeper.sealed,
        "share_sha256": keeper.shares,
        "messages": messages,
        "contributors": list(aggregate.contributors),
        "contributor_bases": [base.hex() for base in aggregate.bases],
        "sum": aggregate.sum.tolist(),
    }


def files() -> dict[Path, bytes]:
    """Content of the file."""
    recorded = json.loads(FILE.read_text())["sealed_shares"] if FILE.exists() else {}
    return {FILE: (json.dumps(session(recorded), indent=1, sort_keys=True) + "\n").encode()}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_bytes(content)

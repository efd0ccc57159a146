"""Write the test vectors of the CKKS protocol: ``python tests/vectors/generate_ckks.py``.

SEAL draws keys and noise from a generator of its own: keys and the clients' ciphertexts are recorded, not reproduced.
All else follows from them byte for byte: sums, digests, signatures, what the key holder answers. Ciphertexts on record
that still decrypt to the vectors of this code are kept, so that a second run writes the same file. Long parts are in
base64 once, where they are made, and elsewhere as length and SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from protocols import ckks
from protocols.ckks import messages as m
from protocols.ckks.agreement import Agreement
from protocols.ckks.blocks import from_block
from protocols.ckks.keys import CkksKey, KeyHolderIdentity
from protocols.ckks.records import record
from protocols.ckks.scheme import Scheme
from protocols.errors import PeerFault
from protocols.identity import Identity, Role, Roster
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import ArraySource, Chunk, Reply
from protocols.testing.malformed import signed_reply
from protocols.testing.network import deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore

FILE = Path(__file__).parent / "v1" / "ckks_session.json"
WHOLE = 1024
NAMES = ("c00", "c01", "c02", "c03")
LOST = "c02"
HOLDER = "holder"
RECORD = 2
BITS, LENGTH, BOUND = 16, 300, 1000
POLICY = ClientPolicy(protocols=frozenset({"ckks"}))


def signing_key(name: str) -> SigningKey:
    """Of a party."""
    return SigningKey.generate(DeterministicEntropy(f"ckks vectors v1/{name}/identity"))


def vector(name: str) -> np.ndarray:
    """Integers within the bound, as words of 16 bits."""
    drawn = np.frombuffer(DeterministicEntropy(f"ckks vectors v1/{name}/vector")(4 * LENGTH), np.uint32)
    return (drawn % np.uint32(2 * BOUND + 1)).astype(np.int16) - np.int16(BOUND)


def parameters(roster: Roster, key: CkksKey) -> SessionParameters:
    """Four clients; one ciphertext each, which is not full."""
    return ckks.parameters(
        roster,
        NAMES,
        public_context=key.public_context,
        record=RECORD,
        value_bound=BOUND,
        nonce=DeterministicEntropy("ckks vectors v1/nonce")(32),
        run_id="vectors",
        round_number=1,
        modulus_bits=BITS,
        vector_length=LENGTH,
        context_hash=hashlib.sha256(b"ckks vectors v1/model").digest(),
    )


def part(raw: Chunk) -> Any:
    """As it stands in the file: in hex, or what identifies it."""
    raw = bytes(raw)
    if len(raw) <= WHOLE:
        return raw.hex()
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def text(raw: bytes) -> str:
    """Base64."""
    return base64.b64encode(raw).decode()


def kept_key(recorded: dict[str, Any]) -> CkksKey:
    """The key on record; a fresh one if there is none."""
    if not recorded:
        return CkksKey.generate(RECORD)
    secret = base64.b64decode(recorded["secret_context"])
    return CkksKey(Scheme.load(record(RECORD), secret), base64.b64decode(recorded["public_context"]))


class Cast:
    """Parties and server of the session."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        self.key = kept_key(recorded)
        self.who: dict[str, Identity] = {name: Identity(name, signing_key(name)) for name in NAMES}
        self.who[HOLDER] = KeyHolderIdentity(HOLDER, signing_key(HOLDER), self.key)
        self.roster = Roster([identity.member() for identity in self.who.values()])
        self.chosen = parameters(self.roster, self.key)
        self.server = ckks.server(self.chosen, self.roster)
        self.parties = {
            name: ckks.party(
                Role.KEY_HOLDER if name == HOLDER else Role.CLIENT,
                identity,
                self.roster,
                POLICY,
                entropy=DeterministicEntropy(f"ckks vectors v1/{name}/entropy"),
                store=MemoryStore(),
            )
            for name, identity in self.who.items()
        }
        self.recorded: dict[str, list[str]] = recorded.get("ciphertexts", {})
        self.ciphertexts: dict[str, list[str]] = {}

    def answer(self, request: Any) -> Reply:
        """What a party answers; a client with its ciphertexts on record, if they hold its vector."""
        name = str(request.party)
        source = ArraySource(vector(name).view(np.uint16)) if name != HOLDER else None
        reply = self.parties[name].handle(request.header, request.chunks, vector=source)
        chunks = [bytes(chunk) for chunk in reply.chunks]
        if source is None:
            return Reply(reply.party, reply.header, chunks, reply.trailer)
        kept = [base64.b64decode(chunk) for chunk in self.recorded.get(name, [])]
        if not self._holds(kept, vector(name)):
            kept = chunks
        self.ciphertexts[name] = [text(chunk) for chunk in kept]
        return signed_reply(self.who[name], self.chosen.session_id(), m.CONTRIBUTION, reply.header, kept)

    def _holds(self, chunks: list[bytes], expected: np.ndarray) -> bool:
        """Whether these chunks decrypt to a vector."""
        agreement = Agreement.of(self.chosen)
        slots = []
        try:
            for chunk in chunks:
                ciphertext = self.key.scheme.parse(from_block(chunk[8:], agreement.record))
                slots.append(self.key.scheme.decrypt(ciphertext))
        except PeerFault:
            return False
        opened = np.concatenate(slots)[:LENGTH] if slots else np.zeros(0)
        return opened.size == LENGTH and bool((np.rint(opened) == expected).all())


def session(recorded: dict[str, Any], keep: Callable[[Chunk], Any] = part) -> dict[str, Any]:
    """The session in which c02 is never heard of; its messages as `keep` makes them."""
    cast = Cast(recorded)
    messages = []
    while cast.server.phase is not None:
        phase = cast.server.phase
        for request in list(cast.server.requests()):
            if request.party == LOST:
                continue
            asked = [bytes(chunk) for chunk in request.chunks]
            reply = cast.answer(request)
            deliver(cast.server, reply)
            messages.append(
                {
                    "phase": phase,
                    "party": str(request.party),
                    "request": [keep(item) for item in (request.header, *asked)],
                    "reply": [keep(item) for item in (reply.header, *reply.chunks, reply.trailer)],
                }
            )
        cast.server.close_phase()
    aggregate = cast.server.result()
    return {
        "protocol": "ckks",
        "version": 1,
        "record": RECORD,
        "public_context": text(cast.key.public_context),
        "secret_context": recorded.get("secret_context") or text(cast.key.scheme.secret_bytes()),
        "session_id": cast.chosen.session_id().hex(),
        "roster": cast.roster.to_bytes().hex(),
        "identity_keys": {name: identity.signing_key.private_bytes().hex() for name, identity in cast.who.items()},
        "vectors": {name: vector(name).tolist() for name in NAMES if name != LOST},
        "ciphertexts": cast.ciphertexts,
        "messages": messages,
        "contributors": list(aggregate.contributors),
        "sum": aggregate.sum.tolist(),
    }


def on_record() -> dict[str, Any]:
    """What is in the file."""
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def files() -> dict[Path, bytes]:
    """Content of the file."""
    return {FILE: (json.dumps(session(on_record()), indent=1, sort_keys=True) + "\n").encode()}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_bytes(content)

"""The recorded transcript is reproduced byte for byte, and replayed from the file alone."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from protocols import secagg
from protocols.identity import Identity, Role, Roster
from protocols.primitives.merkle import joint_root
from protocols.primitives.signing import SigningKey
from protocols.secagg import messages as m
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import ArraySource, Reply
from protocols.testing.malformed import decoded
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore
from protocols.wire import encode

VECTORS = Path(__file__).parents[2] / "vectors"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_secagg", VECTORS / "generate_secagg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
SESSION = json.loads((VECTORS / "v1" / "secagg_session.json").read_text())
MALFORMED = json.loads((VECTORS / "v1" / "secagg_malformed.json").read_text())


def test_vectors_are_regenerated_byte_for_byte() -> None:
    for path, content in GENERATOR.files().items():
        assert path.read_bytes() == content, path.name


class Recorded:
    """Entropy that gives what the file says, and nothing else."""

    def __init__(self, drawn: list[str]) -> None:
        self.drawn = [bytes.fromhex(item) for item in drawn]

    def __call__(self, count: int) -> bytes:
        assert len(self.drawn[0]) == count
        return self.drawn.pop(0)


def test_session_is_replayed_from_the_file_alone() -> None:
    """Keys, entropy and requests from the file; every reply and every request is the recorded one."""
    roster = Roster.from_bytes(bytes.fromhex(SESSION["roster"]))
    parameters = SessionParameters.from_bytes(bytes.fromhex(SESSION["parameters"]))
    assert parameters.session_id().hex() == SESSION["session_id"]
    server = secagg.server(parameters, roster)
    parties = {
        name: secagg.party(
            Role.CLIENT,
            Identity(name, SigningKey(bytes.fromhex(key))),
            roster,
            ClientPolicy(),
            entropy=Recorded(SESSION["entropy"][name]),
            store=MemoryStore(),
        )
        for name, key in SESSION["identity_keys"].items()
    }
    vectors = {name: ArraySource(np.array(vector, np.uint16)) for name, vector in SESSION["vectors"].items()}
    messages = iter(SESSION["messages"])
    count = 0
    for message in messages:
        assert message["direction"] == "down"
        if server.phase != message["phase"]:
            server.close_phase()
        party = message["party"]
        header = bytes.fromhex(message["bytes"])
        assert next(item.header for item in server.requests() if item.party == party) == header
        need = parties[party].inspect(header)
        reply = parties[party].handle(header, vector=vectors[party] if need.vector else None)
        parts = [reply.header, *(bytes(chunk) for chunk in reply.chunks), reply.trailer]
        for part in parts:
            recorded = next(messages)
            assert (recorded["direction"], recorded["party"]) == ("up", party)
            assert part.hex() == recorded["bytes"]
            count += 1
        deliver(server, Reply(reply.party, parts[0], parts[1:-1], parts[-1]))
    server.close_phase()
    aggregate = server.result()
    assert list(aggregate.contributors) == SESSION["contributors"] == ["c00", "c02", "c03"]
    assert aggregate.sum.tolist() == SESSION["sum"]
    plain = np.sum([SESSION["vectors"][name] for name in aggregate.contributors], axis=0) % 2**12
    assert plain.tolist() == SESSION["sum"]
    assert count == 2 * 4 * 2 + 3 * 4 + 2 * 3 * 2


@pytest.mark.parametrize("message", MALFORMED["requests"], ids=lambda message: message["name"])
def test_malformed_request_is_refused_as_recorded(message: dict[str, str]) -> None:
    got = GENERATOR.refusal(message["phase"], bytes.fromhex(message["header"]), None)
    assert got == {key: message[key] for key in ("error", "rule", "reason")}


@pytest.mark.parametrize("message", MALFORMED["replies"], ids=lambda message: message["name"])
def test_malformed_reply_is_refused_as_recorded(message: dict) -> None:
    chunks = [bytes.fromhex(chunk) for chunk in message["chunks"]]
    reply = Reply(message["from"], bytes.fromhex(message["header"]), chunks, bytes.fromhex(message["trailer"]))
    got = GENERATOR.refusal(message["phase"], None, reply)
    assert got == {key: message[key] for key in ("error", "rule", "reason")}


def test_every_malformed_message_breaks_a_rule_of_its_own_or_the_codec() -> None:
    rules = [message["rule"] for message in MALFORMED["requests"] + MALFORMED["replies"]]
    assert rules.count("") == 1
    assert len(set(rules)) >= 18


SPARSE = json.loads((VECTORS / "v1" / "secagg_sparse.json").read_text())


def test_ring_of_the_sparse_session_follows_from_its_recorded_root() -> None:
    """By another way: sort the client's numbers, as 64-bit words of AES-256-CTR under the hash of T0."""
    key = hashlib.sha256(
        b"s" + (len(b"secfl/v1/secagg/ring")).to_bytes(8, "little") + b"secfl/v1/secagg/ring"
        b"b" + (32).to_bytes(8, "little") + bytes.fromhex(SPARSE["advertisements_root"])
    ).digest()
    words = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(800))
    numbers = [int.from_bytes(words[at : at + 8], "little") for at in range(0, 800, 8)]
    ring = sorted(range(100), key=numbers.__getitem__)
    at = ring.index(42)
    assert sorted(ring[(at + step) % 100] for step in range(-8, 9) if step) == SPARSE["neighbours_of_c42"]


def test_recorded_sparse_requests_show_the_neighbours_and_prove_them_to_the_root() -> None:
    parameters = SessionParameters.from_bytes(bytes.fromhex(SPARSE["parameters"]))
    assert parameters.session_id().hex() == SPARSE["session_id"]
    request = decoded(bytes.fromhex(SPARSE["c42"]["ShareKeys"]["down"][0]), m.ShareKeysRequest)
    listed = [item.index for item in request.advertisements]
    near = SPARSE["neighbours_of_c42"]
    assert listed == [index for index in sorted([*near, 42]) if index != 4]
    assert 4 in near  # its leaf is empty
    leaves = dict.fromkeys(near, b"") | {item.index: encode(item) for item in request.advertisements}
    root = m.advertisements_root(parameters.session_id(), joint_root(leaves, 100, request.path))
    assert root.hex() == SPARSE["advertisements_root"]
    reply = decoded(bytes.fromhex(SPARSE["c42"]["ShareKeys"]["up"][0]), m.ShareKeysReply)
    assert [item.index for item in reply.shares] == [index for index in near if index != 4]
    unmask = decoded(bytes.fromhex(SPARSE["c42"]["Unmask"]["down"][0]), m.UnmaskRequest)
    assert len(unmask.contributors) == 98
    assert len(unmask.signatures) == 53
    for line in SPARSE["messages"]:
        phase, party, down, up = line.split()
        if party == "c42":
            recorded = SPARSE["c42"][phase]
            hashes = [hashlib.sha256(bytes.fromhex("".join(recorded[way]))).hexdigest() for way in ("down", "up")]
            assert hashes == [down, up]
    assert SPARSE["dropped"] == ["c04", "c07"]

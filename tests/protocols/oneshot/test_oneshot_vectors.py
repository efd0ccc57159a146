"""The recorded session is replayed from the file alone: all but the sealing of shares is reproduced byte for byte.

The recorded sealed shares are opened with the recorded keys, and must hold the very shares that this code deals.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from protocols import oneshot
from protocols.errors import PeerFault
from protocols.identity import Roster
from protocols.oneshot import client
from protocols.oneshot.sealing import CommitteeIdentity, CommitteeKey
from protocols.organisation import Organisation
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import ArraySource, BasedVector, Reply
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore

VECTORS = Path(__file__).parents[2] / "vectors"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_oneshot", VECTORS / "generate_oneshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
SESSION = json.loads((VECTORS / "v1" / "oneshot_session.json").read_text())
NAMES = sorted(SESSION["identity_keys"])


def test_vectors_are_regenerated_byte_for_byte() -> None:
    for path, content in GENERATOR.files().items():
        assert path.read_bytes() == content, path.name


def test_sealed_share_that_does_not_hold_the_share_is_not_taken_from_the_record() -> None:
    """What keeps the test above honest: a record that is off changes the file."""
    recorded = copy.deepcopy(SESSION["sealed_shares"])
    recorded["c01"]["c02"], recorded["c01"]["c00"] = recorded["c01"]["c00"], "00" * 9
    made = GENERATOR.session(recorded)
    assert made["share_sha256"] == SESSION["share_sha256"]
    assert made["sum"] == SESSION["sum"]
    same = {
        (dealer, member): made["sealed_shares"][dealer][member] == SESSION["sealed_shares"][dealer][member]
        for dealer in NAMES
        for member in NAMES
    }
    assert [pair for pair, kept in same.items() if not kept] == [("c01", "c00"), ("c01", "c02")]
    assert made["messages"] != SESSION["messages"]


class Recorded:
    """Entropy that gives what the file says, and nothing else."""

    def __init__(self, drawn: list[str]) -> None:
        self.drawn = [bytes.fromhex(item) for item in drawn]

    def __call__(self, count: int) -> bytes:
        assert len(self.drawn[0]) == count
        return self.drawn.pop(0)


def check_part(raw: bytes, recorded: str | dict) -> None:
    if isinstance(recorded, str):
        assert raw.hex() == recorded
    else:
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (recorded["bytes"], recorded["sha256"])


def test_session_is_replayed_from_the_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    roster = Roster.from_bytes(bytes.fromhex(SESSION["roster"]))
    parameters = SessionParameters.from_bytes(bytes.fromhex(SESSION["parameters"]))
    assert parameters.session_id().hex() == SESSION["session_id"]
    server = oneshot.server(parameters, roster)
    keys = {name: CommitteeKey(bytes.fromhex(key)) for name, key in SESSION["committee_keys"].items()}
    policy = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=0)
    entropy = {name: Recorded(SESSION["entropy"][name]) for name in NAMES}
    parties = {}
    for name in NAMES:
        identity = CommitteeIdentity(name, SigningKey(bytes.fromhex(SESSION["identity_keys"][name])), keys[name])
        assert identity.member() == roster.member(name)
        parties[name] = Organisation(oneshot, identity, roster, policy, entropy=entropy[name], store=MemoryStore())
    dealer, opened = "", 0

    def recorded_seal(public: bytes, share: bytes, label: bytes) -> bytes:
        nonlocal opened
        (member,) = (name for name in NAMES if keys[name].public == public)
        sealed = bytes.fromhex(SESSION["sealed_shares"][dealer][member])
        assert keys[member].open_share(sealed, label) == share
        assert hashlib.sha256(share).hexdigest() == SESSION["share_sha256"][dealer][member]
        opened += 1
        return sealed

    monkeypatch.setattr(client, "seal_share", recorded_seal)
    for message in SESSION["messages"]:
        if server.phase != message["phase"]:
            server.close_phase()
        dealer = message["party"]
        request = next(item for item in server.requests() if item.party == dealer)
        chunks = [bytes(chunk) for chunk in request.chunks]
        for raw, recorded in zip([request.header, *chunks], message["request"], strict=True):
            check_part(raw, recorded)
        vector = ArraySource(np.array(SESSION["vectors"][dealer], np.uint16))
        source = BasedVector(vector, bytes.fromhex(SESSION["bases"][dealer]))
        need = parties[dealer].inspect(request.header)
        reply = parties[dealer].handle(request.header, chunks, vector=source if need.vector else None)
        parts = [reply.header, *(bytes(chunk) for chunk in reply.chunks), reply.trailer]
        for raw, recorded in zip(parts, message["reply"], strict=True):
            check_part(raw, recorded)
        deliver(server, Reply(reply.party, parts[0], parts[1:-1], parts[-1]))
    server.close_phase()
    aggregate = server.result()
    assert opened == 9
    assert [len(source.drawn) for source in entropy.values()] == [0, 0, 0]
    assert list(aggregate.contributors) == SESSION["contributors"] == NAMES
    assert [base.hex() for base in aggregate.bases] == SESSION["contributor_bases"]
    assert aggregate.sum.tolist() == SESSION["sum"]
    assert (np.sum([SESSION["vectors"][name] for name in NAMES], axis=0) % 2**12).tolist() == SESSION["sum"]
    assert [(message["phase"], message["party"]) for message in SESSION["messages"]] == [
        *(("Contribution", name) for name in NAMES),
        *(("Check", name) for name in NAMES),
        ("Opening", "c00"),
        ("Opening", "c01"),
    ]


def test_recorded_sealed_share_opens_under_its_own_label_and_key_alone() -> None:
    """One-sided: nobody can make these bytes again, but every implementation of HPKE must open them."""
    session_id = bytes.fromhex(SESSION["session_id"])
    keys = {name: CommitteeKey(bytes.fromhex(key)) for name, key in SESSION["committee_keys"].items()}
    for i, dealer in enumerate(NAMES):
        for j, member in enumerate(NAMES):
            sealed = bytes.fromhex(SESSION["sealed_shares"][dealer][member])
            for k, opener in enumerate(NAMES):
                for index in range(3):
                    label = oneshot.sealing.share_label(session_id, index, k)
                    if (index, k) == (i, j):
                        share = keys[opener].open_share(sealed, label)
                        assert hashlib.sha256(share).hexdigest() == SESSION["share_sha256"][dealer][member]
                    else:
                        with pytest.raises(PeerFault):
                            keys[opener].open_share(sealed, label)

"""The two ends of a deployment: bytes in, bytes out, exact sums, and refusals of any session that was not agreed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from protocols import Identity, Roster, SigningKey, secagg
from protocols.errors import (
    EncodingError,
    FaultReason,
    PeerFault,
    PolicyRefused,
    ServerFault,
    ThresholdNotMet,
    UsageError,
)
from protocols.testing.randomness import DeterministicEntropy
from secfl.aggregation import (
    AggregationParty,
    AggregationServer,
    Agreement,
    FrameLimits,
    Limits,
    Message,
    Rules,
    write_frames,
)
from secfl.engines import FileStore

PARTIES = ("a", "b", "c", "d")
IDENTITIES = {name: Identity(name, SigningKey.generate(DeterministicEntropy(f"id/{name}"))) for name in PARTIES}
ROSTER = Roster(identity.member() for identity in IDENTITIES.values())
LIKE = {"n": np.zeros((2, 2), np.int64), "m": np.zeros(3, np.int64)}
VALUES = {name: {"n": np.full((2, 2), 10**at), "m": np.arange(3) * (at - 2)} for at, name in enumerate(PARTIES)}


def agree(**options: Any) -> Agreement:
    return Agreement.of(PARTIES, LIKE, **({"limits": Limits(clip=10**6)} | options))


class Deployment:
    """Four parties with stores on disk and a server; only bytes pass between them."""

    def __init__(self, directory: Path, agreement: Agreement | None = None, **session: Any) -> None:
        self.agreement = agreement or agree()
        self.stores = {name: FileStore(directory / name / "answers.log") for name in PARTIES}
        self.parties = {name: self.party(name) for name in self.agreement.cohort}
        self.server = self.serve(**session)

    def party(self, name: str, agreement: Agreement | None = None) -> AggregationParty:
        return AggregationParty(IDENTITIES[name], ROSTER, agreement or self.agreement, store=self.stores[name])

    def serve(self, agreement: Agreement | None = None, **session: Any) -> AggregationServer:
        return AggregationServer(agreement or self.agreement, ROSTER, **({"run_id": "run"} | session))

    def phase(self, *absent: str) -> None:
        for item in self.server.requests():
            if item.party not in absent:
                self.server.receive(self.parties[item.party].answer(item.message, VALUES[item.party]))
        self.server.close_phase()

    def advance(self, phase: str) -> None:
        while self.server.phase != phase:
            self.phase()

    def request(self, name: str, server: AggregationServer | None = None) -> bytes:
        return next(item.message for item in (server or self.server).requests() if item.party == name)

    def close(self) -> None:
        for store in self.stores.values():
            store.close()


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    made = Deployment(tmp_path)
    yield made
    made.close()


def plain(*parties: str) -> dict[str, np.ndarray]:
    return {name: np.sum([VALUES[party][name] for party in parties], axis=0) for name in LIKE}


def test_sum_over_bytes_is_exact(deployment: Deployment) -> None:
    while deployment.server.phase is not None:
        assert not deployment.server.ready()
        deployment.phase()
    result = deployment.server.result()
    for name, expected in plain(*PARTIES).items():
        np.testing.assert_array_equal(result.sum[name], expected)
    assert result.contributors == PARTIES
    assert result.clipped == {}


def test_party_lost_in_masked_input_is_left_out_exactly(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    while deployment.server.phase is not None:
        deployment.phase("c")
    result = deployment.server.result()
    np.testing.assert_array_equal(result.sum["n"], plain("a", "b", "d")["n"])
    assert result.dropped == ("c",)


def test_reply_in_frames_counts_like_one_message(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    for item in deployment.server.requests():
        frames = list(deployment.parties[item.party].answer_frames(item.message, VALUES[item.party]))
        assert len(frames) == 3  # preamble with header, one chunk, trailer
        read = Message.from_bytes(b"".join(frames), deployment.server.reply_limits)
        deployment.server.receive_parts(read.header, iter(read.chunks), read.trailer)
    assert deployment.server.ready()


def test_value_is_asked_for_once_and_only_when_it_is_needed(deployment: Deployment) -> None:
    asked: list[str] = []

    def value() -> dict[str, np.ndarray]:
        asked.append(deployment.server.phase or "")
        return VALUES["a"]

    while deployment.server.phase is not None:
        for item in deployment.server.requests():
            given: Any = value if item.party == "a" else VALUES[item.party]
            deployment.server.receive(deployment.parties[item.party].answer(item.message, given))
        deployment.server.close_phase()
    assert asked == ["MaskedInput"]


def test_repeated_request_gets_the_same_bytes_whatever_value_is_offered(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    request = deployment.request("a")
    first = deployment.parties["a"].answer(request, VALUES["a"])
    assert deployment.parties["a"].answer(request, VALUES["b"]) == first


def test_restarted_party_refuses_a_second_session_for_the_same_attempt(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    deployment.parties["a"].answer(deployment.request("a"), VALUES["a"])
    # The party restarts: a new object, the same store on disk. The server opens another session for the same attempt.
    deployment.parties["a"] = deployment.party("a")
    deployment.server = deployment.serve()
    deployment.parties |= {name: deployment.party(name) for name in ("b", "c", "d")}
    deployment.advance("ShareKeys")
    deployment.phase()
    with pytest.raises(PeerFault) as fault:
        deployment.parties["a"].answer(deployment.request("a"), VALUES["a"])
    assert fault.value.reason is FaultReason.ALREADY_ANSWERED
    assert fault.value.rule == "PT-10"


def refused(deployment: Deployment, server: AggregationServer, context: bytes = b"") -> Exception:
    """What party "a" answers to the first request of another server."""
    with pytest.raises((PolicyRefused, ServerFault)) as refusal:
        deployment.parties["a"].answer(deployment.request("a", server), VALUES["a"], context)
    return refusal.value


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"limits": Limits(clip=10**5)}, "modulus bits"),  # it could not hold this party's range
        ({"limits": Limits(clip=10**6, on_overflow="clip")}, "encoding"),
        ({"limits": Limits(clip=2 * 10**6)}, "encoding"),
        ({"weights": {"a": 1, "b": 1, "c": 1, "d": 0}}, "cohort size"),
        ({"rules": Rules(collusion_bound=0)}, "collusion bound"),
        ({"rules": Rules(collusion_bound=2)}, "context"),
        ({"rules": Rules(threshold=4)}, "context"),
        ({"rules": Rules(minimum_contributors=4)}, "context"),
        ({"weights": {"a": 1, "b": 1, "c": 1, "d": 2}}, "encoding"),
    ],
)
def test_session_under_another_agreement_is_refused_before_anything_is_sent(
    deployment: Deployment, options: dict[str, Any], what: str
) -> None:
    error = refused(deployment, deployment.serve(agree(**options)))
    if what == "context":
        assert isinstance(error, ServerFault)
        assert error.reason is FaultReason.CONTEXT_MISMATCH
    else:
        assert isinstance(error, PolicyRefused)
        assert error.what == what


def test_weights_of_another_unit_are_refused(tmp_path: Path) -> None:
    halves = agree(weights=dict.fromkeys(PARTIES, 0.5))
    quarters = agree(weights=dict.fromkeys(PARTIES, 0.25))
    assert halves.codec == quarters.codec
    made = Deployment(tmp_path, halves)
    error = refused(made, made.serve(quarters))
    made.close()
    assert isinstance(error, ServerFault)
    assert error.reason is FaultReason.CONTEXT_MISMATCH


def test_another_context_is_refused_and_the_same_is_not(tmp_path: Path) -> None:
    made = Deployment(tmp_path, context=b"query 7")
    error = refused(made, made.server, b"query 8")
    assert isinstance(error, ServerFault)
    assert error.reason is FaultReason.CONTEXT_MISMATCH
    assert made.parties["a"].answer(made.request("a"), VALUES["a"], b"query 7")
    made.close()


@pytest.mark.parametrize(
    ("forged", "what"),
    [
        ({"cohort": ("a", "b", "c", "e")}, "cohort"),
        ({"threshold": 3}, "threshold"),
        ({"collusion_bound": 0, "minimum_contributors": 3}, "collusion bound"),
        ({"minimum_contributors": 3}, "minimum contributors"),
        ({"modulus_bits": 64}, "modulus bits"),
        ({"modulus_bits": 16}, "modulus bits"),
        ({"vector_length": 6}, "vector length"),
        ({"vector_length": 8}, "vector length"),
    ],
)
def test_server_that_shows_the_agreed_hash_over_other_parameters_is_refused(
    tmp_path: Path, forged: dict[str, Any], what: str
) -> None:
    fifth = Identity("e", SigningKey.generate(DeterministicEntropy("id/e")))
    roster = Roster([*ROSTER, fifth.member()])
    agreement = agree(rules=Rules(threshold=4, minimum_contributors=4))
    store = FileStore(tmp_path / "answers.log")
    party = AggregationParty(IDENTITIES["a"], roster, agreement, store=store)
    honest = AggregationServer(agreement, roster, run_id="run")
    dishonest = secagg.server(msgspec.structs.replace(honest.parameters, **forged), roster)
    for server, accepted in ((dishonest, False), (honest.session, True)):
        request = next(item for item in server.requests() if item.party == "a")
        message = b"".join(write_frames(request.header))
        if accepted:
            assert party.answer(message, VALUES["a"])
            continue
        with pytest.raises(PolicyRefused) as refusal:
            party.answer(message, VALUES["a"])
        assert refusal.value.what == what
        assert not (tmp_path / "answers.log").read_bytes()  # nothing was answered
    store.close()


def test_unfit_value_sends_nothing_and_names_party_and_tensor(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    bad = {"n": np.full((2, 2), 10**6 + 1), "m": np.zeros(3, np.int64)}
    with pytest.raises(EncodingError, match="tensor 'n': party 'a': the value at position 0 is beyond the range"):
        deployment.parties["a"].answer(deployment.request("a"), bad)
    # Nothing was answered yet: a good value still counts.
    deployment.server.receive(deployment.parties["a"].answer(deployment.request("a"), VALUES["a"]))


def test_reply_that_was_changed_on_the_way_is_refused_and_the_real_one_still_counts(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    reply = deployment.parties["a"].answer(deployment.request("a"), VALUES["a"])
    read = Message.from_bytes(reply, deployment.server.reply_limits)
    flipped = bytearray(read.chunks[0])
    flipped[10] ^= 1
    with pytest.raises(PeerFault) as fault:
        deployment.server.receive(b"".join(write_frames(read.header, [flipped], read.trailer)))
    assert fault.value.reason is FaultReason.BAD_SIGNATURE
    deployment.server.receive(reply)
    with pytest.raises(PeerFault) as again:
        deployment.server.receive(reply)
    assert again.value.reason is FaultReason.ALREADY_ANSWERED


@pytest.mark.parametrize("message", [b"", b"GET / HTTP/1.1", b"SECFL\x01H\xff\xff\xff\xff"])
def test_bytes_that_are_no_message_change_nothing(deployment: Deployment, message: bytes) -> None:
    with pytest.raises(PeerFault):
        deployment.server.receive(message)
    with pytest.raises(PeerFault):
        deployment.parties["a"].answer(message, VALUES["a"])
    deployment.phase()
    assert deployment.server.phase == "ShareKeys"


def test_request_with_chunks_is_refused(deployment: Deployment) -> None:
    header = Message.from_bytes(deployment.request("a"), FrameLimits.of_request()).header
    with pytest.raises(PeerFault) as fault:
        deployment.parties["a"].answer(b"".join(write_frames(header, [b"x"])), VALUES["a"])
    assert fault.value.rule == "FR-5"


def test_too_few_parties_reveal_nothing(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    with pytest.raises(ThresholdNotMet, match="2 parties present, 3 required"):
        deployment.phase("c", "d")
    assert deployment.server.phase is None
    with pytest.raises(UsageError, match="no result: the session failed"):
        deployment.server.result()


def test_party_outside_the_agreement_or_roster_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "answers.log")
    agreement = agree(weights={"a": 1, "b": 1, "c": 1, "d": 0})
    with pytest.raises(UsageError, match="'d' is not in the agreement, or has weight 0"):
        AggregationParty(IDENTITIES["d"], ROSTER, agreement, store=store)
    stranger = Identity("a", SigningKey.generate(DeterministicEntropy("stranger")))
    with pytest.raises(UsageError, match="another identity key for 'a'"):
        AggregationParty(stranger, ROSTER, agreement, store=store)
    store.close()


def test_agreement_hash_changes_with_everything_that_is_agreed_on() -> None:
    digests = [
        agreement.digest
        for agreement in (
            agree(),
            agree(limits=Limits(clip=10**6 + 1)),
            agree(limits=Limits(clip=10**6, on_overflow="clip")),
            agree(weights=dict.fromkeys(PARTIES, 2)),
            agree(weights=dict.fromkeys(PARTIES, 0.5)),
            agree(weights={"a": 1, "b": 2, "c": 2, "d": 2}),
            agree(weights={"a": 2, "b": 1, "c": 2, "d": 2}),
            agree(rules=Rules(threshold=4)),
            agree(rules=Rules(collusion_bound=0)),
            agree(rules=Rules(minimum_contributors=4)),
            Agreement.of(PARTIES, {"m": LIKE["m"], "n": LIKE["n"]}, limits=Limits(clip=10**6)),
            Agreement.of(PARTIES, {"n": LIKE["n"], "k": LIKE["m"]}, limits=Limits(clip=10**6)),
            Agreement.of(PARTIES, {"n": np.zeros(4, np.int64), "m": LIKE["m"]}, limits=Limits(clip=10**6)),
            Agreement.of((*PARTIES, "e"), LIKE, limits=Limits(clip=10**6)),
            Agreement.of(PARTIES, np.zeros(7), limits=Limits(clip=10**6)),
            Agreement.of(PARTIES, np.zeros(7, np.float32), limits=Limits(clip=10**6)),
            Agreement.of(PARTIES, np.zeros(7), limits=Limits(clip=10**6, bits=16)),
            Agreement.of(PARTIES, np.zeros(7), limits=Limits(clip=10**6, rounding="nearest")),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert agree().digest == agree().digest


def test_lower_collusion_bound_than_agreed_on_is_refused_even_where_it_is_the_default(tmp_path: Path) -> None:
    agreement = agree(rules=Rules(collusion_bound=2))  # a third of four would be 1
    store = FileStore(tmp_path / "answers.log")
    party = AggregationParty(IDENTITIES["a"], ROSTER, agreement, store=store)
    honest = AggregationServer(agreement, ROSTER, run_id="run")
    dishonest = secagg.server(msgspec.structs.replace(honest.parameters, collusion_bound=1), ROSTER)
    header = next(iter(dishonest.requests())).header
    with pytest.raises(PolicyRefused) as refusal:
        party.answer(b"".join(write_frames(header)), VALUES["a"])
    store.close()
    assert (refusal.value.what, refusal.value.proposed) == ("collusion bound", 1)


@pytest.mark.parametrize("beyond", [3 * 10**6 + 1, -3 * 10**6 - 1])
def test_integer_sum_that_its_contributors_cannot_have_is_refused(beyond: int) -> None:
    codec = agree().codec
    words = np.zeros(codec.vector_length, np.int64)
    words[3] = beyond  # three contributors of weight 1 reach 3 * 10^6
    residues = (words % 2**codec.modulus_bits).astype(np.uint32)
    assert codec.modulus_bits == 23  # 4 * 10^6 < 2^22
    with pytest.raises(EncodingError, match="out of its contributors' reach"):
        codec.decode(residues, 3)
    assert codec.decode(residues, 4)[3] == beyond

"""Sums under every protocol: in one process, and between two ends that exchange nothing but bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from protocols import Identity, Role, Roster, SigningKey
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ThresholdNotMet, UsageError
from protocols.oneshot import CommitteeIdentity, CommitteeParameters
from protocols.testing.randomness import DeterministicEntropy
from secfl.aggregation import (
    AggregationParty,
    AggregationServer,
    Agreement,
    FrameLimits,
    Limits,
    Message,
    Rules,
    SecureAggregator,
    write_frames,
)
from secfl.engines import FileStore, Incident
from secfl.registry import PROTOCOLS, offered

NAMES = tuple(PROTOCOLS)
PARTIES = ("a", "b", "c", "d")
VALUES = {name: np.arange(300) * 10**at - 5 for at, name in enumerate(PARTIES)}
LIMITS = Limits(clip=10**6)


def plain(*parties: str) -> np.ndarray:
    return np.sum([VALUES[party] for party in parties], axis=0)


class Deployment:
    """Parties of a protocol with stores on disk, and a server; only bytes pass between them."""

    def __init__(self, directory: Path, protocol: str, **agreed: Any) -> None:
        entry = offered(protocol)
        rules = Rules(protocol, **agreed.pop("rules", {}))
        self.agreement = Agreement.of(PARTIES, VALUES["a"], limits=LIMITS, rules=rules, **agreed)
        cast = entry.cast(PARTIES)
        self.identities = {}
        for name in (*PARTIES, *cast.offices):
            entropy = DeterministicEntropy(f"id/{name}")
            identity = Identity(name, SigningKey.generate(entropy))
            self.identities[name] = entry.equipped(identity, cast.roles(name), entropy)
        self.roster = Roster(identity.member() for identity in self.identities.values())
        self.public_context = entry.public_context(self.identities.values())
        self.stores = {name: FileStore(directory / name / "answers.log") for name in self.identities}
        self.parties = {name: self.party(name) for name in self.identities}
        self.server = self.serve()

    def party(self, name: str) -> AggregationParty:
        return AggregationParty(self.identities[name], self.roster, self.agreement, store=self.stores[name])

    def serve(self, **session: Any) -> AggregationServer:
        options = {"run_id": "run", "public_context": self.public_context} | session
        return AggregationServer(self.agreement, self.roster, **options)

    def phase(self, *absent: str) -> None:
        for item in self.server.requests():
            if item.party not in absent:
                self.server.receive(self.parties[item.party].answer(item.message, VALUES.get(item.party)))
        self.server.close_phase()

    def run(self) -> np.ndarray:
        while self.server.phase is not None:
            self.phase()
        total: np.ndarray = self.server.result().sum
        return total

    def close(self) -> None:
        for store in self.stores.values():
            store.close()


@pytest.fixture(params=NAMES)
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def oneshot(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, "oneshot")
    yield made
    made.close()


@pytest.mark.parametrize("protocol", NAMES)
def test_simulated_sums_and_means_are_exact(protocol: str) -> None:
    aggregator = SecureAggregator(PARTIES, protocol=protocol)
    assert repr(aggregator) == (f"SecureAggregator(4 parties, {protocol}; simulation: this process sees every input)")
    result = aggregator.sum(VALUES)
    np.testing.assert_array_equal(result.sum, plain(*PARTIES))
    assert result.contributors == aggregator.parties == PARTIES
    np.testing.assert_array_equal(aggregator.mean(VALUES).mean, plain(*PARTIES) / 4)


@pytest.mark.parametrize("protocol", NAMES)
def test_party_without_a_value_is_left_out_of_the_simulated_sum(protocol: str) -> None:
    values = {name: VALUES[name] for name in PARTIES if name != "b"}
    result = SecureAggregator(PARTIES, protocol=protocol).sum(values)
    np.testing.assert_array_equal(result.sum, plain("a", "c", "d"))
    assert result.dropped == ("b",)


@pytest.mark.parametrize("protocol", NAMES)
def test_floats_with_weights_are_summed_within_the_grid(protocol: str) -> None:
    values = {name: np.linspace(-1, 1, 50) * at for at, name in enumerate(PARTIES)}
    weights = {"a": 2, "b": 1, "c": 3, "d": 1}
    result = SecureAggregator(PARTIES, bits=16, clip=4.0, protocol=protocol).mean(values, weights)
    expected = sum(values[name] * weights[name] for name in PARTIES) / 7
    np.testing.assert_allclose(result.mean, expected, atol=4 * 8 / 2**16, rtol=0)


def test_simulated_party_of_weight_zero_stays_on_the_committee() -> None:
    aggregator = SecureAggregator((*PARTIES, "e"), protocol="oneshot")
    values = VALUES | {"e": VALUES["a"]}
    result = aggregator.sum(values, dict.fromkeys(PARTIES, 1) | {"e": 0})
    np.testing.assert_array_equal(result.sum, plain(*PARTIES))
    assert result.excluded == ("e",)
    opening = next(phase for phase in result.phases if phase.phase == "Opening")
    assert opening.answered == (*PARTIES, "e")


def test_three_parties_can_use_a_committee_though_none_of_them_may_then_collude() -> None:
    result = SecureAggregator(PARTIES[:3], protocol="oneshot").sum({name: VALUES[name] for name in PARTIES[:3]})
    np.testing.assert_array_equal(result.sum, plain(*PARTIES[:3]))
    with pytest.raises(UsageError, match=r"OS-5.*threshold: proposed 3.* = 2"):
        SecureAggregator(PARTIES[:3], protocol="oneshot", collusion_bound=1)


def test_values_too_large_for_a_protocol_are_refused_before_a_session() -> None:
    values = dict.fromkeys(PARTIES, np.array([1]))
    with pytest.raises(UsageError, match=r"bits: values up to 576460752303423487 .* oneshot takes less than 2\^53"):
        SecureAggregator(PARTIES, bits=60, protocol="oneshot").sum(values)
    with pytest.raises(UsageError, match="would be exact"):
        SecureAggregator(PARTIES, bits=50, protocol="ckks").sum(values)
    assert SecureAggregator(PARTIES, bits=60).sum(values).sum.tolist() == [4]


def test_unknown_protocol_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="protocol: 'shamir'; allowed: 'secagg', 'oneshot', 'ckks'"):
        SecureAggregator(PARTIES, protocol="shamir")
    with pytest.raises(UsageError, match="protocol: 'shamir'"):
        Rules("shamir")


def test_identities_of_ones_own_get_the_keys_for_their_roles_or_must_bring_them() -> None:
    own = [Identity(name, SigningKey.generate(DeterministicEntropy(name))) for name in PARTIES]
    aggregator = SecureAggregator(own, protocol="oneshot")
    assert all(member.sealing_key for member in aggregator.roster)
    assert [member.identity_key for member in aggregator.roster] == [identity.signing_key.public for identity in own]
    roster = aggregator.roster
    with pytest.raises(UsageError, match="'a' has no committee key"):
        SecureAggregator(own, protocol="oneshot", roster=roster).sum(VALUES)
    with pytest.raises(UsageError, match="ckks needs a key holder among them"):
        SecureAggregator(own, protocol="ckks", roster=roster)


def test_committee_member_may_be_lost_in_the_opening() -> None:
    aggregator = SecureAggregator(PARTIES, protocol="oneshot", incidents=[Incident("c", "Opening")])
    result = aggregator.sum(VALUES)
    np.testing.assert_array_equal(result.sum, plain(*PARTIES))
    assert result.contributors == PARTIES
    two = [Incident("c", "Opening"), Incident("d", "Opening")]
    with pytest.raises(ThresholdNotMet, match="Opening: 2 parties present, 3 required"):
        SecureAggregator(PARTIES, protocol="oneshot", incidents=two).sum(VALUES)


def test_sum_over_bytes_is_exact(deployment: Deployment) -> None:
    np.testing.assert_array_equal(deployment.run(), plain(*PARTIES))


def test_replies_and_requests_fit_the_limits_that_are_stated_for_them(deployment: Deployment) -> None:
    """And those of replies are not generous: one byte or chunk less and something would not fit."""
    server, tight = deployment.server, 0
    while server.phase is not None:
        limits = server.reply_limits
        for item in server.requests():
            party = deployment.parties[item.party]
            request = Message.from_bytes(item.message, party.request_limits)
            reply = Message.from_bytes(party.answer(item.message, VALUES.get(item.party)), limits)
            assert len(reply.trailer) == limits.trailer
            assert len(reply.chunks) == limits.chunks
            assert max(map(len, reply.chunks), default=0) == limits.chunk
            assert len(request.chunks) <= party.request_limits.chunks
            tight += 1
            server.receive_parts(reply.header, reply.chunks, reply.trailer)
        server.close_phase()
    assert tight >= 5


def test_party_that_restarts_answers_nothing_twice(deployment: Deployment) -> None:
    entry = deployment.agreement.protocol
    while deployment.server.phase != ("MaskedInput" if entry.name == "secagg" else "Contribution"):
        deployment.phase()
    request = next(item.message for item in deployment.server.requests() if item.party == "a")
    deployment.parties["a"].answer(request, VALUES["a"])
    deployment.parties["a"] = deployment.party("a")
    with pytest.raises(PeerFault):
        deployment.parties["a"].answer(request, VALUES["b"])
    for name in PARTIES[1:]:
        item = next(item for item in deployment.server.requests() if item.party == name)
        deployment.server.receive(deployment.parties[name].answer(item.message, VALUES[name]))


def test_party_with_two_roles_answers_in_both(oneshot: Deployment) -> None:
    asked = []
    while oneshot.server.phase is not None:
        asked += [oneshot.server.phase for item in oneshot.server.requests() if item.party == "a"]
        oneshot.phase()
    assert asked == ["Contribution", "Check", "Opening"]


def test_committee_member_without_a_value_opens_what_others_contribute(tmp_path: Path) -> None:
    weights = {"a": 1, "b": 1, "c": 1, "d": 0}
    made = Deployment(tmp_path, "oneshot", weights=weights)
    assert made.parties["d"]._roles == {Role.COMMITTEE}
    while made.server.phase is not None:
        for item in made.server.requests():
            value = None if item.party == "d" else VALUES[item.party]
            made.server.receive(made.parties[item.party].answer(item.message, value))
        made.server.close_phase()
    np.testing.assert_array_equal(made.server.result().sum, plain("a", "b", "c"))
    made.close()


def test_party_asked_for_a_value_that_it_does_not_give_says_so(oneshot: Deployment) -> None:
    item = next(iter(oneshot.server.requests()))
    with pytest.raises(UsageError, match="party 'a': its value is needed now, and None was given"):
        oneshot.parties["a"].answer(item.message, None)
    np.testing.assert_array_equal(oneshot.run(), plain(*PARTIES))


def test_party_asked_in_a_role_that_it_does_not_have_refuses(tmp_path: Path) -> None:
    """The server shows a member of the committee, by weight zero no client, the clients' request."""
    made = Deployment(tmp_path, "oneshot", weights={"a": 1, "b": 1, "c": 1, "d": 0})
    item = next(iter(made.server.requests()))
    with pytest.raises(PeerFault) as fault:
        made.parties["d"].answer(item.message, VALUES["d"])
    assert (fault.value.rule, fault.value.reason) == ("OG-2", FaultReason.UNKNOWN_PARTY)
    assert fault.value.culprit() == "server"
    made.close()


def test_member_whose_key_is_not_the_rosters_is_refused_at_once(oneshot: Deployment, tmp_path: Path) -> None:
    own = oneshot.identities["a"]
    other = DeterministicEntropy("another")
    wrong = offered("oneshot").equipped(Identity("a", own.signing_key), {Role.COMMITTEE}, other)
    assert isinstance(wrong, CommitteeIdentity)
    store = FileStore(tmp_path / "other" / "answers.log")
    with pytest.raises(UsageError, match="another sealing key for 'a'"):
        AggregationParty(wrong, oneshot.roster, oneshot.agreement, store=store)
    with pytest.raises(UsageError, match="'a' has no committee key"):
        AggregationParty(Identity("a", own.signing_key), oneshot.roster, oneshot.agreement, store=store)
    store.close()


@pytest.mark.parametrize("protocol", ["oneshot", "ckks"])
@pytest.mark.parametrize("bound", [10**6 - 1, 10**6 + 1])
def test_server_that_states_another_bound_of_the_values_is_refused(tmp_path: Path, protocol: str, bound: int) -> None:
    """Under a bound of its own choice a server could read more than the sum out of what is opened, or a wrong one."""
    made = Deployment(tmp_path, protocol)
    entry = offered(protocol)
    parameters = made.server.parameters
    kind: Any = CommitteeParameters if protocol == "oneshot" else entry.package.CkksParameters  # type: ignore[attr-defined]
    extension = msgspec.structs.replace(kind.of(parameters), value_bound=bound).to_bytes()
    dishonest = entry.server(msgspec.structs.replace(parameters, extension=extension), made.roster)
    header = next(iter(dishonest.requests())).header
    with pytest.raises(PolicyRefused) as refusal:
        made.parties["a"].answer(b"".join(write_frames(header)), VALUES["a"])
    assert (refusal.value.what, refusal.value.proposed) == ("value bound", bound)
    assert not (tmp_path / "a" / "answers.log").read_bytes()
    made.close()


def test_protocol_is_part_of_what_is_agreed_on(oneshot: Deployment) -> None:
    """A server under secagg finds no party that agreed on oneshot."""
    agreement = Agreement.of(PARTIES, VALUES["a"], limits=LIMITS)
    assert agreement.digest != oneshot.agreement.digest
    server = AggregationServer(agreement, oneshot.roster, run_id="run")
    message = next(iter(server.requests())).message
    with pytest.raises(PeerFault) as fault:
        oneshot.parties["a"].answer(message, VALUES["a"])
    assert (fault.value.rule, fault.value.culprit()) == ("OG-1", "server")


def test_request_with_more_chunks_than_its_protocol_has_is_refused(deployment: Deployment) -> None:
    party = deployment.parties["a"]
    message = next(iter(deployment.server.requests())).message
    header = Message.from_bytes(message, FrameLimits.of_request()).header
    chunks = [b"x"] * (party.request_limits.chunks + 1)
    with pytest.raises(PeerFault) as fault:
        party.answer(b"".join(write_frames(header, chunks)), VALUES["a"])
    assert fault.value.rule == "FR-5"

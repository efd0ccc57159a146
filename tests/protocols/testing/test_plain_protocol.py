"""Another protocol through the same shells and network: the shape is not SecAgg's alone."""

from __future__ import annotations

import numpy as np
import pytest

from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault, ThresholdNotMet, UsageError
from protocols.identity import Identity, Role, Roster
from protocols.primitives.signing import SigningKey
from protocols.server import ServerShell
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import ArraySource
from protocols.testing import plain
from protocols.testing.malformed import changed, signed_reply
from protocols.testing.network import Drop, Network, deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore
from protocols.wire import encode

KEY = bytes(32)
CLIENTS = ("a", "b", "c", "d")
COMMITTEE = ("x", "y", "z")
POLICY = ClientPolicy(protocols=frozenset({"plain"}))


class Plain:
    """Four clients, three members of a committee of whom two have to sign."""

    def __init__(self, policy: ClientPolicy = POLICY, bits: int = 12) -> None:
        self.identities = {
            name: Identity(name, SigningKey.generate(DeterministicEntropy(name))) for name in CLIENTS + COMMITTEE
        }
        self.roster = Roster([identity.member() for identity in self.identities.values()])
        self.parameters = SessionParameters(
            protocol="plain",
            nonce=bytes(32),
            run_id="run",
            round_number=0,
            roster_hash=self.roster.digest(),
            cohort=CLIENTS,
            threshold=2,
            collusion_bound=1,
            minimum_contributors=3,
            modulus_bits=bits,
            vector_length=100,
            chunk_length=64,
            context_hash=bytes(32),
            extension=encode(plain.Committee(COMMITTEE)),
        )
        self.server = plain.server(self.parameters, self.roster)
        self.stores = {name: MemoryStore() for name in self.identities}
        self.parties = {
            name: plain.party(
                Role.CLIENT if name in CLIENTS else Role.COMMITTEE,
                identity,
                self.roster,
                policy,
                entropy=DeterministicEntropy(name),
                store=self.stores[name],
            )
            for name, identity in self.identities.items()
        }
        rng = np.random.default_rng(1)
        self.vectors = {name: rng.integers(0, 2**bits, 100).astype(np.uint16) for name in CLIENTS}
        self.sources = {name: ArraySource(vector) for name, vector in self.vectors.items()}

    def total(self, contributors: tuple[str, ...]) -> np.ndarray:
        return sum(self.vectors[name].astype(np.int64) for name in contributors) % 2**self.parameters.modulus_bits

    def network(self, *drops: Drop, **options: object) -> Network:
        return Network(self.server, self.parties, self.sources, drops=drops, **options)


@pytest.mark.parametrize(
    ("drops", "contributors"),
    [
        ((), CLIENTS),
        ((Drop("b", "Contribute"),), ("a", "c", "d")),
        ((Drop("b", "Contribute", answered=True),), CLIENTS),
        ((Drop("y", "Countersign"),), CLIENTS),
        ((Drop("a", "Contribute"), Drop("z", "Countersign")), ("b", "c", "d")),
    ],
)
def test_sum_is_exact_whoever_is_lost_up_to_the_limit(drops: tuple[Drop, ...], contributors: tuple[str, ...]) -> None:
    run = Plain()
    network = run.network(*drops)
    aggregate = network.run()
    assert aggregate.contributors == contributors
    np.testing.assert_array_equal(aggregate.sum, run.total(contributors))
    lost = {drop.party for drop in drops if not drop.answered}
    assert {party for summary in network.summaries for party in summary.dropped} == lost
    assert [summary.next_phase for summary in network.summaries] == ["Countersign", None]


@pytest.mark.parametrize(
    ("drops", "phase"),
    [
        ((Drop("a", "Contribute"), Drop("b", "Contribute")), "Contribute"),
        ((Drop("x", "Countersign"), Drop("y", "Countersign")), "Countersign"),
    ],
)
def test_past_the_limit_there_is_no_sum(drops: tuple[Drop, ...], phase: str) -> None:
    run = Plain()
    with pytest.raises(ThresholdNotMet) as caught:
        run.network(*drops).run()
    assert caught.value.phase == phase
    assert run.server.phase is None


def test_everybody_is_restored_after_each_message() -> None:
    run = Plain()
    network = run.network()
    while run.server.phase is not None:
        for request in list(run.server.requests()):
            network._carry(run.server.phase or "", request)
            for name, party in run.parties.items():
                run.parties[name] = plain.PlainParty.restore(
                    party.save(KEY),
                    KEY,
                    run.identities[name],
                    run.roster,
                    POLICY,
                    entropy=DeterministicEntropy(name),
                    store=run.stores[name],
                )
            run.server = network.server = ServerShell.restore(run.server.save(), run.roster, plain.PHASES)
        run.server.close_phase()
    np.testing.assert_array_equal(run.server.result().sum, run.total(CLIENTS))
    assert network.refusals == []


def test_party_whose_policy_knows_no_plain_protocol_refuses_and_is_a_dropout() -> None:
    run = Plain()
    run.parties["a"].policy = ClientPolicy()
    run.parties["z"].policy = ClientPolicy()
    network = run.network()
    aggregate = network.run()
    assert aggregate.contributors == ("b", "c", "d")
    assert [(phase, party, type(error), error.rule) for phase, party, error in network.refusals] == [
        ("Contribute", "a", PolicyRefused, "SP-1"),
        ("Countersign", "z", PolicyRefused, "SP-1"),
    ]


def test_committee_member_sees_the_parameters_first_in_the_last_phase_and_checks_them() -> None:
    run = Plain()
    network = run.network()
    network.run_phase()
    header = next(iter(run.server.requests())).header
    smaller = changed(header, plain.CountersignRequest, parameters=b"\x90")
    with pytest.raises(ServerFault):
        run.parties["x"].handle(smaller)
    need = run.parties["x"].inspect(header)
    assert (need.phase, need.vector, need.parameters) == ("Countersign", False, run.parameters)
    network.run()
    with pytest.raises(ServerFault) as caught:  # in its session, other parameters under the same id
        run.parties["x"].handle(smaller)
    assert (caught.value.rule, caught.value.reason) == ("PT-6", FaultReason.WRONG_SESSION)


def test_signature_over_another_set_is_the_members_fault() -> None:
    run = Plain()
    network = run.network()
    network.run_phase()
    request = next(iter(run.server.requests()))
    reply = run.parties["x"].handle(request.header)
    header = changed(reply.header, plain.CountersignReply, contributors_hash=bytes(32))
    bad = signed_reply(run.identities["x"], run.server.session_id, "Countersign", header, ())
    with pytest.raises(PeerFault) as caught:
        deliver(run.server, bad)
    assert (caught.value.reason, caught.value.culprit()) == (FaultReason.NOT_A_SUBSET, "client 'x'")
    deliver(run.server, reply)
    np.testing.assert_array_equal(network.run().sum, run.total(CLIENTS))


def test_network_tampers_and_keeps_who_was_refused() -> None:
    run = Plain()

    def spoil(phase: str, reply):
        if (phase, reply.party) == ("Contribute", "b"):
            return type(reply)(reply.party, reply.header, reply.chunks, bytes(64))
        return reply

    network = run.network(tamper=spoil)
    aggregate = network.run()
    assert aggregate.contributors == ("a", "c", "d")
    ((phase, party, error),) = network.refusals
    assert (phase, party, error.reason) == ("Contribute", "b", FaultReason.BAD_SIGNATURE)
    assert aggregate.faults[0].rule == "SV-5"
    assert network.summaries[0].faults == aggregate.faults


def test_roles_are_checked() -> None:
    run = Plain()
    with pytest.raises(UsageError, match="no role 'key_holder'"):
        plain.party(Role.KEY_HOLDER, run.identities["a"], run.roster, POLICY, entropy=bytes, store=run.stores["a"])


def test_base_of_all_phases_has_nothing_to_say() -> None:
    from protocols.server import Phase

    phase = Phase(expected=())
    run = Plain()
    for call in (
        lambda: phase.requests(run.server),
        lambda: phase.accept(run.server, None),
        lambda: phase.close(run.server),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_deterministic_entropy_depends_on_its_name_and_never_repeats() -> None:
    one, same, other = DeterministicEntropy("a"), DeterministicEntropy("a"), DeterministicEntropy("b")
    first = one(32)
    assert (first, one(5)) == (same(32), same(5))
    assert first != other(32)
    assert one(32) != first
    assert one(0) == b""

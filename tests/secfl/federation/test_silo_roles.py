"""Silos that are on the committee as well, offices that are nothing else: what they answer, train and charge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_study import SILOS, Study, open_study, study_text

from protocols.errors import FaultReason, PeerFault, PolicyRefused, ProtocolError, ServerFault
from protocols.identity import Role
from protocols.oneshot import CommitteeParameters
from protocols.shape import Reply, ServerSession
from protocols.testing.network import deliver
from secfl.federation.office import Office
from secfl.federation.run import round_plan
from secfl.registry import offered


class Session:
    """One session of a private study, its updates counted."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.context = study.plan.initial_vector().astype("<f4").tobytes()
        self.rounds = round_plan(study.plan, study.parties, "run-1")
        self.parameters = self.rounds.parameters(1, 0, SILOS, self.context)
        self.server: ServerSession = self.rounds.open(self.parameters)
        self.trained: list[str] = []
        for name, silo in study.parties.silos.items():
            object.__setattr__(silo._training, "update", self.counting(name, silo._training.update))

    def counting(self, name: str, update: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.trained.append(name)
            return update(*arguments)

        return counted

    def header(self, party: str) -> Any:
        return next(request for request in self.server.requests() if request.party == party)

    def answer(self, party: str, context: bytes | None = None) -> Reply:
        request = self.header(party)
        answering = self.study.parties.answering[party]
        return answering.answer(request.header, list(request.chunks), self.context if context is None else context)

    def phase(self) -> None:
        for request in list(self.server.requests()):
            party = self.study.parties.answering[str(request.party)]
            reply = party.answer(request.header, list(request.chunks), self.context)
            deliver(self.server, reply)
            party.delivered(reply)
        self.server.close_phase()


def opened(directory: Path, protocol: str) -> Iterator[Session]:
    text = study_text(private=True, rounds=1, aggregation=f'protocol = "{protocol}"')
    with open_study(directory, text) as study:
        yield Session(study)


@pytest.fixture
def oneshot(tmp_path: Path) -> Iterator[Session]:
    yield from opened(tmp_path, "oneshot")


@pytest.fixture
def ckks(tmp_path: Path) -> Iterator[Session]:
    yield from opened(tmp_path, "ckks")


def test_the_contribution_is_trained_and_charged_once_and_the_committee_not_at_all(oneshot: Session) -> None:
    oneshot.phase()
    assert sorted(oneshot.trained) == list(SILOS)
    ledgers = oneshot.study.parties.ledgers
    heads = {name: ledger.summary().head.hash for name, ledger in ledgers.items()}
    while oneshot.server.phase is not None:
        oneshot.phase()
    assert len(oneshot.trained) == len(SILOS)
    assert {name: ledger.summary().head.hash for name, ledger in ledgers.items()} == heads
    assert all(oneshot.study.states(name) == {"1/0": "committed"} for name in SILOS)


def test_a_silo_opens_whatever_model_came_with_the_request(oneshot: Session) -> None:
    oneshot.phase()
    reply = oneshot.answer("north", b"another model")
    deliver(oneshot.server, reply)
    with pytest.raises(PeerFault) as fault:
        deliver(oneshot.server, reply)
    assert fault.value.reason is FaultReason.ALREADY_ANSWERED


def test_another_model_than_the_sessions_is_refused_before_training(oneshot: Session) -> None:
    with pytest.raises(ServerFault) as fault:
        oneshot.answer("north", oneshot.context[:-4] + bytes([1, 2, 3, 4]))
    assert fault.value.reason is FaultReason.CONTEXT_MISMATCH
    assert (oneshot.trained, oneshot.study.states("north")) == ([], {})


@pytest.mark.parametrize("bound", [0, 1])
def test_another_bound_than_the_encodings_is_refused_before_training(oneshot: Session, bound: int) -> None:
    added = CommitteeParameters.of(oneshot.parameters)
    assert added.value_bound == oneshot.study.plan.scheme.largest_entry
    wrong = 0 if bound == 0 else added.value_bound + 1
    extension = msgspec.structs.replace(added, value_bound=wrong).to_bytes()
    parameters = msgspec.structs.replace(oneshot.parameters, extension=extension)
    oneshot.server = offered("oneshot").server(parameters, oneshot.study.parties.roster)
    with pytest.raises(PolicyRefused) as refusal:
        oneshot.answer("north")
    assert (refusal.value.what, refusal.value.proposed) == ("value bound", wrong)
    assert (oneshot.trained, oneshot.study.states("north")) == ([], {})


def test_a_silo_whose_training_failed_still_opens_the_others_sum(oneshot: Session) -> None:
    silo = oneshot.study.parties.silos["north"]
    object.__setattr__(silo._training, "update", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        oneshot.answer("north")
    for name in SILOS:
        if name != "north":
            deliver(oneshot.server, oneshot.answer(name))
    oneshot.server.close_phase()
    assert oneshot.study.states("north") == {"1/0": "void"}
    while oneshot.server.phase is not None:
        oneshot.phase()
    assert oneshot.server.result().contributors == ("east", "south", "west")


def test_a_repeated_request_for_the_contribution_gets_the_same_bytes_and_no_second_charge(oneshot: Session) -> None:
    def parts(reply: Reply) -> list[bytes]:
        return [reply.header, *(bytes(chunk) for chunk in reply.chunks), reply.trailer]

    assert parts(oneshot.answer("north")) == parts(oneshot.answer("north"))
    assert (oneshot.trained, oneshot.study.states("north")) == (["north"], {"1/0": "sending"})


def test_the_key_holder_decrypts_one_sum_and_refuses_a_clients_request(ckks: Session) -> None:
    office = ckks.study.parties.offices["key-holder"]
    assert repr(office) == "Office('key-holder')"
    with pytest.raises(ServerFault) as fault:
        office.answer(ckks.header("north").header, (), ckks.context)
    assert (fault.value.rule, fault.value.reason) == ("OG-2", FaultReason.UNKNOWN_PARTY)
    while ckks.server.phase is not None:
        ckks.phase()
    assert ckks.server.result().contributors == SILOS
    assert sorted(ckks.trained) == list(SILOS)


def test_a_restarted_key_holder_repeats_its_one_answer(ckks: Session) -> None:
    ckks.phase()
    office = ckks.study.parties.offices["key-holder"]
    first = ckks.answer("key-holder")
    again = ckks.answer("key-holder")
    assert (first.header, first.trailer) == (again.header, again.trailer)
    restarted = Office(
        office.identity,
        office._roster,
        office._policy,
        protocol="ckks",
        roles=[Role.KEY_HOLDER, Role.CLIENT],
        store=office._store,
    )
    ckks.study.parties.offices["key-holder"] = restarted
    repeated = ckks.answer("key-holder")
    assert repeated.header == first.header
    assert [bytes(chunk) for chunk in repeated.chunks] == [bytes(chunk) for chunk in first.chunks]


def test_a_full_disk_at_the_key_holder_sends_nothing(ckks: Session) -> None:
    ckks.phase()
    office = ckks.study.parties.offices["key-holder"]

    class Full:
        def record(self, _key: bytes, _value: bytes) -> bytes:
            raise OSError(28, "No space left on device")

    store, office._store = office._store, Full()
    with pytest.raises(ProtocolError, match="the disk of 'key-holder' refused: No space left on device"):
        ckks.answer("key-holder")
    office._store = store
    ckks.phase()
    assert ckks.server.phase is None

"""A silo answers once, trains once, charges once; what it refuses costs nothing; what failed never leaves."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import states_in

from protocols import secagg
from protocols.errors import (
    BudgetExceeded,
    EncodingError,
    FaultReason,
    PolicyRefused,
    PrivacyError,
    ProtocolError,
    ServerFault,
)
from protocols.identity import Identity, Roster
from protocols.primitives.signing import SigningKey
from protocols.server import ServerShell
from protocols.session import ClientPolicy
from protocols.shape import Entropy, OnceStore, Reply, Request
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore
from secfl.encoding import EncodingScheme, TensorLayout, decode_sum
from secfl.federation.silo import LocalTraining, Silo, Vector, context_hash
from secfl.privacy import Ledger, Lineage, PrivacyBudget, SampledGaussian

NAMES = ("a", "b", "c", "d")
LAYOUT = TensorLayout.of({"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(1, np.float32)})
STATE = np.arange(7, dtype="<f4")
CONTEXT = STATE.tobytes()
EVENT = SampledGaussian(0.5, 2.0, 2)


def scheme(value_range: float = 4.0) -> EncodingScheme:
    return EncodingScheme.choose(value_range, 16, maximum_contributors=4, layout_digest=LAYOUT.digest)


class Disk:
    """A once-only store that fails on demand."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.full = False

    def record(self, key: bytes, value: bytes) -> bytes:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.inner.record(key, value)


class Workshop:
    """Four silos, the first with a ledger, and the server of their session."""

    def __init__(self, directory: Path, event: SampledGaussian = EVENT) -> None:
        self.event = event
        self.identities = {name: Identity(name, SigningKey(bytes([ord(name)]) * 32)) for name in NAMES}
        self.roster = Roster([identity.member() for identity in self.identities.values()])
        self.trained: list[Vector] = []
        self.update: Any = lambda state: state / 10
        self.disk = Disk()
        self.path = directory / "a.ledger"
        lineage = Lineage("a", "records", "synthetic", 1000)
        budget = PrivacyBudget(8.0, 1e-5)
        self.ledger = Ledger.create(self.path, self.identities["a"].signing_key, lineage, budget, order=8)
        self.silos = {name: self.silo(name) for name in NAMES}
        self.server = self.open_server()

    def silo(self, name: str, store: OnceStore | None = None) -> Silo:
        return Silo(
            self.identities[name],
            self.roster,
            ClientPolicy(),
            store=(self.disk if name == "a" else MemoryStore()) if store is None else store,
            training=LocalTraining(self.train, self.event if name == "a" else None, LAYOUT, LAYOUT),
            scheme=scheme(),
            ledger=self.ledger if name == "a" else None,
        )

    def train(self, state: Vector, _entropy: Entropy) -> Vector:
        self.trained.append(state.copy())
        return np.asarray(self.update(state), np.float32)

    def open_server(self, attempt: int = 0, **changes: Any) -> ServerShell:
        arguments: dict[str, Any] = {
            "nonce": bytes([attempt]) * 32,
            "run_id": "run",
            "round_number": 1,
            "attempt": attempt,
            "modulus_bits": scheme().modulus_bits,
            "vector_length": 7,
            "context_hash": context_hash(LAYOUT, CONTEXT),
            "encoding": scheme().to_bytes(),
        }
        return secagg.server(secagg.parameters(self.roster, NAMES, **{**arguments, **changes}), self.roster)

    def request(self, server: ServerShell | None = None) -> Request:
        """Carry a session to its third phase; the request to the first silo for its vector."""
        server = server or self.server
        for _phase in range(2):
            for request in list(server.requests()):
                deliver(server, self.silos[request.party].answer(request.header, request.chunks, CONTEXT))
            server.close_phase()
        return next(request for request in server.requests() if request.party == "a")

    def answer(self, request: Request, context: bytes = CONTEXT) -> Reply:
        return self.silos["a"].answer(request.header, request.chunks, context)

    def states(self) -> dict[str, str]:
        return states_in(self.ledger)

    def reopened(self) -> dict[str, str]:
        self.ledger.close()
        self.ledger = Ledger.open(self.path, self.identities["a"].signing_key)
        return self.states()


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path)
    yield made
    made.ledger.close()


def parts(reply: Reply) -> list[bytes]:
    return [reply.header, *(bytes(chunk) for chunk in reply.chunks), reply.trailer]


def test_a_release_is_reserved_then_sending_then_committed(workshop: Workshop) -> None:
    request = workshop.request()
    seen: list[dict[str, str]] = []
    workshop.update = lambda state: (seen.append(workshop.states()), state / 10)[1]
    reply = workshop.answer(request)
    assert seen == [{"1/0": "reserved"}]
    assert workshop.states() == {"1/0": "sending"}
    assert [list(state) for state in workshop.trained] == [list(STATE)]
    deliver(workshop.server, reply)
    workshop.silos["a"].delivered(reply)
    workshop.silos["a"].delivered(reply)
    assert workshop.states() == {"1/0": "committed"}


@pytest.mark.parametrize("context", [CONTEXT[:-1] + b"\0", CONTEXT[4:], CONTEXT + bytes(4), b""])
def test_another_model_than_the_sessions_is_a_server_fault_before_any_training(
    workshop: Workshop, context: bytes
) -> None:
    request = workshop.request()
    with pytest.raises(ServerFault) as caught:
        workshop.answer(request, context)
    assert caught.value.reason is FaultReason.CONTEXT_MISMATCH
    assert (workshop.trained, workshop.states()) == ([], {})
    # The session is as it was: with the right model the silo answers.
    deliver(workshop.server, workshop.answer(request))


def test_a_session_bound_to_another_layout_is_refused_though_the_bytes_agree(workshop: Workshop) -> None:
    other = TensorLayout.of({"bias": np.zeros(1, np.float32), "weight": np.zeros((3, 2), np.float32)})
    assert other.size == LAYOUT.size
    request = workshop.request(workshop.open_server(context_hash=context_hash(other, CONTEXT)))
    with pytest.raises(ServerFault, match="not the one that the session is bound to"):
        workshop.answer(request)
    assert (workshop.trained, workshop.states()) == ([], {})


def test_another_encoding_than_agreed_is_refused_before_any_training(workshop: Workshop) -> None:
    request = workshop.request(workshop.open_server(encoding=scheme(8.0).to_bytes()))
    with pytest.raises(PolicyRefused) as caught:
        workshop.answer(request)
    assert caught.value.what == "encoding"
    assert (workshop.trained, workshop.states()) == ([], {})


@pytest.mark.parametrize(
    ("what", "changes"), [("modulus bits", {"modulus_bits": 64}), ("vector length", {"vector_length": 8})]
)
def test_a_modulus_or_length_that_is_not_the_encodings_is_refused_before_any_training(
    workshop: Workshop, what: str, changes: dict[str, int]
) -> None:
    request = workshop.request(workshop.open_server(**changes))
    with pytest.raises(PolicyRefused) as caught:
        workshop.answer(request)
    assert caught.value.what == what
    assert (workshop.trained, workshop.states()) == ([], {})


def test_a_repeated_request_gets_the_same_bytes_and_neither_training_nor_charge(workshop: Workshop) -> None:
    request = workshop.request()
    first = parts(workshop.answer(request))
    spent = workshop.ledger.spent()
    assert parts(workshop.answer(request)) == first
    assert len(workshop.trained) == 1
    assert workshop.states() == {"1/0": "sending"}
    assert workshop.ledger.spent() == spent


def test_a_new_attempt_trains_afresh_and_is_charged_again(workshop: Workshop) -> None:
    workshop.answer(workshop.request())
    once = workshop.ledger.spent().filter_epsilon
    workshop.answer(workshop.request(workshop.open_server(attempt=1)))
    assert len(workshop.trained) == 2
    assert workshop.states() == {"1/0": "sending", "1/1": "sending"}
    assert workshop.ledger.spent().filter_epsilon > once


def test_a_second_session_for_one_attempt_gets_no_second_vector(workshop: Workshop) -> None:
    workshop.answer(workshop.request())
    again = workshop.request(workshop.open_server(nonce=bytes([9]) * 32))
    with pytest.raises(PrivacyError, match="LG-11"):
        workshop.answer(again)
    assert len(workshop.trained) == 1
    assert workshop.states() == {"1/0": "sending"}


@pytest.mark.parametrize(
    ("update", "error", "words"),
    [
        (lambda state: state * np.nan, EncodingError, "tensor 'weight'"),
        (lambda state: np.where(state == 6, np.inf, 0), EncodingError, "tensor 'weight'|tensor 'bias'"),
        (lambda state: state[:-1], EncodingError, "6"),
        (lambda state: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_a_training_that_fails_is_void_and_nothing_of_it_can_be_asked_for(
    workshop: Workshop, update: Any, error: type[Exception], words: str
) -> None:
    request = workshop.request()
    workshop.update = update
    with pytest.raises(error, match=words):
        workshop.answer(request)
    assert workshop.states() == {"1/0": "void"}
    assert workshop.ledger.spent().filter_epsilon == 0
    assert workshop.ledger.reserved().filter_epsilon == 0
    with pytest.raises(ServerFault):
        workshop.answer(request)
    assert len(workshop.trained) == 1


def test_a_full_disk_under_the_once_only_store_voids_and_sends_nothing(workshop: Workshop) -> None:
    request = workshop.request()
    workshop.disk.full = True
    with pytest.raises(ProtocolError, match="MaskedInput: the disk of 'a' refused: No space left on device"):
        workshop.answer(request)
    assert len(workshop.trained) == 1
    assert workshop.states() == {"1/0": "void"}
    workshop.disk.full = False
    with pytest.raises(ServerFault):
        workshop.answer(request)
    assert workshop.states() == {"1/0": "void"}


def test_a_failure_between_the_answer_and_sending_voids_and_hides_the_answer(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = workshop.request()

    def refuse(*_arguments: object) -> None:
        raise PrivacyError("[LG-25] not written; nothing was recorded")

    monkeypatch.setattr(workshop.ledger, "sending", refuse)
    with pytest.raises(PrivacyError, match="LG-25"):
        workshop.answer(request)
    monkeypatch.undo()
    assert workshop.states() == {"1/0": "void"}
    # The party session has answered; a repeated request must not get at those bytes.
    with pytest.raises(ServerFault):
        workshop.answer(request)
    assert workshop.states() == {"1/0": "void"}


def test_when_even_void_cannot_be_written_the_first_error_stands_and_the_release_stays_charged(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = workshop.request()
    workshop.update = lambda state: state * np.nan

    def refuse(*_arguments: object) -> None:
        raise PrivacyError("[LG-25] not written; nothing was recorded")

    monkeypatch.setattr(workshop.ledger, "void", refuse)
    with pytest.raises(EncodingError) as caught:
        workshop.answer(request)
    monkeypatch.undo()
    assert caught.value.__notes__ == [
        "the reservation could not be given back: [LG-25] not written; nothing was recorded"
    ]
    assert workshop.states() == {"1/0": "reserved"}
    assert workshop.ledger.reserved().filter_epsilon > 0
    assert workshop.reopened() == {"1/0": "void"}


def test_an_interrupt_in_training_is_left_to_the_next_opening(workshop: Workshop) -> None:
    request = workshop.request()

    def interrupt(_state: Vector) -> Vector:
        raise KeyboardInterrupt

    workshop.update = interrupt
    with pytest.raises(KeyboardInterrupt):
        workshop.answer(request)
    assert workshop.states() == {"1/0": "reserved"}
    assert workshop.reopened() == {"1/0": "void"}


def test_a_budget_that_is_spent_refuses_before_training(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, SampledGaussian(1.0, 0.5, 10))
    request = workshop.request()
    with pytest.raises(BudgetExceeded):
        workshop.answer(request)
    assert (workshop.trained, workshop.states()) == ([], {})
    workshop.ledger.close()


def test_a_restarted_silo_does_not_answer_a_session_twice(workshop: Workshop) -> None:
    request = workshop.request()
    first = next(request for request in workshop.open_server().requests() if request.party == "a")
    workshop.answer(request)
    workshop.silos["a"] = workshop.silo("a")  # memory lost, store and ledger kept
    with pytest.raises(ServerFault):
        workshop.answer(request)
    with pytest.raises(ProtocolError, match="a different answer to this request is on record"):
        workshop.answer(first)
    assert len(workshop.trained) == 1
    assert workshop.states() == {"1/0": "sending"}


def test_sessions_beyond_the_open_ones_are_forgotten_oldest_first(workshop: Workshop) -> None:
    oldest = workshop.request()
    for attempt in (1, 2):
        workshop.request(workshop.open_server(attempt=attempt))
    with pytest.raises(ServerFault):
        workshop.answer(oldest)
    assert (workshop.trained, workshop.states()) == ([], {})


def test_nothing_of_a_silo_shows_in_its_repr(workshop: Workshop) -> None:
    assert repr(workshop.silos["a"]) == "Silo('a')"


def test_the_weight_is_public_and_multiplies_the_update(workshop: Workshop) -> None:
    heavy = EncodingScheme.choose(
        4.0, 16, maximum_contributors=4, layout_digest=LAYOUT.digest, maximum_weight=5, weighting="public"
    )
    for name in NAMES:
        silo = workshop.silos[name]
        workshop.silos[name] = Silo(
            silo.identity,
            workshop.roster,
            ClientPolicy(),
            store=MemoryStore(),
            training=replace(silo._training, event=None),
            scheme=heavy,
            weight=NAMES.index(name) + 2,
        )
    server = workshop.open_server(encoding=heavy.to_bytes(), modulus_bits=heavy.modulus_bits)
    while server.phase is not None:
        for request in list(server.requests()):
            deliver(server, workshop.silos[request.party].answer(request.header, request.chunks, CONTEXT))
        server.close_phase()
    total = decode_sum(server.result().sum, heavy, 2 + 3 + 4 + 5, layout=LAYOUT)
    np.testing.assert_allclose(total, 14 * STATE / 10, atol=4 * heavy.step)

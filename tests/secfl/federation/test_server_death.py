"""A server that dies between two phases: restored it goes on; gone for good, the round is tried and charged anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import PHASES, SILOS, MemoryJournal, Study, open_study, study_text

from protocols import secagg
from protocols.identity import Roster
from protocols.session import SessionParameters
from protocols.shape import Aggregate, Chunk, MessageLimits, PhaseSummary, Reply, Request, ServerSession, Upload, Words
from secfl.encoding import decode_mean
from secfl.engines.base import Carried, upload
from secfl.federation.run import first_checkpoint, round_plan, run_rounds
from secfl.files import write_whole
from secfl.privacy.accounting import RdpFilter, steps_left

RUN = "run-1"


class ServerInAnotherProcess(ServerSession):
    """A server in a process of its own, which is killed after every phase and replaced from what it had saved.

    :param roster: pinned; a server that is restored reads it anew.
    """

    def __init__(self, parameters: SessionParameters, roster: Roster, blob_path: Path) -> None:
        self._parameters = parameters
        self._roster = roster
        self._path = blob_path
        self.killed: list[int] = []
        self._phase: str | None = None
        self._pipe: Connection
        self._process: BaseProcess
        write_whole(self._path, secagg.server(parameters, roster).save())
        self._start()

    @property
    def parameters(self) -> SessionParameters:
        return self._parameters

    @property
    def phase(self) -> str | None:
        return self._phase

    def requests(self) -> Iterator[Request]:
        for party, header, chunks in self._call("requests"):
            yield Request(party, header, chunks)

    def reply_limits(self) -> MessageLimits:
        limits: MessageLimits = self._call("reply_limits")
        return limits

    def begin(self, header: bytes) -> Upload:
        return _Collected(self, header)

    def ready(self) -> bool:
        return bool(self._call("ready"))

    def close_phase(self) -> PhaseSummary:
        summary: PhaseSummary = self._call("close_phase")
        self._phase = summary.next_phase
        if self._phase is not None:
            os.kill(self._process.pid or 0, signal.SIGKILL)
            self._process.join()
            assert self._process.exitcode == -signal.SIGKILL
            self.killed.append(self._process.pid or 0)
            self._start()
        return summary

    def result(self, out: Words | None = None) -> Aggregate:
        assert out is None
        aggregate: Aggregate = self._call("result")
        self._process.terminate()
        self._process.join()
        return aggregate

    def save(self) -> bytes:
        return self._path.read_bytes()

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._path, self._roster.to_bytes())
        self._process = multiprocessing.get_context("fork").Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self._phase = self._call("phase")

    def _call(self, name: str, *arguments: object) -> Any:
        self._pipe.send((name, arguments))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Collected(Upload):
    def __init__(self, server: ServerInAnotherProcess, header: bytes) -> None:
        self._server = server
        self._header = header
        self._chunks: list[bytes] = []

    def write(self, chunk: Chunk) -> None:
        self._chunks.append(bytes(chunk))

    def commit(self, trailer: bytes) -> None:
        self._server._call("upload", self._header, self._chunks, trailer)

    def abort(self) -> None:
        self._chunks.clear()


def _serve(pipe: Connection, path: Path, roster: bytes) -> None:
    """Nothing but the saved blob and the roster connects this server with the one before it."""
    server = secagg.restore_server(path.read_bytes(), Roster.from_bytes(roster))
    while True:
        name, arguments = pipe.recv()
        answer: object = None
        if name == "requests":
            answer = [(item.party, item.header, [bytes(chunk) for chunk in item.chunks]) for item in server.requests()]
        elif name == "upload":
            header, chunks, trailer = arguments
            upload(server, Reply("", header, chunks, trailer), lambda size: None)  # type: ignore[arg-type]
        elif name == "phase":
            answer = server.phase
        else:
            answer = getattr(server, name)(*arguments)
        if name == "close_phase" and server.phase is not None:
            write_whole(path, server.save())
        pipe.send(answer)


def test_a_server_killed_after_every_phase_gives_the_same_sum_and_charges_once(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(private=True, rounds=1)) as study:
        state = study.plan.initial_vector()
        context = state.astype("<f4").tobytes()
        parameters = round_plan(study.plan, study.parties, RUN).parameters(1, 0, SILOS, context)
        server = ServerInAnotherProcess(parameters, study.parties.roster, tmp_path / "server.blob")
        updates = {}
        for name, silo in study.parties.silos.items():
            update = silo._training.update

            def keep(state: Any, entropy: Any, name: str = name, update: Any = update) -> Any:
                updates[name] = update(state, entropy)
                return updates[name]

            object.__setattr__(silo._training, "update", keep)
        carried = study.engine().run_session(server, context)
        assert len(set(server.killed)) == len(PHASES) - 1
        assert carried.failure is None
        assert carried.aggregate is not None
        assert carried.aggregate.contributors == SILOS
        assert [record.phase for record in carried.phases] == list(PHASES)
        weight = sum(study.plan.weights.values())
        mean = decode_mean(carried.aggregate.sum, study.plan.scheme, weight, layout=study.plan.update_layout)
        expected = np.mean([updates[name].astype(np.float64) for name in SILOS], axis=0)
        np.testing.assert_allclose(mean, expected, atol=study.plan.scheme.step, rtol=0)
        for silo in SILOS:
            assert study.states(silo) == {"1/0": "committed"}


class ServerGoneForGood:
    """An engine whose first session loses its server in the middle of a phase: nobody hears of it again.

    :param phase: in which; ``replies`` of it still arrive.
    """

    name = "embedded"
    simulation = True

    def __init__(self, study: Study, phase: str, replies: int) -> None:
        self._study = study
        self._phase = phase
        self._replies = replies

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        for phase in PHASES[: PHASES.index(self._phase) + 1]:
            arriving = self._replies if phase == self._phase else len(SILOS)
            for request in list(server.requests())[:arriving]:
                silo = self._study.parties.silos[request.party]
                reply = silo.answer(request.header, request.chunks, context)
                upload(server, reply, lambda size: None)
                silo.delivered(reply)
            if phase == self._phase:
                raise ConnectionResetError
            server.close_phase()
        raise AssertionError


@pytest.mark.parametrize(
    ("phase", "replies"),
    [
        ("AdvertiseKeys", 2),
        pytest.param("ShareKeys", 2, marks=pytest.mark.slow),
        ("MaskedInput", 0),
        ("MaskedInput", 2),
        pytest.param("ConsistencyCheck", 2, marks=pytest.mark.slow),
        pytest.param("Unmask", 0, marks=pytest.mark.slow),
        ("Unmask", 2),
    ],
)
def test_after_a_server_is_gone_the_round_is_tried_anew_with_fresh_noise_and_nothing_is_spent_twice(
    tmp_path: Path, phase: str, replies: int
) -> None:
    with open_study(tmp_path, study_text(private=True, rounds=1)) as study:
        journal = MemoryJournal()
        start = first_checkpoint(study.plan, RUN, "", None)
        with pytest.raises(ConnectionResetError):
            run_rounds(study.plan, study.parties, ServerGoneForGood(study, phase, replies), start, journal)
        trained = {silo: dict(study.states(silo)) for silo in SILOS}
        position = PHASES.index(phase) - PHASES.index("MaskedInput")
        for index, silo in enumerate(SILOS):
            sent = position > 0 or (position == 0 and index < replies)
            assert trained[silo] == ({"1/0": "committed"} if sent else {})
        assert journal.last is not None
        result = run_rounds(study.plan, study.parties, study.engine(), journal.last, journal)
        assert result.status == "completed"
        assert [(row.attempt, row.contributors) for row in result.rounds] == [(1, SILOS)]
        event = study.plan.event("east")
        for silo in SILOS:
            assert study.states(silo) == trained[silo] | {"1/1": "committed"}
            ledger = study.parties.ledgers[silo]
            assert ledger.reserved().filter_epsilon == 0
            # What is left is what the releases on record leave, no more and no less.
            spent = len(study.states(silo)) * event.steps
            whole = ledger.steps_left(event.sampling_rate, event.noise_multiplier) + spent
            assert whole == _steps_of_the_whole_budget(study)


def _steps_of_the_whole_budget(study: Study) -> int:
    summary = study.parties.ledgers["east"].summary()
    event = study.plan.event("east")
    whole = RdpFilter(summary.order, summary.budget.epsilon, summary.budget.delta)
    return steps_left(whole, [], event.sampling_rate, event.noise_multiplier)

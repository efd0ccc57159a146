"""A run that was killed goes on: where, with which randomness, and at whose expense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import tiny_config, tiny_task

from protocols.errors import ConfigError
from secfl.engines import EmbeddedEngine
from secfl.federation.checkpoint import FILE, DirectoryJournal, load_checkpoint
from secfl.federation.roster_file import read_roster
from secfl.federation.session import FinishedRun, resume, simulate
from secfl.privacy.ledger import ReleaseState, verify

TRAINING = "steps_per_round = {}\nlearning_rate = 0.5\nsampling_rate = 0.25\nclip_norm = 1.0\n"
PRIVATE: dict[str, dict[str, str]] = {
    "local-dp-sgd": {},
    "distributed-dp-sgd": {
        "training": f'[training]\nmode = "distributed-dp-sgd"\n{TRAINING.format(1)}',
        "aggregation": "[aggregation]\n",
    },
    "client-level": {
        "training": f'[training]\nmode = "client-level"\n{TRAINING.format(2)}',
        "privacy": '[privacy]\nepsilon = 4.0\ndelta = 1e-5\nunit = "client"\n',
        "aggregation": "[aggregation]\n",
    },
}
"""Sections of the private modes."""
MODES = pytest.mark.parametrize("mode", list(PRIVATE))
ADAM = '[server]\noptimiser = "adam"\nlearning_rate = 0.3\n'


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def start(directory: Path, *, private: bool, **sections: str) -> FinishedRun:
    config, text = tiny_config(directory, private=private, **sections)
    return simulate(config, text, directory, output=directory / "runs", task=tiny_task())


def only_run(directory: Path) -> Path:
    (run,) = (directory / "runs").iterdir()
    return run


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int, *, after: bool) -> None:
    """Make the process die before or after a call of a method."""
    original: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = original(*arguments, **options)
        if calls == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, method, dying)


POINTS = [
    (owner, method, call, after)
    for owner, method, calls in (
        (DirectoryJournal, "begin", (1, 2, 3)),
        (DirectoryJournal, "checkpoint", (2, 3, 4)),
        (EmbeddedEngine, "run_session", (1, 3)),
    )
    for call in calls
    for after in (False, True)
]


@pytest.mark.parametrize(("owner", "method", "call", "after"), POINTS)
def test_a_run_without_privacy_resumes_bit_for_bit(
    owner: type, method: str, call: int, after: bool, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = start(tmp_path / "whole", private=False, server=ADAM)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, owner, method, call, after=after)
        with pytest.raises(Killed):
            start(tmp_path / "killed", private=False, server=ADAM)
    resumed = resume(only_run(tmp_path / "killed"), task=tiny_task())
    assert resumed.result.status == "completed"
    assert resumed.result.state.tobytes() == whole.result.state.tobytes()
    assert resumed.result.metric == whole.result.metric
    assert [row.number for row in resumed.result.rounds if row.completed] == [1, 2, 3]
    model = "model.safetensors"
    assert (resumed.directory / model).read_bytes() == (whole.directory / model).read_bytes()


@pytest.mark.parametrize("protocol", ["oneshot", "ckks"])
def test_a_run_resumes_bit_for_bit_under_its_protocol_and_with_its_keys(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregation = f'[aggregation]\nprotocol = "{protocol}"\nvalue_range = 8.0\n'
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = start(tmp_path / "whole", private=False, aggregation=aggregation)
    with monkeypatch.context() as patch:
        kill_at(patch, EmbeddedEngine, "run_session", 2, after=True)
        with pytest.raises(Killed):
            start(tmp_path / "killed", private=False, aggregation=aggregation)
    run = only_run(tmp_path / "killed")
    roster = read_roster(run / "roster.toml").digest()
    resumed = resume(run, task=tiny_task())
    assert resumed.result.state.tobytes() == whole.result.state.tobytes()
    assert [(row.number, row.attempt) for row in resumed.result.rounds] == [(1, 0), (2, 1), (3, 0)]
    assert read_roster(run / "roster.toml").digest() == roster
    secret = next(run.glob("ledgers/*/identity.key.c*"))  # of a committee member, or the key holder's
    secret.unlink()
    with pytest.raises(ConfigError, match="is not the roster of the parties' keys"):
        resume(run, task=tiny_task())


@MODES
def test_a_private_run_keeps_committed_rounds_and_tries_the_interrupted_one_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    # Dies after the session of round 2, before its result is remembered: everybody has sent, nobody gets a model.
    with monkeypatch.context() as patch:
        kill_at(patch, EmbeddedEngine, "run_session", 2, after=True)
        with pytest.raises(Killed):
            start(tmp_path, private=True, **PRIVATE[mode])
    run = only_run(tmp_path)
    before = load_checkpoint(run)
    assert before.progress.finished_round == 1
    resumed = resume(run, task=tiny_task())
    rows = resumed.result.rounds
    assert rows[0] == before.progress.rounds[0]
    # The budget was planned for three rounds; round 2 was charged twice, so round 3 does not fit.
    assert [(row.number, row.attempt, row.completed) for row in rows] == [(1, 0, True), (2, 1, True), (3, 0, False)]
    assert resumed.result.status == "halted"
    assert "budget of a, b, c, d is spent" in resumed.result.reason
    roster = read_roster(run / "roster.toml")
    for silo in "abcd":
        summary = verify(run / "ledgers" / silo / "records.ledger", roster.member(silo).identity_key)
        charged = [
            (release.reservation.round, release.reservation.attempt)
            for release in summary.releases
            if release.state in (ReleaseState.SENDING, ReleaseState.COMMITTED)
        ]
        assert charged == [(1, 0), (2, 0), (2, 1)]
        assert 0 < summary.spent.filter_epsilon <= 4.0


@MODES
def test_a_private_run_draws_fresh_noise_when_it_resumes(tmp_path: Path, mode: str) -> None:
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, DirectoryJournal, "begin", 2, after=False)
            with pytest.raises(Killed):
                start(tmp_path / name, private=True, **PRIVATE[mode])
        first = load_checkpoint(only_run(tmp_path / name)).state
        states.append((first, resume(only_run(tmp_path / name), task=tiny_task()).result.state))
    (first_one, one), (first_two, two) = states
    assert not np.array_equal(first_one, first_two)
    assert not np.array_equal(one - first_one, two - first_two)


def test_a_finished_run_resumes_to_the_same_end_and_charges_nothing(tmp_path: Path) -> None:
    finished = start(tmp_path, private=True)
    again = resume(finished.directory, task=tiny_task())
    assert again.result.state.tobytes() == finished.result.state.tobytes()
    assert [silo.spent_epsilon for silo in again.report.silos] == [s.spent_epsilon for s in finished.report.silos]
    assert [silo.ledger_head for silo in again.report.silos] == [silo.ledger_head for silo in finished.report.silos]


def test_a_changed_configuration_is_not_resumed(tmp_path: Path) -> None:
    finished = start(tmp_path, private=False)
    path = finished.directory / "config.toml"
    path.write_text(path.read_text().replace("learning_rate = 0.5", "learning_rate = 5.0"))
    with pytest.raises(ConfigError, match="was changed since the run began"):
        resume(finished.directory, task=tiny_task())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_or_missing_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    finished = start(tmp_path, private=False)
    path = finished.directory / FILE
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=FILE):
        resume(finished.directory, task=tiny_task())


def test_a_checkpoint_holds_the_rounds_and_no_secret(tmp_path: Path) -> None:
    finished = start(tmp_path, private=True)
    raw = (finished.directory / FILE).read_bytes()
    for silo in "abcd":
        pem = (finished.directory / "ledgers" / silo / "identity.key").read_bytes()
        assert b"PRIVATE KEY" in pem
        assert pem.splitlines()[1] not in raw
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert set(header) == {"__metadata__", "state"}
    assert len(json.loads(header["__metadata__"]["progress"])["rounds"]) == 3


RESUMABLE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny_task import tiny_config, tiny_task
from secfl.federation.session import simulate
directory = Path({directory!r})
config, text = tiny_config(directory, private=True)
simulate(config, text, directory, output=directory / "runs", task=tiny_task())
"""


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [0, 20, 60, 120, 250, 500])
def test_a_run_killed_by_the_system_resumes_within_its_budget(tmp_path: Path, milliseconds: int) -> None:
    script = RESUMABLE.format(tests=str(Path(__file__).parent), directory=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"runs/*/{FILE}")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(milliseconds / 1000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = only_run(tmp_path)
    before = load_checkpoint(run).progress
    resumed = resume(run, task=tiny_task())
    assert resumed.result.rounds[: len(before.rounds)] == before.rounds
    roster = read_roster(run / "roster.toml")
    for silo in "abcd":
        summary = verify(run / "ledgers" / silo / "records.ledger", roster.member(silo).identity_key)
        ids = [release.reservation.release_id for release in summary.releases]
        assert len(set(ids)) == len(ids)
        assert summary.spent.filter_epsilon <= 4.0
        charged = {r.reservation.round for r in summary.releases if r.state is ReleaseState.COMMITTED}
        assert {row.number for row in resumed.result.rounds if row.completed and silo in row.contributors} <= charged

"""A whole run in this process: what `secfl run` does, from the beginning or from a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError
from protocols.identity import Roster
from secfl import engines
from secfl.config import Config, load_config
from secfl.events import Event, jsonl_observer
from secfl.events import Observer as EventObserver
from secfl.federation.checkpoint import FILE, Checkpoint, DirectoryJournal, Journal, load_checkpoint
from secfl.federation.model_code import model_code
from secfl.federation.randomness import Randomness
from secfl.federation.reporting import build_report
from secfl.federation.roster_file import ROSTER_NAME, create_roster_file, read_roster
from secfl.federation.run import (
    Evaluate,
    Observer,
    RunResult,
    first_checkpoint,
    new_run_id,
    run_rounds,
    write_model,
)
from secfl.federation.secure_evaluation import evaluate_securely, write_figures
from secfl.federation.setup import Parties, Plan, plan_run, set_up_parties
from secfl.federation.telling import Teller
from secfl.files import write_whole
from secfl.report.model import RunReport
from secfl.training import Task

__all__ = ["FinishedRun", "begin_run", "evaluator", "origin", "resume", "simulate", "start_of", "torch_threads"]

CONFIGURATION = "config.toml"
EVENTS = "events.jsonl"
"""What happened, one JSON object a line, for other tools; a resumed run goes on at its end."""
SERVER = "server.sqlite"
"""Journal of the server's side of the last session."""
ENGINE_FILE = "engine.txt"
"""In a run's directory: its engine, where that is not the embedded one."""
_ORIGIN = "origin.txt"


@dataclass(frozen=True)
class FinishedRun:
    """A run and where its files are."""

    result: RunResult
    report: RunReport
    directory: Path


def simulate(
    config: Config,
    text: str,
    directory: Path,
    *,
    output: Path | None = None,
    observer: Observer | None = None,
    watch: EventObserver | None = None,
    task: Task | None = None,
    randomness: Randomness | None = None,
) -> FinishedRun:
    """Run all parties in this process; write model, roster, checkpoints, events and ledgers into the run's directory.

    :param text: the configuration as read: kept with the run, shown in the report.
    :param directory: of the configuration file.
    :param output: where the run's directory goes; the configuration's by default.
    :param observer: told of every attempt at a round.
    :param watch: told of everything in between, as it goes into ``events.jsonl``.
    :param task: instead of the configuration's model file.
    :param randomness: of training and rounding, for tests.
    """
    plan = plan_run(config, directory, task, randomness)
    evaluate = evaluator(plan)
    run_directory = begin_run(config, text, directory, output)
    return _run(plan, text, run_directory, start_of(run_directory, plan, text, evaluate), evaluate, observer, watch)


def resume(
    run_directory: Path,
    *,
    observer: Observer | None = None,
    watch: EventObserver | None = None,
    task: Task | None = None,
    randomness: Randomness | None = None,
) -> FinishedRun:
    """Go on with a run that was killed, from its last checkpoint; the interrupted round runs again as a new attempt.

    Of buffered rounds sessions under way are given up, all silos begin anew from the checkpoint's model, and the window
    begins with it: what silos had in training, and from which models, is in no checkpoint.

    :raises ConfigError: no checkpoint, or the configuration is not the one that the run began with.
    """
    config, text = load_config(run_directory / CONFIGURATION)
    if not (run_directory / FILE).exists():
        load_checkpoint(run_directory)  # says what is missing
    plan = plan_run(config, origin(run_directory), task, randomness)
    evaluate = evaluator(plan)
    return _run(plan, text, run_directory, start_of(run_directory, plan, text, evaluate), evaluate, observer, watch)


def begin_run(config: Config, text: str, directory: Path, output: Path | None = None) -> Path:
    """Make the directory of a run, whose name is the run's, and keep the configuration in it."""
    run_id = new_run_id(config.run.name, datetime.now(UTC))
    run_directory = (Path(config.run.output) if output is None else output) / run_id
    run_directory.mkdir(parents=True)
    write_whole(run_directory / CONFIGURATION, text.encode())
    write_whole(run_directory / _ORIGIN, f"{directory.resolve()}\n".encode())
    return run_directory


def origin(run_directory: Path) -> Path:
    """Directory of the configuration file that a run began with; its relative paths start there."""
    return Path((run_directory / _ORIGIN).read_text(encoding="utf-8").rstrip("\n"))


def start_of(run_directory: Path, plan: Plan, text: str, evaluate: Evaluate | None) -> Checkpoint:
    """Where a run is to go on: its last checkpoint, or its beginning.

    :raises ConfigError: the configuration is not the one that the run began with.
    """
    if not (run_directory / FILE).exists():
        return first_checkpoint(plan, run_directory.name, _hash(text), evaluate)
    start = load_checkpoint(run_directory)
    if start.progress.configuration_hash != _hash(text):
        raise ConfigError(str(run_directory / CONFIGURATION), "was changed since the run began", "the original file")
    return start


def _run(
    plan: Plan,
    text: str,
    run_directory: Path,
    start: Checkpoint,
    evaluate: Evaluate | None,
    observer: Observer | None,
    watch: EventObserver | None,
) -> FinishedRun:
    with (
        torch_threads(plan.config.run.threads),
        set_up_parties(plan, run_directory) as parties,
        closing(engines.ServerJournal(run_directory / SERVER)) as server_journal,
        jsonl_observer(run_directory / EVENTS) as log,
    ):
        events = log if watch is None else _both(log, watch)
        _keep_roster(run_directory / ROSTER_NAME, parties.roster)
        engine = engines.EmbeddedEngine(
            parties.answering,
            incidents=[engines.Incident(**item.model_dump()) for item in plan.config.simulation.incidents],
            deadline_seconds=plan.config.aggregation.deadline_seconds,
            journal=server_journal,
            # Of buffered rounds the first phase is not the engine's: everything is told when an attempt is over.
            watcher=None if plan.config.rounds.buffered else Teller(events, simulation=True),
        )
        journal = DirectoryJournal(run_directory)
        result = run_rounds(plan, parties, engine, start, journal, evaluate=evaluate, observer=observer, events=events)
        result = _evaluated(plan, parties, result, journal, run_directory)
        model = write_model(run_directory, plan, result.state).read_bytes()
        report = build_report(plan, parties, engine, result, text, model)
    return FinishedRun(result, report, run_directory)


def _evaluated(plan: Plan, parties: Parties, result: RunResult, journal: Journal, run_directory: Path) -> RunResult:
    """The result with the metric of a secure evaluation, if the configuration asks for one."""
    if plan.config.evaluation.kind != "secure":
        return result
    engine = engines.EmbeddedEngine(parties.evaluating, deadline_seconds=plan.config.aggregation.deadline_seconds)
    figures = evaluate_securely(plan, parties, engine, result, journal)
    write_figures(run_directory, figures)
    return replace(result, metric=figures.value)


def _both(log: EventObserver, watch: EventObserver) -> EventObserver:
    def observe(event: Event) -> None:
        log(event)
        watch(event)

    return observe


def _keep_roster(path: Path, roster: Roster) -> None:
    """Write the roster of a run that begins; one that goes on must have the same.

    :raises ConfigError: a silo's key is another one than when the run began.
    """
    if not path.exists():
        create_roster_file(path, roster)
    elif read_roster(path).digest() != roster.digest():
        raise ConfigError(str(path), "is not the roster of the parties' keys", "the keys that the run began with")


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def evaluator(plan: Plan) -> Evaluate | None:
    """The metric on pooled test records, where the configuration declares them unprotected."""
    if plan.config.evaluation.kind != "benchmark":
        return None
    from secfl.training import pooled_metric

    seed = plan.config.run.seed
    with model_code("loading test records"):
        tests = [plan.task.silo_data(silo.name, seed).test for silo in plan.config.silo]
    present = [records for records in tests if records is not None]
    if not present:
        raise ConfigError("evaluation.kind", "load_data gives no test records", '"none"')

    def evaluate(state: npt.NDArray[np.float32]) -> float:
        with model_code("evaluating the global model"):
            return pooled_metric(plan.task, plan.layout.unflatten(state), present)

    return evaluate

"""A whole run from a configuration file, in this process: what `secfl run` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError
from secfl import engines
from secfl.config import Config
from secfl.federation.reporting import build_report
from secfl.federation.run import Observer, RunResult, model_file, new_run_id, run_rounds
from secfl.federation.setup import Plan, plan_run, set_up_parties
from secfl.files import write_whole
from secfl.report.model import RunReport

__all__ = ["FinishedRun", "simulate"]


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
) -> FinishedRun:
    """Run all parties in this process; write model, roster and ledgers into a directory of the run.

    :param text: the configuration as read, for the report.
    :param directory: of the configuration file.
    :param output: where the run's directory goes; the configuration's by default.
    """
    plan = plan_run(config, directory)
    run_id = new_run_id(config.run.name, datetime.now(UTC))
    run_directory = (Path(config.run.output) if output is None else output) / run_id
    run_directory.mkdir(parents=True)
    with set_up_parties(plan, run_directory) as parties:
        write_whole(run_directory / "roster.bin", parties.roster.to_bytes())
        engine = engines.EmbeddedEngine(
            parties.silos,
            incidents=[engines.Incident(**item.model_dump()) for item in config.simulation.incidents],
            deadline_seconds=config.aggregation.deadline_seconds,
        )
        result = run_rounds(plan, parties, engine, run_id, evaluate=_evaluator(plan), observer=observer)
        model_file(run_directory, plan, result.state)
        report = build_report(plan, parties, engine, result, text)
    return FinishedRun(result, report, run_directory)


def _evaluator(plan: Plan) -> Callable[[npt.NDArray[np.float32]], float] | None:
    """The metric on pooled test records, where the configuration declares them unprotected."""
    if plan.config.evaluation.kind == "none":
        return None
    from secfl.training import pooled_metric

    seed = plan.config.run.seed
    tests = [plan.task.silo_data(silo.name, seed).test for silo in plan.config.silo]
    present = [records for records in tests if records is not None]
    if not present:
        raise ConfigError("evaluation.kind", "load_data gives no test records", '"none"')
    return lambda state: pooled_metric(plan.task, plan.layout.unflatten(state), present)

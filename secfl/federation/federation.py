"""`Federation`: a whole run in five lines, for those who have a model and records in Python rather than in files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tomli_w

from protocols.errors import ConfigError
from secfl.config import Config, parse_config
from secfl.federation.run import Observer
from secfl.federation.session import FinishedRun, simulate
from secfl.privacy.budget import PrivacyBudget
from secfl.report.model import RoundRow, RunReport
from secfl.training import Task, load_task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

__all__ = ["DataSilo", "Federation", "Run"]

Section = Mapping[str, Any]

TRAINING: Section = {"sampling_rate": 0.1, "steps_per_round": 10, "learning_rate": 0.1}
"""Local training unless told otherwise."""
ONE_STEP: Section = {**TRAINING, "steps_per_round": 1, "learning_rate": 1.0}
"""With mode distributed-dp-sgd, whose rounds are single steps."""
CLIP_NORM = 1.0
"""With a budget, unless told otherwise."""
AGGREGATION: Section = {"value_range": 8.0}
"""Unless told otherwise; nothing where sums have noise."""


@dataclass(frozen=True)
class DataSilo:
    """One organisation's records, in this process: a simulation.

    :param train: protected records.
    :param nominal_size: their public number; declared, not counted.
    :param test: records declared unprotected, on which the metric is published exactly; None for none.
    """

    train: Dataset[Any] = field(repr=False)
    nominal_size: int
    test: Dataset[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    _finished: FinishedRun = field(repr=False)
    model: dict[str, npt.NDArray[Any]] = field(repr=False)
    """Final global model by tensor name."""

    @property
    def report(self) -> RunReport:
        """Everything about the run; `secfl.report.write_report` makes the page of it."""
        return self._finished.report

    @property
    def directory(self) -> Path:
        """Where model, checkpoints, roster and ledgers are."""
        return self._finished.directory

    @property
    def status(self) -> str:
        """``completed`` or ``halted``."""
        return self._finished.report.status

    @property
    def metric(self) -> float | None:
        """Of the final model on the unprotected records."""
        return self._finished.report.evaluation.value

    @property
    def epsilon(self) -> dict[str, float]:
        """Spent by each silo, at the budget's delta; empty without privacy."""
        return {silo.name: silo.spent_epsilon for silo in self.report.silos if silo.spent_epsilon is not None}

    @property
    def rounds(self) -> tuple[RoundRow, ...]:
        """Every attempt at a round."""
        return self._finished.report.rounds


class Federation:
    """Federated training of one model over silos, simulated in this process.

    :param model: a module, a function that builds one, or the path of a model file (`secfl.training.task`).
    :param silos: records per silo; with a model file the public number of records per silo.
    :param budget: of each silo; None trains without privacy, and the report says so in red.
    :param protocol: how updates are summed.
    :param mode: which privacy (`docs/explanation/privacy-modes.md`): ``local-dp-sgd`` or ``distributed-dp-sgd`` for
        records, ``client-level`` for whole clients, ``none``. By default what the budget's unit asks for:
        ``local-dp-sgd`` for records, ``client-level`` for clients, ``none`` without a budget.
    :param loss: ``loss(outputs, targets)``, one value a record; not with a model file.
    :param metric: ``metric(outputs, targets)`` on all unprotected test records at once; likewise.
    :param training: keys of ``[training]`` in a configuration file, over `TRAINING` or `ONE_STEP`.
    :param aggregation: keys of ``[aggregation]``, over `AGGREGATION`.
    :param server: keys of ``[server]``.
    :param ledger: keys of ``[ledger]``; ledgers last for life by default, as in a configuration file.
    :param name: of the run.
    :param seed: of splits and initial weights; never of noise.
    :param directory: where relative paths start and runs are kept.
    :raises ConfigError: naming the key that cannot be used.
    """

    def __init__(  # noqa: PLR0913  the README's call; all but four are by keyword
        self,
        model: nn.Module | Callable[[], nn.Module] | str | Path,
        silos: Mapping[str, DataSilo] | Mapping[str, int],
        budget: PrivacyBudget | None = None,
        protocol: str = "secagg",
        *,
        mode: str | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        metric: Callable[[Tensor, Tensor], float] | None = None,
        training: Section | None = None,
        aggregation: Section | None = None,
        server: Section | None = None,
        ledger: Section | None = None,
        name: str = "federation",
        seed: int = 0,
        directory: str | Path = ".",
    ) -> None:
        self._directory = Path(directory)
        self._task = _task(model, silos, loss, metric)
        mode = mode or _mode(budget)
        defaults = ONE_STEP if mode == "distributed-dp-sgd" else TRAINING
        clip: Section = {} if mode == "none" else {"clip_norm": CLIP_NORM}
        encoding: Section = {} if mode in ("distributed-dp-sgd", "client-level") else AGGREGATION
        self._sections: dict[str, Any] = {
            "run": {"name": name, "seed": seed},
            "silo": [{"name": silo, "nominal_size": _size(silos[silo])} for silo in silos],
            "training": {**defaults, **clip, **(training or {}), "mode": mode},
            "aggregation": {**encoding, **(aggregation or {}), "protocol": protocol},
            "server": dict(server or {}),
            "ledger": dict(ledger or {}),
            "evaluation": {"kind": "benchmark" if _has_tests(self._task, silos, metric, seed) else "none"},
        }
        if budget is not None:
            self._sections["privacy"] = {"epsilon": budget.epsilon, "delta": budget.delta, "unit": budget.unit}
        self._config(rounds=1)

    def run(self, rounds: int, *, output: str | Path | None = None, observer: Observer | None = None) -> Run:
        """Train; the noise is the least that lets this many rounds fit into the budget.

        :param output: directory for the run's directory; ``runs`` under the federation's by default.
        :param observer: told of every attempt at a round.
        :raises ConfigError: naming the key that cannot be used.
        :raises PrivacyError: a ledger that cannot be used, or a budget that no noise reaches.
        """
        config, text = self._config(rounds)
        where = self._directory / config.run.output if output is None else Path(output)
        finished = simulate(config, text, self._directory, output=where, observer=observer, task=self._task)
        return Run(finished, _load_model(finished.directory))

    def _config(self, rounds: int) -> tuple[Config, str]:
        sections = {**self._sections, "run": {**self._sections["run"], "rounds": rounds}}
        try:
            text = tomli_w.dumps(sections)
        except TypeError as error:
            raise ConfigError(
                "federation", f"a setting is no TOML value: {error}", "text, numbers, true, false"
            ) from None
        return parse_config(text), text


def _mode(budget: PrivacyBudget | None) -> str:
    """What the unit of a budget asks for."""
    if budget is None:
        return "none"
    return "client-level" if budget.unit == "client" else "local-dp-sgd"


def _task(model: Any, silos: Mapping[str, Any], loss: Any, metric: Any) -> Task:
    if isinstance(model, str | Path):
        if loss is not None or metric is not None:
            raise ConfigError("loss, metric", "given twice", "those of the model file alone")
        return load_task(Path(model))
    if loss is None:
        raise ConfigError("loss", "missing", "a function loss(outputs, targets) that gives one value a record")
    records = {name: silo for name, silo in silos.items() if isinstance(silo, DataSilo)}
    if len(records) != len(silos):
        raise ConfigError("silos", "a silo without records", "a DataSilo for each, unless the model is a file")
    return Task(
        name="federation",
        build=_builder(model),
        load=lambda silo, _seed: (records[silo].train, records[silo].test),
        loss=loss,
        metric=metric or _no_metric,
    )


def _builder(model: Any) -> Callable[[], nn.Module]:
    from torch import nn

    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    if callable(model):
        build: Callable[[], nn.Module] = model
        return build
    raise ConfigError("model", f"{type(model).__name__}", "a module, a function that builds one, or a path")


def _no_metric(_outputs: Tensor, _targets: Tensor) -> float:
    raise ConfigError("metric", "missing", "a function metric(outputs, targets)")


def _size(silo: DataSilo | int) -> int:
    return silo.nominal_size if isinstance(silo, DataSilo) else silo


def _has_tests(task: Task, silos: Mapping[str, Any], metric: Any, seed: int) -> bool:
    """Whether there are unprotected records and a metric for them."""
    if all(isinstance(silo, DataSilo) for silo in silos.values()):
        return metric is not None and any(silo.test is not None for silo in silos.values())
    return any(task.silo_data(silo, seed).test is not None for silo in silos)


def _load_model(directory: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors.numpy import load_file

    return {name: np.asarray(values) for name, values in load_file(directory / "model.safetensors").items()}

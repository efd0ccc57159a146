"""Baselines for a configuration: each silo alone, all records pooled, federated, without privacy; and with, if asked.

A benchmark that supports no claim: every figure without privacy is an exact release about protected records. Plain
floating-point averaging in this process; no secure aggregation, no encoding (so no clipping to the value range), no
ledger: nothing of it is charged to a budget, the private runs included.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np

from protocols.errors import ConfigError
from protocols.primitives.ring import word_dtype
from secfl.config import Aggregation, Config, SiloSettings
from secfl.federation.cohort import sample_cohort
from secfl.federation.model_code import model_code
from secfl.federation.session import torch_threads
from secfl.federation.setup import Plan, plan_run, server_optimiser
from secfl.federation.silo import LocalTraining, Vector
from secfl.federation.work import contribution, local_training
from secfl.privacy.mechanism import DistributedMechanism
from secfl.training import SiloData, Task, load_task

__all__ = [
    "LABEL",
    "WARNING",
    "Comparison",
    "Observer",
    "PlainTraining",
    "Row",
    "compare",
    "private_metric",
    "rounds_in_all",
]

LABEL: Final = "benchmark, no claim"
WARNING: Final = (
    "Figures without privacy are exact releases about protected records. Nothing here was charged to a privacy ledger, "
    "and no statement about privacy can rest on it."
)

_ANY_RANGE = 8.0
Observer = Callable[[str], None]
"""Told after each round of each training what is trained."""


@dataclass(frozen=True)
class PlainTraining:
    """What the runs without privacy take instead of the configuration's values; None for those.

    Few steps at a high rate suit noise: without it they may be far from the best.
    """

    steps_per_round: int | None = None
    learning_rate: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to train."""

    setting: Literal["alone", "pooled", "federated", "federated, private"]
    silo: str = ""
    """Whose records alone."""
    label: Literal["benchmark, no claim"] = LABEL
    values: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    """Metric on the test records of all silos together, one a seed."""
    mean: float
    standard_deviation: float | None
    """Over the seeds, with n - 1; None for a single one."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All rows, and how they came about."""

    label: Literal["benchmark, no claim"] = LABEL
    warning: str = WARNING
    schema_version: Literal[1] = 1
    name: str
    metric: str
    seeds: tuple[int, ...]
    """Of the splits into training and test records, and of initial weights."""
    rounds: int
    steps_per_round: int
    learning_rate: float
    """Of the rows without privacy."""
    epsilon: float | None
    """That the private row's noise is planned for; None without that row. Charged to no ledger."""
    delta: float | None
    rows: tuple[Row, ...]

    def to_json(self) -> bytes:
        """Indented JSON ending in a newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def rounds_in_all(config: Config, seeds: Sequence[int], *, with_private: bool) -> int:
    """How often the observer will be called."""
    return config.run.rounds * len(seeds) * (len(config.silo) + 2 + with_private)


def compare(
    config: Config,
    directory: Path,
    seeds: Sequence[int],
    *,
    plain: PlainTraining | None = None,
    with_private: bool = False,
    task: Task | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Train every way on every split.

    :param directory: of the configuration file.
    :param seeds: of the splits, at least one; runs without privacy repeat bit for bit.
    :param with_private: also the configured private training, averaged in plain floating point.
    :param task: instead of the configuration's model file.
    :raises ConfigError: naming the key that cannot be used.
    """
    if config.evaluation.kind != "benchmark":
        problem = (
            "this configuration does not declare its test records unprotected, and a comparison shows exact metrics"
        )
        raise ConfigError("evaluation.kind", problem, '"benchmark"')
    if with_private and config.privacy is None:
        raise ConfigError("privacy", "missing: there is no private training to compare with", "a table")
    task = task or load_task(directory / config.model.file)
    quiet = observer or (lambda _what: None)
    plain_config = _without_privacy(config, plain or PlainTraining())
    values: dict[tuple[str, str], list[float]] = {}
    with torch_threads(config.run.threads):
        for seed in seeds:
            cached = replace(task, load=cache(task.load))
            split = _Split(plan_run(_seeded(plain_config, seed), directory, cached), quiet)
            figures = split.baselines()
            if with_private:
                private = _Split(plan_run(_seeded(config, seed), directory, cached), quiet)
                figures["federated, private", ""] = private.noised("federated, private")
            for key, value in figures.items():
                values.setdefault(key, []).append(value)
    training, privacy = plain_config.training, config.privacy if with_private else None
    return Comparison(
        name=config.run.name,
        metric=config.evaluation.metric,
        seeds=tuple(seeds),
        rounds=config.run.rounds,
        steps_per_round=training.steps_per_round,
        learning_rate=training.learning_rate,
        epsilon=privacy.epsilon if privacy else None,
        delta=privacy.delta if privacy else None,
        rows=tuple(_row(setting, silo, found) for (setting, silo), found in values.items()),
    )


def private_metric(plan: Plan, observer: Observer | None = None) -> float:
    """Metric on all test records after the configured private training, its words or updates added up in the open.

    An exact release about the test records, charged to no ledger.
    """
    with torch_threads(plan.config.run.threads):
        return _Split(plan, observer or (lambda _what: None)).noised("federated, private")


def _row(setting: Any, silo: str, values: list[float]) -> Row:
    spread = stdev(values) if len(values) > 1 else None
    return Row(setting=setting, silo=silo, values=tuple(values), mean=fmean(values), standard_deviation=spread)


def _without_privacy(config: Config, plain: PlainTraining) -> Config:
    changes: dict[str, Any] = {"mode": "none", "clip_norm": None, "noise_multiplier": None, "pad_batches": None}
    changes |= {
        key: value for key in ("steps_per_round", "learning_rate") if (value := getattr(plain, key)) is not None
    }
    # Batch order follows from the seed: these runs protect nobody anyway, and repeat.
    run = config.run.model_copy(update={"reproducible": True})
    aggregation = config.aggregation
    if config.training.noise_in_sum:  # nothing is encoded here, but a plan has an encoding
        aggregation = Aggregation(value_range=_ANY_RANGE, weights=aggregation.weights)
    training = config.training.model_copy(update=changes)
    return config.model_copy(update={"run": run, "training": training, "privacy": None, "aggregation": aggregation})


def _seeded(config: Config, seed: int) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})


@dataclass(frozen=True)
class _Split:
    """One split of the records."""

    plan: Plan
    observer: Observer = field(repr=False)

    def baselines(self) -> dict[tuple[str, str], float]:
        """Metric by setting and silo."""
        silos = self._silos()
        found = {}
        for name, training in silos.items():
            found["alone", name] = self._train(f"{name} alone", {name: training}, {name: 1})
        found["pooled", ""] = self._train("pooled", {"pooled": self._pooled()}, {"pooled": 1})
        found["federated", ""] = self.federated("federated", silos)
        return found

    def federated(self, what: str, silos: Mapping[str, LocalTraining] | None = None) -> float:
        """Metric of federated averaging over all silos."""
        return self._train(what, silos or self._silos(), self.plan.weights, self.plan.config.server.cohort_size)

    def _silos(self) -> dict[str, LocalTraining]:
        return {silo.name: local_training(self.plan, silo) for silo in self.plan.config.silo}

    def _pooled(self) -> LocalTraining:
        """One silo that holds the training records of all."""
        from torch.utils.data import ConcatDataset

        task, silos = self.plan.task, self.plan.config.silo
        seed = self.plan.config.run.seed
        with model_code("loading the records of all silos"):
            records: ConcatDataset[Any] = ConcatDataset([task.silo_data(silo.name, seed).train for silo in silos])
        everybody = SiloSettings(name="pooled", nominal_size=sum(silo.nominal_size for silo in silos))
        pooled = replace(task, load=lambda _silo, _seed: SiloData(records, None))
        return local_training(replace(self.plan, task=pooled), everybody)

    def _train(
        self, what: str, silos: Mapping[str, LocalTraining], weights: Mapping[str, int], cohort_size: int | None = None
    ) -> float:
        """Federated averaging (McMahan et al. 2017) under the configured server optimiser; one silo is a silo alone."""
        plan = self.plan
        optimiser, state = server_optimiser(plan.config), plan.initial_vector()
        for number in range(1, plan.config.run.rounds + 1):
            cohort = sample_cohort(tuple(silos), cohort_size, plan.randomness("server", number, 0))
            total = sum(weights[silo] for silo in cohort)
            mean = np.zeros(plan.update_layout.size)
            for silo in cohort:
                mean += weights[silo] / total * silos[silo].update(state, plan.randomness(silo, number, 0))
            state = _step(plan, state, optimiser.step(mean))
            self.observer(what)
        return self._metric(state)

    def noised(self, what: str) -> float:
        """Metric of training with noise in sums, whose words are added up in the open."""
        plan = self.plan
        scheme, divisor = plan.scheme, plan.divisor
        if not isinstance(scheme, DistributedMechanism) or divisor is None:
            return self.federated(what)
        works = {silo.name: contribution(plan, silo) for silo in plan.config.silo}
        optimiser, state = server_optimiser(plan.config), plan.initial_vector()
        for number in range(1, plan.config.run.rounds + 1):
            cohort = sample_cohort(tuple(works), plan.config.server.cohort_size, plan.randomness("server", number, 0))
            seed, total = os.urandom(32), np.zeros(scheme.word_count(), np.uint64)
            for silo in cohort:
                words, _ = works[silo].words(state, scheme, lambda: 1, plan.randomness(silo, number, 0), seed)
                total += words.astype(np.uint64)
            total &= np.uint64((1 << scheme.modulus_bits) - 1)
            opened = scheme.decode(total.astype(word_dtype(scheme.modulus_bits)), len(cohort), seed)
            state = _step(plan, state, optimiser.step(divisor.change(opened, cohort)))
            self.observer(what)
        return self._metric(state)

    def _metric(self, state: Vector) -> float:
        from secfl.training import pooled_metric

        plan = self.plan
        with model_code("evaluating on the test records"):
            tests = [plan.task.silo_data(silo.name, plan.config.run.seed).test for silo in plan.config.silo]
            present = [records for records in tests if records is not None]
            value = pooled_metric(plan.task, plan.layout.unflatten(state), present)
        if not math.isfinite(value):
            raise ConfigError("model.metric", f"returned {value}", "a finite number")
        return value


def _step(plan: Plan, state: Vector, step: Any) -> Vector:
    """The global model plus the optimiser's step."""
    from secfl.training import add_update

    update = plan.update_layout.unflatten(step.astype(np.float32))
    return np.asarray(plan.layout.flatten(add_update(plan.layout.unflatten(state), update)), dtype=np.float32)

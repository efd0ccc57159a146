"""Small-business loans at twelve banks: pooled test AUC over three splits, real runs with and without privacy.

Run from the repository: ``python benchmarks/loans_splits.py [--epsilon 1 3 8] [--splits 3] [--json FILE]``. Every
federated figure is a whole run of the example's configuration (SecAgg, ledgers, everything). Noise and samples come
from the operating system, so figures move a little from run to run. Exact AUCs on holdout records are releases: those
records are declared unprotected here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tomli_w
import torch
from measure import Figures
from safetensors.numpy import load_file
from torch.utils.data import ConcatDataset

from secfl.config import parse_config
from secfl.federation.session import simulate
from secfl.training import PlainSettings, PlainSgd, Task, add_update, load_task, model_state
from secfl.training.state import load_state

EXAMPLE = Path(__file__).parents[1] / "examples" / "loans"
# Chosen on split 0, like all constants here. More steps overfit at a single bank: three times as many cost about .03.
ONE_BANK, ONE_BANK_STEPS = PlainSettings(batch_size=450, learning_rate=1.0, momentum=0.8), 100
ONE_PLACE, ONE_PLACE_STEPS = PlainSettings(batch_size=450, learning_rate=0.5, momentum=0.9), 3000


class Judge:
    """Test records of all banks for one split."""

    def __init__(self, task: Task, split_seed: int) -> None:
        self.task = task
        self.module: ModuleType = sys.modules[task.build.__module__]
        self.data = {silo: task.silo_data(silo, split_seed) for silo in self.module.BANKS}
        self.inputs, self.targets = self._together("test")

    def _together(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        sets = [getattr(records, part).tensors for records in self.data.values()]
        return torch.cat([inputs for inputs, _ in sets]), torch.cat([targets for _, targets in sets])

    def years(self, inputs: torch.Tensor) -> torch.Tensor:
        """Approval years, cut to the first and last knot: the year's basis functions sum to it."""
        knots = torch.tensor(self.module.YEAR_KNOTS, dtype=torch.float64)
        scaled = inputs[:, self.module.YEAR_COLUMNS].double() / self.module.YEAR_SCALE
        return (scaled @ knots).round().long()

    def score(self, state: dict[str, Any]) -> tuple[float, float]:
        """Pooled AUC, and AUC over the pairs of loans that were approved in the same year."""
        model = self.task.build_model()
        load_state(model, state)
        with torch.no_grad():
            return self._both(model.eval()(self.inputs))

    def by_year_alone(self) -> tuple[float, float]:
        """What the year's charge-off rate among all banks' training records tells by itself, without privacy."""
        inputs, targets = self._together("train")
        years, own = self.years(inputs), self.years(self.inputs)
        outputs = torch.zeros(len(own))
        for year in own.unique():
            found = targets[years == year]
            outputs[own == year] = found.mean() if len(found) else 0.0
        return self._both(outputs)

    def _both(self, outputs: torch.Tensor) -> tuple[float, float]:
        years, total, weight = self.years(self.inputs), 0.0, 0
        for year in years.unique():
            here = years == year
            positives = int(self.targets[here].sum())
            pairs = positives * (int(here.sum()) - positives)
            if pairs:
                total += pairs * self.task.metric(outputs[here], self.targets[here])
                weight += pairs
        return self.task.metric(outputs, self.targets), total / weight


def whole_run(file: str, judge: Judge, split_seed: int, epsilon: float | None) -> tuple[float, float, float]:
    """Pooled AUC, AUC within years and seconds of a real run."""
    values = tomllib.loads((EXAMPLE / file).read_text())
    values["run"]["seed"] = split_seed
    if epsilon is not None:
        values["privacy"]["epsilon"] = epsilon
    text = tomli_w.dumps(values)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as output:
        finished = simulate(parse_config(text), text, EXAMPLE, output=Path(output))
        seconds = time.monotonic() - began
        if finished.result.status != "completed":
            raise SystemExit(f"{file}, split {split_seed}: {finished.result.reason}")
        return *judge.score(load_file(finished.directory / "model.safetensors")), seconds


def central(
    judge: Judge, silos: Sequence[str], split_seed: int, settings: PlainSettings, steps: int
) -> tuple[float, float]:
    """The records of ``silos`` in one place, without privacy, judged on the test records of all banks."""
    torch.manual_seed(split_seed)
    state = model_state(judge.task.build_model())
    records = ConcatDataset([judge.data[silo].train for silo in silos])
    local = PlainSgd(judge.task, settings, "one place").train(state, records, steps)
    return judge.score(add_update(state, local.update))


def show(figures: Figures, label: str, found: list[tuple[float, ...]]) -> None:
    """Print and keep mean and standard deviation over splits."""
    columns = np.array(found).T
    names = ("pooled AUC", "AUC within years", "seconds")
    parts = []
    for name, values in zip(names, columns, strict=False):
        mean, deviation = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
        digits = 0 if name == "seconds" else 4
        parts.append(f"{name} {mean:.{digits}f} sd {deviation:.{digits}f}")
        figures.add(f"{name}, mean", mean, "", setting=label, splits=len(found))
        figures.add(f"{name}, standard deviation", deviation, "", setting=label, splits=len(found))
    print(f"{label:32} {'   '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[1.0, 3.0, 8.0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = Figures("Small-business loans, pooled test AUC")
    task = load_task(EXAMPLE / "model.py")
    judges = [Judge(task, seed) for seed in range(options.splits)]
    show(figures, "approval year alone, no privacy", [judge.by_year_alone() for judge in judges])
    everyone = tuple(judges[0].data)
    for silo in everyone:
        found = [central(judge, [silo], seed, ONE_BANK, ONE_BANK_STEPS) for seed, judge in enumerate(judges)]
        show(figures, f"{silo} alone, no privacy", found)
    found = [central(judge, everyone, seed, ONE_PLACE, ONE_PLACE_STEPS) for seed, judge in enumerate(judges)]
    show(figures, "all in one place, no privacy", found)
    runs = [("no privacy", "config_plain.toml", None)]
    runs += [(f"epsilon {epsilon:g}", "config.toml", epsilon) for epsilon in options.epsilon]
    for label, file, epsilon in runs:
        show(figures, label, [whole_run(file, judge, seed, epsilon) for seed, judge in enumerate(judges)])
    figures.write(options.json)


if __name__ == "__main__":
    main()

"""Heart disease at four hospitals: pooled test AUC over ten splits, with and without record-level privacy.

    python benchmarks/heart_splits.py [--epsilon 3] [--splits 10] [--json FILE]

The first row is what `secfl run` does: SecAgg, ledgers, everything. The others are federated averaging in plain
floating point with the library's own trainers. Noise and samples come from the operating system, so figures move a
little from run to run. Exact AUCs on holdout records are releases: those records are declared unprotected here.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from measure import Figures

from secfl.config import parse_config
from secfl.federation.session import simulate
from secfl.privacy.accounting import noise_multiplier_for
from secfl.training import (
    DpSgdSettings,
    LocalDpSgd,
    PlainSettings,
    PlainSgd,
    Task,
    add_update,
    load_task,
    model_state,
    pooled_metric,
)

EXAMPLE = Path(__file__).parents[1] / "examples" / "heart"
CONFIG = tomllib.loads((EXAMPLE / "config.toml").read_text())
NOMINAL_SIZES = {silo["name"]: silo["nominal_size"] for silo in CONFIG["silo"]}
ROUNDS, LOCAL_STEPS = CONFIG["run"]["rounds"], CONFIG["training"]["steps_per_round"]
SAMPLING_RATE, CLIP_NORM = CONFIG["training"]["sampling_rate"], CONFIG["training"]["clip_norm"]
LEARNING_RATE, DELTA = CONFIG["training"]["learning_rate"], CONFIG["privacy"]["delta"]
PLAIN = PlainSettings(batch_size=64, learning_rate=0.5)
PLAIN_STEPS = 16


def run(task: Task, split_seed: int, noise_multiplier: float | None, silos: tuple[str, ...]) -> float:
    """Federated averaging with public weights; return the AUC on the pooled test records of all four hospitals."""
    records = {silo: task.silo_data(silo, split_seed) for silo in NOMINAL_SIZES}
    state: dict[str, Any] = model_state(task.build_model())
    total = sum(NOMINAL_SIZES[silo] for silo in silos)
    trainers = {silo: trainer(task, silo, noise_multiplier) for silo in silos}
    for _ in range(ROUNDS):
        mean = {name: np.zeros_like(values) for name, values in state.items()}
        for silo, local in trainers.items():
            steps = LOCAL_STEPS if noise_multiplier else PLAIN_STEPS
            for name, values in local.train(state, records[silo].train, steps).update.items():
                mean[name] += NOMINAL_SIZES[silo] / total * values
        state = add_update(state, mean)
    return pooled_metric(task, state, [records[silo].test for silo in NOMINAL_SIZES])


def trainer(task: Task, silo: str, noise_multiplier: float | None) -> LocalDpSgd | PlainSgd:
    """Local DP-SGD at the public constants above, or plain SGD without a noise multiplier."""
    if noise_multiplier is None:
        return PlainSgd(task, PLAIN, silo)
    return LocalDpSgd(
        task,
        DpSgdSettings(SAMPLING_RATE, NOMINAL_SIZES[silo], noise_multiplier, CLIP_NORM, LEARNING_RATE),
    )


def whole_path(split_seed: int) -> float:
    """The AUC of a real run of the example's configuration on another split."""
    text = tomli_w.dumps({**CONFIG, "run": {**CONFIG["run"], "seed": split_seed}})
    with tempfile.TemporaryDirectory() as output:
        finished = simulate(parse_config(text), text, EXAMPLE, output=Path(output))
    if finished.result.metric is None:
        raise SystemExit(f"split {split_seed}: {finished.result.status}: {finished.result.reason}")
    return finished.result.metric


def show(figures: Figures, label: str, splits: int, measure: Callable[[int], float]) -> None:
    """Print mean, standard deviation and each split's AUC."""
    found = [measure(seed) for seed in range(splits)]
    each = " ".join(f"{auc:.3f}" for auc in found)
    print(f"{label:28} mean {np.mean(found):.4f}  sd {np.std(found, ddof=1):.4f}  [{each}]", flush=True)
    figures.add("AUC, mean", float(np.mean(found)), "", setting=label, splits=splits)
    figures.add("AUC, standard deviation", float(np.std(found, ddof=1)), "", setting=label, splits=splits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[1.0, 3.0, 8.0])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = Figures("Heart disease, pooled test AUC")
    task, everyone = load_task(EXAMPLE / "model.py"), tuple(NOMINAL_SIZES)
    show(figures, f"secfl run, epsilon {CONFIG['privacy']['epsilon']:g}", options.splits, whole_path)
    for epsilon in options.epsilon:
        z = noise_multiplier_for(epsilon, DELTA, SAMPLING_RATE, ROUNDS * LOCAL_STEPS)
        show(
            figures,
            f"epsilon {epsilon:g} (z = {z:.2f})",
            options.splits,
            lambda seed, z=z: run(task, seed, z, everyone),
        )
    show(figures, "no privacy", options.splits, lambda seed: run(task, seed, None, everyone))
    for silo in everyone:
        show(
            figures, f"no privacy, {silo} alone", options.splits, lambda seed, silo=silo: run(task, seed, None, (silo,))
        )
    figures.write(options.json)


if __name__ == "__main__":
    main()

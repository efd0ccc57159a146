"""Baselines: what they train on, that they repeat, and that everything they say is labelled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tiny_task import tiny_config, tiny_task
from torch.utils.data import Dataset, TensorDataset

from protocols.errors import ConfigError
from secfl.federation.compare import LABEL, Comparison, PlainTraining, compare, rounds_in_all
from secfl.federation.session import simulate
from secfl.training import Task

SILOS = ("a", "b", "c", "d")
SETTINGS = [*(("alone", silo) for silo in SILOS), ("pooled", ""), ("federated", "")]


def values(found: Comparison) -> dict[tuple[str, str], tuple[float, ...]]:
    return {(row.setting, row.silo): row.values for row in found.rows}


def run(directory: Path, *, private: bool = False, seeds: tuple[int, ...] = (7, 8), **options: Any) -> Comparison:
    sections = options.pop("sections", {})
    config, _ = tiny_config(directory, private=private, **sections)
    return compare(config, directory, seeds, **{"task": tiny_task(), **options})


def test_rows_means_and_spreads_belong_together(tmp_path: Path) -> None:
    found = run(tmp_path, seeds=(7, 8, 9))
    assert list(values(found)) == SETTINGS
    for row in found.rows:
        assert len(row.values) == 3
        assert all(0.0 <= value <= 1.0 for value in row.values)
        assert row.mean == pytest.approx(mean(row.values), abs=1e-12)
        assert row.standard_deviation == pytest.approx(stdev(row.values), abs=1e-12)
    assert run(tmp_path, seeds=(7,)).rows[0].standard_deviation is None


def test_runs_without_privacy_repeat_and_do_not_depend_on_the_other_seeds(tmp_path: Path) -> None:
    both = values(run(tmp_path, private=True))
    assert both == values(run(tmp_path, private=True))
    (second,) = {tuple(found) for found in [values(run(tmp_path, private=True, seeds=(8,))).items()]}
    assert {key: found[1:] for key, found in both.items()} == dict(second)


def test_the_federated_row_is_what_a_real_run_without_privacy_comes_to(tmp_path: Path) -> None:
    """Same batches (both follow from the seed), so that only the grid of the encoding is between them."""
    sizes = {"a": 8, "b": 40, "c": 80, "d": 400}
    silos = "\n".join(f'[[silo]]\nname = "{name}"\nnominal_size = {size}\n' for name, size in sizes.items())
    config, text = tiny_config(tmp_path, private=False, silos=silos)
    task = replace(tiny_task(), metric=lambda outputs, _targets: float(outputs.double().sum()))
    real = simulate(config, text, tmp_path, output=tmp_path / "runs", task=task).result.metric
    found = values(compare(config, tmp_path, (config.run.seed,), task=task))
    assert real is not None
    assert abs(real) > 1.0
    assert found["federated", ""] == (pytest.approx(real, rel=1e-3),)
    assert found["pooled", ""] != (pytest.approx(real, rel=1e-3),)


def weight_reader(seen: list[float]) -> Task:
    """The tiny task with a metric that keeps the outputs on a fixed input: they show the model's weights."""
    task = tiny_task()

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        seen.append(float(outputs.sum()))
        return 0.5

    return replace(task, metric=metric)


def test_one_silo_alone_equals_a_federation_of_equals(tmp_path: Path) -> None:
    """Four silos with the same records and whole batches: alone, pooled and federated are one and the same model."""
    seen: list[float] = []
    task = weight_reader(seen)
    same = replace(task, load=lambda _silo, seed: task.load("a", seed))
    training = '[training]\nmode = "none"\nsteps_per_round = 2\nlearning_rate = 0.5\nsampling_rate = 1.0\n'
    run(tmp_path, seeds=(7,), task=same, sections={"training": training})
    assert len(seen) == len(SETTINGS)
    np.testing.assert_allclose(seen, seen[0], rtol=1e-5)


class Watched(Dataset[Any]):
    """Notes whose records are read."""

    def __init__(self, records: Dataset[Any], silo: str, log: list[str]) -> None:
        self._records, self._silo, self._log = records, silo, log

    def __len__(self) -> int:
        return len(self._records)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        self._log.append(self._silo)
        return self._records[index]


def test_each_row_trains_on_its_own_records_alone(tmp_path: Path) -> None:
    log: list[str] = []
    by_row: list[set[str]] = []
    task = tiny_task()

    def load(silo: str, seed: int) -> tuple[Dataset[Any], Dataset[Any] | None]:
        train, test = task.load(silo, seed)
        return Watched(train, silo, log), test

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        by_row.append(set(log))
        log.clear()
        return 0.5

    run(tmp_path, seeds=(7,), task=replace(task, load=load, metric=metric))
    assert by_row == [*({silo} for silo in SILOS), set(SILOS), set(SILOS)]


def test_the_private_row_is_there_on_request_differs_each_time_and_touches_no_ledger(tmp_path: Path) -> None:
    seen: list[float] = []
    for _ in range(2):
        found = run(tmp_path, private=True, seeds=(7,), with_private=True, task=weight_reader(seen))
    assert [row.setting for row in found.rows][-1] == "federated, private"
    assert (found.epsilon, found.delta) == (4.0, 1e-5)
    first, second = seen[:7], seen[7:]
    assert first[:6] == second[:6]
    assert first[6] != second[6]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_runs_without_privacy_take_their_own_steps_and_rate(tmp_path: Path) -> None:
    found = run(tmp_path, private=True, seeds=(7,), plain=PlainTraining(steps_per_round=9, learning_rate=0.25))
    assert (found.steps_per_round, found.learning_rate, found.epsilon) == (9, 0.25, None)
    assert values(found) != values(run(tmp_path, private=True, seeds=(7,)))
    with pytest.raises(ConfigError, match="learning_rate: -1 cannot be used"):
        run(tmp_path, plain=PlainTraining(learning_rate=-1))


def test_the_observer_hears_of_every_round(tmp_path: Path) -> None:
    heard: list[str] = []
    config, _ = tiny_config(tmp_path, private=True)
    compare(config, tmp_path, (1, 2), with_private=True, task=tiny_task(), observer=heard.append)
    assert len(heard) == rounds_in_all(config, (1, 2), with_private=True) == 2 * 3 * 7
    assert heard[:3] == ["a alone"] * 3
    assert heard[-1] == "federated, private"


def test_a_sampled_cohort_and_a_server_optimiser_are_those_of_the_configuration(tmp_path: Path) -> None:
    plain = values(run(tmp_path, seeds=(7,)))
    adam = values(
        run(tmp_path, seeds=(7,), sections={"server": '[server]\noptimiser = "adam"\nlearning_rate = 0.001\n'})
    )
    cohort = values(run(tmp_path, seeds=(7,), sections={"server": "[server]\ncohort_size = 2\n"}))
    assert adam["federated", ""] != plain["federated", ""]
    assert {key: found for key, found in cohort.items() if key[0] != "federated"} == {
        key: found for key, found in plain.items() if key[0] != "federated"
    }


def test_the_label_is_in_every_row_of_the_json(tmp_path: Path) -> None:
    found = run(tmp_path, seeds=(7,))
    raw = json.loads(found.to_json())
    assert list(raw)[:2] == ["label", "warning"]
    assert raw["label"] == LABEL == "benchmark, no claim"
    assert {row["label"] for row in raw["rows"]} == {LABEL}
    assert "exact releases about protected records" in raw["warning"]
    assert msgspec.json.decode(found.to_json(), type=Comparison) == found


NAN = replace(tiny_task(), metric=lambda _outputs, _targets: float("nan"))
UNTESTED = replace(tiny_task(), load=lambda silo, seed: (tiny_task().load(silo, seed)[0], None))
EMPTY = replace(
    tiny_task(), load=lambda silo, seed: (TensorDataset(torch.zeros(0, 3), torch.zeros(0)), tiny_task().load("a", 1)[1])
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sections": {"evaluation": '[evaluation]\nkind = "none"\n'}}, r"evaluation.kind: .*allowed: \"benchmark\""),
        ({"with_private": True}, "privacy: missing: there is no private training"),
        ({"task": NAN}, "finite"),
        ({"task": UNTESTED}, "no silo has test records"),
        ({"task": EMPTY}, "silos.a: no training records"),
        ({"task": None}, "model: .*model.py cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, **options)


@pytest.mark.parametrize("mode", ["distributed-dp-sgd", "client-level"])
def test_noise_in_sums_is_compared_through_whole_numbers_and_what_it_costs_without(tmp_path: Path, mode: str) -> None:
    steps, unit = ("1", "record") if mode == "distributed-dp-sgd" else ("2", "client")
    training = f'[training]\nmode = "{mode}"\nsteps_per_round = {steps}\nlearning_rate = 0.5\nsampling_rate = 0.25\n'
    sections = {
        "training": f"{training}clip_norm = 1.0\n",
        "privacy": f'[privacy]\nepsilon = 4.0\ndelta = 1e-5\nunit = "{unit}"\n',
        "aggregation": "[aggregation]\n",
    }
    found = run(tmp_path, private=True, with_private=True, sections=sections)
    assert list(values(found)) == [*SETTINGS, ("federated, private", "")]
    assert (found.epsilon, found.delta) == (4.0, 1e-5)
    noised, plain = values(found)["federated, private", ""], values(found)["federated", ""]
    assert all(0.0 <= value <= 1.0 for value in noised)
    # At a budget that leaves no noise worth the name, the same records give the same model but for clips.
    sections["privacy"] = sections["privacy"].replace("4.0", "1e9")
    sections["training"] = sections["training"].replace("clip_norm = 1.0", "clip_norm = 5.0\nnoise_multiplier = 0.001")
    sections["training"] = sections["training"].replace("0.25", "1.0")
    loud = run(tmp_path, private=True, with_private=True, sections=sections)
    assert values(loud)["federated, private", ""] == pytest.approx(values(loud)["federated", ""], abs=0.03)
    assert plain

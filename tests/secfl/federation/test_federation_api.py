"""`Federation`: five lines for those who have a model and records in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import FEATURES, load_data, tiny_config, tiny_task
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from protocols.errors import ConfigError
from secfl.config import load_config, parse_config
from secfl.federation.federation import DataSilo, Federation
from secfl.federation.session import simulate
from secfl.privacy import PrivacyBudget
from secfl.training import add_update

NAMES = ("a", "b", "c", "d")
PER_RUN = {"kind": "per-run"}


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(((outputs[:, 0] > 0) == (targets > 0.5)).float().mean())


def silos(*, tests: bool = True) -> dict[str, DataSilo]:
    found = {}
    for name in NAMES:
        train, test = load_data(name, 0)
        found[name] = DataSilo(train, nominal_size=40, test=test if tests else None)
    return found


def federation(directory: Path, **options: Any) -> Federation:
    settings: dict[str, Any] = {"loss": loss, "metric": accuracy, "ledger": PER_RUN, "directory": directory}
    return Federation(nn.Linear(FEATURES, 1), silos(), **{**settings, **options})


def test_five_lines_give_a_private_model_and_what_it_cost(tmp_path: Path) -> None:
    budget = PrivacyBudget(epsilon=3, delta=1e-5, unit="record")
    run = federation(tmp_path, budget=budget, protocol="secagg").run(rounds=2)
    assert run.status == "completed"
    assert set(run.epsilon) == set(NAMES)
    assert all(2.99 < spent <= 3.0 for spent in run.epsilon.values())
    assert {name: values.shape for name, values in run.model.items()} == {"bias": (1,), "weight": (1, FEATURES)}
    assert run.metric is not None
    assert [row.contributors for row in run.rounds] == [NAMES, NAMES]
    assert run.report.privacy_mode == "local-dp-sgd"
    assert run.report.simulation


def test_without_a_budget_the_model_is_the_plain_mean_of_updates_to_rounding(tmp_path: Path) -> None:
    # Full batches: what each silo computes does not depend on the order of its records.
    model = nn.Linear(FEATURES, 1)
    run = Federation(
        model,
        silos(),
        loss=loss,
        metric=accuracy,
        training={"sampling_rate": 1.0, "steps_per_round": 1, "learning_rate": 0.5},
        aggregation={"value_range": 1.0, "value_bits": 24},
        ledger=PER_RUN,
        directory=tmp_path,
    ).run(rounds=1)
    expected = {name: tensor.detach().numpy().copy() for name, tensor in model.named_parameters()}
    for name in NAMES:
        inputs, targets = load_data(name, 0)[0].tensors
        model.zero_grad()
        loss(model(inputs), targets).mean().backward()
        update = {key: -0.5 / len(NAMES) * p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None}
        expected = add_update(expected, update)
    for name, values in run.model.items():
        np.testing.assert_allclose(values, expected[name], atol=2.0**-23 + 1e-6)
    assert run.epsilon == {}
    assert run.report.privacy_mode == "none"


def test_nothing_is_evaluated_without_unprotected_records(tmp_path: Path) -> None:
    run = Federation(
        nn.Linear(FEATURES, 1), silos(tests=False), loss=loss, metric=accuracy, ledger=PER_RUN, directory=tmp_path
    ).run(rounds=1)
    assert run.metric is None
    assert run.report.evaluation.kind == "none"


def test_a_model_file_and_public_sizes_are_enough(tmp_path: Path) -> None:
    heart = Path(__file__).parents[3] / "examples" / "heart" / "model.py"
    run = Federation(
        heart,
        {"cleveland": 227, "hungarian": 220, "va": 150},
        budget=PrivacyBudget(epsilon=3, delta=1e-5),
        training={"sampling_rate": 0.5, "steps_per_round": 1, "learning_rate": 1.0},
        ledger=PER_RUN,
        directory=tmp_path,
    ).run(rounds=1)
    assert run.status == "completed"
    assert run.metric is not None


def test_ledgers_last_for_life_unless_told_otherwise(tmp_path: Path) -> None:
    private = {"budget": PrivacyBudget(epsilon=3, delta=1e-5), "ledger": None}
    federation(tmp_path, **private).run(rounds=1)
    again = federation(tmp_path, **private).run(rounds=1)
    assert again.status == "halted"
    assert "budget of a, b, c, d is spent" in again.report.status_reason
    assert again.rounds[0].contributors == ()


def test_clipped_coordinates_are_counted_at_the_silo_and_nowhere_else(tmp_path: Path) -> None:
    narrow = federation(tmp_path, budget=PrivacyBudget(epsilon=3, delta=1e-5), aggregation={"value_range": 1e-4})
    run = narrow.run(rounds=2)
    for silo in NAMES:
        path = run.directory / "ledgers" / silo / "local.jsonl"
        assert path.stat().st_mode & 0o777 == 0o600
        notes = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(note["round"], note["attempt"], note["coordinates"]) for note in notes] == [(1, 0, 4), (2, 0, 4)]
        assert all(1 <= note["clipped"] <= 4 for note in notes)
    assert b"clipped" not in (run.directory / "events.jsonl").read_bytes()
    assert "clipped" not in run.report.to_json().decode().replace("clipped and counted", "")


def test_spare_rounds_leave_room_in_the_budget(tmp_path: Path) -> None:
    config, text = tiny_config(tmp_path, private=True)
    text = text.replace("delta = 1e-5\n", "delta = 1e-5\nspare_rounds = 2\n")
    report = simulate(parse_config(text), text, tmp_path, output=tmp_path / "runs", task=tiny_task()).report
    assert config.run.rounds == 3
    assert [silo.rounds_left for silo in report.silos] == [2] * 4


def test_a_loss_that_is_a_mean_is_a_mistake_of_the_model_not_a_failed_round(tmp_path: Path) -> None:
    mean = federation(tmp_path, loss=lambda outputs, targets: loss(outputs, targets).mean())
    with pytest.raises(ConfigError, match="loss") as caught:
        mean.run(rounds=2)
    assert caught.value.__notes__ == ["round 1: silo 'a'"]


@pytest.mark.parametrize("budget", [None, PrivacyBudget(epsilon=3, delta=1e-5)])
def test_batch_normalisation_is_refused_with_its_replacement_before_anything_runs(
    tmp_path: Path, budget: PrivacyBudget | None
) -> None:
    model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 1))
    with pytest.raises(ConfigError, match="GroupNorm"):
        Federation(model, silos(), budget, loss=loss, ledger=PER_RUN, directory=tmp_path).run(rounds=1)
    assert not (tmp_path / "runs").exists()


def test_training_uses_one_thread_unless_told_otherwise_and_gives_them_back(tmp_path: Path) -> None:
    seen = []

    def counting(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return loss(outputs, targets)

    before = torch.get_num_threads()
    federation(tmp_path, loss=counting).run(rounds=1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_the_run_leaves_its_events_one_a_line(tmp_path: Path) -> None:
    run = federation(tmp_path, budget=PrivacyBudget(epsilon=3, delta=1e-5)).run(rounds=2)
    events = [json.loads(line) for line in (run.directory / "events.jsonl").read_text().splitlines()]
    per_round = ["SessionOpened", *["PhaseOpened", "PhaseClosed"] * 5, "RoundFinished"]
    per_round += [*["RoundEvaluated"] * (events[-5]["event"] == "RoundEvaluated"), *["BudgetCharged"] * 4]
    assert [event["event"] for event in events] == per_round * 2
    assert [event["round"] for event in events] == [1] * len(per_round) + [2] * len(per_round)
    last = {event["silo"]: event["epsilon_spent"] for event in events[-4:]}
    assert last == run.epsilon
    finished = events[per_round.index("RoundFinished")]
    assert (finished["outcome"], finished["contributors"], finished["dropped"]) == ("summed", list(NAMES), [])


def test_the_configuration_that_is_kept_reads_back_as_the_one_that_ran(tmp_path: Path) -> None:
    run = federation(tmp_path, server={"optimiser": "adam"}).run(rounds=1)
    config, text = load_config(run.directory / "config.toml")
    assert text == run.report.configuration
    assert config.server.optimiser == "adam"
    assert config.run.rounds == 1


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"loss": None}, "loss"),
        ({"training": {"learnin_rate": 1.0}}, "training.learnin_rate"),
        ({"training": {"learning_rate": -1.0}}, "training.learning_rate"),
        ({"aggregation": {"value_bits": 3}}, "aggregation.value_bits"),
        ({"protocol": "magic"}, "aggregation.protocol"),
        ({"server": {"optimiser": object()}}, "federation"),
        ({"name": "Not A Name"}, "run.name"),
        ({"ledger": {"kind": "none"}}, "ledger.kind"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_runs(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        federation(tmp_path, **options)
    assert caught.value.key == key
    assert not (tmp_path / "runs").exists()


def test_a_model_that_is_none_of_the_three_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a module, a function that builds one, or a path"):
        Federation(7, silos(), loss=loss, directory=tmp_path)  # type: ignore[arg-type]


def test_sizes_without_records_need_a_model_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a DataSilo for each"):
        Federation(nn.Linear(FEATURES, 1), {"a": 40, "b": 40}, loss=loss, directory=tmp_path)


@pytest.mark.parametrize(
    ("unit", "mode", "chosen"),
    [("record", "distributed-dp-sgd", "distributed-dp-sgd"), ("client", None, "client-level")],
)
def test_noise_shared_among_silos_is_one_argument_away(
    tmp_path: Path, unit: str, mode: str | None, chosen: str
) -> None:
    budget = PrivacyBudget(epsilon=3, delta=1e-5, unit=unit)
    run = federation(tmp_path, budget=budget, mode=mode).run(rounds=2)
    assert run.status == "completed"
    assert run.report.privacy_mode == chosen
    assert all(2.99 < spent <= 3.0 for spent in run.epsilon.values())
    assert [row.contributors for row in run.rounds] == [NAMES, NAMES]


def test_a_mode_that_does_not_go_with_the_unit_is_refused(tmp_path: Path) -> None:
    budget = PrivacyBudget(epsilon=3, delta=1e-5, unit="client")
    with pytest.raises(ConfigError, match=r"privacy\.unit"):
        federation(tmp_path, budget=budget, mode="local-dp-sgd")
    with pytest.raises(ConfigError, match=r"training\.mode"):
        federation(tmp_path, budget=budget, mode="dp-sgd")

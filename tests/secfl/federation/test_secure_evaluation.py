"""Secure evaluation: one noised sum of histograms, charged, under every protocol and record-level mode."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import MODEL, SILOS, study_text, write_study
from torch import nn
from torch.utils.data import TensorDataset

from protocols.errors import ConfigError, ReportMismatch
from secfl.config import load_config, parse_config
from secfl.federation.secure_evaluation import planned_evaluation
from secfl.federation.session import FinishedRun, simulate
from secfl.federation.setup import plan_run
from secfl.federation.verification import verify_report
from secfl.privacy.accounting import RdpFilter, choose_order, rdp_curve
from secfl.privacy.events import DistributedGaussian
from secfl.privacy.ledger import verify
from secfl.report import write_report
from secfl.training import Task
from secfl.training.scores import score_bins

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

# Five hundred holdout records a silo, so that the noise leaves something to see.
BIG = MODEL.replace("torch.randn(40, 3", "torch.randn(540, 3").replace("[:10]", "[40:]").replace(
    "return TensorDataset(inputs, targets), test", "return TensorDataset(inputs[:40], targets[:40]), test"
)  # fmt: skip


def text_of(mode: str = "local-dp-sgd", metric: str = "auc", epsilon: float = 1.0, **options: Any) -> str:
    text = study_text(private=True, **{"epsilon": 12.0, **options})
    text = text.replace("noise_multiplier = 2.0\n", "").replace(
        'kind = "benchmark"\nmetric = "accuracy"', f'kind = "secure"\nmetric = "{metric}"\nepsilon = {epsilon}'
    )
    if mode == "distributed-dp-sgd":
        text = text.replace("value_range = 4.0\n", "").replace("local-dp-sgd", mode)
        text = text.replace("steps_per_round = 2", "steps_per_round = 1")
    return text


def run(tmp_path: Path, text: str, model: str = BIG) -> tuple[FinishedRun, dict[str, Any]]:
    path = write_study(tmp_path / "study", text, model)
    config, text = load_config(path)
    finished = simulate(config, text, path.parent, output=tmp_path / "runs")
    return finished, json.loads((finished.directory / "evaluation.json").read_text())


@pytest.mark.parametrize(
    ("mode", "protocol"),
    [("local-dp-sgd", "secagg"), ("local-dp-sgd", "oneshot"), ("distributed-dp-sgd", "secagg")],
)
@pytest.mark.parametrize("metric", ["auc", "accuracy"])
def test_figure_comes_from_a_noised_sum_that_the_ledgers_are_charged_for(
    tmp_path: Path, mode: str, protocol: str, metric: str
) -> None:
    finished, figures = run(tmp_path, text_of(mode, metric, aggregation=f'protocol = "{protocol}"'))
    assert finished.result.status == "completed"
    assert figures["problem"] == ""
    assert finished.report.evaluation.value == figures["value"]
    assert 0.6 < figures["value"] <= 1.0
    assert 0 < figures["deviation"] < 0.05
    counts = np.array([*figures["lower"], *figures["upper"]])
    # 2000 records; the sum of forty noised counts is off by sqrt(40) deviations of one, five of these at most.
    assert counts.sum() == pytest.approx(2000, abs=5 * math.sqrt(40) * figures["count_deviation"])
    assert not np.allclose(counts, np.round(counts))  # each record counts as a little less than one step
    config = parse_config((finished.directory / "config.toml").read_text())
    for silo in SILOS:
        ledger = finished.directory / "ledgers" / silo / "records.ledger"
        summary = verify(ledger, bytes.fromhex(next(s for s in finished.report.silos if s.name == silo).public_key))
        *training, last = summary.releases
        assert [release.reservation.run for release in training] == [finished.result.run_id] * 2
        assert last.reservation.run == f"{finished.result.run_id}-evaluation"
        assert last.state.value == "committed"
        assert isinstance(last.reservation.event, DistributedGaussian)
        added = RdpFilter(summary.order, 1e6, 1e-5).rho(last.curve)
        assert 0.99 < added / config.evaluation.epsilon <= 1.0
        assert summary.spent.filter_epsilon <= 12.0
        assert summary.remaining.filter_epsilon < 0.1  # the training had all the rest


def test_exact_counts_never_leave_and_one_record_moves_the_sum_by_one(tmp_path: Path) -> None:
    path = write_study(tmp_path, text_of(), BIG)
    config, _ = load_config(path)
    plan = plan_run(config, path.parent)
    mechanism = planned_evaluation(plan)
    # Sensitivity 1 in L2, noise z times that (rounding included) from the fewest contributors.
    assert mechanism.clip_norm == 1.0
    steps = 2.0**mechanism.fraction_bits
    assert mechanism.plan.l2_sensitivity / steps == pytest.approx(1.0, rel=1e-3)
    order = choose_order([plan.event("east")] * 2, 1e-5)
    rho = rdp_curve(mechanism.plan.event(1))
    assert RdpFilter(order, 1e6, 1e-5).rho(rho) <= 1.0
    z = mechanism.noise_multiplier
    assert z == pytest.approx(math.sqrt(order / 2), rel=2e-3)
    assert mechanism.standard_deviation(config.minimum_contributors - config.collusion_bound) >= z


def test_budget_that_is_spent_halts_the_evaluation_and_keeps_the_model(tmp_path: Path) -> None:
    # A fixed noise multiplier whose two rounds leave less than the evaluation asks for.
    text = text_of(epsilon=2.0).replace("epsilon = 12.0", "epsilon = 4.0")
    text = text.replace("clip_norm = 1.0", "clip_norm = 1.0\nnoise_multiplier = 2.4")
    finished, figures = run(tmp_path, text)
    assert finished.result.status == "completed"
    assert finished.report.evaluation.value is None
    assert "no sum" in figures["problem"]
    assert "requested epsilon" in figures["problem"]
    assert (finished.directory / "model.safetensors").exists()
    for silo in finished.report.silos:
        assert silo.spent_epsilon <= 4.0
        assert sum(row.releases for row in silo.releases) == 2


def test_report_of_a_secure_evaluation_is_verified_from_its_counts(tmp_path: Path) -> None:
    finished, figures = run(tmp_path, text_of())
    write_report(finished.report, finished.directory)
    report = finished.directory / "report.json"
    assert verify_report(report).report.evaluation.value == figures["value"]
    figures["upper"][0] += 50.0
    (finished.directory / "evaluation.json").write_text(json.dumps(figures))
    with pytest.raises(ReportMismatch) as caught:
        verify_report(report)
    assert caught.value.what == "evaluation.value"


def test_silo_without_holdout_records_sends_noise(tmp_path: Path) -> None:
    model = BIG + "\n\n_load = load_data\n\n\ndef load_data(silo, split_seed):\n"
    model += '    train, test = _load(silo, split_seed)\n    return train, None if silo == "west" else test\n'
    _, figures = run(tmp_path, text_of(), model)
    assert figures["contributors"] == list(SILOS)
    total = sum(figures["lower"]) + sum(figures["upper"])
    assert total == pytest.approx(1500, abs=5 * math.sqrt(40) * figures["count_deviation"])


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        (study_text().replace('kind = "benchmark"', 'kind = "secure"\nepsilon = 1.0'), "evaluation.kind", "budget"),
        (text_of(epsilon=12.0), "evaluation.epsilon", "leaves nothing"),
        (text_of().replace("\nepsilon = 1.0", ""), "evaluation.epsilon", "missing"),
        (text_of(metric="f1"), "evaluation.metric", "'f1'"),
        (study_text(private=True, rest="").replace('"accuracy"', '"accuracy"\nbins = 10'), "evaluation.bins", "effect"),
        (text_of().replace("delta = 1e-5", 'delta = 1e-5\nunit = "client"').replace("local-dp-sgd", "client-level"),
         "evaluation.kind", "client"),
        (text_of().replace("\nepsilon = 1.0", "\nepsilon = 1.0\nbins = 7"), "evaluation.bins", "odd"),
    ],
)  # fmt: skip
def test_configuration_that_makes_no_sense_is_refused_by_key(text: str, key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_config(text.replace("value_range = 4.0\n", "") if "client-level" in text else text)
    assert key in str(caught.value)


def task(outputs: torch.Tensor) -> Task:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return outputs[inputs[:, 0].long()]

    return Task("fixed", Fixed, lambda *_: (None, None), lambda *_: torch.zeros(1), lambda *_: 0.0)


def bins_of(outputs: list[Any], targets: list[int], bins: int = 4, **options: bool) -> list[int]:
    records = TensorDataset(torch.arange(len(targets)).float()[:, None], torch.tensor(targets))
    state = {"weight": np.zeros(1, np.float32)}
    return score_bins(task(torch.tensor(outputs)), state, records, bins, **options).tolist()


def test_records_are_counted_once_in_the_bin_of_their_score() -> None:
    # Probabilities .12, .5, .95; negatives in bins 0 to 3, positives in 4 to 7.
    assert bins_of([-2.0, 0.0, 3.0, 3.0], [0, 1, 1, 0]) == [0, 6, 7, 3]
    assert bins_of([[-2.0], [0.0]], [1, 0]) == [4, 2]
    assert bins_of([[0.0, 3.0], [3.0, 0.0]], [1, 0]) == [7, 0]
    assert bins_of([float("nan"), float("inf"), -float("inf")], [1, 1, 0]) == [4, 7, 0]


def test_answers_of_several_classes_are_counted_right_or_wrong() -> None:
    outputs = [[5.0, 0.0, 0.0], [0.0, 0.1, 0.0], [float("nan"), 0.0, 0.0]]
    assert bins_of(outputs, [0, 2, 0], answers=True) == [7, 1, 0]


@pytest.mark.parametrize(
    ("outputs", "targets", "answers"),
    [([[0.0, 1.0, 2.0]], [1], False), ([0.0], [1], True), ([[[0.0, 1.0], [2.0, 3.0]]], [1], True)],
)
def test_outputs_that_do_not_fit_the_metric_are_refused(outputs: list[Any], targets: list[int], answers: bool) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.metric"):
        bins_of(outputs, targets, answers=answers)

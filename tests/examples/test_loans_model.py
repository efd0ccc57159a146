from __future__ import annotations

import csv
import gzip
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from scipy.stats import rankdata
from torch.utils.data import Subset

from secfl.config import load_config, parse_config
from secfl.federation.session import FinishedRun, simulate
from secfl.privacy import SampledGaussian
from secfl.privacy.accounting import noise_multiplier_for, rdp_epsilon
from secfl.training import DpSgdSettings, LocalDpSgd, Task, load_task, model_state
from secfl.training.batches import batch_of
from secfl.training.dp_step import DpStep

FOLDER = Path(__file__).parents[2] / "examples" / "loans"
CONFIGURATIONS = ("config.toml", "config_plain.toml")
SILO_SIZE, TEST_SIZE = 6000, 1500
CHARGED_OFF = {
    "bank-of-america": 1665,
    "bbcn": 3342,
    "capital-one": 2496,
    "citizens": 1342,
    "huntington": 804,
    "jpmorgan-chase": 1634,
    "keybank": 699,
    "m-and-t": 799,
    "pnc": 1149,
    "readycap": 1651,
    "us-bank": 1012,
    "wells-fargo": 824,
}

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Optimal order")


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(FOLDER / "model.py")


@pytest.fixture(scope="module")
def module(task: Task) -> ModuleType:
    return sys.modules[task.build.__module__]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors here are small: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(task: Task, silo: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    data = task.silo_data(silo, seed)
    return tuple(torch.cat(parts) for parts in zip(data.train.tensors, data.test.tensors, strict=True))


def small(name: str, rounds: int) -> dict[str, Any]:
    """A configuration of the example cut down to its first three banks and a few rounds."""
    values = tomllib.loads((FOLDER / name).read_text())
    values["run"]["rounds"] = rounds
    values["silo"] = values["silo"][:3]
    return values


def real_run(text: str, output: Path) -> FinishedRun:
    return simulate(parse_config(text), text, FOLDER, output=output)


@pytest.mark.parametrize("silo", CHARGED_OFF)
def test_every_loan_of_a_bank_is_read_once_with_features_in_range(task: Task, module: ModuleType, silo: str) -> None:
    inputs, targets = tensors(task, silo)
    assert inputs.shape == (SILO_SIZE, module.FEATURES + 2)
    assert int(targets.sum()) == CHARGED_OFF[silo]
    assert set(targets.tolist()) == {0.0, 1.0}
    assert bool(torch.isfinite(inputs).all())
    assert float(inputs[:, : module.FEATURES].abs().max()) <= 2.0
    for column, codes in ((-2, module.STATES), (-1, module.SECTORS)):
        indices = inputs[:, column]
        assert torch.equal(indices, indices.round())
        assert int(indices.min()) >= 0
        assert int(indices.max()) <= len(codes)


def test_missing_states_and_sectors_have_an_index_of_their_own_and_all_others_are_listed(
    task: Task, module: ModuleType
) -> None:
    inputs = torch.cat([tensors(task, silo)[0] for silo in CHARGED_OFF])
    assert [int((inputs[:, column] == 0).sum()) for column in (-2, -1)] == [1, 12_750]
    assert len(set(module.STATES)) == len(module.STATES) == 51
    assert len(set(module.SECTORS)) == len(module.SECTORS) == 24


@pytest.mark.parametrize("silo", CHARGED_OFF)
def test_split_is_repeatable_complete_and_three_to_one(task: Task, silo: str) -> None:
    first, again, other = (task.silo_data(silo, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.train.tensors, again.train.tensors, strict=True))
    assert not torch.equal(first.train.tensors[0], other.train.tensors[0])
    assert (len(first.train), len(first.test)) == (SILO_SIZE - TEST_SIZE, TEST_SIZE)
    rows = [tensors(task, silo, seed)[0] for seed in (0, 1)]
    assert torch.equal(*(matrix[np.lexsort(matrix.numpy().T)] for matrix in rows))


def test_silos_of_the_configurations_are_the_banks_at_their_nominal_sizes(task: Task) -> None:
    for name in CONFIGURATIONS:
        config, _ = load_config(FOLDER / name)
        sizes = {silo.name: silo.nominal_size for silo in config.silo}
        assert sizes == {silo: len(task.silo_data(silo, config.run.seed).train) for silo in CHARGED_OFF}


def test_loan_is_encoded_as_documented(module: ModuleType) -> None:
    loan = {
        "approval_year": 2003,  # half way between the knots 2002 and 2004
        "employees": 0,
        "new_business": 0,
        "jobs_created": 0,
        "jobs_retained": 10**6,  # beyond the largest: cut
        "franchise": 1,
        "urban_rural": 2,
        "revolving": 1,
        "low_doc": 0,
        "approved_usd": 50_000,
        "guaranteed_usd": 40_000,
    }
    [vector] = module.features({column: np.array([value], dtype=float) for column, value in loan.items()})
    basic = [
        *(0.0, -1.0, 0.0, 1.0),  # 50,000 is two powers of ten below the cap, half the range; headcounts
        *(1, 1, 0),  # none: employees, jobs created, but not jobs retained
        *(1, -1, 0, 1),  # revolving, not low-doc, not new, a franchise
        *(0, 0, 1),  # rural
        *(-1, 0, 1, 0, 0),  # guaranteed at 80 %
    ]
    year = np.zeros(14)
    year[[7, 8]] = 1.0  # one half each, times YEAR_SCALE
    assert vector[:19] == pytest.approx(basic)
    assert vector[19:25] == pytest.approx([0, 0, 1, 0, 0, 0])  # the knot at 50,000
    assert vector[module.YEAR_COLUMNS] == pytest.approx(year)
    # Amount, employees, revolving, guaranteed at one half, each by year.
    assert vector[module.YEAR_COLUMNS.stop :] == pytest.approx(np.concatenate([0 * year, -year, year, -year]))


def test_what_is_known_only_after_approval_is_no_input(module: ModuleType) -> None:
    with gzip.open(module.FILE, "rt", newline="") as file:
        rows = list(csv.DictReader(file))[:100]
    unknown = {"bank", "state", "sector", "disbursed_usd", "charged_off"}
    columns = {column: np.array([float(row[column]) for row in rows]) for column in rows[0].keys() - unknown}
    assert module.features(columns).shape == (100, module.FEATURES)


def test_metric_is_the_rank_statistic_with_ties(task: Task) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(12, (200,), generator=generator).float()
    targets = torch.randint(2, (200,), generator=generator).float()
    ranks, positives = rankdata(outputs), int(targets.sum())
    statistic = ranks[targets.numpy() == 1].sum() - positives * (positives + 1) / 2
    assert task.metric(outputs, targets) == pytest.approx(statistic / (positives * (200 - positives)))


def test_ghost_clipping_sums_the_same_clipped_gradients_as_hooks(task: Task) -> None:
    records = task.silo_data("pnc", 0).train
    sums = {}
    for kind in ("hooks", "ghost"):
        torch.manual_seed(0)
        model = task.build_model().train()
        with torch.no_grad():
            for parameter in model.parameters():  # embeddings start at zero, which would hide them
                parameter.add_(0.1 * torch.randn(parameter.shape))
        settings = DpSgdSettings(0.5, SILO_SIZE, 1.0, 1.0, 1.0, grad_sample=kind)
        step = DpStep(model, task, settings, lambda _: pytest.fail("no noise is drawn before the step's end"))
        step.begin()
        assert step.add(*batch_of(records, range(64)), records=64) == 0
        sums[kind] = torch.cat([part.flatten() for part in step.clipped_sum()])
    assert float(sums["hooks"].norm()) > 1.0
    assert torch.allclose(sums["hooks"], sums["ghost"], atol=1e-4)


def test_empty_sample_of_the_example_s_model_is_noise_alone(task: Task) -> None:
    records = Subset(task.silo_data("pnc", 0).train, [])
    settings = DpSgdSettings(0.4, SILO_SIZE - TEST_SIZE, 1.0, 1.0, 1.0, grad_sample="ghost")
    update = LocalDpSgd(task, settings).train(model_state(task.build_model()), records, 1)
    assert update.empty_samples == 1
    noise = np.concatenate([part.ravel() for part in update.update.values()])
    assert noise.std() * 0.4 * 4500 == pytest.approx(1.0, rel=0.1)


def test_two_rounds_between_three_banks_improve_on_the_start(tmp_path: Path) -> None:
    finished = real_run(tomli_w.dumps(small("config_plain.toml", 2)), tmp_path)
    assert finished.result.status == "completed"
    assert 0.6 < finished.result.metric < 0.85  # the start is 0.5 exactly: the output layer is zero


def test_private_round_between_three_banks_charges_each_ledger_alike(tmp_path: Path) -> None:
    values = small("config.toml", 1)
    training, budget = values["training"], values["privacy"]
    noise_multiplier = noise_multiplier_for(budget["epsilon"], budget["delta"], training["sampling_rate"], 60)
    training["noise_multiplier"] = noise_multiplier
    finished = real_run(tomli_w.dumps(values), tmp_path)
    assert finished.result.status == "completed"
    least = rdp_epsilon([SampledGaussian(training["sampling_rate"], noise_multiplier, 1)], budget["delta"])
    spent = {silo.spent_epsilon for silo in finished.report.silos}
    assert len(spent) == 1
    assert least <= spent.pop() < 1.1 * least
    assert least < budget["epsilon"] / 5


@pytest.mark.slow
def test_plain_configuration_reaches_its_auc(tmp_path: Path) -> None:
    finished = real_run((FOLDER / "config_plain.toml").read_text(), tmp_path)
    assert finished.result.status == "completed"
    assert finished.result.metric >= 0.78


@pytest.mark.slow
def test_private_configuration_reaches_its_auc_within_its_budget(tmp_path: Path) -> None:
    finished = real_run((FOLDER / "config.toml").read_text(), tmp_path)
    assert finished.result.status == "completed"
    assert finished.result.metric >= 0.77
    for silo in finished.report.silos:
        assert 2.99 < silo.spent_epsilon <= 3.0

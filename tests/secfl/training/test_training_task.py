from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protocols.errors import ConfigError, MissingExtra
from secfl.training import load_task

GOOD = """
from torch import nn, zeros
from torch.utils.data import TensorDataset
def build_model(): return nn.Linear(2, 1)
def load_data(silo, split_seed): return TensorDataset(zeros(3, 2), zeros(3)), None
def loss(outputs, targets): return (outputs[:, 0] - targets) ** 2
def metric(outputs, targets): return 0.5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "model.py"
    path.write_text(text)
    return path


def test_model_file_becomes_a_task(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD))
    assert task.name == "model.py"
    assert isinstance(task.build_model(), torch.nn.Linear)
    data = task.silo_data("north", 0)
    assert len(data.train) == 3
    assert data.test is None
    assert task.record_losses(torch.ones(3, 1), torch.zeros(3), 3).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("function", ["build_model", "load_data", "loss", "metric"])
def test_missing_function_is_named(tmp_path: Path, function: str) -> None:
    with pytest.raises(ConfigError, match="does not define") as caught:
        load_task(write(tmp_path, GOOD.replace(f"def {function}(", f"def other_{function}(")))
    assert caught.value.key == f"model.{function}"


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        ("build_model", "build_model()", "build_model(width)"),
        ("load_data", "load_data(silo, split_seed)", "load_data(silo)"),
        ("loss", "loss(outputs, targets)", "loss(outputs, targets, weights)"),
        ("metric", "metric(outputs, targets)", "metric(*, outputs, targets)"),
    ],
)
def test_function_with_other_arguments_is_named(tmp_path: Path, function: str, old: str, new: str) -> None:
    with pytest.raises(ConfigError, match="not callable as") as caught:
        load_task(write(tmp_path, GOOD.replace(old, new)))
    assert caught.value.key == f"model.{function}"


def test_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_task(tmp_path / "none.py")


def test_error_in_the_file_keeps_its_cause(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ZeroDivisionError") as caught:
        load_task(write(tmp_path, GOOD + "\n1 / 0\n"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_import_of_an_unknown_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="imports no_such_package_here"):
        load_task(write(tmp_path, "import no_such_package_here\n" + GOOD))


def test_model_that_is_no_module_is_refused(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD.replace("return nn.Linear(2, 1)", "return 3")))
    with pytest.raises(ConfigError, match="returned int") as caught:
        task.build_model()
    assert caught.value.key == "model.build_model"


@pytest.mark.parametrize("result", ["TensorDataset(zeros(3, 2), zeros(3))", "(None, None)", "(iter([]), None)"])
def test_data_that_is_no_pair_of_data_sets_is_refused(tmp_path: Path, result: str) -> None:
    good = "return TensorDataset(zeros(3, 2), zeros(3)), None"
    task = load_task(write(tmp_path, GOOD.replace(good, f"return {result}")))
    with pytest.raises(ConfigError, match="silo 'north'") as caught:
        task.silo_data("north", 0)
    assert caught.value.key == "model.load_data"


@pytest.mark.parametrize("reduction", ["((outputs[:, 0] - targets) ** 2).mean()", "(outputs - targets[:, None]) ** 2"])
def test_loss_that_is_not_one_per_record_is_refused(tmp_path: Path, reduction: str) -> None:
    task = load_task(write(tmp_path, GOOD.replace("(outputs[:, 0] - targets) ** 2", reduction)))
    with pytest.raises(ConfigError, match="for a batch of 3") as caught:
        task.record_losses(torch.ones(3, 1), torch.zeros(3), 3)
    assert caught.value.key == "model.loss"


def test_two_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = load_task(write(tmp_path / "a", GOOD))
    second = load_task(write(tmp_path / "b", GOOD.replace("Linear(2, 1)", "Linear(2, 7)")))
    assert first.build_model().out_features == 1
    assert second.build_model().out_features == 7


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_importing_the_package_loads_neither_torch_nor_opacus() -> None:
    run("import sys, secfl.training; assert not {'torch', 'opacus'} & set(sys.modules)")


@pytest.mark.parametrize("package", ["torch", "opacus"])
def test_missing_package_names_the_extra(package: str) -> None:
    run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "import secfl.training\nfrom protocols.errors import MissingExtra\n"
        "try:\n    secfl.training.LocalDpSgd\n"
        "except MissingExtra as error:\n    assert error.extra == 'train'\nelse:\n    raise SystemExit(1)"
    )


def test_model_file_without_torch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtra) as caught:
        load_task(write(tmp_path, "import opacus\n" + GOOD))
    assert caught.value.extra == "train"

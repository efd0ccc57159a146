"""The user's model file: what it must define, and how it is loaded.

A model file is Python with four functions::

    def build_model() -> torch.nn.Module
    def load_data(silo: str, split_seed: int) -> tuple[Dataset, Dataset | None]     # train, test
    def loss(outputs, targets) -> Tensor        # one loss per record, shape (batch,): never a mean or a sum
    def metric(outputs, targets) -> float       # on all test records at once

A data set has a length and yields pairs (input, target). The loss is per record because the trainer, not the user,
decides what a batch is divided by: under privacy that is a public constant, and each record is clipped by itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from protocols.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

__all__ = ["MODULE_PREFIX", "SiloData", "Task", "load_task"]

MODULE_PREFIX = "secfl_model_"
"""Of the module name that a model file gets."""

# Name, names of the positional arguments, what it has to return.
_FUNCTIONS = (
    ("build_model", (), "a torch.nn.Module"),
    ("load_data", ("silo", "split_seed"), "a pair (train, test); test may be None"),
    ("loss", ("outputs", "targets"), "one loss per record: a floating-point tensor of shape (batch,)"),
    ("metric", ("outputs", "targets"), "a number"),
)
_RETURNS = {name: returns for name, _, returns in _FUNCTIONS}


def _fault(function: str, problem: str) -> ConfigError:
    return ConfigError(f"model.{function}", problem, _RETURNS[function])


class SiloData(NamedTuple):
    """Records of one silo. ``test`` is for evaluation and, where a metric is released, declared unprotected."""

    train: Dataset[Any]
    test: Dataset[Any] | None


@dataclass(frozen=True)
class Task:
    """A model file's four functions, each result checked.

    :param name: what errors and reports call it, for instance the file's name.
    """

    name: str
    build: Callable[[], nn.Module]
    load: Callable[[str, int], tuple[Dataset[Any], Dataset[Any] | None]]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]

    def build_model(self) -> nn.Module:
        """Return a new model.

        :raises ConfigError: if the function returns something else.
        """
        from torch import nn  # torch is an extra: not at import time

        model = self.build()
        if not isinstance(model, nn.Module):
            raise _fault("build_model", f"returned {type(model).__name__}")
        return model

    def silo_data(self, silo: str, split_seed: int) -> SiloData:
        """Load the records of ``silo``.

        :param split_seed: decides the split into train and test; it reaches neither noise nor sampling.
        :raises ConfigError: if the result is not a pair of data sets with a length.
        """
        loaded = self.load(silo, split_seed)
        if not isinstance(loaded, tuple) or len(loaded) != 2:
            raise _fault("load_data", f"returned {type(loaded).__name__} for silo {silo!r}")
        for part, records in zip(("train", "test"), loaded, strict=True):
            if part == "test" and records is None:
                continue
            if not (hasattr(records, "__len__") and hasattr(records, "__getitem__")):
                raise _fault("load_data", f"{part} records of silo {silo!r} have no length or index")
        return SiloData(*loaded)

    def record_losses(self, outputs: Tensor, targets: Tensor, records: int) -> Tensor:
        """Return the losses of a batch, shape ``(records,)``.

        :raises ConfigError: if the user's function reduces them or returns another shape.
        """
        losses = self.loss(outputs, targets)
        if not hasattr(losses, "shape") or tuple(losses.shape) != (records,) or not losses.is_floating_point():
            shape = tuple(losses.shape) if hasattr(losses, "shape") else type(losses).__name__
            raise _fault("loss", f'returned {shape} for a batch of {records}; use reduction="none"')
        return losses


def _import(path: Path) -> ModuleType:
    name = f"{MODULE_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError("model", f"{path} cannot be read", "a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and DataLoader workers look a class's module up here
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("torch", "opacus"):
            raise MissingExtra(f"model file {path.name}", "train") from error
        raise ConfigError("model", f"{path} imports {error.name}, which is not installed") from error
    except Exception as error:  # user code may raise anything; the cause stays attached
        raise ConfigError("model", f"{path} failed on import: {type(error).__name__}: {error}") from error
    return module


def _function(module: ModuleType, path: Path, name: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
    function = getattr(module, name, None)
    call = f"{name}({', '.join(arguments)})"
    if not callable(function):
        raise _fault(name, f"{path} does not define {call}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise _fault(name, f"{path}: not callable as {call}: {error}") from error
    return function  # type: ignore[no-any-return]


def load_task(path: str | Path) -> Task:
    """Load a model file. It is executed: it has the rights of whoever runs it.

    :raises ConfigError: naming the function that is missing or takes other arguments.
    :raises MissingExtra: if the file needs torch or Opacus and they are not installed.
    """
    path = Path(path)
    module = _import(path)
    functions = {name: _function(module, path, name, arguments) for name, arguments, _ in _FUNCTIONS}
    return Task(
        name=path.name,
        build=functions["build_model"],
        load=functions["load_data"],
        loss=functions["loss"],
        metric=functions["metric"],
    )

"""A model's tensors as plain arrays: loading the global state, the difference that a silo sends, applying a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from protocols.errors import EncodingError

__all__ = ["LocalUpdate", "State", "add_update", "load_state", "model_state", "parameter_difference"]

State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LocalUpdate:
    """What training at one silo yields.

    :param update: local minus global for every trainable parameter, float32, by name; nothing else changes.
    :param steps: steps taken, the empty samples among them: what the accountant is told.
    :param non_finite_records: contributions left out as not finite. Stays at the silo (it depends on private records).
    :param empty_samples: steps whose sample was empty. Stays at the silo.
    """

    update: dict[str, npt.NDArray[np.float32]]
    steps: int
    non_finite_records: int = field(default=0, repr=False)
    empty_samples: int = field(default=0, repr=False)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model's state under its first name: tied parameters appear once."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def model_state(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Return copies of the model's parameters and buffers by name, in the model's order and dtypes."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in _tensors(model).items()}


def load_state(model: nn.Module, state: State) -> None:
    """Copy ``state`` (from :func:`model_state`) into ``model``.

    :raises EncodingError: naming a tensor that is missing, unknown, of another shape or dtype, or not finite.
    """
    tensors = _tensors(model)
    for name in state:
        if name not in tensors:
            raise EncodingError(name, "not a tensor of this model")
    for name, tensor in tensors.items():
        if name not in state:
            raise EncodingError(name, "missing from the global model")
        given = torch.from_numpy(np.array(state[name]))  # keeps a scalar's shape, unlike ascontiguousarray
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise EncodingError(
                name,
                f"{given.dtype} of shape {tuple(given.shape)}, expected {tensor.dtype} of shape {tuple(tensor.shape)}",
            )
        if not bool(torch.isfinite(given).all()):
            raise EncodingError(name, "not finite in the global model")
        with torch.no_grad():
            tensor.copy_(given)


def parameter_difference(model: nn.Module, state: State) -> dict[str, npt.NDArray[np.float32]]:
    """Return trained minus given for every trainable parameter, float32. Values may be non-finite."""
    return {
        name: (tensor.detach().numpy() - state[name]).astype(np.float32)
        for name, tensor in _tensors(model).items()
        if tensor.requires_grad
    }


def add_update(state: State, update: State) -> dict[str, npt.NDArray[Any]]:
    """Return the state with ``update`` (a mean of updates, or a server optimiser's step) added, in the state's dtypes.

    :raises EncodingError: naming a tensor that the state lacks or that has another shape.
    """
    for name, change in update.items():
        if name not in state or np.shape(change) != np.shape(state[name]):
            raise EncodingError(name, "does not fit a tensor of the global model")
    return {
        name: np.asarray(values + update[name], dtype=values.dtype) if name in update else values
        for name, values in state.items()
    }

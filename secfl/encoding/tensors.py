"""numpy arrays and torch tensors behind three functions: inspect one, copy one into a float32 view, make one.

torch is never imported to look at a value: who passes a tensor has imported it.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, MissingExtra
from secfl.encoding.vectors import Vector

__all__ = ["FLOAT_DTYPES", "INTEGER_DTYPES", "Container", "TensorForm", "copy_into", "inspect_tensor", "make_tensor"]

Container = Literal["numpy", "torch"]

FLOAT_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGER_DTYPES = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})


@dataclass(frozen=True, slots=True)
class TensorForm:
    """Dtype name (as numpy and torch both spell it) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def _is_torch(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def inspect_tensor(name: str, value: object) -> TensorForm:
    """Dtype and shape of a numpy array or torch tensor.

    :raises EncodingError: another type, a masked, sparse or meta tensor, a dtype that is neither float nor integer.
    """
    if _is_torch(value):
        tensor: Any = value
        dtype = str(tensor.dtype).removeprefix("torch.")
        if str(tensor.layout) != "torch.strided" or tensor.is_meta:
            raise EncodingError(name, f"a dense tensor with values is expected, not {tensor.layout} on {tensor.device}")
        form = TensorForm(dtype, tuple(tensor.shape))
    elif isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        form = TensorForm(value.dtype.name, value.shape)
    else:
        raise EncodingError(name, f"a numpy array or torch tensor is expected, not {type(value).__name__}")
    if form.dtype not in FLOAT_DTYPES | INTEGER_DTYPES:
        raise EncodingError(name, f"dtype {form.dtype} cannot be encoded; allowed: {', '.join(sorted(FLOAT_DTYPES))}")
    return form


def copy_into(destination: npt.NDArray[np.float32], value: object) -> None:
    """Copy a float tensor into a float32 view of its shape, in one pass, from any device, strides and byte order."""
    if _is_torch(value):
        tensor: Any = value
        sys.modules["torch"].from_numpy(destination).copy_(tensor.detach())
        return
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the caller looks for
        np.copyto(destination, value, casting="same_kind")  # type: ignore[arg-type]  # inspect_tensor saw an array


def make_tensor(name: str, values: Vector, dtype: str, container: Container) -> Any:
    """New array or tensor of ``dtype`` with the finite ``values`` (float32 or float64, of the final shape).

    :raises EncodingError: a value beyond the range of ``dtype``, or bfloat16 asked for as a numpy array.
    :raises MissingExtra: torch tensors are asked for and torch is not installed.
    """
    if container == "numpy":
        if dtype == "bfloat16":
            raise EncodingError(name, "numpy has no bfloat16: ask for torch tensors")
        with np.errstate(over="ignore"):
            made: Any = values.astype(dtype)
        finite = bool(np.isfinite(made).all())
    else:
        torch = _import_torch()
        # torch warns of read-only memory and refuses negative strides
        source = values if values.flags.writeable and values.flags.c_contiguous else values.copy()
        made = torch.from_numpy(source).to(dtype=getattr(torch, dtype), copy=True)
        finite = bool(torch.isfinite(made).all())
    if not finite:
        raise EncodingError(name, f"a value is beyond the range of {dtype}")
    return made


def _import_torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("unflattening into torch tensors", "train") from None

"""Training at one silo: a task (the user's model file), the checks before it, local DP-SGD and plain SGD.

Importing this package needs neither torch nor Opacus; the names that do are loaded when first asked for and raise
:class:`protocols.errors.MissingExtra` where the extra ``train`` is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from protocols.errors import MissingExtra
from secfl.training.settings import DpSgdSettings, GradientSumSettings, PlainSettings
from secfl.training.task import SiloData, Task, load_task

if TYPE_CHECKING:
    from secfl.training.checks import check_model
    from secfl.training.client_level import ClientLevel
    from secfl.training.distributed_dp_sgd import DistributedDpSgd
    from secfl.training.evaluation import pooled_metric
    from secfl.training.local_dp_sgd import LocalDpSgd
    from secfl.training.plain import PlainSgd
    from secfl.training.state import LocalUpdate, add_update, model_state

__all__ = [
    "ClientLevel",
    "DistributedDpSgd",
    "DpSgdSettings",
    "GradientSumSettings",
    "LocalDpSgd",
    "LocalUpdate",
    "PlainSettings",
    "PlainSgd",
    "SiloData",
    "Task",
    "add_update",
    "check_model",
    "load_task",
    "model_state",
    "pooled_metric",
]

_NEED_TORCH = {
    "check_model": "checks",
    "ClientLevel": "client_level",
    "DistributedDpSgd": "distributed_dp_sgd",
    "LocalDpSgd": "local_dp_sgd",
    "LocalUpdate": "state",
    "PlainSgd": "plain",
    "add_update": "state",
    "model_state": "state",
    "pooled_metric": "evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "opacus"):
            raise
        raise MissingExtra(f"secfl.training.{name}", "train") from error

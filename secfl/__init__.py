"""Federated training with secure aggregation and differential privacy.

`SecureAggregator` for those with a pipeline of their own (numpy alone), `Federation` for those with a model and records
(extra ``train``), the ``secfl`` command for a configuration file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protocols.errors import SecflError
    from secfl.aggregation import (
        AggregationParty,
        AggregationResult,
        AggregationServer,
        Agreement,
        Limits,
        Rules,
        SecureAggregator,
    )
    from secfl.engines import Incident
    from secfl.federation.federation import DataSilo, Federation, Run
    from secfl.privacy.budget import PrivacyBudget

__all__ = [
    "AggregationParty",
    "AggregationResult",
    "AggregationServer",
    "Agreement",
    "DataSilo",
    "Federation",
    "Incident",
    "Limits",
    "PrivacyBudget",
    "Rules",
    "Run",
    "SecflError",
    "SecureAggregator",
    "__version__",
]

__version__ = "0.1.0"

# Loaded when first asked for, so that `import secfl` costs nothing and needs no extra.
_HOMES = {
    "AggregationParty": "secfl.aggregation",
    "AggregationResult": "secfl.aggregation",
    "AggregationServer": "secfl.aggregation",
    "Agreement": "secfl.aggregation",
    "DataSilo": "secfl.federation.federation",
    "Federation": "secfl.federation.federation",
    "Incident": "secfl.engines",
    "Limits": "secfl.aggregation",
    "PrivacyBudget": "secfl.privacy.budget",
    "Rules": "secfl.aggregation",
    "Run": "secfl.federation.federation",
    "SecflError": "protocols.errors",
    "SecureAggregator": "secfl.aggregation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

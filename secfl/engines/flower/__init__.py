"""Flower as the engine: secure aggregation in somebody's Flower app, and deployments of our own on SuperLink and
SuperNodes. Needs the extra ``flower``.
"""

from __future__ import annotations

try:
    import flwr as _flwr  # noqa: F401
except ImportError as _error:
    from protocols.errors import MissingExtra

    raise MissingExtra("the Flower engine", "flower") from _error

from secfl.engines.flower.client import secagg_mod
from secfl.engines.flower.engine import FlowerEngine
from secfl.engines.flower.noise import ClientLevelNoise
from secfl.engines.flower.strategy import SecureAggregation, SecureRound

__all__ = ["ClientLevelNoise", "FlowerEngine", "SecureAggregation", "SecureRound", "secagg_mod"]

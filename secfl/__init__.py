"""Federated training with secure aggregation and differential privacy."""

from __future__ import annotations

from secfl.privacy.budget import PrivacyBudget

__all__ = ["PrivacyBudget", "__version__"]

__version__ = "0.1.0"

"""Differential privacy: events and their accounting, the budget, and the ledger that keeps to it."""

from secfl.privacy.budget import PrivacyBudget, check_delta
from secfl.privacy.events import DistributedGaussian, PrivacyEvent, SampledGaussian
from secfl.privacy.ledger import Ledger, LedgerSummary, Lineage

__all__ = [
    "DistributedGaussian",
    "Ledger",
    "LedgerSummary",
    "Lineage",
    "PrivacyBudget",
    "PrivacyEvent",
    "SampledGaussian",
    "check_delta",
]

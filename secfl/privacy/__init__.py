"""Differential privacy: events and their accounting, the budget, and the ledger that keeps to it."""

from secfl.privacy.budget import PrivacyBudget, check_delta
from secfl.privacy.events import DistributedGaussian, PrivacyEvent, SampledGaussian
from secfl.privacy.ledger import Ledger, LedgerSummary, Lineage
from secfl.privacy.planning import (
    DropoutCost,
    ModeCost,
    TrainingPlan,
    compare_modes,
    distributed_noise_multiplier_for,
    dropout_costs,
    epsilon_of_plan,
    noise_multiplier_for,
    rounds_left,
    with_noise_for,
)

__all__ = [
    "DistributedGaussian",
    "DropoutCost",
    "Ledger",
    "LedgerSummary",
    "Lineage",
    "ModeCost",
    "PrivacyBudget",
    "PrivacyEvent",
    "SampledGaussian",
    "TrainingPlan",
    "check_delta",
    "compare_modes",
    "distributed_noise_multiplier_for",
    "dropout_costs",
    "epsilon_of_plan",
    "noise_multiplier_for",
    "rounds_left",
    "with_noise_for",
]

"""Federated training: a round, a run, the silo's side of it."""

from __future__ import annotations

from secfl.federation.round import RoundOutcome, RoundPlan
from secfl.federation.run import RunResult, run_rounds
from secfl.federation.silo import LocalTraining, Silo

__all__ = ["LocalTraining", "RoundOutcome", "RoundPlan", "RunResult", "Silo", "run_rounds"]

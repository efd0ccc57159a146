"""Numerical accountants by well-kept libraries: PRV (Opacus) and PLD (dp-accounting), both optional.

They are tighter than Rényi accounting for one plan fixed before its first release, and check it; the lifetime budget is
the filter's business (``accounting.RdpFilter``).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from protocols.errors import MissingExtra, PrivacyError
from secfl.privacy.budget import require_delta
from secfl.privacy.events import PrivacyEvent, SampledGaussian

__all__ = ["pld_epsilon", "prv_epsilon", "require_pld"]

_PRV_EPSILON_ERROR = 0.01
Plan = tuple[tuple[tuple[float, float], int], ...]
"""Steps by sampling rate and noise multiplier."""


def prv_epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Upper bound on epsilon of a fixed plan by composing privacy random variables (Gopi, Lee, Wutschitz 2021).

    :raises PrivacyError: delta out of range, a kind without a PRV, or a plan that Opacus cannot discretise.
    :raises MissingExtra: Opacus is not installed.
    """
    require_delta(delta)
    plan = _merged(events, "PRV")
    if not plan:
        return 0.0
    try:
        import opacus.accountants  # noqa: F401  before the cache: an answer must not depend on what was asked before
    except ImportError as error:
        raise MissingExtra("the PRV accountant", "train") from error
    return _prv(plan, delta)


def pld_epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Upper bound on epsilon of a fixed plan by privacy loss distributions (Doroshenko et al. 2022), add or remove one.

    :raises PrivacyError: delta out of range, or a kind without a PLD.
    :raises MissingExtra: dp-accounting is not installed.
    """
    require_delta(delta)
    plan = _merged(events, "PLD")
    if not plan:
        return 0.0
    require_pld()
    return _pld(plan, delta)


def require_pld() -> None:
    """Check that PLD can be asked; before the cache, as above.

    :raises MissingExtra: dp-accounting is not installed.
    """
    try:
        import dp_accounting.pld  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the PLD accountant", "train") from error


@lru_cache(maxsize=64)
def _prv(plan: Plan, delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, rate, steps) for (rate, noise_multiplier), steps in plan]
    # At sampling rate 1 Opacus takes log(1 - 1): minus infinity is the value it means.
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        # It only chooses the width of a grid by RDP at orders of its own; their end is no matter.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        try:
            return float(accountant.get_epsilon(delta, eps_error=_PRV_EPSILON_ERROR, delta_error=delta / 1000))
        except (ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
            raise PrivacyError(f"Opacus cannot discretise this plan: {type(error).__name__}") from error


@lru_cache(maxsize=64)
def _pld(plan: Plan, delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    accountant = PLDAccountant()
    for (rate, noise_multiplier), steps in plan:
        step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise_multiplier))
        accountant.compose(step, steps)
    return float(accountant.get_epsilon(delta))


def _merged(events: Sequence[PrivacyEvent], accountant: str) -> Plan:
    """Steps by (sampling rate, noise multiplier), sorted: one discretisation each, and no trace of their order."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        if not isinstance(event, SampledGaussian):
            raise PrivacyError(f"event: no {accountant} for the kind {type(event).__name__}")
        steps[event.sampling_rate, event.noise_multiplier] += event.steps
    return tuple(sorted(steps.items()))

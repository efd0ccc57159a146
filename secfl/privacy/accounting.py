"""Rényi accounting at fixed integer orders: curves, conversion to (epsilon, delta), the filter and planning.

Definitions: Mironov 2017 (Rényi differential privacy); subsampled Gaussian at integer orders: Mironov, Talwar, Zhang
2019, section 3.3; conversion: Canonne, Kamath, Steinke 2020, proposition 12; filter: Feldman, Zrnic 2021, theorem 4.3.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from protocols.errors import BudgetExceeded, PrivacyError
from secfl.privacy.budget import check_delta, require_delta, require_epsilon
from secfl.privacy.crosscheck import pld_epsilon, prv_epsilon
from secfl.privacy.events import (
    MAX_NOISE_MULTIPLIER,
    MAX_STEPS,
    MIN_NOISE_MULTIPLIER,
    AnyPrivacyEvent,
    DistributedGaussian,
    PrivacyEvent,
    SampledGaussian,
    require_sampling_rate,
)

__all__ = [
    "ORDERS",
    "ORDERS_VERSION",
    "PrivacyEvent",
    "RdpFilter",
    "SampledGaussian",
    "check_delta",
    "choose_order",
    "compose",
    "epsilon",
    "fits_budget",
    "noise_multiplier_for",
    "order_within_budget",
    "pld_epsilon",
    "prv_epsilon",
    "rdp_curve",
    "rdp_epsilon",
    "steps_left",
]

Curve = NDArray[np.float64]

# The orders are part of every stored curve: another choice is another version, and the old one stays readable.
# Every integer to 64, then 16 per octave: between two of them epsilon is off by less than one part in a thousand.
ORDERS_VERSION = 1
ORDERS: tuple[int, ...] = (
    *range(2, 65),
    *(order for step in (4, 8, 16, 32, 64) for order in range(17 * step, 32 * step + 1, step)),
)
_ORDERS_ARRAY = np.array(ORDERS, dtype=np.float64)
_INDEX = {order: index for index, order in enumerate(ORDERS)}

# Bound on the relative floating-point error of a curve (largest seen against 60 digits: 2e-13). Curves are raised by
# it, so that none is below the true one.
_ROUNDING = 1e-11
# Noise multipliers are planned in steps of this size: readable, and fine enough to tell T from T + 1 steps.
_NOISE_MULTIPLIER_GRID = 10**8


def rdp_curve(event: PrivacyEvent) -> Curve:
    """Return the Rényi divergence bound of one event at each order.

    Only integer orders are used: the series for fractional ones converges slowly or not at all when the noise is small.

    :returns: float64 of shape (len(ORDERS),), nats, read-only, never below the true value.
    :raises PrivacyError: the event's kind has no curve here.
    """
    if isinstance(event, SampledGaussian):
        curve = event.steps * _sampled_gaussian_step(event.sampling_rate, event.noise_multiplier)
        curve.flags.writeable = False
        return curve
    if isinstance(event, DistributedGaussian):
        curve = event.steps * _distributed_gaussian_step(
            event.sampling_rate, event.l2_sensitivity, event.dimension, event.share_sigma, event.shares
        )
        curve.flags.writeable = False
        return curve
    raise PrivacyError(f"event: no Rényi curve for the kind {type(event).__name__}")


def compose(curves: Iterable[Curve]) -> Curve:
    """Add curves, exactly rounded, so that the order of composition never shows.

    :returns: float64 of shape (len(ORDERS),); zero for no curves.
    """
    rows = list(curves)
    if not rows:
        return np.zeros(len(ORDERS))
    return np.array([math.fsum(column) for column in np.stack(rows, axis=1).tolist()])


def epsilon(curve: Curve, delta: float) -> tuple[float, int]:
    """Convert a curve to the smallest epsilon at delta, and the order that gives it.

    A curve of zeros (nothing released) is epsilon 0. For a plan chosen before its first release; when the next event
    may depend on what was seen, only ``RdpFilter`` is valid.

    :raises PrivacyError: delta out of range, or a curve of another shape, or with negative values or NaN.
    """
    require_delta(delta)
    _require_curve(curve)
    if not curve.any():
        return 0.0, ORDERS[-1]
    candidates = curve + _conversion(_ORDERS_ARRAY, delta)
    best = int(np.argmin(candidates))
    return max(0.0, float(candidates[best])), ORDERS[best]


def rdp_epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon of a fixed plan by Rényi accounting; the same signature as ``prv_epsilon`` and ``pld_epsilon``.

    :raises PrivacyError: delta out of range.
    """
    return epsilon(compose(map(rdp_curve, events)), delta)[0]


@dataclass(frozen=True)
class RdpFilter:
    """Privacy filter at one order: valid for events chosen after looking at earlier releases.

    Feldman and Zrnic 2021: if the sum of the divergences at one order, fixed up front, never exceeds a bound, the whole
    adaptive sequence satisfies that bound; the bound here is the one that converts to (epsilon, delta).

    :param order: fixed order, one of ``ORDERS``.
    :param epsilon: budget.
    :param delta: budget.
    :raises PrivacyError: a parameter is out of range, or the order leaves nothing of this budget.
    """

    order: int
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if self.order not in _INDEX:
            raise PrivacyError(f"order: {self.order!r}; allowed: one of accounting.ORDERS, {ORDERS[0]} to {ORDERS[-1]}")
        require_epsilon(self.epsilon)
        require_delta(self.delta)
        if self.limit <= 0:
            raise PrivacyError(
                f"order: {self.order} leaves nothing of epsilon {self.epsilon:g} at delta {self.delta:g}; "
                "allowed: a higher order, or a larger epsilon"
            )

    @property
    def limit(self) -> float:
        """Sum of divergences at the order that the budget admits, in nats."""
        return self.epsilon - float(_conversion(np.float64(self.order), self.delta))

    def rho(self, curve: Curve) -> float:
        """The curve's value at the filter's order."""
        if curve.shape != (len(ORDERS),) or not curve[_INDEX[self.order]] >= 0:
            raise PrivacyError(_curve_problem(curve))
        return float(curve[_INDEX[self.order]])

    def epsilon_of(self, curve: Curve) -> float:
        """Epsilon of a spend at the filter's order; 0 when nothing is spent."""
        rho = self.rho(curve)
        return 0.0 if rho == 0.0 else max(0.0, rho + float(_conversion(np.float64(self.order), self.delta)))

    def admits(self, spent: Iterable[Curve], requested: Curve) -> bool:
        """Whether the budget still holds with the requested curve on top of what is spent."""
        return math.fsum([*map(self.rho, spent), self.rho(requested)]) <= self.limit

    def check(self, spent: Iterable[Curve], requested: Curve) -> None:
        """Refuse an event that does not fit.

        :raises BudgetExceeded: with epsilon after the event, and what is left without it.
        """
        curves = list(spent)
        if not self.admits(curves, requested):
            after = self.epsilon_of(compose([*curves, requested]))
            left = self.epsilon - self.epsilon_of(compose(curves))
            raise BudgetExceeded(after, left, detail=f"budget epsilon {self.epsilon:g}, delta {self.delta:g}")


def choose_order(planned: Sequence[PrivacyEvent], delta: float) -> int:
    """Choose the filter's order: the best one for the plan as a whole, from public parameters only.

    :raises PrivacyError: an empty plan, or delta out of range.
    """
    if not planned:
        raise PrivacyError("planned: no events; allowed: at least one")
    return epsilon(compose(map(rdp_curve, planned)), delta)[1]


def order_within_budget(event: AnyPrivacyEvent, times: int, epsilon: float, delta: float) -> int:
    """Choose the filter's order for as many of a plan's equal events as the budget admits.

    A plan that is longer than its budget halts when that is spent; an order for the whole of it might leave nothing.
    """

    def fits(count: int) -> bool:
        whole = structs.replace(event, steps=event.steps * count)
        # The slack is of rounding; the filter decides in the end.
        return rdp_epsilon([whole], delta) <= epsilon * (1 + 1e-9)

    low, high = 0, times + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    # Not even one fits: any order will do, for none will be admitted; the highest leaves the most.
    return choose_order([structs.replace(event, steps=event.steps * low)], delta) if low else ORDERS[-1]


def noise_multiplier_for(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier (to 8 decimals, rounded up) with which the steps fit into the budget.

    The filter at ``choose_order`` of the plan admits ``steps`` steps, in one event or one by one, and no more (as long
    as ``steps`` is below about a million, where one step is larger than the rounding).

    :raises PrivacyError: a parameter is out of range, or even the largest noise multiplier does not suffice.
    """
    require_epsilon(epsilon)
    require_delta(delta)
    require_sampling_rate(sampling_rate)
    low = math.ceil(MIN_NOISE_MULTIPLIER * _NOISE_MULTIPLIER_GRID)
    high = int(MAX_NOISE_MULTIPLIER * _NOISE_MULTIPLIER_GRID)

    def fits(grid_point: int) -> bool:
        return fits_budget(epsilon, delta, SampledGaussian(sampling_rate, grid_point / _NOISE_MULTIPLIER_GRID, steps))

    if not fits(high):
        raise PrivacyError(
            f"epsilon: {epsilon!r} at delta {delta!r} is too little for {steps} steps at sampling rate "
            f"{sampling_rate!r} with any noise multiplier up to {MAX_NOISE_MULTIPLIER:g}"
        )
    if fits(low):
        return low / _NOISE_MULTIPLIER_GRID
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high / _NOISE_MULTIPLIER_GRID


def steps_left(budget_filter: RdpFilter, spent: Iterable[Curve], sampling_rate: float, noise_multiplier: float) -> int:
    """Number of further steps of a sampled Gaussian that the filter admits.

    :returns: 0 to 1e9.
    :raises PrivacyError: a parameter is out of range.
    """
    curves = list(spent)

    def admitted(steps: int) -> bool:
        return steps == 0 or budget_filter.admits(
            curves, rdp_curve(SampledGaussian(sampling_rate, noise_multiplier, steps))
        )

    return most_admitted(admitted)


def most_admitted(admitted: Callable[[int], bool]) -> int:
    """Largest count up to 1e9 that is admitted; 0 is, and whatever is below one that is."""
    if admitted(MAX_STEPS):
        return MAX_STEPS
    low, high = 0, MAX_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if admitted(middle) else (low, middle)
    return low


def fits_budget(budget_epsilon: float, delta: float, event: PrivacyEvent) -> bool:
    """Whether a plan of one event fits a budget under the filter at its best order, at once or step by step."""
    curve = rdp_curve(event)
    order = choose_order([event], delta)
    bound = budget_epsilon - float(_conversion(np.float64(order), delta))
    # The second term is the same plan reserved step by step: every step is rounded once more.
    return bound > 0 and float(curve[_INDEX[order]]) <= bound * (1 - 4 * sys.float_info.epsilon)


def _conversion(order: np.float64 | Curve, delta: float) -> np.float64 | Curve:
    return np.log1p(-1 / order) - np.log(order * delta) / (order - 1)


def _require_curve(curve: Curve) -> None:
    if curve.shape != (len(ORDERS),) or not bool((curve >= 0).all()):
        raise PrivacyError(_curve_problem(curve))


def _curve_problem(curve: Curve) -> str:
    return f"curve: shape {curve.shape}, or a value below 0 or not a number; allowed: {len(ORDERS)} values, 0 or more"


@lru_cache(maxsize=4096)
def _sampled_gaussian_step(sampling_rate: float, noise_multiplier: float) -> Curve:
    orders = np.arange(ORDERS[-1] + 1, dtype=np.float64)
    curve = poisson_subsampled(sampling_rate, orders / (2 * noise_multiplier**2))
    curve.flags.writeable = False
    return curve


@lru_cache(maxsize=4096)
def _distributed_gaussian_step(rate: float, sensitivity: float, dimension: int, sigma: float, shares: int) -> Curve:
    orders = np.arange(ORDERS[-1] + 1, dtype=np.float64)
    curve = poisson_subsampled(rate, distributed_gaussian(orders, sensitivity, dimension, sigma, shares))
    curve.flags.writeable = False
    return curve


def distributed_gaussian(orders: Curve, sensitivity: float, dimension: int, sigma: float, shares: int) -> Curve:
    """Rényi divergence bound of a sum of m discrete Gaussian shares (Kairouz, Liu, Steinke 2021, theorem 1).

    The sum of shares is not a discrete Gaussian; tau bounds how far it is from one. From sigma = 4 on it is below
    10^-67 a share, and what is left is the Gaussian of variance m sigma^2.

    :param orders: any orders, 0 or more.
    :returns: rho at each order, nats.
    """
    terms = min(shares - 1, 1000)
    ratios = np.arange(1, terms + 1) / np.arange(2, terms + 2)
    tau = 10 * float(np.exp(-2 * math.pi**2 * sigma**2 * ratios).sum())
    # exp(-x k / (k + 1)) falls with k: each term left out is at most the last one that is in.
    tau += 10 * (shares - 1 - terms) * math.exp(-2 * math.pi**2 * sigma**2 * terms / (terms + 1)) if terms else 0.0
    l1_sensitivity = sensitivity * min(math.sqrt(dimension), sensitivity)
    whole = math.sqrt(shares) * sigma
    ratio = (sensitivity / whole) ** 2
    bounds = (
        orders / 2 * ratio + orders * tau * dimension,
        orders / 2 * (ratio + 2 * tau * l1_sensitivity / whole + tau**2 * dimension),
        orders / 2 * (sensitivity / whole + math.sqrt(dimension) * tau) ** 2,
    )
    return np.minimum(np.minimum(bounds[0], bounds[1]), bounds[2])


def poisson_subsampled(sampling_rate: float, base: Curve) -> Curve:
    """Curve of a mechanism after Poisson subsampling, from its own curve at every integer order.

    A(α) = Σ_k binom(α, k) (1-q)^(α-k) q^k exp((k-1) ρ(k)), with exp(0) for k = 0, 1, and ρ_sub(α) = ln A(α) / (α - 1).
    Because the binomial weights sum to 1, A(α) - 1 = Σ_{k≥2} weight · expm1(...): only positive terms, so nothing
    cancels and the relative error stays small for the tiniest sampling rate.

    :param sampling_rate: q, above 0, at most 1.
    :param base: ρ(k) for k = 0 to the largest order; shape (ORDERS[-1] + 1,).
    :returns: shape (len(ORDERS),), rounded up by the bound on its floating-point error.
    """
    if sampling_rate == 1.0:
        return base[list(ORDERS)] * (1 + _ROUNDING)
    log_factorial = _log_factorials()
    k = np.arange(2, ORDERS[-1] + 1)
    exponent = (k - 1) * base[2:]
    # ln(expm1(x)) = x + ln(-expm1(-x)) neither overflows nor cancels.
    term = k * math.log(sampling_rate) - log_factorial[2:] + exponent + np.log(-np.expm1(-exponent))
    log_miss = math.log1p(-sampling_rate)
    curve = np.empty(len(ORDERS))
    for index, order in enumerate(ORDERS):
        misses = order - k[: order - 1]
        logs = term[: order - 1] + (misses * log_miss - log_factorial[misses]) + log_factorial[order]
        top = logs.max()
        log_excess = top + math.log(np.exp(logs - top).sum())
        curve[index] = np.logaddexp(0.0, log_excess) / (order - 1)
    return curve * (1 + _ROUNDING)


@lru_cache(maxsize=1)
def _log_factorials() -> Curve:
    return np.array([math.lgamma(n + 1) for n in range(ORDERS[-1] + 1)])

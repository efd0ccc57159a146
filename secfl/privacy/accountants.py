"""The accountants behind one interface, what each may be used for, and the tightest that may.

| accountant | for which events | when it is a bound |
|---|---|---|
| RDP filter at a fixed order | all | always, up to the budget; also when what comes next depends on what was seen |
| RDP at the best order | all | for a plan fixed before its first release |
| PLD (dp-accounting) | sampled Gaussian | for such a plan; a Gaussian PLD does not dominate a sum of discrete shares |
| PRV (Opacus) | sampled Gaussian | never claimed: a cross-check |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from protocols.errors import MissingExtra, PrivacyError
from secfl.privacy.accounting import Curve, RdpFilter, compose, rdp_curve, rdp_epsilon
from secfl.privacy.budget import require_delta
from secfl.privacy.crosscheck import pld_epsilon, prv_epsilon, require_pld
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian, PrivacyEvent, SampledGaussian

__all__ = [
    "Accountant",
    "Opinion",
    "Pld",
    "Prv",
    "RdpAtBestOrder",
    "RdpAtFixedOrder",
    "Standing",
    "binding",
    "opinions",
    "require_accountant",
    "tightest",
    "within_plan",
]

Standing = Literal["bound", "approximation", "cross-check", "not valid here", "not available"]

_ROOMY = 1e6
"""Of a filter that is only asked to convert: its conversion does not depend on its budget."""
_MOST_CONFIGURATIONS = 8
"""Each costs PLD and PRV about half a second."""


class Accountant(Protocol):
    """Epsilon of a sequence of events."""

    @property
    def name(self) -> str:
        """As a report names it."""

    def epsilon(self, events: Sequence[PrivacyEvent], delta: float) -> float:
        """Epsilon at delta; 0 for no events.

        :raises PrivacyError: delta out of range, or an event of a kind that it does not know.
        :raises MissingExtra: its library is not installed.
        """


@dataclass(frozen=True)
class RdpAtFixedOrder:
    """Rényi accounting at one integer order, fixed up front: what a ledger's filter goes by."""

    order: int
    name: str = "RDP filter at a fixed integer order"

    def epsilon(self, events: Sequence[PrivacyEvent], delta: float) -> float:
        """See `Accountant`."""
        return self.convert(compose(map(rdp_curve, events)), delta)

    def convert(self, curve: Curve, delta: float) -> float:
        """Epsilon of a curve.

        :raises PrivacyError: delta out of range.
        """
        require_delta(delta)
        return RdpFilter(self.order, _ROOMY, delta).epsilon_of(curve)


@dataclass(frozen=True)
class RdpAtBestOrder:
    """Rényi accounting at the integer order that gives the least epsilon in the end."""

    name: str = "RDP at the best integer order of the plan"

    def epsilon(self, events: Sequence[PrivacyEvent], delta: float) -> float:
        """See `Accountant`."""
        return rdp_epsilon(events, delta)


@dataclass(frozen=True)
class Pld:
    """Privacy loss distributions, by dp-accounting."""

    name: str = "PLD of the plan (dp-accounting)"

    def epsilon(self, events: Sequence[PrivacyEvent], delta: float) -> float:
        """See `Accountant`."""
        return pld_epsilon(events, delta)


@dataclass(frozen=True)
class Prv:
    """Privacy random variables, by Opacus."""

    name: str = "PRV (Opacus)"

    def epsilon(self, events: Sequence[PrivacyEvent], delta: float) -> float:
        """See `Accountant`."""
        return prv_epsilon(events, delta)


@dataclass(frozen=True)
class Opinion:
    """What one accountant says, and what that is worth.

    :param epsilon: None where it says nothing.
    """

    accountant: str
    epsilon: float | None
    standing: Standing
    note: str = ""


def require_accountant(name: str) -> None:
    """Check that the accountant that a claim names can be asked here, so that the claim can be computed again.

    :raises MissingExtra: its library is not installed.
    """
    if name == Pld().name:
        require_pld()


def within_plan(events: Sequence[AnyPrivacyEvent], plan: Sequence[AnyPrivacyEvent]) -> bool:
    """Whether what was released is a part of what was planned: the same kinds of steps, no more of any.

    Then the plan's epsilon covers it, wherever it was broken off and whyever.
    """
    done, planned = _steps(events), _steps(plan)
    return all(planned[kind] >= steps for kind, steps in done.items())


def binding(plan: Sequence[AnyPrivacyEvent] | None) -> tuple[Literal["pld"], ...]:
    """The numerical accountants whose epsilon of the plan is a bound: PLD, for a plan of sampled Gaussians."""
    planned = bool(plan) and all(isinstance(event, SampledGaussian) for event in plan or ())
    return ("pld",) if planned else ()


def opinions(
    events: Sequence[AnyPrivacyEvent],
    delta: float,
    *,
    order: int,
    plan: Sequence[AnyPrivacyEvent] | None = None,
    accountants: Sequence[Literal["pld", "prv"]] = ("pld", "prv"),
) -> tuple[Opinion, ...]:
    """What every accountant says of the events; the filter first.

    The filter speaks of the events; the others of the plan, if the events are within one, else of the events as if they
    had been planned, which binds nobody.

    :param order: the filter's.
    :param plan: fixed before the first release; None if there was none.
    :param accountants: which numerical ones to ask; PRV loads torch.
    :raises PrivacyError: delta out of range.
    """
    fixed = RdpAtFixedOrder(order)
    found = [Opinion(fixed.name, fixed.epsilon(events, delta), "bound")]
    planned = plan is not None and within_plan(events, plan)
    subject = plan if planned and plan is not None else events
    best = RdpAtBestOrder()
    found.append(
        Opinion(best.name, best.epsilon(subject, delta), "bound")
        if planned
        else Opinion(best.name, best.epsilon(subject, delta), "not valid here", _UNPLANNED)
    )
    if "pld" in accountants:
        found.append(_numerical(Pld(), subject, delta, "bound" if planned else "not valid here"))
    if "prv" in accountants:
        found.append(_numerical(Prv(), subject, delta, "cross-check"))
    return tuple(found)


def tightest(found: Sequence[Opinion]) -> Opinion:
    """The smallest epsilon that is a bound.

    :raises PrivacyError: none is.
    """
    bounds = [opinion for opinion in found if opinion.standing == "bound" and opinion.epsilon is not None]
    if not bounds:
        raise PrivacyError("opinions: none of them is a bound; allowed: at least one")
    return min(bounds, key=lambda opinion: opinion.epsilon or 0.0)


_UNPLANNED = "valid only for a plan fixed before its first release"


def _numerical(accountant: Accountant, events: Sequence[AnyPrivacyEvent], delta: float, standing: Standing) -> Opinion:
    note = _UNPLANNED if standing == "not valid here" else ""
    if any(isinstance(event, DistributedGaussian) for event in events):
        standing, note = "approximation", "a Gaussian in the place of the sum of discrete shares"
        events = [_as_gaussian(event) for event in events]
    if len(_steps(events)) > _MOST_CONFIGURATIONS:
        return Opinion(accountant.name, None, "not available", f"more than {_MOST_CONFIGURATIONS} configurations")
    try:
        return Opinion(accountant.name, accountant.epsilon(events, delta), standing, note)
    except (MissingExtra, PrivacyError) as error:
        return Opinion(accountant.name, None, "not available", str(error))


def _as_gaussian(event: AnyPrivacyEvent) -> SampledGaussian:
    """The Gaussian of the same variance."""
    if isinstance(event, DistributedGaussian):
        return SampledGaussian(event.sampling_rate, event.noise_multiplier, event.steps)
    return event


def _steps(events: Sequence[AnyPrivacyEvent]) -> Counter[AnyPrivacyEvent]:
    """Steps by everything else that an event is."""
    counted: Counter[AnyPrivacyEvent] = Counter()
    for event in events:
        counted[msgspec.structs.replace(event, steps=1)] += event.steps
    return counted

"""Planning before anything is spent: the noise for a budget, epsilon of a plan, rounds left, what dropouts cost.

Everything here is computed from public constants (and, for rounds left, from what a ledger says); nothing is charged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec

from protocols.errors import PrivacyError
from secfl.privacy.accountants import Opinion, binding, opinions, tightest
from secfl.privacy.accounting import (
    Curve,
    RdpFilter,
    choose_order,
    fits_budget,
    most_admitted,
    noise_multiplier_for,
    rdp_curve,
)
from secfl.privacy.budget import require_delta, require_epsilon
from secfl.privacy.claims import RELATIONS, AdversaryClaim, Charged, CollusionPoint, Floors, Mode, claims
from secfl.privacy.claims import epsilon_by_colluders as _epsilon_by_colluders
from secfl.privacy.distributed import NoisePlan
from secfl.privacy.events import (
    MAX_DIMENSION,
    MAX_NOISE_MULTIPLIER,
    MAX_SHARES,
    MAX_STEPS,
    AnyPrivacyEvent,
    DistributedGaussian,
    SampledGaussian,
    require_sampling_rate,
)
from secfl.privacy.mechanism import DistributedMechanism

__all__ = [
    "DropoutCost",
    "ModeCost",
    "TrainingPlan",
    "compare_modes",
    "distributed_noise_multiplier_for",
    "dropout_costs",
    "epsilon_by_colluders",
    "epsilon_of_plan",
    "noise_multiplier_for",
    "opinions_of_plan",
    "rounds_left",
    "with_noise_for",
]

PlanFactory = Callable[[float], NoisePlan]
"""From a noise multiplier to the plan that has it, all else fixed."""

_RELATIVE_PRECISION = 1e-8
_LOWEST_TRIED = 2.0**-7


def distributed_noise_multiplier_for(
    epsilon: float, delta: float, plan_factory: PlanFactory, steps: int, sampling_rate: float = 1.0
) -> float:
    """Smallest noise multiplier (to 8 digits, rounded up) with which ``steps`` sums fit into the budget.

    They fit against the strongest adversary of the plan, by the filter at ``choose_order`` of all steps, in one event
    or one by one. Where the scale is coarse it may take more noise than the budget asks for to make a share wide enough
    to be accounted at all.

    :param plan_factory: the plan with a noise multiplier; one that it refuses by a `PrivacyError` is taken for too low.
    :raises PrivacyError: a parameter is out of range, or no noise multiplier does.
    """
    require_epsilon(epsilon)
    require_delta(delta)
    require_sampling_rate(sampling_rate)
    refusals: list[PrivacyError] = []
    tried = 0

    def fits(multiplier: float) -> bool:
        nonlocal tried
        tried += 1
        try:
            event = plan_factory(multiplier).event(steps, sampling_rate=sampling_rate)
        except PrivacyError as error:
            refusals.append(error)
            return False
        return fits_budget(epsilon, delta, event)

    high = _LOWEST_TRIED
    while not fits(high):
        high *= 2
        if high > MAX_NOISE_MULTIPLIER:
            if len(refusals) == tried:
                raise refusals[0]
            raise PrivacyError(
                f"epsilon: {epsilon!r} at delta {delta!r} is too little for {steps} sums at sampling rate "
                f"{sampling_rate!r} with any noise multiplier up to {MAX_NOISE_MULTIPLIER:g}"
            )
    low = high / 2
    while high - low > high * _RELATIVE_PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What is planned. All of it is public, and none of it may follow from private records.

    :param mode: who adds noise, and what is protected.
    :param sampling_rate: q, of the records of a step. In mode C it amplifies nothing.
    :param noise_multiplier: z; in modes B and C of the sum, at the floors.
    :param rounds: R.
    :param steps_per_round: local steps of a round; mode B has one.
    :param delta: of the budget.
    :param silos: n, asked in a round.
    :param minimum_contributors: T_min.
    :param colluding: c_max.
    :param records: public number of records of all silos together.
    :param clip_norm: C, of a record's gradient, in mode C of a silo's update.
    :param dimension: coordinates of an update: rounding costs a little noise for each.
    :param protocol: that hides single vectors.
    :param protocol_failure: probability, one sum, that it does not, whatever is computed; see `Floors`.
    :raises PrivacyError: a value out of its range, named.
    """

    mode: Mode
    sampling_rate: float
    noise_multiplier: float
    rounds: int
    steps_per_round: int
    delta: float
    silos: int
    minimum_contributors: int
    colluding: int
    records: int
    clip_norm: float = 1.0
    dimension: int = 10**6
    protocol: str = "secagg"
    protocol_failure: float = 0.0

    def __post_init__(self) -> None:
        require_delta(self.delta)
        require_sampling_rate(self.sampling_rate)
        for name, low, high in (
            ("rounds", 1, MAX_STEPS),
            ("steps_per_round", 1, 1 if self.mode == "distributed-dp-sgd" else MAX_STEPS),
            ("silos", 2, MAX_SHARES),
            ("minimum_contributors", 1, self.silos),
            ("colluding", 0, self.minimum_contributors - 1),
            ("records", 1, MAX_DIMENSION),
            ("dimension", 1, MAX_DIMENSION),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise PrivacyError(f"{name}: {value!r}; allowed: a whole number from {low} to {high}")
        self.event(1)

    @property
    def releases(self) -> int:
        """What is released one after the other: steps in mode A, sums in modes B and C."""
        return self.rounds * (self.steps_per_round if self.mode == "local-dp-sgd" else 1)

    @property
    def floors(self) -> Floors:
        """What the claims rest on."""
        return Floors(
            self.minimum_contributors,
            self.colluding,
            self.protocol,
            protocol_failure=self.protocol_failure,
            local_dimension=self.dimension,
        )

    def mechanism(self) -> DistributedMechanism:
        """That of modes B and C, with the scale that a run would choose for this plan.

        :raises PrivacyError: there is none, or the mode has none.
        """
        if self.mode == "local-dp-sgd":
            raise PrivacyError("mode: local-dp-sgd adds no noise to sums")
        return DistributedMechanism.choose(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
            minimum_contributors=self.minimum_contributors,
            maximum_contributors=self.silos,
            layout_digest=bytes(32),
            colluding=self.colluding,
            maximum_records=math.ceil(self.records / self.silos) if self.mode == "distributed-dp-sgd" else 1,
        )

    def event(self, rounds: int) -> AnyPrivacyEvent:
        """What so many rounds cost a silo's ledger.

        :raises PrivacyError: a value that no event may have.
        """
        if self.mode == "local-dp-sgd":
            return SampledGaussian(self.sampling_rate, self.noise_multiplier, rounds * self.steps_per_round)
        return self.mechanism().plan.event(rounds, sampling_rate=self._amplification)

    def noise_in_mean(self, contributors: int | None = None) -> float:
        """Standard deviation of the noise on a coordinate of what the server averages over its contributors.

        In modes A and B the mean gradient of a step, in mode C the mean update of a round; of silos of equal size.
        """
        count = self.silos if contributors is None else contributors
        if self.mode == "local-dp-sgd":
            one, divisor = self.noise_multiplier * self.clip_norm, self.sampling_rate * self.records / self.silos
        else:
            used = self.mechanism()
            one = math.ldexp(used.plan.share_sigma, -used.fraction_bits)
            divisor = self.sampling_rate * self.records / self.silos if self.mode == "distributed-dp-sgd" else 1.0
        return one / (divisor * math.sqrt(count))

    @property
    def _amplification(self) -> float:
        return self.sampling_rate if self.mode == "distributed-dp-sgd" else 1.0


@dataclass(frozen=True)
class DropoutCost:
    """What a plan gives if every sum has so many contributors.

    :param epsilon: against the strongest adversary assumed; None: no sum is opened.
    :param noise: standard deviation on a coordinate of the mean; None: no sum is opened.
    :param noise_over_planned: unknown to that adversary, over what the plan counts on.
    """

    contributors: int
    dropped: int
    epsilon: float | None
    noise: float | None
    noise_over_planned: float | None


@dataclass(frozen=True)
class ModeCost:
    """A mode at a budget.

    :param noise: standard deviation on a coordinate of ``mean_of``; None where no noise reaches the budget.
    """

    mode: Mode
    protects: str
    releases: int
    noise_multiplier: float | None
    noise: float | None
    mean_of: str
    refusal: str = ""


def with_noise_for(plan: TrainingPlan, epsilon: float) -> TrainingPlan:
    """The plan with the smallest noise multiplier that fits a budget, against the strongest adversary assumed.

    :raises PrivacyError: epsilon out of range, or no noise multiplier does.
    """
    if plan.mode == "local-dp-sgd":
        noise = noise_multiplier_for(epsilon, plan.delta, plan.sampling_rate, plan.releases)
    else:
        noise = distributed_noise_multiplier_for(
            epsilon,
            plan.delta,
            lambda multiplier: replace(plan, noise_multiplier=multiplier).mechanism().plan,
            plan.releases,
            plan.sampling_rate if plan.mode == "distributed-dp-sgd" else 1.0,
        )
    return replace(plan, noise_multiplier=noise)


def epsilon_of_plan(plan: TrainingPlan) -> tuple[AdversaryClaim, ...]:
    """What the whole plan will have cost, against each adversary, by the tightest accountant that may be claimed."""
    return claims(plan.mode, [_charged(plan)], plan.floors)


def epsilon_by_colluders(plan: TrainingPlan) -> tuple[CollusionPoint, ...]:
    """Epsilon of the whole plan against the server with c silos, c = 0 to T_min."""
    return _epsilon_by_colluders([_charged(plan)], plan.floors)


def opinions_of_plan(plan: TrainingPlan) -> tuple[Opinion, ...]:
    """What each accountant says of the whole plan as a ledger is charged for it; without PRV, which loads torch."""
    charged = _charged(plan)
    return opinions(charged.events, plan.delta, order=charged.order, plan=charged.plan, accountants=("pld",))


def dropout_costs(plan: TrainingPlan, most: int = 12) -> tuple[DropoutCost, ...]:
    """Noise and epsilon by the number of contributors, from all silos down to one fewer than are needed.

    More contributors than the floor add noise that the plan does not count on: epsilon falls. With fewer no sum is
    opened, and the attempt is charged all the same.

    :param most: rows; of more, some between are left out.
    """
    span = plan.silos - plan.minimum_contributors
    every = max(1, math.ceil(span / max(1, most - 2)))
    counts = sorted({plan.silos, *range(plan.minimum_contributors, plan.silos, every)}, reverse=True)
    rows = [_dropout_cost(plan, count) for count in counts]
    below = plan.minimum_contributors - 1
    return (*rows, DropoutCost(below, plan.silos - below, None, None, None))


def compare_modes(plan: TrainingPlan, epsilon: float) -> tuple[ModeCost, ...]:
    """Modes A, B and C at one budget, all else as planned: what noise each leaves in the mean.

    A and B take the plan's gradient steps (B one a round); C releases one update a round, and protects a silo's whole
    update, not a record: its figure stands beside the others, not against them.
    """
    steps = plan.rounds * plan.steps_per_round
    variants: tuple[tuple[Mode, int, int, str], ...] = (
        ("local-dp-sgd", plan.rounds, plan.steps_per_round, "gradient of a step"),
        ("distributed-dp-sgd", steps, 1, "gradient of a step"),
        ("client-level", plan.rounds, plan.steps_per_round, "update of a round"),
    )
    return tuple(
        _mode_cost(
            plan, epsilon, mean_of, {"mode": mode, "rounds": rounds, "steps_per_round": local, "noise_multiplier": 1.0}
        )
        for mode, rounds, local, mean_of in variants
    )


def rounds_left(budget: RdpFilter, charged: Sequence[Curve], event: AnyPrivacyEvent) -> int:
    """How many more rounds at the cost of ``event`` the filter admits, 0 to 1e9."""
    curve = rdp_curve(event)

    def admitted(rounds: int) -> bool:
        return rounds == 0 or budget.admits(charged, rounds * curve)

    return most_admitted(admitted)


@lru_cache(maxsize=64)
def _charged(plan: TrainingPlan) -> Charged:
    event = plan.event(plan.rounds)
    return Charged((event,), plan.delta, choose_order([event], plan.delta), plan=(event,))


def _dropout_cost(plan: TrainingPlan, contributors: int) -> DropoutCost:
    charged = _charged(plan)
    (event,) = charged.events
    noise, over = plan.noise_in_mean(contributors), 1.0
    if isinstance(event, DistributedGaussian):
        shares = contributors - event.known_shares
        over = math.sqrt(shares / event.shares)
        event = msgspec.structs.replace(event, shares=shares)
    found = tightest(opinions([event], plan.delta, order=charged.order, plan=[event], accountants=binding([event])))
    return DropoutCost(contributors, plan.silos - contributors, found.epsilon, noise, over)


def _mode_cost(plan: TrainingPlan, epsilon: float, mean_of: str, changes: dict[str, Any]) -> ModeCost:
    mode: Mode = changes["mode"]
    releases, refusal, fitted = 0, "", None
    try:
        variant = replace(plan, **changes)
        releases, fitted = variant.releases, with_noise_for(variant, epsilon)
    except PrivacyError as error:
        refusal = str(error)
    return ModeCost(
        mode=mode,
        protects=RELATIONS[mode],
        releases=releases,
        noise_multiplier=fitted.noise_multiplier if fitted else None,
        noise=fitted.noise_in_mean() if fitted else None,
        mean_of=mean_of,
        refusal=refusal,
    )

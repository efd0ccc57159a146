"""The answer of `secfl budget` as records: what its JSON says, its tables and its figure show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

import msgspec

from protocols.errors import PrivacyError
from secfl.privacy.accounting import rdp_epsilon
from secfl.privacy.claims import RELATIONS
from secfl.privacy.planning import (
    ModeCost,
    TrainingPlan,
    compare_modes,
    dropout_costs,
    epsilon_by_colluders,
    epsilon_of_plan,
    opinions_of_plan,
)
from secfl.report.summary import group_bound

__all__ = ["FORMAT", "BudgetAnswer", "LedgerRow", "LevelRow", "answer"]

FORMAT: Final = "secfl-budget/1"
GROUP_SIZES = (1, 2, 5, 10)
Kind = TypeVar("Kind", bound=msgspec.Struct)
_POINTS = 12
_NOISE_FACTORS = tuple(0.5 * 1.2**step for step in range(_POINTS))


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""


class PlanRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is planned."""

    mode: str
    neighbouring_relation: str
    sampling_rate: float
    noise_multiplier: float
    rounds: int
    steps_per_round: int
    releases: int
    """Noised sums or steps in all."""
    delta: float
    silos: int
    minimum_contributors: int
    colluding: int
    records: int
    clip_norm: float
    dimension: int
    protocol: str


class ClaimRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the whole plan will have cost, against one adversary."""

    adversary: str
    epsilon: float | None
    """None: nothing is promised."""
    delta: float | None
    accountant: str
    shares: int | None
    """Shares of noise that it does not know; None where each silo's noise stands by itself."""
    sentence: str


class AccountantRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one accountant says of the plan as a ledger is charged for it."""

    accountant: str
    epsilon: float | None
    standing: str
    note: str


class ColluderRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Epsilon against the server with so many silos."""

    colluding: int
    shares: int
    epsilon: float | None
    assumed: bool
    """Within what the plan is made for."""
    void: str
    """Why nothing is promised; empty where something is."""


class DropoutRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the plan gives if every sum has so many contributors."""

    contributors: int
    dropped: int
    epsilon: float | None
    """Against the strongest adversary assumed; None: no sum is opened, and the attempt is charged all the same."""
    noise: float | None
    """Standard deviation on a coordinate of the mean."""
    noise_over_planned: float | None


class ModeRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mode at ``modes_epsilon``."""

    mode: str
    protects: str
    releases: int
    noise_multiplier: float | None
    noise: float | None
    """Standard deviation on a coordinate of ``mean_of``; None where no noise fits."""
    mean_of: str
    refusal: str


class GroupRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the weakest claim means for several records of one person, or several silos in mode C."""

    size: int
    epsilon: float
    delta: float | None
    """None: at 1 or above, nothing is promised."""


class RoundsPoint(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Epsilon of a plan of so many rounds, against the strongest adversary assumed, by Rényi accounting."""

    rounds: int
    epsilon: float


class TradePoint(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mode with one noise multiplier: its epsilon by Rényi accounting, and the noise in the mean."""

    mode: str
    noise_multiplier: float
    epsilon: float
    noise: float


class LevelRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rounds left at a noise multiplier."""

    noise_multiplier: float
    rounds_left: int


class LedgerRow(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a silo's ledger leaves for the plan."""

    silo: str
    begun: bool
    """False: there is no ledger yet, and the whole budget is left."""
    budget_epsilon: float
    delta: float
    spent_epsilon: float
    remaining_epsilon: float
    """What is reserved counts as spent."""
    levels: tuple[LevelRow, ...]
    """At the plan's noise first, then at others."""


class BudgetAnswer(_Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that `secfl budget` answers."""

    format: Literal["secfl-budget/1"] = FORMAT
    asked_epsilon: float | None
    """Budget for which the noise was chosen; None: the noise was given."""
    plan: PlanRow
    claims: tuple[ClaimRow, ...]
    accountants: tuple[AccountantRow, ...]
    colluders: tuple[ColluderRow, ...]
    """Empty in mode local-dp-sgd: every silo's noise stands by itself."""
    dropouts: tuple[DropoutRow, ...]
    modes_epsilon: float
    modes: tuple[ModeRow, ...]
    groups: tuple[GroupRow, ...]
    by_rounds: tuple[RoundsPoint, ...]
    trade: tuple[TradePoint, ...]
    ledgers: tuple[LedgerRow, ...]

    def to_json(self) -> bytes:
        """Indented JSON, UTF-8, ending in a newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def answer(
    plan: TrainingPlan, *, asked_epsilon: float | None = None, ledgers: Sequence[LedgerRow] = ()
) -> BudgetAnswer:
    """Work everything out.

    :param asked_epsilon: budget for which the plan's noise was chosen, if it was.
    :raises PrivacyError: the plan cannot be accounted.
    """
    claims = epsilon_of_plan(plan)
    epsilon, delta = max(
        ((claim.epsilon, claim.delta or plan.delta) for claim in claims if claim.epsilon is not None),
        default=(0.0, plan.delta),
    )
    said = opinions_of_plan(plan)
    at = asked_epsilon or said[0].epsilon or epsilon  # of the filter: by it runs find their noise
    costs = compare_modes(plan, at)
    return BudgetAnswer(
        asked_epsilon=asked_epsilon,
        plan=PlanRow(**{name: _value(plan, name) for name in PlanRow.__struct_fields__}),
        claims=tuple(_copy(ClaimRow, claim) for claim in claims),
        accountants=tuple(_copy(AccountantRow, opinion) for opinion in said),
        colluders=()
        if plan.mode == "local-dp-sgd"
        else tuple(_copy(ColluderRow, point) for point in epsilon_by_colluders(plan)),
        dropouts=tuple(_copy(DropoutRow, cost) for cost in dropout_costs(plan)),
        modes_epsilon=at,
        modes=tuple(_copy(ModeRow, cost) for cost in costs),
        groups=tuple(_copy(GroupRow, group_bound(epsilon, delta, size)) for size in GROUP_SIZES),
        by_rounds=_by_rounds(plan),
        trade=_trade(plan, costs),
        ledgers=tuple(ledgers),
    )


def _value(plan: TrainingPlan, name: str) -> Any:
    return RELATIONS[plan.mode] if name == "neighbouring_relation" else getattr(plan, name)


def _copy(kind: type[Kind], found: object) -> Kind:
    """The fields that a record has, from what the privacy package found."""
    return kind(**{name: getattr(found, name) for name in kind.__struct_fields__})


def _by_rounds(plan: TrainingPlan) -> tuple[RoundsPoint, ...]:
    """Up to half as many again as planned."""
    counts = sorted({max(1, round(plan.rounds * step / 8)) for step in range(1, _POINTS + 1)})
    return tuple(RoundsPoint(rounds=rounds, epsilon=rdp_epsilon([plan.event(rounds)], plan.delta)) for rounds in counts)


def _trade(plan: TrainingPlan, costs: Sequence[ModeCost]) -> tuple[TradePoint, ...]:
    """Each mode from less noise than at the budget to more."""
    points = []
    for cost in costs:
        local = 1 if cost.mode == "distributed-dp-sgd" else plan.steps_per_round
        rounds = cost.releases // local if cost.mode == "local-dp-sgd" else cost.releases
        for factor in _NOISE_FACTORS if cost.noise_multiplier else ():
            noise = (cost.noise_multiplier or 0.0) * factor
            try:
                other = replace(plan, mode=cost.mode, rounds=rounds, steps_per_round=local, noise_multiplier=noise)
            except PrivacyError:  # no mechanism has so little noise, or so much
                continue
            epsilon = rdp_epsilon([other.event(rounds)], plan.delta)
            points.append(
                TradePoint(mode=cost.mode, noise_multiplier=noise, epsilon=epsilon, noise=other.noise_in_mean())
            )
    return tuple(points)

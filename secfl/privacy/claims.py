"""What a ledger promises, to whom: epsilon and delta against each adversary, and the sentence that says so.

In mode A each silo's own noise stands against everybody. In modes B and C what counts is the noise in a sum that the
adversary does not know: m shares, at the fewest contributors T_min, out of the floors that the silo insists on.

| adversary | m |
|---|---|
| outsider, server | T_min |
| another silo | T_min - 1: it knows its own |
| server with c silos | T_min - c |

Those claims are computational: they hold as long as secure aggregation hides single vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Literal

import msgspec

from protocols.errors import PrivacyError
from secfl.privacy.accountants import Opinion, RdpAtFixedOrder, binding, opinions, tightest
from secfl.privacy.accounting import Curve, compose, rdp_curve
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.distributed import share_total_variation
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian, SampledGaussian
from secfl.privacy.ledger_state import ReleaseState
from secfl.privacy.ledger_summary import LedgerSummary

__all__ = ["AdversaryClaim", "Charged", "CollusionPoint", "Floors", "Mode", "claims", "epsilon_by_colluders"]

Mode = Literal["local-dp-sgd", "distributed-dp-sgd", "client-level"]

RELATIONS: dict[Mode, str] = {
    "local-dp-sgd": "add or remove one record of one silo",
    "distributed-dp-sgd": "add or remove one record of one silo",
    "client-level": "replace one silo's update by zero; that it takes part is visible",
}
_PROTECTED: dict[Mode, str] = {
    "local-dp-sgd": "any single record of a silo",
    "distributed-dp-sgd": "any single record of a silo",
    "client-level": "any silo's whole update",
}
_LOCAL_SIGMA = 2.0**27
"""About the steps of mode A's grid; the sampler's error is the same for all of its widths."""
_SPENT = (ReleaseState.SENDING, ReleaseState.COMMITTED)


@dataclass(frozen=True)
class Charged:
    """What one silo's ledger counts as spent.

    :param events: of all releases that left the silo, or may have.
    :param order: the filter's.
    :param inherited: curve of what earlier lineages spent; None for nothing.
    :param plan: what was planned before the first release and never changed since; None if there is no such plan. Where
        the events are a part of it, the plan's own epsilon is a bound as well, and the smaller one is claimed.
    """

    events: tuple[AnyPrivacyEvent, ...]
    delta: float
    order: int
    inherited: Curve | None = None
    plan: tuple[AnyPrivacyEvent, ...] | None = None

    @classmethod
    def of(cls, summary: LedgerSummary, plan: Sequence[AnyPrivacyEvent] | None = None, *, run: str = "") -> Charged:
        """That of a verified ledger.

        :param plan: of the run; it counts only where the ledger holds releases of this run and no others, for whoever
            begins another run has seen what the last one showed.
        :param run: its id.
        """
        spent = [release.reservation for release in summary.releases if release.state in _SPENT]
        inherited = summary.inherited_curve if summary.inherited_curve.any() else None
        fixed = plan is not None and inherited is None and all(reservation.run == run for reservation in spent)
        return cls(
            tuple(reservation.event for reservation in spent),
            summary.budget.delta,
            summary.order,
            inherited,
            tuple(plan) if fixed and plan is not None else None,
        )


@dataclass(frozen=True)
class Floors:
    """Public facts about a run that its claims rest on.

    :param minimum_contributors: T_min; no smaller sum is opened.
    :param colluding: c_max, parties assumed to be in league with the server.
    :param protocol: name of the protocol that hides single vectors.
    :param protocol_holds_to: most colluders against whom it does so; None: ``colluding``.
    :param protocol_failure: probability, one sum, that its graph or keys leave a vector bare whatever is computed
        (2^-40 on a sparse graph, 0 on the complete one).
    :param sample_failure: probability, one step, that a sample is larger than its padded batch, which time then tells,
        or than a sum of mode B may hold, where it is cut.
    :param local_dimension: coordinates that mode A draws noise for in a step; its sampler's error grows with them.
    :raises PrivacyError: numbers that no session can have.
    """

    minimum_contributors: int
    colluding: int
    protocol: str
    protocol_holds_to: int | None = None
    protocol_failure: float = 0.0
    sample_failure: float = 0.0
    local_dimension: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.colluding < self.minimum_contributors:
            raise PrivacyError(
                f"colluding: {self.colluding} of {self.minimum_contributors} contributors; allowed: 0 to "
                f"{self.minimum_contributors - 1}"
            )
        for name in ("protocol_failure", "sample_failure"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise PrivacyError(f"{name}: {getattr(self, name)!r}; allowed: 0 or more, below 1")


@dataclass(frozen=True)
class AdversaryClaim:
    """What is promised against one adversary.

    :param colluding: silos that it has on its side; None: any number.
    :param shares: m, the fewest over the releases; None where every silo's noise stands by itself.
    :param epsilon: None: nothing is promised.
    :param delta: all of ``delta_parts`` together; None: nothing is promised.
    :param delta_parts: what it is made of, by name, zero parts left out.
    :param accountant: the tightest whose epsilon is a bound here; empty where nothing is promised.
    :param computational: it rests on the protocol, and that on assumptions about what can be computed.
    """

    adversary: str
    sentence: str
    colluding: int | None
    shares: int | None
    epsilon: float | None
    delta: float | None
    delta_parts: Mapping[str, float]
    accountant: str
    computational: bool


@dataclass(frozen=True)
class CollusionPoint:
    """Epsilon against the server with c silos.

    :param epsilon: None: nothing is promised, for the reason in ``void``.
    :param assumed: c is within what the run was planned for.
    """

    colluding: int
    shares: int
    epsilon: float | None
    assumed: bool
    void: str


def claims(mode: Mode, charged: Sequence[Charged], floors: Floors) -> tuple[AdversaryClaim, ...]:
    """One claim per adversary: outsider, server, another silo, server with colluding silos.

    :param charged: of one silo or more; the claim is the weakest of them.
    :raises PrivacyError: no ledgers, or floors or a delta out of range.
    """
    if not charged:
        raise PrivacyError("charged: no ledgers; allowed: at least one")
    known = {"outsider": 0, "server": 0, "another silo": 1, "server with colluding silos": floors.colluding}
    return tuple(_claim(mode, adversary, count, charged, floors) for adversary, count in known.items())


def epsilon_by_colluders(
    charged: Sequence[Charged], floors: Floors, highest: int | None = None
) -> tuple[CollusionPoint, ...]:
    """Epsilon against the server with c silos, for c = 0 to ``highest`` (by default T_min: there it is void).

    In mode A the silos' own noise stands, and epsilon is the same for every c.
    """
    last = floors.minimum_contributors if highest is None else highest
    return tuple(_point(charged, floors, colluding) for colluding in range(last + 1))


def events_against(events: Sequence[AnyPrivacyEvent], known: int) -> tuple[AnyPrivacyEvent, ...] | None:
    """The same releases, as seen by an adversary that knows ``known`` shares of every sum.

    :returns: None where a sum holds no other share.
    """
    seen: list[AnyPrivacyEvent] = []
    for event in events:
        if isinstance(event, DistributedGaussian):
            shares = event.shares + event.known_shares - known
            if shares < 1:
                return None
            event = msgspec.structs.replace(event, shares=shares, known_shares=known)
        seen.append(event)
    return tuple(seen)


def _point(charged: Sequence[Charged], floors: Floors, colluding: int) -> CollusionPoint:
    assumed = colluding <= floors.colluding
    shares = floors.minimum_contributors - colluding
    distributed = any(isinstance(event, DistributedGaussian) for one in charged for event in one.events)
    holds_to = floors.colluding if floors.protocol_holds_to is None else floors.protocol_holds_to
    void = ""
    if distributed and shares < 1:
        void = "they know all the noise that the smallest sum holds"
    elif distributed and colluding > holds_to:
        void = f"{floors.protocol} hides single vectors from the server and at most {holds_to} silos"
    elif distributed and not assumed and any(one.inherited is not None for one in charged):
        void = "what the lineage inherited was counted against fewer colluders"
    bound = None if void else _bound(charged, colluding)
    if bound is None and not void:
        void = "they know all the noise that an earlier sum holds"
    return CollusionPoint(colluding, max(0, shares), bound.epsilon if bound else None, assumed, void)


def _bound(charged: Sequence[Charged], known: int) -> Opinion | None:
    """The weakest silo's tightest bound; None where an adversary knows all the noise of a sum."""
    weakest: Opinion | None = None
    for one in charged:
        seen = events_against(one.events, known)
        if seen is None:
            return None
        found = _tightest(one, seen, None if one.plan is None else events_against(one.plan, known))
        if weakest is None or (found.epsilon or 0.0) > (weakest.epsilon or 0.0):
            weakest = found
    return weakest


def _tightest(charged: Charged, seen: tuple[AnyPrivacyEvent, ...], plan: tuple[AnyPrivacyEvent, ...] | None) -> Opinion:
    if charged.inherited is None:
        return _tightest_of(seen, charged.delta, charged.order, plan)
    fixed = RdpAtFixedOrder(charged.order)
    curve = compose([charged.inherited, *map(rdp_curve, seen)])
    return Opinion(fixed.name, fixed.convert(curve, charged.delta), "bound")


@lru_cache(maxsize=64)
def _tightest_of(
    seen: tuple[AnyPrivacyEvent, ...], delta: float, order: int, plan: tuple[AnyPrivacyEvent, ...] | None
) -> Opinion:
    """Silos under one plan have the same events: computed once."""
    return tightest(opinions(seen, delta, order=order, plan=plan, accountants=binding(plan)))


def _claim(mode: Mode, adversary: str, known: int, charged: Sequence[Charged], floors: Floors) -> AdversaryClaim:
    kinds = {type(event) for one in charged for event in one.events}
    distributed = DistributedGaussian in kinds or (not kinds and mode != "local-dp-sgd")
    colluding = adversary == "server with colluding silos"
    if distributed and colluding and floors.colluding == 0:
        sentence = "Nothing is claimed against the server together with silos: the run assumes that none helps it."
        return AdversaryClaim(adversary, sentence, 0, floors.minimum_contributors, None, None, {}, "", True)
    bound = _bound(charged, known)
    epsilon = bound.epsilon if bound else None
    parts = _delta_parts(charged, known, floors, epsilon, distributed) if epsilon is not None else {}
    delta = math.fsum(parts.values())
    shares = _fewest_shares(charged, floors, known) if distributed else None
    if bound is None or epsilon is None or delta >= 1:
        reason = "it knows all the noise that the smallest sum holds" if epsilon is None else "delta would be 1"
        sentence = f"Nothing is promised against this adversary ({adversary}): {reason}."
        return AdversaryClaim(adversary, sentence, None, shares, None, None, {}, "", distributed)
    promise = f"({_up(epsilon)}, {_delta(parts)})-differential privacy"
    return AdversaryClaim(
        adversary=adversary,
        sentence=(
            f"{_who(adversary, distributed, floors)} learns about {_PROTECTED[mode]} no more than {promise} allows; "
            f"{_grounds(shares, floors)}"
        ),
        colluding=(floors.colluding if distributed else None) if colluding else 0,
        shares=shares,
        epsilon=epsilon,
        delta=delta,
        delta_parts=parts,
        accountant=bound.accountant,
        computational=distributed,
    )


def _who(adversary: str, distributed: bool, floors: Floors) -> str:
    if not distributed:
        return {
            "outsider": "Who sees the final model or every global model",
            "server": "The server, even if secure aggregation failed and it saw every single update,",
            "another silo": "Another silo, which sees every global model,",
            "server with colluding silos": "The server together with any number of the other silos",
        }[adversary]
    silos = "one of the other silos" if floors.colluding == 1 else f"up to {floors.colluding} of the other silos"
    return {
        "outsider": "Who sees every global model and no message",
        "server": "The server, which sees every message and every sum,",
        "another silo": "Another silo, which sees every global model and knows its own noise,",
        "server with colluding silos": f"The server together with {silos}",
    }[adversary]


def _grounds(shares: int | None, floors: Floors) -> str:
    if shares is None:
        return "every silo's noise stands by itself."
    noise = "the noise of at least one silo" if shares == 1 else f"the noise of at least {shares} silos"
    return (
        f"each sum holds {noise} that it does not know. This is computational: it holds as long as {floors.protocol} "
        "hides single vectors, whose own noise is less."
    )


def _fewest_shares(charged: Sequence[Charged], floors: Floors, known: int) -> int:
    """m over all releases; where there is none yet, by the floors."""
    fewest = [
        event.shares + event.known_shares
        for one in charged
        for event in one.events
        if isinstance(event, DistributedGaussian)
    ]
    return max(0, min(fewest, default=floors.minimum_contributors) - known)


def _delta_parts(
    charged: Sequence[Charged], known: int, floors: Floors, epsilon: float, distributed: bool
) -> dict[str, float]:
    """What delta is made of.

    A mechanism within total variation eta of one that is (epsilon, delta)-private is itself private with
    delta + (1 + e^epsilon) eta: eta once for each of the two neighbours.
    """
    factor = 1 + math.exp(min(epsilon, 700.0))
    steps = max((sum(event.steps for event in one.events) for one in charged), default=0)
    sums = max(
        (sum(event.steps for event in one.events if isinstance(event, DistributedGaussian)) for one in charged),
        default=0,
    )
    parts = {
        "accountant": max(one.delta for one in charged),
        "noise sampler": factor * max(_sampler_distance(one, known, floors.local_dimension) for one in charged),
        "samples larger than planned": factor * steps * floors.sample_failure,
        "statistical failure of the protocol": factor * sums * floors.protocol_failure if distributed else 0.0,
    }
    return {name: value for name, value in parts.items() if value > 0}


def _sampler_distance(charged: Charged, known: int, local_dimension: int) -> float:
    """Total variation of all noise that counts from exact: m d T eta (only m shares of a sum have to be right)."""
    distances = []
    for event in charged.events:
        if isinstance(event, DistributedGaussian):
            draws = (event.shares + event.known_shares - known) * event.dimension * event.steps
            distances.append(draws * share_total_variation(event.share_sigma))
        elif isinstance(event, SampledGaussian):
            distances.append(local_dimension * event.steps * DiscreteGaussian(_LOCAL_SIGMA).total_variation)
    return math.fsum(distances)


def _up(value: float) -> str:
    """Upwards to 3 decimals."""
    return "0" if value == 0 else str(Decimal(repr(value)).quantize(Decimal("0.001"), ROUND_CEILING))


def _delta(parts: Mapping[str, float]) -> str:
    """Upwards to 6 significant digits; what adds less than a billionth is listed with the parts, not shown here."""
    total, main = math.fsum(parts.values()), parts["accountant"]
    if total <= main * (1 + 1e-9):
        return f"{main:g}"
    exact = Decimal(repr(total))
    return f"{float(exact.quantize(Decimal((0, (1,), exact.adjusted() - 5)), ROUND_CEILING)):.6g}"

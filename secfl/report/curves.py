"""Epsilon against delta of what the ledgers hold: RDP against PLD, with amplification by sampling and without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from protocols.errors import PrivacyError
from secfl.privacy.accounting import compose, epsilon, rdp_curve
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian
from secfl.report.accounts import Account, charged_events
from secfl.report.model import Curve, CurvePoint

__all__ = ["curves_of"]

_HALF_DECADES = range(-6, 5)  # from a thousandth of the budget's delta to a hundredfold
_LARGEST_DELTA = 1e-2
_LARGEST_EPSILON = 100.0
"""Above it a loss distribution takes gigabytes to tell what nobody asks for."""
Points = tuple[tuple[float, float | None], ...]


def curves_of(accounts: Mapping[str, Account]) -> tuple[Curve, ...]:
    """One curve for each set of equal ledgers. Inherited spend counts in Rényi figures; PLD is then left out.

    :param accounts: by silo.
    """
    groups: dict[tuple[tuple[AnyPrivacyEvent, ...], float, bytes], list[str]] = {}
    for silo, account in accounts.items():
        state = account.state
        key = (_merged(charged_events(state)), state.genesis.budget.delta, state.inherited.tobytes())
        groups.setdefault(key, []).append(silo)
    return tuple(
        _curve(tuple(silos), events, delta, accounts[silos[0]])
        for (events, delta, _), silos in groups.items()
        if events
    )


def _merged(events: Sequence[AnyPrivacyEvent]) -> tuple[AnyPrivacyEvent, ...]:
    """Equal events as one of more steps, in an order that does not depend on theirs."""
    steps: Counter[AnyPrivacyEvent] = Counter()
    for event in events:
        steps[msgspec.structs.replace(event, steps=1)] += event.steps
    return tuple(
        msgspec.structs.replace(event, steps=number)
        for event, number in sorted(steps.items(), key=lambda item: repr(item[0]))
    )


def _curve(silos: tuple[str, ...], events: tuple[AnyPrivacyEvent, ...], delta: float, account: Account) -> Curve:
    deltas = tuple(value for step in _HALF_DECADES if (value := delta * 10 ** (step / 2)) <= _LARGEST_DELTA)
    inherited = account.state.inherited
    plain = tuple(msgspec.structs.replace(event, sampling_rate=1.0) for event in events)
    amplified = plain != events
    pld: tuple[float | None, ...] = (None,) * len(deltas)
    unamplified = pld
    if not inherited.any():
        pld = _loss_distribution(events, deltas)
        unamplified = _loss_distribution(plain, deltas) if amplified else pld
    with_sampling = compose([inherited, *map(rdp_curve, events)])
    without = compose([inherited, *map(rdp_curve, plain)])
    points = tuple(
        CurvePoint(
            delta=value,
            rdp=epsilon(with_sampling, value)[0],
            pld=pld[index],
            rdp_unamplified=epsilon(without, value)[0],
            pld_unamplified=unamplified[index],
        )
        for index, value in enumerate(deltas)
    )
    approximate = any(isinstance(event, DistributedGaussian) for event in events)
    return Curve(silos=silos, amplified=amplified, pld_is_approximate=approximate, points=points)


@lru_cache(maxsize=32)
def _loss_distribution(events: tuple[AnyPrivacyEvent, ...], deltas: tuple[float, ...]) -> tuple[float | None, ...]:
    """Epsilon at each delta by dp-accounting's PLD, pessimistic; of discrete noise that of the Gaussian alike.

    None where dp-accounting is missing, or where epsilon is too large to bother.
    """
    try:
        from dp_accounting import dp_event
        from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
    except ImportError:
        return (None,) * len(deltas)
    try:
        if epsilon(compose(map(rdp_curve, events)), deltas[-1])[0] > _LARGEST_EPSILON:
            return (None,) * len(deltas)
    except PrivacyError:
        return (None,) * len(deltas)
    accountant = PLDAccountant()
    for event in events:
        step = dp_event.PoissonSampledDpEvent(event.sampling_rate, dp_event.GaussianDpEvent(event.noise_multiplier))
        accountant.compose(step, event.steps)
    return tuple(float(accountant.get_epsilon(delta)) for delta in deltas)

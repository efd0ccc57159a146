"""What a silo's ledger says of its budget: spent, left, how far the rest reaches. Pure: a verified ledger in, rows out.

The run's own report and `secfl report verify` both come through here, the one from the open ledger, the other from the
file: a number that differs was changed in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from protocols.errors import MissingExtra, PrivacyError
from secfl.privacy.accounting import compose, rdp_curve
from secfl.privacy.crosscheck import prv_epsilon
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian, SampledGaussian
from secfl.privacy.ledger_entries import Head
from secfl.privacy.ledger_state import LedgerState, Release, ReleaseState
from secfl.privacy.planning import rounds_left
from secfl.report.model import ForecastPoint, NoiseLevel, ReleaseRow

__all__ = [
    "Account",
    "charged_events",
    "epsilon_after",
    "forecast",
    "noise_levels",
    "present_event",
    "prv_of",
    "release_rows",
    "rounds_left",
]

SPENT = (ReleaseState.SENDING, ReleaseState.COMMITTED)
NOISE_FACTORS = (0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
FORECAST_POINTS = 12
EVALUATION = "-evaluation"
"""What the id of a run's secure evaluation, a release of its own, has behind that of the run."""


@dataclass(frozen=True)
class Account:
    """A verified ledger as it stood when the report was made."""

    state: LedgerState
    head: Head


def charged_events(state: LedgerState) -> tuple[AnyPrivacyEvent, ...]:
    """Events of what left the silo, or may have, in order; inherited spend is none of them."""
    return tuple(release.reservation.event for release in state.releases() if release.state in SPENT)


def present_event(state: LedgerState, run_id: str) -> AnyPrivacyEvent | None:
    """What a round costs at present: the last release of the run, or else of the ledger; None before the first."""
    releases = tuple(state.releases())
    own = [release for release in releases if release.reservation.run == run_id] or releases
    return own[-1].reservation.event if own else None


def epsilon_after(state: LedgerState, run_id: str, number: int, attempt: int) -> float:
    """Epsilon spent when an attempt at a round of the run was over, by the filter."""

    def counts(release: Release) -> bool:
        at = release.reservation
        if at.run == run_id:
            return release.state in SPENT and (at.round, at.attempt) <= (number, attempt)
        return release.state in SPENT and at.run != run_id + EVALUATION  # which comes after all rounds

    curves = [release.curve for release in state.releases() if counts(release)]
    return state.filter.epsilon_of(compose([state.inherited, *curves]))


def noise_levels(state: LedgerState, event: AnyPrivacyEvent) -> tuple[NoiseLevel, ...]:
    """Rounds left at the present noise and at multiples of it."""
    charged = state.charged_curves()
    levels = []
    for factor in NOISE_FACTORS:
        try:
            other = _with_noise(event, factor)
        except PrivacyError:  # no event may have so much noise, or so little
            continue
        levels.append(
            NoiseLevel(noise_multiplier=other.noise_multiplier, rounds_left=rounds_left(state.filter, charged, other))
        )
    return tuple(levels)


def _with_noise(event: AnyPrivacyEvent, factor: float) -> AnyPrivacyEvent:
    if isinstance(event, SampledGaussian):
        return msgspec.structs.replace(event, noise_multiplier=event.noise_multiplier * factor)
    return msgspec.structs.replace(event, share_sigma=event.share_sigma * factor)


def forecast(state: LedgerState, event: AnyPrivacyEvent, rounds: int) -> tuple[ForecastPoint, ...]:
    """What would remain after up to ``rounds`` further rounds, at a dozen points or fewer."""
    charged = compose(state.charged_curves())
    curve = rdp_curve(event)
    ahead = sorted(set(np.linspace(0, rounds, FORECAST_POINTS + 1).round().astype(int).tolist()))[1:] if rounds else []
    return tuple(
        ForecastPoint(
            rounds=number,
            remaining_epsilon=max(
                0.0, state.genesis.budget.epsilon - state.filter.epsilon_of(compose([charged, number * curve]))
            ),
        )
        for number in ahead
    )


def release_rows(state: LedgerState) -> tuple[ReleaseRow, ...]:
    """All releases in the ledger's order, those that follow one another and differ in their round alone in one row."""
    rows: list[ReleaseRow] = []
    for release in state.releases():
        row = _release_row(release)
        before = rows[-1] if rows else None
        if before is not None and before.last_round + 1 == row.first_round:
            longer = msgspec.structs.replace(before, last_round=row.last_round, releases=before.releases + 1)
            if longer == msgspec.structs.replace(row, first_round=before.first_round, releases=longer.releases):
                rows[-1] = longer
                continue
        rows.append(row)
    return tuple(rows)


def _release_row(release: Release) -> ReleaseRow:
    reservation = release.reservation
    event = reservation.event
    shares: dict[str, Any] = (
        {
            "l2_sensitivity": event.l2_sensitivity,
            "dimension": event.dimension,
            "share_sigma": event.share_sigma,
            "shares": event.shares,
            "known_shares": event.known_shares,
        }
        if isinstance(event, DistributedGaussian)
        else {}
    )
    return ReleaseRow(
        run=reservation.run,
        first_round=reservation.round,
        last_round=reservation.round,
        releases=1,
        attempt=reservation.attempt,
        state=release.state.value,
        kind=str(event.__struct_config__.tag),
        sampling_rate=event.sampling_rate,
        noise_multiplier=event.noise_multiplier,
        steps=event.steps,
        **shares,
    )


@lru_cache(maxsize=64)
def prv_of(events: tuple[AnyPrivacyEvent, ...], delta: float) -> float | None:
    """The cross-check over all charged releases; None where Opacus is missing or has no such mechanism.

    Silos under one plan have the same events: computed once.
    """
    if not events:
        return 0.0
    try:
        return prv_epsilon(events, delta)
    except (MissingExtra, PrivacyError):  # a cross-check that cannot be made is shown as missing
        return None

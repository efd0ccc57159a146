"""Noise, samples and clip in a report: what the mechanism is, and what each round had of it."""

from __future__ import annotations

import math

from secfl.config import Config
from secfl.federation import noised
from secfl.federation.run_records import RunRecords
from secfl.federation.setup import noise_multipliers
from secfl.federation.work import batch_padding
from secfl.privacy import grid
from secfl.privacy.events import AnyPrivacyEvent, DistributedGaussian
from secfl.privacy.mechanism import DistributedMechanism
from secfl.report.model import (
    Claim,
    Mechanism,
    NoiseRow,
    Sampling,
)
from secfl.training.padding import Padding

__all__ = ["mechanism_of", "noise_rows", "paddings", "sampling_of"]


def mechanism_of(records: RunRecords, claimed: tuple[Claim, ...]) -> Mechanism:
    """The mechanism as planned, and the least noise that a ledger was charged for."""
    config, scheme = records.config, records.scheme
    planned = max(noise_multipliers(config, records.layout).values(), default=None)
    shared = scheme if isinstance(scheme, DistributedMechanism) else None
    return Mechanism(
        noise_source=_noise_source(config),
        clip_norm=config.training.clip_norm,
        noise_multiplier=planned,
        floor_multiplier=min((event.noise_multiplier for event in records.events), default=planned),
        norm_inflation=shared.plan.inflation if shared is not None else _grid_inflation(records, planned),
        share_sigma=None if shared is None else shared.plan.share_sigma,
        minimum_contributors=None if shared is None else shared.minimum_contributors,
        colluding=None if shared is None else shared.colluding,
        value_bits=config.aggregation.value_bits if shared is None else None,
        modulus_bits=scheme.modulus_bits,
        wrap_probability=0.0 if shared is None else shared.wrap_bound,
        sampler_delta=max((claim.delta_parts.get("noise sampler", 0.0) for claim in claimed), default=0.0),
    )


def _noise_source(config: Config) -> str:
    if config.privacy is None:
        return "none: no differential privacy"
    return noised.NOISE_SOURCE if config.training.noise_in_sum else grid.NOISE_SOURCE


def _grid_inflation(records: RunRecords, noise: float | None) -> float | None:
    """How much rounding to mode A's grid lengthens a record's reach."""
    clip = records.config.training.clip_norm
    if noise is None or clip is None:
        return None
    return grid.grid_bound(noise, clip, records.update_size) * grid.grid_step(noise, clip) / clip


def noise_rows(records: RunRecords) -> tuple[NoiseRow, ...]:
    """Noise of each completed round: nobody absent, at the floor, and as it was."""
    events = {
        (release.reservation.round, release.reservation.attempt): release.reservation.event
        for account in records.accounts.values()
        for release in account.state.releases()
        if release.reservation.run == records.run_id
    }
    rows = []
    for row in records.rounds:
        event = events.get((row.number, row.attempt))
        if not row.completed or event is None:
            continue
        asked = records.config.cohort_size
        rows.append(
            NoiseRow(
                number=row.number,
                attempt=row.attempt,
                dropped=asked - len(row.contributors),
                contributors=len(row.contributors),
                planned=_multiplier(event, asked),
                floor=event.noise_multiplier,
                achieved=_multiplier(event, len(row.contributors)),
            )
        )
    return tuple(rows)


def _multiplier(event: AnyPrivacyEvent, contributors: int) -> float:
    """Noise unknown to the strongest adversary, over the sensitivity, with so many contributors."""
    if not isinstance(event, DistributedGaussian):
        return event.noise_multiplier
    return math.sqrt(contributors - event.known_shares) * event.share_sigma / event.l2_sensitivity


def paddings(config: Config) -> list[Padding]:
    """Padding of each silo's steps; none without."""
    return [found for silo in config.silo if (found := batch_padding(config, silo)) is not None]


def _batch_padding(config: Config) -> str:
    padded = [found.batch for found in paddings(config)]
    if not padded:
        return "none"
    rows = f"{min(padded)}" if min(padded) == max(padded) else f"{min(padded)} to {max(padded)}, by silo"
    return f"every step runs on a public number of rows ({rows})"


def sampling_of(config: Config) -> Sampling:
    """How records and silos are chosen, and what of it counts for privacy."""
    training = config.training
    scheme, amplification = "shuffled batches", "none: no differential privacy"
    rate = training.sampling_rate
    if training.mode == "client-level":
        scheme = "every silo that is asked contributes once; its own batches are shuffled and count for nothing"
        amplification = "none: a silo's participation is visible, so nothing is claimed for choosing it"
        rate = 1.0
    elif config.privacy is not None:
        scheme = "Poisson: each record enters each step independently"
        amplification = "only the sampling of records counts for privacy, never that of silos"
    if config.server.cohort_size is not None:
        amplification = f"silos are chosen at random; {amplification}"
    return Sampling(
        scheme=scheme,
        rate=rate,
        steps_per_round=training.steps_per_round,
        rounds_planned=config.run.rounds,
        cohort_size=config.cohort_size,
        silos=len(config.silo),
        nominal_units=config.privacy_units,
        amplification=amplification,
        batch_padding=_batch_padding(config),
    )

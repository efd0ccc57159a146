"""A realistic run: four hospitals, ten rounds, one dropout, one refused message; its spend is what the filter says."""

from __future__ import annotations

import hashlib

import msgspec

from secfl.privacy.accounting import RdpFilter, choose_order, noise_multiplier_for, rdp_curve, rdp_epsilon
from secfl.privacy.events import SampledGaussian
from secfl.report.model import (
    Claim,
    Curve,
    CurvePoint,
    Evaluation,
    FaultRow,
    GroupPoint,
    Mechanism,
    NoiseLevel,
    NoiseRow,
    PhaseRow,
    ReleaseRow,
    RoundRow,
    RunReport,
    Sampling,
    SiloRow,
)
from secfl.report.summary import group_bound

SILOS = {"cleveland": 227, "hungarian": 220, "switzerland": 92, "va": 150}
ROUNDS, STEPS, RATE, BUDGET, DELTA = 10, 2, 0.5, 3.0, 1e-5
AUC = (0.6214, 0.6893, 0.7402, 0.7711, 0.8036, 0.8189, 0.8147, 0.8302, 0.8377, 0.8413)
LATE, FAULTY = 7, 4
# Opacus PRV over the same events, computed once: 20 steps at q = .5 with the noise multiplier below.
PRV = 2.75172252592532


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sample_report() -> RunReport:
    noise = noise_multiplier_for(BUDGET, DELTA, RATE, ROUNDS * STEPS)
    order = choose_order([SampledGaussian(RATE, noise, ROUNDS * STEPS)], DELTA)
    budget = RdpFilter(order, BUDGET, DELTA)
    spent = [budget.epsilon_of(rdp_curve(SampledGaussian(RATE, noise, STEPS * done))) for done in range(1, ROUNDS + 1)]
    silos = tuple(_silo(name, size, noise, spent[-1]) for name, size in SILOS.items())
    return RunReport(
        name="heart",
        run_id=digest("run")[:32],
        started="2025-03-04T09:12:31+00:00",
        finished="2025-03-04T09:14:05+00:00",
        status="completed",
        status_reason="",
        rounds_planned=ROUNDS,
        engine="embedded",
        simulation=True,
        privacy_mode="local-dp-sgd",
        mechanism=Mechanism(
            noise_source="discrete Gaussian from operating-system random words",
            clip_norm=1.0,
            noise_multiplier=noise,
            floor_multiplier=noise,
            norm_inflation=1.000001,
            share_sigma=None,
            minimum_contributors=None,
            colluding=None,
            value_bits=20,
            modulus_bits=32,
            wrap_probability=0.0,
            sampler_delta=4.9e-31,
        ),
        sampling=Sampling(
            scheme="Poisson: each record enters each step independently",
            rate=RATE,
            steps_per_round=STEPS,
            rounds_planned=ROUNDS,
            cohort_size=4,
            silos=4,
            nominal_units=sum(SILOS.values()),
            amplification="only the sampling of records counts for privacy, never that of silos",
            batch_padding="none",
        ),
        groups=tuple(
            GroupPoint(
                adversary=adversary,
                size=size,
                epsilon=bound.epsilon if bound.delta is not None else None,
                delta=bound.delta,
            )
            for adversary in ("outsider", "server", "another silo")
            for size in (1, 2, 5)
            for bound in (group_bound(spent[-1], DELTA, size),)
        ),
        curves=curves(noise),
        noise=tuple(
            NoiseRow(
                number=number,
                attempt=0,
                dropped=int(number == LATE),
                contributors=4 - int(number == LATE),
                planned=noise,
                floor=noise,
                achieved=noise,
            )
            for number in range(1, ROUNDS + 1)
        ),
        claims=tuple(_claim(adversary, spent[-1]) for adversary in ("outsider", "server", "another silo")),
        silos=silos,
        rounds=tuple(_round(number, spent[number - 1]) for number in range(1, ROUNDS + 1)),
        evaluation=Evaluation(
            kind="benchmark",
            metric="AUC",
            value=AUC[-1],
            records="pooled test records of all silos, declared unprotected in the configuration: published exactly",
        ),
        protocol="secagg",
        protocol_parameters={
            "graph": "complete",
            "clients": 4,
            "collusion bound": 1,
            "threshold": 3,
            "minimum contributors": 3,
            "suite": "X25519, Ed25519, HKDF-SHA256, AES-256-CTR, AES-256-GCM",
            "modulus bits": 32,
            "vector length": 14_210,
        },
        encoding={"value range": 4.0, "value bits": 20, "rounding": "stochastic", "wrap probability": 0},
        training={"learning rate": 0.5, "steps per round": STEPS, "sampling rate": RATE, "rounds": ROUNDS},
        not_protected=(
            "Who takes part, when, and how large its messages are.",
            "The sum of the updates: it is what the protocol is there to reveal.",
            "Time: how long a silo trains may depend on its records; replies do not leave at fixed times.",
            "Honesty of inputs: a silo may send any update within the clipping range.",
        ),
        model_hash=digest("model 10"),
        data_description="UCI Heart Disease (1988), a public data set",
        versions={"python": "3.11.11", "secfl": "0.1.0", "numpy": "2.4.6", "opacus": "1.6.0"},
        configuration='[run]\nname = "heart"\nrounds = 10\n\n[privacy]\nepsilon = 3.0\ndelta = 1e-5\n',
    )


def curves(noise: float) -> tuple[Curve, ...]:
    """Rényi figures as they are; those of the other accountant a tenth below."""
    points = []
    for delta in (1e-7, 1e-6, 1e-5, 1e-4):
        rdp = rdp_epsilon([SampledGaussian(RATE, noise, ROUNDS * STEPS)], delta)
        whole = rdp_epsilon([SampledGaussian(1.0, noise, ROUNDS * STEPS)], delta)
        points.append(
            CurvePoint(delta=delta, rdp=rdp, pld=0.9 * rdp, rdp_unamplified=whole, pld_unamplified=0.9 * whole)
        )
    return (Curve(silos=tuple(SILOS), amplified=True, pld_is_approximate=False, points=tuple(points)),)


def plain_report() -> RunReport:
    """The same run without privacy and without evaluation: every optional value is missing."""
    report = sample_report()
    missing = dict.fromkeys(
        ("budget_epsilon", "delta", "spent_epsilon", "reserved_epsilon", "remaining_epsilon", "prv_epsilon",
         "rounds_left", "sampling_rate", "noise_multiplier", "clip_norm")
    )  # fmt: skip
    return msgspec.structs.replace(
        report,
        privacy_mode="none",
        mechanism=msgspec.structs.replace(
            report.mechanism,
            noise_source="none: no differential privacy",
            clip_norm=None,
            noise_multiplier=None,
            floor_multiplier=None,
            norm_inflation=None,
            sampler_delta=0.0,
        ),
        groups=(),
        curves=(),
        noise=(),
        rounds_planned=None,
        claims=(),
        silos=tuple(
            msgspec.structs.replace(s, **missing, ledger_head="", releases=(), noise_levels=(), forecast=())
            for s in report.silos
        ),
        rounds=tuple(msgspec.structs.replace(row, metric=None, epsilon={}) for row in report.rounds),
        evaluation=Evaluation(kind="none", metric="", value=None, records="nothing was evaluated"),
    )


def halted_report() -> RunReport:
    """Three rounds done; two attempts at the fourth failed."""
    report = sample_report()
    failed = tuple(
        msgspec.structs.replace(
            report.rounds[3],
            attempt=attempt,
            completed=False,
            failure="MaskedInput: 2 parties present, 3 required",
            contributors=(),
            metric=None,
            checks=(),
        )
        for attempt in (0, 1)
    )
    return msgspec.structs.replace(
        report,
        status="halted",
        status_reason="round 4 failed twice",
        rounds=(*report.rounds[:3], *failed),
    )


def _silo(name: str, size: int, noise: float, spent: float) -> SiloRow:
    return SiloRow(
        name=name,
        lineage=f"{name}-records",
        nominal_records=size,
        budget_epsilon=BUDGET,
        delta=DELTA,
        spent_epsilon=spent,
        reserved_epsilon=0.0,
        remaining_epsilon=max(0.0, BUDGET - spent),
        prv_epsilon=PRV,
        rounds_left=0,
        noise_levels=(
            NoiseLevel(noise_multiplier=noise, rounds_left=0),
            NoiseLevel(noise_multiplier=2 * noise, rounds_left=0),
        ),
        sampling_rate=RATE,
        noise_multiplier=noise,
        steps_per_round=STEPS,
        clip_norm=1.0,
        ledger_head=digest(f"ledger {name}"),
        public_key=digest(f"key {name}"),
        releases=tuple(
            ReleaseRow(
                run=digest("run")[:32],
                first_round=first,
                last_round=last,
                releases=last - first + 1,
                attempt=0,
                state=state,
                kind="sampled-gaussian",
                sampling_rate=RATE,
                noise_multiplier=noise,
                steps=STEPS,
            )
            for first, last, state in (
                ((1, LATE - 1, "committed"), (LATE, LATE, "sending"), (LATE + 1, ROUNDS, "committed"))
                if name == "va"
                else ((1, ROUNDS, "committed"),)
            )
        ),
    )


def _claim(adversary: str, spent: float) -> Claim:
    return Claim(
        adversary=adversary,
        sentence=(
            f"What {adversary} learns about any single record of a silo is limited by differential privacy; every "
            "silo's noise stands by itself."
        ),
        unit="record",
        neighbouring_relation="add or remove one record of one silo",
        epsilon=spent,
        delta=DELTA,
        accountant="RDP filter at a fixed integer order",
    )


def _round(number: int, spent: float) -> RoundRow:
    everybody = tuple(SILOS)
    here = tuple(name for name in everybody if not (number == LATE and name == "va"))
    seconds = (0.0121, 0.0304, 0.874 + number / 100, 0.0082, 0.0453)
    up = (292, 1_604, 57_210, 210, 1_180)
    down = (1_120, 1_604, 1_450, 180, 690)
    phases = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
    fault = FaultRow(party="hungarian", phase="ShareKeys", text="client 'hungarian': message of another session")
    return RoundRow(
        number=number,
        attempt=0,
        completed=True,
        session=digest(f"session {number}")[:32],
        model_hash=digest(f"model {number - 1}"),
        contributors=here,
        phases=tuple(
            PhaseRow(
                phase=phase,
                seconds=seconds[index],
                bytes_up=up[index] * (len(here) if index >= 2 else 4),
                bytes_down=down[index] * (len(here) if index >= 3 else 4),
                answered=here if index >= 2 else everybody,
                dropped=("va",) if number == LATE and phase == "MaskedInput" else (),
                faults=(fault,) if number == FAULTY and phase == "ShareKeys" else (),
            )
            for index, phase in enumerate(phases)
        ),
        checks=(
            "every key advertisement signed by its silo",
            "one contributor set signed by all survivors",
            "reconstructed seeds match their commitments",
        ),
        metric=AUC[number - 1],
        epsilon=dict.fromkeys(everybody, spent),
    )

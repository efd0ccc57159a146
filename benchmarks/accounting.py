"""Accountants side by side: epsilon of 500 rounds, with one configuration and with many.

    python benchmarks/accounting.py [--json FILE] [--quick]

Ours at integer orders, cold and from the cache; dp-accounting's Rényi accountant at the same orders and PLD; Opacus'
PRV. A configuration is a sampling rate and a noise multiplier; a lifetime ledger has one for each plan that it has
seen. PLD and PRV cost the same for each configuration and are measured on a few, in the same run, then scaled: the row
says on how many. Processor time on one pinned core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from measure import Figures, machine, pin_to_one_core, spent

from secfl.privacy import accounting, crosscheck
from secfl.privacy.accountants import Pld, Prv
from secfl.privacy.events import DistributedGaussian, SampledGaussian

DELTA = 1e-5
STEPS = 10
ROUNDS = 500


def local(configurations: int, rounds: int) -> list[SampledGaussian]:
    return [SampledGaussian(0.01 + (i % configurations) * 1e-5, 1.0, STEPS) for i in range(rounds)]


def distributed(configurations: int, rounds: int) -> list[DistributedGaussian]:
    return [
        DistributedGaussian(0.01 + (i % configurations) * 1e-5, 2.0**20, 10**6, 2.0**19, 4, STEPS, 2)
        for i in range(rounds)
    ]


def forget() -> None:
    accounting._sampled_gaussian_step.cache_clear()
    accounting._distributed_gaussian_step.cache_clear()


def theirs(events: Sequence[SampledGaussian]) -> float:
    accountant = RdpAccountant(list(accounting.ORDERS))
    for event in events:
        step = dp_event.PoissonSampledDpEvent(event.sampling_rate, dp_event.GaussianDpEvent(event.noise_multiplier))
        accountant.compose(step, event.steps)
    return float(accountant.get_epsilon(DELTA))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few configurations, to see that it runs")
    arguments = parser.parse_args()
    pin_to_one_core()
    rounds, few = (20, 2) if arguments.quick else (ROUNDS, 8)
    figures = Figures("Epsilon of a ledger's life, processor seconds")
    for configurations in (1, rounds):
        accounting._log_factorials()
        for name, events in (
            ("RDP, sampled Gaussian", local(configurations, rounds)),
            ("RDP, distributed", distributed(configurations, rounds)),
        ):
            forget()
            for state in ("", ", again"):
                seconds = spent(lambda events=events: accounting.rdp_epsilon(events, DELTA))
                figures.add(name + state, seconds, "s", configurations=configurations, rounds=rounds)
        measured = min(configurations, few)
        events = local(measured, measured)
        for name, epsilon in (
            ("RDP (dp-accounting)", lambda events: theirs(events)),
            ("PLD (dp-accounting)", lambda events: Pld().epsilon(events, DELTA)),
            ("PRV (Opacus)", lambda events: Prv().epsilon(events, DELTA)),
        ):
            epsilon(local(1, 1)[:1])  # imports
            crosscheck._pld.cache_clear()
            crosscheck._prv.cache_clear()
            seconds = spent(lambda epsilon=epsilon, events=events: epsilon(events)) * configurations / measured
            figures.add(name, seconds, "s", configurations=configurations, rounds=rounds, measured=measured)
    ours = next(row["value"] for row in figures.rows if row["configurations"] == rounds)
    for row in figures.rows:
        if row["configurations"] == rounds:
            row["times ours"] = round(row["value"] / ours, 1)
    figures.context |= machine()
    figures.show()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()

"""From a configuration and options to what is planned, and what the ledgers leave for it. Nothing here writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec

from protocols.errors import ConfigError, LedgerCorrupt, PrivacyError
from protocols.session import default_collusion_bound
from secfl.cli.ledger import public_key_of
from secfl.config import Config, least_contributors
from secfl.privacy.accounting import RdpFilter, choose_order
from secfl.privacy.budget import check_delta
from secfl.privacy.claims import Mode
from secfl.privacy.ledger import LedgerSummary, ReleaseState, verify
from secfl.privacy.planning import TrainingPlan, rounds_left, with_noise_for
from secfl.registry import PROTOCOLS, Entry
from secfl.report.plan import LedgerRow, LevelRow

__all__ = ["Planned", "ledger_rows", "planned"]

NOISE_FACTORS = (1.0, 0.75, 1.25, 1.5, 2.0, 3.0)
_MODES = get_args(Mode)
_NEEDED = ("mode", "sampling_rate", "rounds", "delta", "silos", "records")
_KEYS = {
    "mode": "training.mode",
    "sampling_rate": "training.sampling_rate",
    "noise_multiplier": "training.noise_multiplier",
    "steps_per_round": "training.steps_per_round",
    "clip_norm": "training.clip_norm",
    "rounds": "run.rounds",
    "delta": "privacy.delta",
    "silos": "server.cohort_size",
    "records": "silo.nominal_size",
    "minimum_contributors": "aggregation.minimum_contributors",
    "colluding": "aggregation.collusion_bound",
}


class Planned(msgspec.Struct, frozen=True):
    """A plan, and the budget for which its noise was chosen; None: the noise was given."""

    plan: TrainingPlan
    asked_epsilon: float | None


def planned(config: Config | None, options: Mapping[str, Any]) -> Planned:
    """What is planned: the configuration's figures, and over them the options that are given.

    :param options: of `TrainingPlan`'s names, and ``epsilon``; None where an option is left out.
    :raises ConfigError: naming the option or the key.
    :raises PrivacyError: a budget that no noise reaches.
    """
    given = {name: value for name, value in options.items() if value is not None}
    values = {**(_of_config(config, given) if config is not None else {}), **given}
    for name in _NEEDED:
        if name not in values:
            raise ConfigError(_option(name), "missing", "a value, or a CONFIG that has it")
    if values["mode"] not in _MODES:
        raise ConfigError(_option("mode"), f"{values['mode']!r} is no private mode", f"one of {', '.join(_MODES)}")
    if "epsilon" in given and "noise_multiplier" in given:
        raise ConfigError("--epsilon, --noise-multiplier", "are given both", "one of them")
    epsilon = values.pop("epsilon", None)
    if "epsilon" in given or "noise_multiplier" not in values:
        values.pop("noise_multiplier", None)
        if epsilon is None:
            raise ConfigError("--epsilon", "missing", "a budget, or --noise-multiplier")
    else:
        epsilon = None
    return _planned(_completed(values, PROTOCOLS["secagg"] if config is None else config.protocol), epsilon, given)


def _planned(values: dict[str, Any], epsilon: float | None, given: Mapping[str, Any]) -> Planned:
    try:
        plan = TrainingPlan(**{"noise_multiplier": 1.0, **values})
        check_delta(plan.delta, plan.silos if plan.mode == "client-level" else plan.records)
    except PrivacyError as error:
        name, _, rest = str(error).partition(": ")
        if name not in (*_KEYS, "dimension"):
            raise
        problem, _, allowed = rest.partition("; allowed: ")
        culprit = _option(name) if name in given or name not in _KEYS else _KEYS[name]
        raise ConfigError(culprit, problem, allowed) from None
    if epsilon is None:
        return Planned(plan, None)
    if not epsilon > 0 or math.isinf(epsilon):
        raise ConfigError("--epsilon", f"{epsilon!r}", "a number > 0")
    return Planned(with_noise_for(plan, epsilon), epsilon)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _of_config(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says, as far as it still holds under the options given."""
    training, privacy = config.training, config.privacy
    mode = given.get("mode", training.mode)
    rounds, steps = config.budgeted_rounds, training.steps_per_round
    if mode == "distributed-dp-sgd" and "steps_per_round" not in given:
        rounds, steps = rounds * steps, 1  # the same gradient steps, one sum each
    values: dict[str, Any] = {
        "mode": mode,
        "sampling_rate": training.sampling_rate,
        "steps_per_round": steps,
        "rounds": rounds,
        "silos": config.cohort_size,
        "records": sum(silo.nominal_size for silo in config.silo),
        "protocol": config.aggregation.protocol,
        "protocol_failure": config.protocol.statistical_failure,
        "clip_norm": training.clip_norm,
        "noise_multiplier": training.noise_multiplier if mode == training.mode else None,
        "delta": privacy.delta if privacy is not None else None,
        "epsilon": privacy.epsilon if privacy is not None else None,
        "colluding": None if "silos" in given else config.collusion_bound,
        "minimum_contributors": config.minimum_contributors
        if mode == training.mode and "silos" not in given and "colluding" not in given
        else config.aggregation.minimum_contributors,
    }
    return {name: value for name, value in values.items() if value is not None}


def _completed(values: dict[str, Any], protocol: Entry) -> dict[str, Any]:
    """What follows from the rest where nobody says otherwise: a run's own defaults."""
    silos = values["silos"]
    colluding = values.get("colluding", max(0, min(default_collusion_bound(silos), silos - 2)))
    least = least_contributors(protocol, silos, colluding, noise_in_sum=values["mode"] != "local-dp-sgd")
    return {
        "steps_per_round": 1,
        "clip_norm": 1.0,
        "colluding": colluding,
        "minimum_contributors": min(silos, least),
        **values,
    }


def ledger_rows(config: Config, directory: Path, plan: TrainingPlan, roster: Path | None) -> tuple[LedgerRow, ...]:
    """What each silo's lifetime ledger leaves for the plan.

    :param directory: of the configuration.
    :param roster: whose keys the ledgers must be signed with; None: each with the key that it names itself.
    :raises ConfigError: the configuration has no lifetime ledgers.
    :raises LedgerCorrupt: a ledger that does not verify.
    """
    if config.privacy is None or config.ledger.kind != "lifetime":
        problem = "the configuration has no lifetime ledgers"
        raise ConfigError("--ledgers", problem, 'a table privacy, and ledger.kind "lifetime"')
    home = directory / config.ledger.directory
    return tuple(
        _ledger_row(config, home / silo.name / f"{config.ledger.lineage}.ledger", silo.name, plan, roster)
        for silo in config.silo
    )


def _ledger_row(config: Config, path: Path, silo: str, plan: TrainingPlan, roster: Path | None) -> LedgerRow:
    if not path.exists() and not path.with_name(path.name + ".mark").exists():
        epsilon = config.privacy.epsilon if config.privacy is not None else 0.0
        budget = RdpFilter(choose_order([plan.event(plan.rounds)], plan.delta), epsilon, plan.delta)
        return LedgerRow(
            silo=silo,
            begun=False,
            budget_epsilon=epsilon,
            delta=plan.delta,
            spent_epsilon=0.0,
            remaining_epsilon=epsilon,
            levels=_levels(budget, [], plan),
        )
    summary = verify(path, public_key_of(path, roster))
    if summary.silo != silo:
        raise LedgerCorrupt(f"{path}: is of silo {summary.silo!r}, but lies in the directory of {silo!r}")
    return LedgerRow(
        silo=silo,
        begun=True,
        budget_epsilon=summary.budget.epsilon,
        delta=summary.budget.delta,
        spent_epsilon=summary.spent.filter_epsilon,
        remaining_epsilon=summary.remaining.filter_epsilon,
        levels=_levels(*_filter(summary), plan),
    )


def _filter(summary: LedgerSummary) -> tuple[RdpFilter, list[Any]]:
    charged = [release.curve for release in summary.releases if release.state is not ReleaseState.VOID]
    return (
        RdpFilter(summary.order, summary.budget.epsilon, summary.budget.delta),
        [summary.inherited_curve, *charged],
    )


def _levels(budget: RdpFilter, charged: list[Any], plan: TrainingPlan) -> tuple[LevelRow, ...]:
    return tuple(
        LevelRow(
            noise_multiplier=plan.noise_multiplier * factor,
            rounds_left=rounds_left(
                budget, charged, replace(plan, noise_multiplier=plan.noise_multiplier * factor).event(1)
            ),
        )
        for factor in NOISE_FACTORS
    )

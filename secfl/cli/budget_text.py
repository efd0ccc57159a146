"""The answer of `secfl budget` for people: a few tables, spends rounded up, what is left rounded down."""

from __future__ import annotations

from rich import box
from rich.table import Table

from secfl.cli.console import console
from secfl.report.display import DASH, decimal, rounded_down, rounded_up
from secfl.report.plan import BudgetAnswer, ColluderRow

__all__ = ["show"]

_LETTERS = {"local-dp-sgd": "A", "distributed-dp-sgd": "B", "client-level": "C"}
_MODES = {mode: f"{letter} {mode}" for mode, letter in _LETTERS.items()}


def show(answer: BudgetAnswer) -> None:
    """Print everything."""
    _plan(answer)
    _claims(answer)
    _accountants(answer)
    if answer.colluders:
        console.print(f"Server with c silos, epsilon: {_colluders(answer.colluders)}.", soft_wrap=True)
    _groups(answer)
    _dropouts(answer)
    _modes(answer)
    if answer.ledgers:
        _ledgers(answer)


def _plan(answer: BudgetAnswer) -> None:
    plan = answer.plan
    steps = f"{plan.releases} steps" if plan.mode == "local-dp-sgd" else f"{plan.releases} noised sums"
    console.print(
        f"Plan: mode {_MODES[plan.mode]}, {plan.rounds} rounds ({steps}), sampling rate {decimal(plan.sampling_rate)}, "
        f"{plan.silos} silos, {plan.records} records, delta {plan.delta:g}.",
        soft_wrap=True,
    )
    floors = f", from {plan.minimum_contributors} contributors on, {plan.colluding} of them in league with the server"
    why = (
        f"the smallest for epsilon {decimal(answer.asked_epsilon)}" if answer.asked_epsilon is not None else "as given"
    )
    console.print(
        f"Noise multiplier {plan.noise_multiplier:.4f}, {why}"
        f"{'' if plan.mode == 'local-dp-sgd' else floors}. Nothing was charged.",
        soft_wrap=True,
    )


def _table(*columns: str, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in columns:
        number = name in {"epsilon", "delta", "contributors", "dropped out", "noise", "of planned", "releases"}
        first = name in {"against", "mode", "silo"}
        table.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=first)
    return table


def _claims(answer: BudgetAnswer) -> None:
    table = _table("against", "epsilon", "delta", "accountant", title="What the whole plan costs")
    for claim in answer.claims:
        table.add_row(
            claim.adversary, _epsilon(claim.epsilon), DASH if claim.delta is None else f"{claim.delta:.3g}",
            claim.accountant or "nothing is promised",
        )  # fmt: skip
    console.print(table)


def _accountants(answer: BudgetAnswer) -> None:
    table = _table("accountant", "epsilon", "standing", title="Accountants, against the strongest adversary")
    for row in answer.accountants:
        table.add_row(row.accountant, _epsilon(row.epsilon), f"{row.standing}{f': {row.note}' if row.note else ''}")
    console.print(table)


def _colluders(points: tuple[ColluderRow, ...]) -> str:
    parts = []
    for point in points:
        if point.void:
            parts.append(f"c = {point.colluding} and more: nothing, since {point.void}")
            break
        beyond = "" if point.assumed else " (beyond the plan)"
        parts.append(f"c = {point.colluding}: {_epsilon(point.epsilon)}{beyond}")
    return "; ".join(parts)


def _groups(answer: BudgetAnswer) -> None:
    unit = "silos" if answer.plan.mode == "client-level" else "records"
    parts = [
        f"{row.size}: {_epsilon(row.epsilon) if row.delta is not None else 'nothing is promised'}"
        + (f" at delta {row.delta:.2g}" if row.delta is not None else "")
        for row in answer.groups
    ]
    console.print(f"Several {unit} of one owner together, epsilon: {'; '.join(parts)}.", soft_wrap=True)


def _dropouts(answer: BudgetAnswer) -> None:
    table = _table("contributors", "dropped out", "noise", "of planned", "epsilon", title="If silos drop out")
    for row in answer.dropouts:
        if row.noise is None:
            table.add_row(f"{row.contributors}", f"{row.dropped}", "no sum", "", "charged")
            continue
        table.add_row(
            f"{row.contributors}", f"{row.dropped}", f"{row.noise:.3g}", f"{row.noise_over_planned:.3f}",
            _epsilon(row.epsilon),
        )  # fmt: skip
    console.print(table)


def _modes(answer: BudgetAnswer) -> None:
    title = f"Modes at epsilon {rounded_up(answer.modes_epsilon)}: noise on a coordinate of the mean"
    table = _table("mode", "multiplier", "noise", "on the mean", "releases", title=title)
    for row in answer.modes:
        if row.noise is None or row.noise_multiplier is None:
            table.add_row(_MODES[row.mode], DASH, DASH, row.refusal, f"{row.releases}")
            continue
        table.add_row(
            _MODES[row.mode], f"{row.noise_multiplier:.4f}", f"{row.noise:.3g}", row.mean_of, f"{row.releases}",
        )  # fmt: skip
    console.print(table)


def _ledgers(answer: BudgetAnswer) -> None:
    levels = [f"at {level.noise_multiplier:.2f}" for level in answer.ledgers[0].levels]
    table = _table(
        "silo", "budget", "spent", "left", *levels, title="Rounds that the ledgers leave, by noise multiplier"
    )
    for row in answer.ledgers:
        table.add_row(
            row.silo, decimal(row.budget_epsilon), rounded_up(row.spent_epsilon) if row.begun else "not begun",
            rounded_down(row.remaining_epsilon), *(f"{level.rounds_left}" for level in row.levels),
        )  # fmt: skip
    console.print(table)


def _epsilon(value: float | None) -> str:
    return DASH if value is None else rounded_up(value)

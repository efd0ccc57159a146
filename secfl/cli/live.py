"""`--live`: a run while it goes on. Rounds, phases, parties, what is left of each budget and how far it reaches.

It shows what goes into ``events.jsonl``, no more: another tool that follows that file can show the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secfl.cli.console import console, errors
from secfl.cli.progress import RoundsProgress
from secfl.config import Config
from secfl.events import (
    BudgetCharged,
    Event,
    PartyRefused,
    PhaseClosed,
    PhaseOpened,
    RoundEvaluated,
    RoundFinished,
    SessionOpened,
)
from secfl.report.display import byte_size, duration, rounded_down, rounded_up
from secfl.report.model import RoundRow

__all__ = ["LiveView", "progress_of"]

_MOST_BUDGETS = 8
_BAR = 24


def progress_of(settings: Config, *, live: bool) -> LiveView | RoundsProgress:
    """What shows the rounds of a run: the live view if it is asked for and there is a terminal for it."""
    if live and console.is_terminal:
        return LiveView(settings)
    if live:
        errors.print("--live needs a terminal: a line for each attempt instead", soft_wrap=True)
    return RoundsProgress(settings)


@dataclass
class _Phase:
    """One phase of the attempt at hand."""

    name: str
    began: float
    closed: PhaseClosed | None = None


@dataclass
class _State:
    """What has been told so far."""

    round: int = 0
    attempt: int = 0
    done: int = 0
    phases: dict[str, _Phase] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    """Parties that dropped out of the attempt or were refused in it, with what happened."""
    budgets: dict[str, BudgetCharged] = field(default_factory=dict)
    metrics: list[float] = field(default_factory=list)
    note: str = ""


class LiveView:
    """Shows a run in a terminal; a context manager that leaves the terminal as it was."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._state = _State()
        self._began = time.monotonic()
        self._live = Live(self, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    def watch(self, event: Event) -> None:
        """Take in what happened."""
        state = self._state
        if isinstance(event, SessionOpened):
            state.round, state.attempt, state.phases, state.gone = event.round, event.attempt, {}, {}
        elif isinstance(event, PhaseOpened):
            state.phases[event.phase] = _Phase(event.phase, time.monotonic())
        elif isinstance(event, PhaseClosed):
            state.phases.setdefault(event.phase, _Phase(event.phase, time.monotonic())).closed = event
            for party in event.dropped:
                state.gone.setdefault(party, f"dropped out in {event.phase}")
        elif isinstance(event, PartyRefused):
            state.gone[event.party] = f"refused in {event.phase}: {event.reason or event.error}"
        elif isinstance(event, RoundFinished):
            state.note = "" if event.outcome == "summed" else f"attempt {event.attempt + 1} failed: {event.error}"
            state.done = event.round if event.outcome == "summed" else state.done
        elif isinstance(event, RoundEvaluated):
            state.metrics.append(event.value)
        elif isinstance(event, BudgetCharged):
            state.budgets[event.silo] = event

    def show(self, row: RoundRow) -> None:
        """Take in an attempt that is over, of engines that tell of no events."""
        self._state.round = max(self._state.round, row.number)
        self._state.done = max(self._state.done, row.number if row.completed else 0)

    def __rich__(self) -> RenderableType:
        """What is on the screen now."""
        parts: list[RenderableType] = [self._rounds(), self._phases(), self._parties()]
        if self._state.budgets:
            parts.append(self._budgets())
        return Group(*parts)

    def _rounds(self) -> RenderableType:
        state, planned = self._state, self._settings.run.rounds
        line = Table.grid(padding=(0, 2))
        passed = time.monotonic() - self._began
        ahead = f"about {duration(passed / state.done * (planned - state.done))} to go" if state.done else ""
        metric = f"{self._settings.evaluation.metric} {state.metrics[-1]:.4f}" if state.metrics else ""
        line.add_row(
            Text(self._settings.run.name, style="bold"),
            ProgressBar(total=planned, completed=state.done, width=_BAR),
            f"{state.done} of {planned} rounds",
            metric,
            f"{duration(passed)}, {ahead}" if ahead else duration(passed),
        )
        return Group(line, Text(state.note, style="red")) if state.note else line

    def _phases(self) -> RenderableType:
        state = self._state
        table = Table("phase", "", "answered", "dropped", "to the server", "to the parties", expand=False)
        for name in self._settings.protocol.phases:
            phase = state.phases.get(name)
            if phase is None:
                table.add_row(Text(name, style="dim"), "", "", "", "", "")
            elif phase.closed is None:
                table.add_row(
                    Text(name, style="bold"), f"{duration(time.monotonic() - phase.began)} ...", "", "", "", ""
                )
            else:
                end = phase.closed
                table.add_row(name, duration(end.seconds), str(len(end.answered)), str(len(end.dropped)),
                              byte_size(end.bytes_up), byte_size(end.bytes_down))  # fmt: skip
        attempt = f", attempt {state.attempt + 1}" if state.attempt else ""
        return Panel(
            table,
            title=f"round {state.round}{attempt}" if state.round else "starting",
            title_align="left",
            expand=False,
        )

    def _parties(self) -> RenderableType:
        state = self._state
        asked = self._settings.cohort_size
        if not state.gone:
            return Text(f"parties: all {asked} present", style="green")
        lines = [Text(f"parties: {len(state.gone)} of {asked} gone", style="yellow")]
        lines += [
            Text(f"  {party}: {what}", style="yellow") for party, what in list(state.gone.items())[:_MOST_BUDGETS]
        ]
        return Group(*lines)

    def _budgets(self) -> RenderableType:
        """The silos with the least left first."""
        ordered = sorted(self._state.budgets.values(), key=lambda item: item.epsilon_remaining)
        table = Table("silo", "budget", "spent", "left", "rounds left", "plan")
        for item in ordered[:_MOST_BUDGETS]:
            table.add_row(
                escape(item.silo),
                ProgressBar(
                    total=item.epsilon_budget, completed=min(item.epsilon_spent, item.epsilon_budget), width=_BAR
                ),
                f"{rounded_up(item.epsilon_spent)} of {item.epsilon_budget:g}",
                rounded_down(item.epsilon_remaining),
                "-" if item.rounds_left is None else str(item.rounds_left),
                _forecast(item),
            )
        more = len(ordered) - _MOST_BUDGETS
        note = Text(f"and {more} silos with more left" if more > 0 else "", style="dim")
        return Group(table, note) if more > 0 else table


def _forecast(item: BudgetCharged) -> Text:
    """Whether what is left lasts for the rest of the plan."""
    if item.rounds_left is None:
        return Text("")
    if item.rounds_left >= item.rounds_planned_left:
        return Text(f"lasts for the {item.rounds_planned_left} to come", style="green")
    return Text(f"ends {item.rounds_planned_left - item.rounds_left} rounds early", style="bold red")

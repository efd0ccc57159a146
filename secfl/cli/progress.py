"""Rounds as they go by: a bar in a terminal, a line for each attempt elsewhere."""

from __future__ import annotations

from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from secfl.cli.console import console
from secfl.config import Config
from secfl.events import Event
from secfl.report.model import RoundRow

__all__ = ["RoundsProgress"]


class RoundsProgress:
    """Shows the rounds of a run; a context manager."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(settings.run.name, total=settings.run.rounds, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._progress.stop()

    def show(self, row: RoundRow) -> None:
        """Tell of an attempt at a round."""
        note = escape(self._note(row))
        done = row.number if row.completed else row.number - 1  # sessions of buffered rounds may be more than rounds
        self._progress.update(self._task, completed=min(done, self._settings.run.rounds), note=note)
        if not console.is_terminal:
            console.print(note, soft_wrap=True)

    def watch(self, event: Event) -> None:
        """What happens within an attempt is not shown here."""

    def _note(self, row: RoundRow) -> str:
        settings = self._settings
        notes = [f"round {row.number}: {len(row.contributors)} of {settings.cohort_size} silos"]
        if row.failure:
            notes.append(f"attempt {row.attempt + 1} failed: {row.failure}")
        if row.metric is not None:
            notes.append(f"{settings.evaluation.metric} {row.metric:.3f}")
        if row.epsilon:
            notes.append(f"epsilon {max(row.epsilon.values()):.2f}")
        return ", ".join(notes)

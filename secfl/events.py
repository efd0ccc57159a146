"""Structured events for metrics and logs: names and numbers only, never a secret or the content of a vector.

An event holds no text of an error either, only its class, reason and rule. An observer is any callable that takes an
event; it is called in the thread that runs the rounds, and what it raises ends the run.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from protocols.errors import PeerFault, PolicyRefused, SecflError
from protocols.session import SessionParameters
from secfl.engines.base import PhaseRecord

__all__ = [
    "BudgetCharged",
    "Event",
    "JsonLinesObserver",
    "Observer",
    "PartyRefused",
    "PhaseClosed",
    "PhaseOpened",
    "RoundEvaluated",
    "RoundFinished",
    "SessionOpened",
    "carried_events",
    "closed_events",
    "jsonl_observer",
    "logging_observer",
    "opened_event",
    "refusal",
]


class Event(msgspec.Struct, frozen=True, tag_field="event", tag=True, kw_only=True):
    """Base of all events; its JSON opens with the event's name."""


class SessionEvent(Event, frozen=True, kw_only=True):
    """What the events of one session have in common.

    :param session: session id in hex.
    :param attempt: at the round, from 0.
    """

    session: str
    run_id: str
    round: int
    attempt: int


class SessionOpened(SessionEvent, frozen=True, kw_only=True):
    """A session was announced to its cohort."""

    protocol: str
    cohort: int
    threshold: int
    modulus_bits: int
    vector_length: int
    simulation: bool


class PhaseOpened(SessionEvent, frozen=True, kw_only=True):
    """The parties of a phase are about to be asked; only where the engine tells while it goes."""

    phase: str


class PhaseClosed(SessionEvent, frozen=True, kw_only=True):
    """A phase ended; bytes are those of all parties together."""

    phase: str
    seconds: float
    bytes_up: int
    bytes_down: int
    answered: tuple[str, ...]
    dropped: tuple[str, ...]


class PartyRefused(SessionEvent, frozen=True, kw_only=True):
    """A party refused a request, or its reply was refused.

    :param error: class of the error.
    :param reason: name of the fault's reason or of the parameter that was refused; empty for other errors.
    :param rule: number of the violated rule; may be empty.
    """

    phase: str
    party: str
    error: str
    reason: str
    rule: str


class RoundFinished(SessionEvent, frozen=True, kw_only=True):
    """An attempt at a round ended.

    :param outcome: ``summed``, or ``failed`` with the class of the error that ended it.
    """

    outcome: Literal["summed", "failed"]
    contributors: tuple[str, ...]
    dropped: tuple[str, ...]
    seconds: float
    error: str = ""


class BudgetCharged(Event, frozen=True, kw_only=True):
    """A silo's ledger after a round: epsilon by the ledger's own filter."""

    silo: str
    run_id: str
    round: int
    attempt: int
    epsilon_spent: float
    epsilon_budget: float
    delta: float
    epsilon_remaining: float
    rounds_left: int | None
    """Forecast: further rounds that fit at the cost of the last one; None before the first."""
    rounds_planned_left: int
    """Rounds of the plan that are still to come: the budget lasts if `rounds_left` is no less."""


class RoundEvaluated(Event, frozen=True, kw_only=True):
    """The model after a round, measured on records that are declared unprotected."""

    run_id: str
    round: int
    attempt: int
    metric: str
    value: float


Observer = Callable[[Event], None]


def opened_event(parameters: SessionParameters, *, simulation: bool) -> SessionOpened:
    """What a session's parameters say, for `SessionOpened`."""
    return SessionOpened(
        **session_fields(parameters),
        protocol=parameters.protocol,
        cohort=len(parameters.cohort),
        threshold=parameters.threshold,
        modulus_bits=parameters.modulus_bits,
        vector_length=parameters.vector_length,
        simulation=simulation,
    )


def carried_events(parameters: SessionParameters, phases: Iterable[PhaseRecord]) -> Iterator[Event]:
    """The phases of a session as an engine recorded them: refusals of each, then its end."""
    for record in phases:
        yield from closed_events(parameters, record)


def closed_events(parameters: SessionParameters, record: PhaseRecord) -> Iterator[Event]:
    """One phase that ended: its refusals, then its end."""
    for item in record.events:
        yield refusal(parameters, item.phase, item.party, item.error)
    yield PhaseClosed(
        **session_fields(parameters),
        phase=record.phase,
        seconds=record.seconds,
        bytes_up=record.bytes_up,
        bytes_down=record.bytes_down,
        answered=record.answered,
        dropped=record.dropped,
    )


def refusal(parameters: SessionParameters, phase: str, party: str, error: SecflError) -> PartyRefused:
    """The event of an error, without its text."""
    reason = ""
    if isinstance(error, PeerFault):
        reason = error.reason.name
    elif isinstance(error, PolicyRefused):
        reason = error.what
    rule = error.rule if isinstance(error, PeerFault | PolicyRefused) else ""
    fields = session_fields(parameters)
    return PartyRefused(**fields, phase=phase, party=party, error=type(error).__name__, reason=reason, rule=rule)


def session_fields(parameters: SessionParameters) -> dict[str, Any]:
    """The fields of `SessionEvent`."""
    return {
        "session": parameters.session_id().hex(),
        "run_id": parameters.run_id,
        "round": parameters.round_number,
        "attempt": parameters.attempt,
    }


def logging_observer(
    logger: logging.Logger | None = None, *, style: Literal["key=value", "json"] = "key=value"
) -> Observer:
    """Observer that writes one line an event: refusals and failed rounds as warnings, all else as information.

    :param logger: ``secfl`` by default; its handlers decide where lines go.
    """
    target = logging.getLogger("secfl") if logger is None else logger
    line = _json_line if style == "json" else _key_value_line

    def observe(event: Event) -> None:
        failed = isinstance(event, PartyRefused) or (isinstance(event, RoundFinished) and event.outcome == "failed")
        target.log(logging.WARNING if failed else logging.INFO, "%s", line(event))

    return observe


def jsonl_observer(path: str | Path, *, mode: int = 0o644) -> JsonLinesObserver:
    """Observer that appends one JSON object a line to a file, with the time (UTC) first.

    :param mode: of the file, if it is made.
    """
    return JsonLinesObserver(path, mode)


class JsonLinesObserver:
    """See `jsonl_observer`. A context manager; a line is in the file, whole, when the call returns.

    :raises OSError: the file cannot be opened or written.
    """

    def __init__(self, path: str | Path, mode: int = 0o644) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
        self._guard = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write an event."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, **msgspec.to_builtins(event)}).encode() + b"\n"
        with self._guard:
            if os.write(self._file, line) != len(line):
                raise OSError("an event was not written whole")

    def close(self) -> None:
        """Give the file up; calling it twice does no harm."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()


def _json_line(event: Event) -> str:
    return json.dumps(msgspec.to_builtins(event))


def _key_value_line(event: Event) -> str:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return " ".join(f"{name}={_plain(value)}" for name, value in fields.items())


def _plain(value: Any) -> str:
    """A value without spaces or line breaks of its own: lists by commas, all but plain words as JSON."""
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if text and all(c.isalnum() or c in "._-/" for c in text) else json.dumps(text)

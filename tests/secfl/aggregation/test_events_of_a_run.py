"""Events: what is told, in which order, and that no secret of a run is in any field or line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from protocols import Identity, SigningKey
from protocols.errors import ThresholdNotMet
from protocols.testing.randomness import DeterministicEntropy
from secfl.aggregation import SecureAggregator
from secfl.engines import Incident
from secfl.events import (
    BudgetCharged,
    Event,
    PartyRefused,
    PhaseClosed,
    RoundFinished,
    SessionOpened,
    jsonl_observer,
    logging_observer,
)

PARTIES = ("a", "b", "c", "d", "e")
PHASES = ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"]
# Values whose digits cannot come about by chance.
VALUES = {party: np.array([917_364_000 + at, 563_728_000 + at]) for at, party in enumerate(PARTIES)}


class RecordingEntropy:
    """Entropy that remembers what it gave: every key, seed and share coefficient of a run comes from it."""

    def __init__(self) -> None:
        self._source = DeterministicEntropy("events")
        self.given: list[bytes] = []

    def __call__(self, count: int) -> bytes:
        drawn = self._source(count)
        self.given.append(drawn)
        return drawn


def test_events_of_a_sum_come_in_order_with_their_numbers() -> None:
    events: list[Event] = []
    aggregator = SecureAggregator(PARTIES, incidents=[Incident("c", "MaskedInput")], observer=events.append)
    result = aggregator.sum(VALUES)
    opened, *closed, finished = events
    assert isinstance(opened, SessionOpened)
    assert (opened.cohort, opened.threshold, opened.vector_length, opened.simulation) == (5, 4, 2, True)
    assert [event.phase for event in closed if isinstance(event, PhaseClosed)] == PHASES
    assert [event.dropped for event in closed if isinstance(event, PhaseClosed)] == [(), (), ("c",), (), ()]
    assert all(event.bytes_up > 0 and event.bytes_down > 0 for event in closed if isinstance(event, PhaseClosed))
    assert isinstance(finished, RoundFinished)
    assert (finished.outcome, finished.contributors, finished.dropped, finished.error) == (
        "summed",
        ("a", "b", "d", "e"),
        ("c",),
        "",
    )
    assert {event.session for event in (opened, finished)} == {result.session_id}


def test_failed_round_and_refused_replies_are_told_by_class_and_rule_only() -> None:
    events: list[Event] = []
    incidents = [Incident(party, "ShareKeys", kind="delay", seconds=10**6) for party in ("a", "b")]
    with pytest.raises(ThresholdNotMet):
        SecureAggregator(PARTIES, incidents=incidents, observer=events.append).sum(VALUES)
    refused = [event for event in events if isinstance(event, PartyRefused)]
    assert [(event.party, event.phase, event.error, event.reason, event.rule) for event in refused] == [
        (party, "ShareKeys", "PeerFault", "WRONG_PHASE", "SV-1") for party in ("a", "b")
    ]
    last = events[-1]
    assert isinstance(last, RoundFinished)
    assert (last.outcome, last.error, last.contributors, last.dropped) == ("failed", "ThresholdNotMet", (), PARTIES)


def test_no_event_and_no_log_line_holds_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entropy = RecordingEntropy()
    identities = [Identity(party, SigningKey.generate(entropy)) for party in PARTIES]
    events: list[Event] = []
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "events.jsonl"
    with jsonl_observer(path) as file_observer:
        observers = [events.append, file_observer, logging_observer(), logging_observer(style="json")]

        def tell(event: Event) -> None:
            for observer in observers:
                observer(event)

        dropout = [Incident("c", "MaskedInput")]
        result = SecureAggregator(identities, incidents=dropout, observer=tell, entropy=entropy).sum(VALUES)
        # Again with late replies, so that refusals are in the lines too.
        late = [Incident(party, "Unmask", kind="delay", seconds=10**6) for party in ("a", "b")]
        with pytest.raises(ThresholdNotMet):
            SecureAggregator(identities, incidents=late, observer=tell, entropy=entropy).sum(VALUES)
    text = b"\n".join([path.read_bytes(), caplog.text.encode(), *(repr(event).encode() for event in events)])
    assert b"PartyRefused" in text
    # Identity keys; then, each time, run id, two nonces, and a party's two key pairs, seed and share coefficients.
    assert len(entropy.given) == 5 + 2 * (3 + 5 * 4)
    secrets = [drawn for drawn in entropy.given if len(drawn) != 8]  # 8 bytes: the run id's, which is public
    assert len(secrets) == 49
    for secret in secrets:
        for start in range(0, len(secret), 16):
            part = secret[start : start + 16]
            assert part not in text
            assert part.hex().encode() not in text.lower()
    for number in (*np.concatenate(list(VALUES.values())).tolist(), *result.sum.tolist()):
        assert str(number).encode() not in text
        assert f"{number:x}".encode() not in text


def test_json_lines_are_whole_objects_with_the_time_first(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(2):  # a second run appends
        with jsonl_observer(path) as observer:
            SecureAggregator(PARTIES, observer=observer).sum(VALUES)
        observer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == 2 * ["SessionOpened", *5 * ["PhaseClosed"], "RoundFinished"]
    assert all(next(iter(line)) == "time" and line["time"].endswith("+00:00") for line in lines)


def test_log_lines_show_levels_and_quote_what_could_break_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    observe = logging_observer(logging.getLogger("mine"))
    charged = BudgetCharged(
        silo="a",
        run_id="x y\nz=1",
        round=1,
        attempt=0,
        epsilon_spent=0.25,
        epsilon_budget=3.0,
        delta=1e-5,
        epsilon_remaining=2.75,
        rounds_left=7,
        rounds_planned_left=9,
    )
    observe(charged)
    fields = {"session": "00", "run_id": "r", "round": 1, "attempt": 0}
    observe(RoundFinished(**fields, outcome="failed", contributors=(), dropped=("a", "b"), seconds=0.5, error="E"))
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "mine",
            "INFO",
            r'event=BudgetCharged silo=a run_id="x y\nz=1" round=1 attempt=0 epsilon_spent=0.25 epsilon_budget=3 '
            "delta=1e-05 epsilon_remaining=2.75 rounds_left=7 rounds_planned_left=9",
        ),
        (
            "mine",
            "WARNING",
            "event=RoundFinished session=00 run_id=r round=1 attempt=0 outcome=failed contributors=- dropped=a,b "
            "seconds=0.5 error=E",
        ),
    ]


def test_error_of_an_observer_reaches_the_caller() -> None:
    def broken(_event: Event) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        SecureAggregator(PARTIES, observer=broken).sum(VALUES)

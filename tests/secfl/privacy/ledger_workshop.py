"""What the ledger's tests share: keys, a clock, a small ledger, and a forger who can sign whatever he likes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import SigningKey
from secfl.privacy.accounting import rdp_curve
from secfl.privacy.budget import PrivacyBudget
from secfl.privacy.events import SampledGaussian
from secfl.privacy.ledger import Head, Ledger, Lineage, Reservation
from secfl.privacy.ledger_entries import line_hash

KEY = SigningKey(bytes(range(32)))
OTHER_KEY = SigningKey(bytes(range(1, 33)))
BUDGET = PrivacyBudget(3.0, 1e-5)
ORDER = 8
LINEAGE = Lineage("north", "cardiology", "register of heart attacks, 2015 to 2020", 5000)
# The budget admits ten of these and not eleven (a test says so).
EVENT = SampledGaussian(0.01, 1.0, 190)


def ticking() -> Callable[[], datetime]:
    times = iter(range(10**9))
    return lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(times))


def new_ledger(path: Path, **changes: Any) -> Ledger:
    arguments: dict[str, Any] = {"lineage": LINEAGE, "budget": BUDGET, "order": ORDER, "clock": ticking(), "timeout": 5}
    arguments.update(changes)
    key = arguments.pop("key", KEY)
    return Ledger.create(path, key, **arguments)


def open_ledger(path: Path, **changes: Any) -> Ledger:
    return Ledger.open(path, changes.pop("key", KEY), **{"timeout": 5, **changes})


def reserve(ledger: Ledger, name: str, event: SampledGaussian = EVENT) -> Reservation:
    return ledger.reserve(name, event, run="run-1", round=int(name.strip("r") or 0), attempt=0)


def finish(ledger: Ledger, name: str) -> None:
    reservation = reserve(ledger, name)
    ledger.sending(reservation)
    ledger.commit(reservation)


def filled_ledger(path: Path, rounds: int = 2) -> Path:
    """Genesis and three lines a round: reserve, sending, commit."""
    with new_ledger(path) as ledger:
        for number in range(rounds):
            finish(ledger, f"r{number}")
    return path


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def canonical(fields: object) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def forged_line(entry: dict[str, Any], sequence: int, previous: str, key: SigningKey = KEY, **extra: Any) -> bytes:
    """A line with a valid signature by ``key`` over any content at all."""
    fields = {
        "entry": entry,
        "previous": previous,
        "sequence": sequence,
        "time": "2026-01-01T00:00:00.000+00:00",
        **extra,
    }
    fields["signature"] = key.sign(tagged_hash("ledger/line", canonical(fields))).hex()
    return canonical(fields) + b"\n"


def append_forged(path: Path, *entries: dict[str, Any], key: SigningKey = KEY, **extra: Any) -> None:
    """Continue a ledger's chain with correctly signed entries, and its mark with it."""
    lines = lines_of(path)
    for entry in entries:
        previous = line_hash(lines[-1]) if lines else "0" * 64
        lines.append(forged_line(entry, len(lines), previous, key, **extra))
    rewrite(path, lines)


def rewrite(path: Path, lines: list[bytes]) -> None:
    """Replace the ledger's bytes and let the mark follow, so that only the rule under test can object."""
    path.write_bytes(b"".join(lines))
    set_mark(path, Head(len(lines) - 1, line_hash(lines[-1])))


def set_mark(path: Path, head: Head) -> None:
    path.with_name(f"{path.name}.mark").write_bytes(
        b'{"sequence":%d,"hash":"%s"}\n' % (head.sequence, head.hash.encode())
    )


def reserve_entry(name: str, event: SampledGaussian = EVENT, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "reserve",
        "release": name,
        "run": "run-1",
        "round": 0,
        "attempt": 0,
        "event": {
            "kind": "sampled-gaussian",
            "sampling_rate": event.sampling_rate,
            "noise_multiplier": event.noise_multiplier,
            "steps": event.steps,
        },
        "curve": rdp_curve(event).tolist(),
        **changes,
    }

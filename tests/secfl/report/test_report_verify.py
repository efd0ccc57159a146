"""`secfl report verify`: every value of a report follows from records, and the one that does not is named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from protocols.errors import ConfigError, LedgerCorrupt, MissingExtra, ReportMismatch
from protocols.identity import Identity, Roster
from protocols.primitives.signing import SigningKey
from secfl.cli.app import app
from secfl.federation.roster_file import create_roster_file
from secfl.federation.verification import STATED, verify_report


def test_an_untouched_report_follows_from_its_records(private_run):
    found = verify_report(private_run / "report.json")
    assert found.ledger_lines == 3 * 10 + 9  # genesis, three lines a release; one silo's second is never committed
    assert found.unchecked == ()
    assert found.page is True
    assert found.values > 500


def test_a_report_without_privacy_follows_from_its_records(plain_run):
    found = verify_report(plain_run / "report.json")
    assert (found.ledger_lines, found.page) == (0, True)


def test_where_a_claim_cannot_be_computed_again_nothing_is_called_changed(private_run, monkeypatch: pytest.MonkeyPatch):
    report = json.loads((private_run / "report.json").read_text())
    assert {claim["accountant"] for claim in report["claims"]} == {"PLD of the plan (dp-accounting)"}
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtra, match=r"the PLD accountant .*secfl\[train\]"):
        verify_report(private_run / "report.json")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.01 + 1e-3
    if isinstance(value, str):
        digits = value[:-1] + ("0" if value[-1:] != "0" else "1")
        return digits if len(value) > 40 else f"{value}x"
    return 1  # was missing


def one_of_each_kind(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A place for each field: the last item of every list stands for the others."""
    places = {}
    for path, _ in leaves(report):
        places[tuple(step if isinstance(step, str) else 0 for step in path)] = path
    stated = {tuple(name.split(".")) for name in STATED}
    return [
        path
        for path in places.values()
        if not any(path[: len(name)] == name for name in stated) and path[0] != "schema_version"
    ]


def put(report: dict[str, Any], path: tuple[Any, ...]) -> None:
    *way, last = path
    place: Any = report
    for step in way:
        place = place[step]
    place[last] = changed(place[last])


ENUMERATIONS = ("status", "label", "state")
"""Fields of few values: another one is no report at all."""


def test_every_single_value_that_is_tampered_with_is_noticed_and_named(private_run, copy_of):
    run = copy_of(private_run)
    path = run / "report.json"
    (run / "report.html").unlink()
    untouched = path.read_bytes()
    places = one_of_each_kind(json.loads(untouched))
    assert len(places) > 120
    missed, misnamed = [], []
    for place in places:
        report = json.loads(untouched)
        put(report, place)
        path.write_text(json.dumps(report))
        field = next(step for step in reversed(place) if isinstance(step, str))
        try:
            verify_report(path)
            missed.append(place)
        except ConfigError as error:
            if field not in ENUMERATIONS:
                misnamed.append((place, str(error)))
        except (ReportMismatch, LedgerCorrupt) as error:
            named = error.what if isinstance(error, ReportMismatch) else str(error)
            if str(place[0]) not in named and field not in named:
                misnamed.append((place, named))
    assert missed == []
    # The signatures are over the run's id, and are named in words.
    assert {place[-1] for place, named in misnamed if named.startswith("signature of ")} == {"run_id", "head_signature"}
    assert [(place, named) for place, named in misnamed if not named.startswith("signature of ")] == []


NAMED = [
    ("silos.0.spent_epsilon", 1.0, "silos[east].spent_epsilon"),
    ("silos.1.releases.0.noise_multiplier", 9.0, "silos[north].releases[1-3].noise_multiplier"),
    ("silos.3.releases.1.state", "committed", "silos[west].releases[2-2].state"),
    ("silos.2.ledger_head", "0" * 64, "silos[south].ledger_head"),
    ("silos.0.head_signature", "0" * 128, "signature of 'east' over its ledger's head"),
    ("model_hash", "0" * 64, "model_hash"),
    ("claims.1.epsilon", 0.1, "claims[server].epsilon"),
    ("claims.1.sentence", "Nothing can happen.", "claims[server].sentence"),
    ("rounds.1.epsilon.west", 0.5, "rounds[2.0].epsilon.west"),
    ("rounds.1.metric", 0.99, "rounds[2.0].metric"),
    ("rounds.1.phases.2.dropped", [], "rounds[2.0].phases[MaskedInput].dropped"),
    ("rounds_planned", 4, "rounds_planned"),
    ("status", "halted", "status"),
    ("noise.2.achieved", 3.0, "noise[3.0].achieved"),
    ("curves.0.points.3.pld", 0.5, "curves[0].points[3"),
    ("evaluation.value", 0.99, "evaluation.value"),
    ("roster_hash", "0" * 64, "roster_hash"),
    ("configuration", "[run]", "configuration"),
    ("not_protected", ["Nothing."], "not_protected"),
    ("deployment.deployment.privacy_loss.privacy_parameters.epsilon", 0.1, "privacy_parameters.epsilon"),
]


@pytest.mark.parametrize(("place", "value", "name"), NAMED, ids=[name for *_, name in NAMED])
def test_the_first_difference_is_named_where_it_stands(private_run, copy_of, place, value, name):
    run = copy_of(private_run)
    report = json.loads((run / "report.json").read_bytes())
    *way, last = place.split(".")
    at = report
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    at[int(last) if last.isdigit() else last] = value
    (run / "report.json").write_text(json.dumps(report))
    result = CliRunner().invoke(app, ["report", "verify", str(run / "report.json")])
    assert result.exit_code == 6
    (line,) = result.stderr.strip().splitlines()
    assert name in line
    assert "the records say" in line


def test_a_page_that_says_something_else_is_named(private_run, copy_of):
    run = copy_of(private_run)
    page = (run / "report.html").read_text()
    shown = json.loads((run / "report.json").read_bytes())["silos"][0]["spent_epsilon"]
    assert repr(shown) in page
    (run / "report.html").write_text(page.replace(repr(shown), "0.1", 1))
    with pytest.raises(ReportMismatch, match=r"report\.html, text \d+"):
        verify_report(run / "report.json")
    (run / "report.html").write_text(page + "<p>All is well.</p>")
    with pytest.raises(ReportMismatch, match=r"report\.html, texts"):
        verify_report(run / "report.json")


def ledger(run: Path, silo: str) -> Path:
    return run / "ledgers" / silo / "records.ledger"


def test_a_ledger_that_was_edited_is_named_with_its_line(private_run, copy_of):
    run = copy_of(private_run)
    path = ledger(run, "south")
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"round":1', b'"round":2')
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(LedgerCorrupt, match=r"LG-7.*south.*line 2"):
        verify_report(run / "report.json")


def test_a_ledger_that_was_cut_is_named(private_run, copy_of):
    run = copy_of(private_run)
    path = ledger(run, "south")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ReportMismatch, match=r"silos\[south\]\.ledger_sequence"):
        verify_report(run / "report.json")


def test_a_ledger_that_has_grown_since_still_verifies(private_run, copy_of):
    """A later run goes on in the same ledger: the report is about the lines up to its head."""
    run = copy_of(private_run)
    path = ledger(run, "east")
    path.write_bytes(path.read_bytes() + b"whatever came later\n")
    assert verify_report(run / "report.json").ledger_lines == 39


def test_a_ledger_and_report_of_another_key_do_not_pass_a_pinned_roster(private_run, tmp_path):
    report = json.loads((private_run / "report.json").read_bytes())
    pinned = tmp_path / "pinned.toml"
    create_roster_file(
        pinned, Roster(Identity(silo["name"], SigningKey.generate(os.urandom)).member() for silo in report["silos"])
    )
    with pytest.raises(ReportMismatch, match="roster_hash"):
        verify_report(private_run / "report.json", roster_path=pinned)


def test_another_model_is_not_the_one_of_the_report(private_run, copy_of):
    run = copy_of(private_run)
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ReportMismatch, match="model_hash"):
        verify_report(run / "report.json")


def test_a_log_that_contradicts_the_rounds_is_named(private_run, copy_of):
    run = copy_of(private_run)
    events = run / "events.jsonl"
    events.write_text(events.read_text().replace('"dropped": ["west"]', '"dropped": []', 1))
    with pytest.raises(ReportMismatch, match=r"rounds\[2\.0\]\.phases\[MaskedInput\]\.dropped"):
        verify_report(run / "report.json")


def test_the_command_says_what_was_recomputed_and_what_was_not(private_run):
    result = CliRunner().invoke(app, ["report", "verify", str(private_run / "report.json")])
    assert result.exit_code == 0, result.output
    assert "follow from 4 ledgers of 39 lines, 3 attempts at rounds and the model; the page shows them" in result.stdout
    assert "taken as stated: started, finished" in result.stdout
    report = json.loads((private_run / "report.json").read_bytes())
    assert report["roster_hash"] in result.stdout

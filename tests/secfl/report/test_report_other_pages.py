"""A silo's own report, two runs beside each other, baselines, audits: what they say, and who may read them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest
from read_page import Page
from sample_run import sample_report
from typer.testing import CliRunner

from secfl.cli.app import app
from secfl.federation.compare import LABEL, WARNING, Comparison, Row
from secfl.federation.verification import verify_report
from secfl.privacy.audit.record import AuditResult, write_audits
from secfl.report import RunReport, render_html
from secfl.report.side_by_side import render_comparison


def secfl(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_silos_own_report_says_that_it_must_not_leave_and_is_its_owners_alone(private_run, copy_of):
    run = copy_of(private_run)
    result = secfl("report", run, "--silo", "west")
    assert result.exit_code == 0, result.output
    home = run / "ledgers" / "west"
    assert result.stdout == f"Not to leave the silo: {home / 'local-report.html'}\n"
    for name in ("local-report.html", "local-report.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    page = Page((home / "local-report.html").read_text())
    assert page.text().startswith("Not to leave west: its own report of study")
    assert "Not to leave this silo. What follows depends on its records" in page.text()
    own = json.loads((home / "local-report.json").read_bytes())
    assert own["warning"].startswith("Not to leave this silo.")
    assert not (run / "local-report.html").exists()


def test_a_silos_own_report_has_its_ledger_line_by_line_and_its_clip_counts(private_run, tmp_path):
    assert secfl("report", private_run, "--silo", "west", "--output", tmp_path / "page.html").exit_code == 0
    own = json.loads((tmp_path / "local-report.json").read_bytes())
    kinds = [line["kind"] for line in own["lines"]]
    assert kinds == ["genesis", "reserve", "sending", "commit", "reserve", "sending", "reserve", "sending", "commit"]
    assert own["lines"][-1]["epsilon_spent"] == own["silo"]["spent_epsilon"]
    assert own["mark_sequence"] == 8
    notes = [json.loads(line) for line in (private_run / "ledgers" / "west" / "local.jsonl").read_text().splitlines()]
    assert own["notes"] == notes
    shown, exact = Page((tmp_path / "local-report.html").read_text()).table("round", "attempt", "clipped")
    assert len(shown) == len(notes) == 3
    column = own["notes"][0].keys() - {"event", "run_id", "time"}
    assert len(exact[0]) == len(column)


def test_what_only_a_silo_may_see_is_in_no_shared_file(private_run):
    for name in ("report.html", "report.json", "events.jsonl"):
        text = (private_run / name).read_text()
        assert "clipped" not in text
        assert "left_out" not in text


def test_another_silo_than_the_runs_is_refused(private_run):
    result = secfl("report", private_run, "--silo", "mars")
    assert result.exit_code == 3
    assert "'mars' is no silo of this run; allowed: east, north, south, west" in result.stderr


def test_two_runs_stand_side_by_side_with_what_was_set_differently(private_run, plain_run, tmp_path):
    page = tmp_path / "both.html"
    result = secfl("report", "--compare", private_run, plain_run, "--output", page)
    assert (result.exit_code, result.stdout) == (0, f"Comparison: {page}\n")
    read = Page(page.read_text())
    first = json.loads((private_run / "report.json").read_bytes())
    shown, _ = read.table("Quantity", "A", "B")
    rows = {row[0]: row[1:] for row in shown}
    assert rows["rounds completed"] == ["3", "2"]
    assert rows["highest epsilon spent"][1] == "\u2013"
    assert float(rows["highest epsilon spent"][0]) >= max(silo["spent_epsilon"] for silo in first["silos"])
    keys = {row[0] for row in read.table("Key", "A", "B")[0]}
    assert {"run.rounds", "training.mode", "privacy.epsilon", "simulation.incidents.0.party"} <= keys
    assert "silo.0.nominal_size" not in keys


def test_runs_that_measured_different_things_are_said_not_to_compare():
    report = sample_report()
    other = msgspec.structs.replace(report, evaluation=msgspec.structs.replace(report.evaluation, metric="accuracy"))
    assert "Not the same yardstick." in Page(render_comparison(report, other)).text()
    assert "Not the same yardstick." not in Page(render_comparison(report, report)).text()
    assert "no difference" in Page(render_comparison(report, report)).text()


@pytest.mark.parametrize("arguments", [("--compare",), ()])
def test_one_run_is_written_and_two_are_compared(private_run, plain_run, arguments):
    runs = (private_run,) if arguments else (private_run, plain_run)
    result = secfl("report", *arguments, *runs)
    assert result.exit_code == 3
    assert "allowed: one, or two with --compare" in result.stderr


def baselines(path: Path) -> Path:
    rows = (
        Row(setting="alone", silo="east", values=(0.7, 0.8), mean=0.75, standard_deviation=0.0707),
        Row(setting="pooled", values=(0.9,), mean=0.9, standard_deviation=None),
    )
    figures = Comparison(label=LABEL, warning=WARNING, name="study", metric="accuracy", seeds=(0, 1), rounds=3,
                         steps_per_round=2, learning_rate=0.5, epsilon=None, delta=None, rows=rows)  # fmt: skip
    path.write_bytes(figures.to_json())
    return path


def test_a_run_with_baselines_on_protected_records_is_headed_benchmark_no_claim(private_run, copy_of, tmp_path):
    run = copy_of(private_run)
    assert secfl("report", run, "--baselines", baselines(tmp_path / "compare.json")).exit_code == 0
    text = Page((run / "report.html").read_text()).text()
    assert "Federated training report: benchmark, no claim" in text
    assert "Nothing in it may be filed as a claim about these records." in text
    assert "No claim is made. Figures without privacy" in text
    assert "times in 100" not in text
    report = RunReport.from_json((run / "report.json").read_bytes())
    assert (report.label, [row.mean for row in report.baselines]) == ("benchmark, no claim", [0.75, 0.9])
    assert verify_report(run / "report.json").page is True


def test_an_audit_beside_the_run_is_in_its_report_and_is_never_called_a_proof(private_run, copy_of):
    run = copy_of(private_run)
    audit = AuditResult(kind="conformance", mode="local-dp-sgd", passed=True, summary="No fault was found.",
                        details={"false alarm rate": 1e-6})  # fmt: skip
    write_audits(run, (audit,))
    assert secfl("report", run).exit_code == 0
    text = Page((run / "report.html").read_text()).text("evidence")
    assert "conformance: passed. No fault was found. (false alarm rate 0.000001)" in text
    assert "that it finds none does not show that there is none" in text
    assert verify_report(run / "report.json").report.audits[0].summary == "No fault was found."


def test_many_silos_with_equal_figures_share_a_row():
    report = sample_report()
    names = [f"silo-{number:02}" for number in range(12)]
    silos = tuple(
        msgspec.structs.replace(report.silos[0], name=name, spent_epsilon=1.5 if name == "silo-03" else 2.5)
        for name in names
    )
    rounds = tuple(msgspec.structs.replace(row, epsilon=dict.fromkeys(names, 1.0)) for row in report.rounds)
    page = Page(render_html(msgspec.structs.replace(report, silos=silos, rounds=rounds)))
    shown, _ = page.table("Silo", "Spent", "Remaining")
    assert [row[0] for row in shown] == ["silo-00 to silo-11: 11 silos", "silo-03"]
    shown, _ = page.table("Silo", "Public key (Ed25519)", "Signature")
    assert [row[0] for row in shown] == names
    page.table("Round", "silo-00 to silo-11: 12 silos")

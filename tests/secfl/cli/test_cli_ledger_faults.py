"""Each fault of a ledger, met by `secfl run`: the error's rule, exit code 6, and nothing trained or half spent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import SILOS, TIGHT, study_text, write_study
from typer.testing import Result

from secfl.cli.errors import HALTED
from secfl.federation.silo import LocalTraining
from secfl.privacy.ledger import Head, Ledger
from secfl.privacy.ledger_entries import line_hash

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
Command = Callable[..., Result]
ROOT = Path(__file__).parents[3]


def _lines(ledger: Path) -> list[bytes]:
    return ledger.read_bytes().splitlines(keepends=True)


def _mark(ledger: Path, lines: list[bytes]) -> None:
    head = Head(len(lines) - 1, line_hash(lines[-1]))
    text = f'{{"sequence":{head.sequence},"hash":"{head.hash}"}}\n'
    ledger.with_name(f"{ledger.name}.mark").write_text(text)


def _older(ledger: Path, *, mark: bool, kept: bool) -> None:
    lines = _lines(ledger)[:1]
    ledger.write_bytes(b"".join(lines))
    if mark:
        _mark(ledger, lines)
    if kept:
        ledger.with_name(f"{ledger.name}.countersigned").unlink()


def _edited(ledger: Path) -> None:
    ledger.write_bytes(ledger.read_bytes().replace(b'"noise_multiplier":2.0', b'"noise_multiplier":9.0', 1))


def _swapped(ledger: Path) -> None:
    for end in ("", ".mark", ".countersigned"):
        other = ledger.parent.parent / "north" / f"records.ledger{end}"
        shutil.copy(other, ledger.with_name(f"{ledger.name}{end}"))


def _deleted(ledger: Path, *ends: str) -> None:
    for end in ends:
        ledger.with_name(f"{ledger.name}{end}").unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "restored without its mark": (lambda at: _older(at, mark=False, kept=False), "[LG-17]"),
    "restored with its mark": (lambda at: _older(at, mark=True, kept=False), "[LG-21]"),
    "restored with its mark and countersignature": (lambda at: _older(at, mark=True, kept=True), "[LG-21]"),
    "last line cut off": (lambda at: at.write_bytes(b"".join(_lines(at)[:-1])), "[LG-17]"),
    "cut within a line": (lambda at: at.write_bytes(at.read_bytes()[:-7]), "[LG-2]"),
    "a line in the middle removed": (lambda at: at.write_bytes(b"".join(_lines(at)[:1] + _lines(at)[2:])), "[LG-5]"),
    "emptied": (lambda at: at.write_bytes(b""), "[LG-8]"),
    "edited": (_edited, "[LG-7]"),
    "of another silo": (_swapped, ""),
    "deleted": (lambda at: _deleted(at, ""), "[LG-1]"),
    "deleted with its mark": (lambda at: _deleted(at, "", ".mark"), "[LG-21]"),
    "deleted with all that is beside it": (lambda at: _deleted(at, "", ".mark", ".countersigned"), "[LG-21]"),
    "mark deleted": (lambda at: _deleted(at, ".mark"), "[LG-19]"),
    "mark edited": (lambda at: at.with_name(f"{at.name}.mark").write_text("{}"), "[LG-19]"),
    "countersignature edited": (lambda at: at.with_name(f"{at.name}.countersigned").write_text("{}"), "malformed"),
}


def ledgers(config: Path) -> dict[str, bytes]:
    files = {silo: config.parent / "ledgers" / silo / "records.ledger" for silo in SILOS}
    return {silo: file.read_bytes() for silo, file in files.items() if file.exists()}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_a_ledger_is_named_and_nothing_is_trained(
    lifetime_study: Path, secfl: Command, monkeypatch, fault: str
) -> None:
    plant, rule = FAULTS[fault]
    east = lifetime_study.parent / "ledgers" / "east" / "records.ledger"
    plant(east)
    before = ledgers(lifetime_study)
    monkeypatch.setattr(LocalTraining, "words", lambda *_arguments: pytest.fail("a silo trained"))
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "again")
    assert result.exit_code == 6, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert rule in last
    assert "Traceback" not in result.output
    assert ledgers(lifetime_study) == before


HOLD = """
import sys, time
from pathlib import Path
from secfl.federation.keys import load_key
from secfl.privacy.ledger import Ledger
home = Path(sys.argv[1])
with Ledger.open(home / "records.ledger", load_key(home / "identity.key")):
    print("held", flush=True)
    time.sleep(120)
"""


def test_ledger_in_use_by_another_process_is_refused(lifetime_study: Path, secfl: Command, monkeypatch) -> None:
    home = lifetime_study.parent / "ledgers" / "west"
    monkeypatch.setitem(Ledger.open.__func__.__kwdefaults__, "timeout", 0.5)  # instead of ten seconds
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = ledgers(lifetime_study)
        result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "again")
        assert result.exit_code == 6
        assert "[LG-24]" in result.stderr
        assert ledgers(lifetime_study) == before
    finally:
        holder.kill()
        holder.wait()
    # A lock does not outlive its process.
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "again")
    assert result.exit_code == HALTED, result.output


@pytest.mark.parametrize("mode", ["local-dp-sgd", "distributed-dp-sgd", "client-level"])
def test_spent_budget_is_a_halted_run_with_model_and_report(tmp_path: Path, secfl: Command, mode: str) -> None:
    text = study_text(private=True, rounds=30, epsilon=TIGHT)
    if mode != "local-dp-sgd":
        text = text.replace("value_range = 4.0\n", "").replace("local-dp-sgd", mode)
    if mode == "distributed-dp-sgd":
        text = text.replace("steps_per_round = 2", "steps_per_round = 1")
    if mode == "client-level":
        text = text.replace("delta = 1e-5", 'delta = 1e-5\nunit = "client"').replace(f"= {TIGHT}", "= 6.0")
    config = write_study(tmp_path, text)
    result = secfl("run", config, "--output", tmp_path / "runs")
    assert result.exit_code == HALTED, result.output
    assert "the privacy budget of east, north, south, west is spent" in " ".join(result.stdout.split())
    (directory,) = (tmp_path / "runs").iterdir()
    assert (directory / "model.safetensors").exists()
    assert (directory / "report.html").exists()
    for silo in SILOS:
        states = (directory / "ledgers" / silo / "records.ledger").read_text()
        assert states.count('"kind":"reserve"') == states.count('"kind":"commit"') >= 1


def test_rotated_key_continues_its_ledger_by_handing_it_over(lifetime_study: Path, secfl: Command) -> None:
    east = lifetime_study.parent / "ledgers" / "east"
    assert secfl("keys", "rotate", east / "identity.key", "--silo", "east").exit_code == 0
    assert secfl("run", lifetime_study, "--output", lifetime_study.parent / "again").exit_code == 6
    (old_key,) = east.glob("identity.key.*.old")
    for silo in SILOS:
        key = ["--key", lifetime_study.parent / "ledgers" / silo / "identity.key"]
        old = ["--old-key", old_key] if silo == "east" else []
        ledger = lifetime_study.parent / "ledgers" / silo / "records.ledger"
        result = secfl("ledger", "hand-over", ledger, "records-2", *key, *old)
        assert result.exit_code == 0, result.output
        assert "goes on, spent" in " ".join(result.stdout.split())
    text = lifetime_study.read_text().replace('kind = "lifetime"', 'kind = "lifetime"\nlineage = "records-2"')
    lifetime_study.write_text(text)
    result = secfl("run", lifetime_study, "--output", lifetime_study.parent / "again")
    assert result.exit_code == HALTED, result.output  # the successor has no more budget than was left

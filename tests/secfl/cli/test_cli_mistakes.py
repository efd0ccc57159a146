"""Mistakes of users over all commands: one line that names the culprit, the right exit code, nothing written."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import study_text, write_study
from typer.testing import Result

from secfl.federation.keys import ENVIRONMENT

Command = Callable[..., Result]
HEX = "ab" * 32


@pytest.fixture(scope="session")
def _original_place(tmp_path_factory: pytest.TempPathFactory, secfl: Command) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_study(place, study_text(rounds=1))
    (place / "untested.toml").write_text(study_text(rounds=1).replace('kind = "benchmark"', 'kind = "none"'))
    for silo in ("north", "east", "west"):
        assert secfl("keys", "new", place / f"{silo}.key", "--silo", silo).exit_code == 0
    assert secfl("keys", "revoke", place / "west.key", "--output", place / "west.json").exit_code == 0
    introductions = (place / f"{silo}.key.pub" for silo in ("north", "east"))
    assert secfl("roster", "new", place / "roster.toml", *introductions).exit_code == 0
    for name, mode in (("nameless.key", 0o600), ("open.key", 0o644)):
        (place / name).write_bytes((place / "north.key").read_bytes())
        (place / name).chmod(mode)
    (place / "text").write_text("hello\n")
    incident = '[[simulation.incidents]]\nparty = "east"\nphase = "Unmask"\n'
    oneshot = 'protocol = "oneshot"\n'
    studies = {
        "private": study_text(private=True),
        "shamir": study_text(aggregation='protocol = "shamir"'),
        "phase": study_text(aggregation=oneshot, rest=incident),
        "stranger": study_text(aggregation=f'{oneshot}committee = ["east", "south-east"]'),
        "lonely": study_text(aggregation=f'{oneshot}committee = ["east"]'),
        "masked": study_text(aggregation='committee = ["east", "north"]'),
        "low": study_text(aggregation=f"{oneshot}threshold = 2"),
    }
    for name, text in studies.items():
        (place / f"{name}.toml").write_text(text)
    assert secfl("keys", "committee", place / "east.key").exit_code == 0
    (place / "empty").mkdir()
    return place


@pytest.fixture
def place(_original_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, keys, statements and a roster; the working directory."""
    shutil.copytree(_original_place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    return tmp_path


MISTAKES = [
    # A wrong use of the command line.
    ("--fast", 2, "No such option: --fast Usage: secfl [OPTIONS] COMMAND [ARGS]..."),
    ("trian config.toml", 2, "No such command 'trian'."),
    ("keys create north.key", 2, "No such command 'create'."),
    ("run", 2, "Missing argument 'CONFIG'. Usage: secfl run "),
    ("run empty", 2, "'empty' is a directory. Usage: secfl run "),
    ("run config.toml --output text", 2, "'text' is a file. Usage: secfl run "),
    ("resume", 2, "Missing argument 'DIRECTORY'. Usage: secfl resume "),
    ("compare config.toml --seeds 0", 2, "'--seeds': 0 is not in the range 1<=x<=1000. Usage: secfl compare "),
    ("compare config.toml --seeds many", 2, "'--seeds': 'many' is not a valid int"),
    ("compare config.toml --plain-steps -1", 2, "'--plain-steps': -1 is not in the range"),
    ("keys new fresh.key", 2, "Missing option '--silo'. Usage: secfl keys new "),
    ("roster apply roster.toml", 2, "Missing argument 'STATEMENT...'. Usage: secfl roster apply "),
    ("version now", 2, "Got unexpected extra argument"),
    # Budgets.
    ("budget", 3, "--mode: missing; allowed: a value, or a CONFIG that has it"),
    ("budget config.toml", 3, "--delta: missing; allowed: a value, or a CONFIG that has it"),
    ("budget config.toml --delta 1e-5", 3, "--mode: 'none' is no private mode; allowed: one of local-dp-sgd, distr"),
    ("budget private.toml --mode best", 3, "--mode: 'best' is no private mode; allowed: one of local-dp-sgd, distr"),
    ("budget absent.toml", 3, "absent.toml: cannot be read: No such file or directory; allowed: a TOML file"),
    ("budget private.toml --rounds none", 2, "'--rounds': 'none' is not a valid int"),
    ("budget private.toml --rounds 0", 3, "--rounds: 0; allowed: a whole number from 1 to 1000000000"),
    ("budget private.toml --epsilon 0", 3, "--epsilon: 0.0; allowed: a number > 0"),
    ("budget private.toml --epsilon 1 --noise-multiplier 2", 3, "--epsilon, --noise-multiplier: are given both; allo"),
    ("budget private.toml --noise-multiplier -1", 3, "--noise-multiplier: -1.0; allowed: from 0.001 to 1e+06"),
    ("budget private.toml --sampling-rate 2", 3, "--sampling-rate: 2.0; allowed: above 0, at most 1"),
    ("budget private.toml --delta 1e-3", 3, "--delta: 0.001; allowed: at most 1e-05 for 160 records"),
    ("budget private.toml --delta 0.01", 3, "--delta: 0.01 is at least 1/160: publishing one record in full"),
    ("budget private.toml --epsilon 0.001", 6, "epsilon: 0.001 at delta 1e-05 is too little for 4 steps at sampling"),
    ("budget private.toml --colluding 9", 3, "--colluding: 9; allowed: a whole number from 0 to 3"),
    ("budget private.toml --minimum-contributors 5", 3, "--minimum-contributors: 5; allowed: a whole number from 1 t"),
    ("budget private.toml --dimension 0", 3, "--dimension: 0; allowed: a whole number from 1 to"),
    ("budget private.toml --mode client-level --clip-norm 0", 3, "--clip-norm: 0.0; allowed: a float from"),
    ("budget private.toml --mode distributed-dp-sgd --steps-per-round 2", 3, "--steps-per-round: 2; allowed: a whole"),
    ("budget private.toml --ledgers", 3, "--ledgers: the configuration has no lifetime ledgers; allowed: a table"),
    ("budget --ledgers --mode local-dp-sgd --epsilon 1 --delta 1e-6 --rounds 2 --silos 4 --records 99 "
     "--sampling-rate .1", 3, "--ledgers: needs a CONFIG; allowed: the configuration whose ledgers are meant"),
    ("budget private.toml --roster roster.toml", 3, "--roster: has no effect without --ledgers; allowed: both, or nei"),
    ("budget private.toml --figure absent/x.svg", 3, "--figure: there is no directory absent"),
    ("budget private.toml --figure empty", 2, "'empty' is a directory"),
    # Comparisons.
    ("compare absent.toml", 3, "absent.toml: cannot be read: No such file or directory; allowed: a TOML file"),
    ("compare untested.toml", 3, "evaluation.kind: this configuration does not declare its test records unprotected"),
    ("compare config.toml --with-private", 3, "privacy: missing: there is no private training to compare with"),
    ("compare config.toml --plain-learning-rate 0", 3, "training.learning_rate: 0.0 cannot be used; allowed: a number"),
    ("compare config.toml --output absent/x.json", 3, "--output: there is no directory absent"),
    ("compare text", 3, "text: is not TOML"),
    # Reports and runs.
    ("report empty", 3, "empty/report.json: cannot be read: No such file or directory; allowed: the directory of a"),
    ("report absent", 3, "absent/report.json: cannot be read"),
    ("resume empty", 3, "empty/config.toml: cannot be read: No such file or directory"),
    # Keys.
    ("keys new north.key --silo north", 3, "north.key: there is a file already; allowed: another path, or `secfl keys"),
    ("keys new fresh.key --silo North", 8, "party name 'North': allowed are 1 to 64 of a-z 0-9 . _ -"),
    ("keys new fresh.key --silo north --encrypt", 3, "--encrypt: no passphrase; allowed: the environment"),
    ("keys new text/fresh.key --silo north", 9, "text"),
    ("keys show absent.key", 3, "absent.key: cannot be read: No such file or directory; allowed: a private key file"),
    ("keys show text", 3, "text: others may read this private key; allowed: mode 600"),
    ("keys show open.key", 3, "open.key: others may read this private key; allowed: mode 600"),
    ("keys show north.key.pub", 3, "north.key.pub: others may read this private key"),
    ("keys rotate nameless.key", 3, "--silo: missing, and there is no nameless.key.pub to tell; allowed: "),
    ("keys rotate north.key --silo east", 3, "--silo: 'east', but north.key.pub says 'north'; allowed: north"),
    ("keys rotate nameless.key --silo Bad", 8, "party name 'Bad'"),
    ("keys revoke absent.key", 3, "absent.key: cannot be read"),
    ("keys revoke west.key --output west.json", 3, "west.json: there is a file already; allowed: another --output"),
    ("keys introduce north.key --silo ../north", 8, "party name '../north'"),
    ("keys committee absent.key", 3, "absent.key: cannot be read"),
    ("keys committee nameless.key", 3, "--silo: missing, and there is no nameless.key.pub to tell"),
    ("keys committee north.key --end", 3, "north.key.committee: there is no committee key; allowed: neither --renew"),
    ("keys committee north.key --end --renew", 3, "--renew, --end: are given both; allowed: one of them"),
    ("keys committee east.key", 3, "east.key.committee: there is a committee key already; allowed: --renew for the"),
    # Protocols.
    ("run shamir.toml", 3, "aggregation.protocol: 'shamir' cannot be used; allowed: \"secagg\" or \"oneshot\""),
    ("run phase.toml", 3, "simulation.incidents.0.phase: 'Unmask' is no phase of oneshot; allowed: one of Contr"),
    ("run stranger.toml", 3, "aggregation.committee.1: 'south-east' is no silo; allowed: one of east, north"),
    ("run lonely.toml", 3, "aggregation.committee: is an array of 1; allowed: an array of at least 2 values"),
    ("run masked.toml", 3, "aggregation.committee: has no effect with protocol secagg; allowed: protocol \"oneshot\""),
    ("run low.toml", 3, "aggregation.threshold: 2 with 4 silos in a round, 4 on the committee and collusion bound 1"),
    # Rosters.
    ("roster new new.toml", 3, "KEY.pub: nobody to put into the roster; allowed: one file or more, or --member ID=KEY"),
    ("roster new roster.toml west.key.pub", 3, "roster.toml: there is a file already; allowed: another path"),
    ("roster new new.toml north.key.pub north.key.pub", 3, "roster: 'north' is a member already"),
    ("roster new new.toml west.json", 3, "west.json: is no introduction; allowed: a KEY.pub"),
    ("roster new new.toml north.key", 3, "north.key: is no statement about a key: JSON is malformed"),
    ("roster new new.toml absent.pub", 3, "absent.pub: cannot be read: No such file or directory"),
    ("roster add roster.toml --member west", 3, "--member: 'west' is not ID=KEY; allowed: a name, =, and 64"),
    (f"roster add roster.toml --member West={HEX}", 8, "party name 'West'"),
    (f"roster add roster.toml --member west={'00' * 32}", 3, "roster: 'west': "),
    ("roster add absent.toml west.key.pub", 3, "absent.toml: cannot be read: No such file or directory"),
    ("roster add text west.key.pub", 3, "text: is not TOML"),
    ("roster show config.toml", 3, "config.toml: is no roster: "),
    (f"roster verify roster.toml --hash {HEX}", 3, f"--hash: '{HEX}', but roster.toml has "),
    ("roster revoke roster.toml west", 3, "roster: 'west' is no member; allowed: east, north"),
    ("roster apply roster.toml west.json", 3, "west.json: 'west' is no member; allowed: east, north"),
    ("roster apply roster.toml north.key.pub", 3, "north.key.pub: is an introduction; allowed: any other statement"),
    # Ledgers.
    (f"ledger show absent.ledger --key {HEX}", 6, "[LG-1] absent.ledger: no such ledger"),
    ("ledger verify text", 3, "--key: missing; allowed: 64 hex digits, or --roster FILE"),
    (f"ledger verify text --key {HEX}", 6, "text"),
    ("ledger verify text --roster roster.toml", 6, "text: its first line does not name a silo"),
    ("ledger verify text --roster text", 3, "text: is not TOML"),
]  # fmt: skip


def snapshot(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_is_a_long_list_of_different_mistakes() -> None:
    assert len({line for line, _, _ in MISTAKES}) == len(MISTAKES) >= 50


@pytest.mark.parametrize(("line", "code", "words"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_is_one_line_with_its_exit_code_and_changes_nothing(
    place: Path, secfl: Command, line: str, code: int, words: str
) -> None:
    before = snapshot(place)
    result = secfl(*line.split())
    assert result.exit_code == code, result.output
    (shown,) = result.stderr.splitlines()[-1:] if "ledger show" in line else result.stderr.splitlines()
    assert shown.startswith("error: ")
    assert words in shown
    assert "Traceback" not in result.output
    assert snapshot(place) == before

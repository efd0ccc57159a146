"""Every mistake in a configuration ends in one line that names the key and what is allowed there."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import PHASES, SILOS, study_text

from protocols.errors import ConfigError
from secfl.config import load_config, parse_config

PRIVATE = study_text(private=True, rest="[server]\n\n[simulation]\n\n[model]\n")
OPEN = study_text()
POSITIVE = "a number > 0"
MODES = '"local-dp-sgd" or "distributed-dp-sgd" or "client-level" or "none"'
NAME = "1 to 64 of a-z 0-9 . _ -, a letter or digit first"
INCIDENT = '[[simulation.incidents]]\nparty = "east"\nphase = "Unmask"\n'

# Text in the file, what stands there instead, the key, the problem, what is allowed.
MISTAKES = [
    ("rounds = 2", 'rounds = "2"', "run.rounds", "'2' is a string", "an integer from 1 to 100000"),
    ("rounds = 2", "rounds = 0", "run.rounds", "0 cannot be used", "an integer from 1 to 100000"),
    ("rounds = 2", "rounds = 100001", "run.rounds", "100001 cannot", "an integer from 1 to 100000"),
    ("rounds = 2", "rounds = 2.0", "run.rounds", "2.0 is a number", "an integer from 1 to 100000"),
    ("rounds = 2", "rounds = true", "run.rounds", "true is a truth value", "an integer from 1 to 100000"),
    ("rounds = 2", "rounds = [2]", "run.rounds", "is an array", "an integer from 1 to 100000"),
    ("rounds = 2", "", "run.rounds", "missing", "an integer from 1 to 100000"),
    ("rounds = 2", "rouns = 2", "run.rouns", "unknown key, did you mean 'rounds'?", "name, rounds, seed"),
    ('name = "study"', 'name = "My Study"', "run.name", "'My Study' cannot be used", NAME),
    ('name = "study"', 'name = "../x"', "run.name", "'../x' cannot be used", NAME),
    ('name = "study"', 'name = "study"\nseed = -1', "run.seed", "-1 cannot", "an integer from 0 to 2147483647"),
    ('name = "study"', 'name = "study"\nreproducible = 1', "run.reproducible", "1 is an integer", "true or false"),
    ('name = "study"', 'name = "study"\nreproducible = true', "run.reproducible", "protects nobody", "false with"),
    ('name = "study"', 'name = "study"\noutput = ""', "run.output", "'' cannot be used", "a string, not empty"),
    ("[run]", "[runs]", "runs", "unknown key, did you mean 'run'?", "run, model, silo, training"),
    ('name = "north"', 'name = "east"', "silo.1.name", "'east' is the name of another silo", "a name of its own"),
    ('name = "north"', 'name = "North"', "silo.1.name", "'North' cannot be used", NAME),
    ('name = "north"\nnominal_size = 40', 'name = "north"', "silo.1.nominal_size", "missing", "an integer from 1"),
    (
        'name = "north"\nnominal_size = 40',
        'name = "north"\nnominal_size = 0',
        "silo.1.nominal_size",
        "0 cannot",
        "1 to",
    ),
    ('mode = "local-dp-sgd"', 'mode = "dp"', "training.mode", "'dp' cannot", MODES),
    ('mode = "local-dp-sgd"', "mode = 1", "training.mode", "1 cannot be used", MODES),
    ("clip_norm = 1.0", "", "training.clip_norm", "missing", "a number > 0, required with mode local-dp-sgd"),
    ("clip_norm = 1.0", "clip_norm = -1", "training.clip_norm", "-1 cannot be used", POSITIVE),
    ("clip_norm = 1.0", "clip_norm = inf", "training.clip_norm", "inf cannot be used", POSITIVE),
    ("clip_norm = 1.0", "clip_norm = nan", "training.clip_norm", "nan cannot be used", POSITIVE),
    ("clip_norm = 1.0", 'clip_norm = "1.0"', "training.clip_norm", "'1.0' is a string", POSITIVE),
    ("sampling_rate = 0.5", "sampling_rate = 0", "training.sampling_rate", "0 cannot", "a number > 0 and <= 1"),
    ("sampling_rate = 0.5", "sampling_rate = 1.1", "training.sampling_rate", "1.1 cannot", "a number > 0 and <= 1"),
    ("sampling_rate = 0.5", "sampling_rate = true", "training.sampling_rate", "true is a truth", "a number > 0 and"),
    ("steps_per_round = 2", "steps_per_round = 0", "training.steps_per_round", "0 cannot", "from 1 to 1000000"),
    ("steps_per_round = 2", "steps_per_round = 2\nmomentum = 1", "training.momentum", "1 cannot", ">= 0 and < 1"),
    ("delta = 1e-5", "delta = 1e-3", "privacy.delta", "0.001", "at most 1e-05 for 160 records"),
    ("delta = 1e-5", "delta = 0.1", "privacy.delta", "at least 1/160: publishing one record", "at most 1e-05"),
    ("delta = 1e-5", "delta = 0.0", "privacy.delta", "0.0 cannot be used", "a number > 0 and < 1"),
    ("epsilon = 8.0", "epsilon = 0", "privacy.epsilon", "0 cannot be used", POSITIVE),
    ("epsilon = 8.0", 'epsilon = 8.0\nunit = "person"', "privacy.unit", "'person' cannot be used", '"record"'),
    ("[privacy]\nepsilon = 8.0\ndelta = 1e-5", "", "privacy", "missing", "required with mode local-dp-sgd"),
    ('kind = "per-run"', 'kind = "forever"', "ledger.kind", "'forever'", '"lifetime" or "per-run"'),
    ('kind = "per-run"', 'kind = "per-run"\nlineage = "a/b"', "ledger.lineage", "'a/b' cannot be used", NAME),
    ('[ledger]\nkind = "per-run"\nsource = "synthetic"', "[ledger.kind]", "ledger.kind", "is a table", '"lifetime"'),
    ("value_range = 4.0", "", "aggregation.value_range", "missing", POSITIVE),
    ("value_range = 4.0", "value_range = 4.0\nvalue_bits = 40", "aggregation.value_bits", "40", "from 8 to 32"),
    ("value_range = 4.0", "value_range = 4.0\nattempts = 0", "aggregation.attempts", "0 cannot", "from 1 to 100"),
    ("value_range = 4.0", 'value_range = 4.0\nprotocol = "x"', "aggregation.protocol", "'x' cannot", '"secagg"'),
    ("value_range = 4.0", "value_range = 4.0\nthreshold = 2", "aggregation.threshold", "2 with 4 silos", "3 to 4"),
    ("value_range = 4.0", "value_range = 4.0\nthreshold = 5", "aggregation.threshold", "5 with 4 silos", "3 to 4"),
    (
        "value_range = 4.0",
        "value_range = 4.0\nminimum_contributors = 2",
        "aggregation.minimum_contributors",
        "2 with 4 silos in a round and collusion bound 1",
        "3 to 4",
    ),
    (
        "value_range = 4.0",
        "value_range = 4.0\ncollusion_bound = 3",
        "aggregation.collusion_bound",
        "3 with 4 silos",
        "0 to 2",
    ),
    ('kind = "benchmark"', 'kind = "private"', "evaluation.kind", "'private'", '"benchmark" or "secure" or "none"'),
    ("[server]", "[server]\ncohort_size = 5", "server.cohort_size", "5 of 4 silos", "2 to 4"),
    ("[server]", "[server]\ncohort_size = 1", "server.cohort_size", "1 cannot be used", "an integer >= 2"),
    ("[server]", "[server]\nbeta1 = 0.5", "server.beta1", "has no effect with optimiser sgd", "optimiser adam or yogi"),
    (
        "[server]",
        '[server]\noptimiser = "adam"\nmomentum = 0.5',
        "server.momentum",
        "has no effect with optimiser adam",
        "optimiser sgd",
    ),
    ("[simulation]", "[simulation]\nincidents = 3", "simulation.incidents", "3 is an integer", "an array of tables"),
    ("[simulation]", "[simulation]\nincidents = [3]", "simulation.incidents.0", "3 is an integer", "a table"),
    (
        "[simulation]",
        INCIDENT.replace("east", "elsewhere"),
        "simulation.incidents.0.party",
        "'elsewhere' is no party of the run",
        f"one of {', '.join(SILOS)}",
    ),
    (
        "[simulation]",
        INCIDENT + INCIDENT.replace("Unmask", "Unmasking"),
        "simulation.incidents.1.phase",
        "'Unmasking' is no phase of secagg",
        f"one of {', '.join(PHASES)}",
    ),
    ("[simulation]", f"{INCIDENT}round = 3", "simulation.incidents.0.round", "the run has 2 rounds", "1 to 2"),
    ("[simulation]", f"{INCIDENT}round = 0", "simulation.incidents.0.round", "0 cannot", "an integer >= 1"),
    ("[simulation]", f'{INCIDENT}kind = "delay"', "simulation.incidents.0.seconds", "0 with kind delay", POSITIVE),
    ("[simulation]", f"{INCIDENT}seconds = 9", "simulation.incidents.0.seconds", "9 with kind drop", "only there"),
    ("[model]", "[model]\nfile = 3", "model.file", "3 is an integer", "a string, not empty"),
    ("[model]", "[[model]]", "model", "is an array", "a table"),
]


@pytest.mark.parametrize(("there", "instead", "key", "problem", "allowed"), MISTAKES)
def test_a_mistake_is_named_in_one_line_with_what_is_allowed(
    there: str, instead: str, key: str, problem: str, allowed: str
) -> None:
    assert PRIVATE.count(there) >= 1
    with pytest.raises(ConfigError) as caught:
        parse_config(PRIVATE.replace(there, instead, 1))
    line = str(caught.value)
    assert caught.value.key == key
    assert line.startswith(f"{key}: ")
    assert problem in line
    assert allowed in caught.value.allowed
    assert "\n" not in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("section", "line", "key", "problem"),
    [
        ("[training]", "clip_norm = 1.0", "training.clip_norm", "has no effect with mode none"),
        ("[training]", "noise_multiplier = 1.0", "training.noise_multiplier", "has no effect with mode none"),
        ("[aggregation]", "[privacy]\nepsilon = 1\ndelta = 1e-5\n[aggregation]", "privacy", "training.mode is none"),
    ],
)
def test_what_promises_privacy_is_refused_without_it(section: str, line: str, key: str, problem: str) -> None:
    text = OPEN.replace(section, line if section in line else f"{section}\n{line}", 1)
    assert text != OPEN
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_config(text)
    assert caught.value.key == key


def test_one_silo_is_too_few() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(study_text(("east",)))
    assert str(caught.value) == "silo: is an array of 1; allowed: an array of at least 2 tables"


def test_integers_stand_for_numbers_and_lists_for_arrays() -> None:
    config = parse_config(PRIVATE.replace("clip_norm = 1.0", "clip_norm = 1").replace("[simulation]", INCIDENT))
    assert config.training.clip_norm == 1.0
    assert [silo.name for silo in config.silo] == list(SILOS)
    assert config.simulation.incidents[0].phase == "Unmask"


@pytest.mark.parametrize(
    ("silos", "lines", "collusion", "contributors"),
    [(2, "", 0, 2), (3, "", 1, 3), (4, "", 1, 3), (4, "collusion_bound = 0", 0, 3), (6, "", 2, 4), (9, "", 3, 5)],
)
def test_fewest_contributors_hide_one_among_two_honest_and_are_three_where_there_are_three(
    silos: int, lines: str, collusion: int, contributors: int
) -> None:
    config = parse_config(study_text(tuple(f"s{number}" for number in range(silos)), aggregation=lines))
    assert (config.collusion_bound, config.minimum_contributors) == (collusion, contributors)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "is not text: byte 0 is not UTF-8"),
        (b"[run", "is not TOML: Expected ']'"),
        (b"a = 1\na = 2", "is not TOML: Cannot overwrite a value"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b"", "run: missing; allowed: a table"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem.replace("[", r"\[")) as caught:
        load_config(path)
    assert content == b"" or str(caught.value).startswith(f"{path}: ")


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_the_example_is_sound() -> None:
    config, text = load_config("examples/heart/config.toml")
    assert [silo.name for silo in config.silo] == ["cleveland", "hungarian", "switzerland", "va"]
    assert text.startswith("[run]")

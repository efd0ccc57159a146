"""Report JSON: strict, versioned, the same records back; its published schema."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest
from sample_run import halted_report, plain_report, sample_report

from protocols.errors import ConfigError, UsageError
from secfl.report.model import RunReport
from secfl.report.schema import schema_json

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "reference" / "report.schema.json"


@pytest.mark.parametrize("build", [sample_report, plain_report, halted_report])
def test_json_gives_back_an_equal_report(build):
    report = build()
    raw = report.to_json()
    assert RunReport.from_json(raw) == report
    assert RunReport.from_json(raw).to_json() == raw
    assert json.loads(raw)["silos"][3]["spent_epsilon"] == report.silos[3].spent_epsilon


def test_unknown_field_in_any_record_is_refused():
    values = json.loads(sample_report().to_json())
    values["silos"][1]["realised_batch_sizes"] = [3, 5]
    with pytest.raises(ConfigError, match=r"realised_batch_sizes.*\$\.silos"):
        RunReport.from_json(json.dumps(values).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, r"\$\.schema_version"),
        ({"status": "fine"}, r"\$\.status"),
        ({"simulation": "yes"}, r"\$\.simulation"),
        ({"model_hash": None}, r"\$\.model_hash"),
    ],
)
def test_value_outside_its_type_is_refused_by_name(change, message):
    values = json.loads(sample_report().to_json()) | change
    with pytest.raises(ConfigError, match=message):
        RunReport.from_json(json.dumps(values).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b'{"name": "x"}', b"[]"])
def test_what_is_no_report_is_a_config_error(raw):
    with pytest.raises(ConfigError, match="schema version 2"):
        RunReport.from_json(raw)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_json_would_turn_into_null_is_refused_by_name(value):
    report = sample_report()
    row = msgspec.structs.replace(report.rounds[2], metric=value)
    with pytest.raises(UsageError, match=r"report\.rounds\[2\]\.metric"):
        msgspec.structs.replace(report, rounds=(*report.rounds[:2], row)).to_json()


def test_text_that_is_not_unicode_is_refused_by_name():
    with pytest.raises(UsageError, match=r"report\.data_description.*surrogate"):
        msgspec.structs.replace(sample_report(), data_description="file \udcff").to_json()


def test_field_of_another_type_is_refused_when_written():
    with pytest.raises(UsageError, match=r"\$\.rounds_planned"):
        msgspec.structs.replace(sample_report(), rounds_planned="ten").to_json()


def test_published_schema_is_what_the_model_says():
    """Refresh: ``python -m secfl.report.schema > docs/reference/report.schema.json``."""
    assert SCHEMA_FILE.read_bytes() == schema_json()


def test_schema_forbids_unknown_fields_in_every_record():
    records = json.loads(schema_json())["$defs"]
    assert set(records) >= {"RunReport", "RoundRow", "PhaseRow", "SiloRow", "Claim"}
    assert all(record["additionalProperties"] is False for record in records.values())

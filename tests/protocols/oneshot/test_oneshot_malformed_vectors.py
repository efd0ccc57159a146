"""What the recorded vectors of bad messages say is what parties and server answer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

VECTORS = Path(__file__).parents[2] / "vectors"


def generator() -> ModuleType:
    path = VECTORS / "generate_oneshot_malformed.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
MALFORMED = json.loads(GENERATOR.FILE.read_text())
SAID = ("error", "rule", "reason")


def test_vectors_of_bad_messages_are_regenerated_byte_for_byte() -> None:
    for path, content in GENERATOR.files().items():
        assert path.read_bytes() == content, path.name


@pytest.mark.parametrize("vector", MALFORMED["requests"], ids=lambda vector: vector["name"])
def test_bad_request_is_refused_as_recorded(vector: dict[str, Any]) -> None:
    assert GENERATOR.refusal_of_request(vector) == {key: vector[key] for key in SAID}


@pytest.mark.parametrize("vector", MALFORMED["replies"], ids=lambda vector: vector["name"])
def test_bad_reply_is_refused_as_recorded(vector: dict[str, Any]) -> None:
    assert GENERATOR.refusal_of_reply(vector) == {key: vector[key] for key in SAID}


def test_rebuilt_chunks_have_the_digest_that_their_header_names() -> None:
    """What another implementation can check of its own reading of the file before it is refused anything."""
    kinds = {"Check": GENERATOR.m.CheckRequest, "Opening": GENERATOR.m.OpeningRequest}
    compared = 0
    for vector in MALFORMED["requests"]:
        if not vector["groups"] or vector["name"] == "chunks of another digest":
            continue
        content = GENERATOR.ContentDigest()
        for chunk in GENERATOR.framed(GENERATOR.built(vector["groups"])):
            content.update(chunk)
        header = GENERATOR.decoded(bytes.fromhex(vector["header"]), kinds[vector["phase"]])
        assert header.content == content.digest(), vector["name"]
        compared += 1
    assert compared == 9


def test_bad_messages_break_rules_of_every_kind() -> None:
    rules = {vector["rule"] for vector in MALFORMED["requests"] + MALFORMED["replies"]}
    assert "" not in rules
    assert {rule for rule in rules if rule.startswith("OS-")} == {
        f"OS-{number}" for number in (2, 3, 5, 6, 7, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22)
    }
    assert {rule for rule in rules if rule.startswith("OV-")} == {"OV-1", "OV-2", "OV-4", "OV-5", "OV-10"}
    assert {rule for rule in rules if rule.startswith(("PT-", "SV-"))} == {
        *(f"PT-{number}" for number in (6, 8, 12, 13)),
        *(f"SV-{number}" for number in (3, 5, 6, 7, 8)),
    }

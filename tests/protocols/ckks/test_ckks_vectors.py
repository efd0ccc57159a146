"""The recorded session: all but SEAL's keys and ciphertexts is reproduced byte for byte, and those still open."""

from __future__ import annotations

import base64
import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np

VECTORS = Path(__file__).parents[2] / "vectors"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_ckks", VECTORS / "generate_ckks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
SESSION = json.loads(GENERATOR.FILE.read_text())


def test_vectors_are_regenerated_byte_for_byte() -> None:
    for path, content in GENERATOR.files().items():
        assert path.read_bytes() == content, path.name


def test_sum_is_that_of_the_recorded_vectors() -> None:
    assert SESSION["contributors"] == ["c00", "c01", "c03"] == sorted(SESSION["vectors"])
    total = np.sum([SESSION["vectors"][name] for name in SESSION["contributors"]], axis=0)
    assert (total % 2**16).tolist() == SESSION["sum"]


def test_ciphertext_that_does_not_hold_the_vector_is_not_taken_from_the_record() -> None:
    """What keeps the first test honest: a record that is off changes the file."""
    recorded = copy.deepcopy(SESSION)
    recorded["ciphertexts"]["c01"] = recorded["ciphertexts"]["c00"]
    damaged = bytearray(base64.b64decode(recorded["ciphertexts"]["c03"][0]))
    damaged[4000] ^= 1
    recorded["ciphertexts"]["c03"] = [base64.b64encode(damaged).decode()]
    made = GENERATOR.session(recorded)
    assert made["sum"] == SESSION["sum"]
    kept = {name: made["ciphertexts"][name] == SESSION["ciphertexts"][name] for name in SESSION["ciphertexts"]}
    assert kept == {"c00": True, "c01": False, "c03": False}

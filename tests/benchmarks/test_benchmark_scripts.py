"""The benchmarks of secret sums run to their end, check their sums, and say what they found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def figures(script: str, directory: Path) -> Any:
    target = directory / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / script, "--quick", "--json", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(target.read_text(encoding="utf-8"))


def test_streamed_one_shot_session_states_time_memory_and_disk(tmp_path: Path) -> None:
    found = figures("oneshot_billion.py", tmp_path)
    assert found["entries"] == 10**6
    last = found["steps"][-1]
    assert last["step"] == "all but the comparison"
    assert last["processor"] > 0
    # Three uploads of 58 bits for three entries wait at the server, another one at the client.
    assert 4 * 58 / 3 / 8 * 10**6 < last["peak disk"] < 1.2 * 4 * 58 / 3 / 8 * 10**6
    assert 2e7 < last["peak memory"] < 1e9


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tenseal") is None, reason="extra 'he' is not installed")
def test_homomorphic_benchmark_has_a_row_for_each_scheme(tmp_path: Path) -> None:
    found = figures("homomorphic.py", tmp_path)
    schemes = [(row["scheme"], row["dropouts"]) for row in found["rows"]]
    assert schemes == [
        ("one-shot", 0.0),
        ("one-shot", 0.3),
        ("SecAgg", 0.0),
        ("SecAgg", 0.3),
        ("CKKS (TenSEAL)", None),
        ("BFV (TenSEAL)", None),
    ]
    assert [row["added"] for row in found["rows"]] == [10, 7, 10, 7, 10, 10]
    assert all(min(row["client"], row["upload"], row["opening"], row["vector_bytes"]) > 0 for row in found["rows"])
    bits = 8 * found["rows"][0]["vector_bytes"]
    assert 22.5 <= bits < 22.6
    assert len(found["figures"]) == 6
    assert found["machine"].keys() >= {"date", "processor", "python", "numpy"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("opacus") is None, reason="extra 'train' is not installed")
def test_accounting_benchmark_puts_every_accountant_beside_ours(tmp_path: Path) -> None:
    rows = figures("accounting.py", tmp_path)["figures"]
    many = {row["name"]: row for row in rows if row["configurations"] == 20}
    assert set(many) == {
        "RDP, sampled Gaussian", "RDP, sampled Gaussian, again", "RDP, distributed", "RDP, distributed, again",
        "RDP (dp-accounting)", "PLD (dp-accounting)", "PRV (Opacus)",
    }  # fmt: skip
    assert all(row["value"] > 0 for row in rows)
    assert many["PLD (dp-accounting)"]["measured"] == 2
    assert many["RDP, sampled Gaussian, again"]["value"] < many["RDP, sampled Gaussian"]["value"]

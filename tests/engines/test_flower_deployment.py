"""A real deployment on loopback: SuperLink and four SuperNodes as processes, TLS, node authentication, SQLite."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, PARTIES, SHIFTS, Federation, model, rows

from secfl.federation.committee_keys import load_committee_key
from secfl.federation.keys import load_key

pytestmark = pytest.mark.engines

START = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
STEPS = np.arange(12).reshape(3, 4) * 0.01


@pytest.fixture(scope="module")
def secure(federation: Federation) -> Path:
    status, output = federation.run()
    assert status == "finished:completed"
    shutil.copytree(federation.deployment.directory / "superlink", federation.base / "seen")
    return output


@pytest.fixture(scope="module")
def plain(federation: Federation, secure: Path) -> Path:
    status, output = federation.run(secure=False)
    assert status == "finished:completed"
    return output


def test_the_secure_mean_equals_plain_fedavg_within_rounding(secure: Path, plain: Path) -> None:
    np.testing.assert_allclose(model(secure), model(plain), rtol=0, atol=1e-5)
    np.testing.assert_allclose(model(plain), START + np.average(SHIFTS, weights=EXAMPLES) + STEPS, atol=1e-6)
    assert rows(secure)[0]["contributors"] == list(PARTIES)
    assert rows(secure)[0]["examples"] == sum(EXAMPLES)


def test_a_node_whose_app_raises_drops_out_at_once(federation: Federation) -> None:
    status, output = federation.run(failing="va")
    assert status == "finished:completed"
    (row,) = rows(output)
    assert row["contributors"] == list(PARTIES[:3])
    assert row["events"]["va"].endswith("the app's training raised ValueError; its text stays at the node")
    expected = START + np.average(SHIFTS[:3], weights=EXAMPLES[:3]) + STEPS
    np.testing.assert_allclose(model(output), expected, atol=1e-5)


def test_no_secret_is_in_the_superlinks_database_log_or_state(federation: Federation, secure: Path) -> None:
    secrets = _updates() | _models()
    secrets |= {f"loss {shift}": np.float64(7.654321 * shift).tobytes() for shift in SHIFTS}
    for party in PARTIES:
        home = federation.deployment.nodes[party].home
        secrets[f"identity {party}"] = load_key(home / "identity.key").private_bytes()
        secrets[f"committee {party}"] = load_committee_key(home / "identity.key.committee").private_bytes()[-32:]
    seen = _files(federation.base / "seen")
    assert {path.name for path in seen} >= {"state.sqlite", "superlink.log"}
    for path in seen:
        content = path.read_bytes()
        assert [name for name, secret in secrets.items() if secret in content] == [], path
    kept = [path for path in _files(federation.base / "homes") if "sessions" in path.parts]
    assert kept
    for path in [*kept, *_files(federation.deployment.directory / "nodes")]:
        content = path.read_bytes()
        if path.name != "supernode.key":
            assert [name for name, secret in secrets.items() if secret in content] == [], path


def test_without_secure_aggregation_the_same_search_finds_every_model(federation: Federation, plain: Path) -> None:
    found: set[str] = set()
    for path in _files(federation.deployment.directory / "superlink"):
        content = path.read_bytes()
        found |= {name for name, model in _models().items() if model in content}
    assert found == set(_models())


def _models() -> dict[str, bytes]:
    values = {party: START + shift + STEPS for party, shift in zip(PARTIES, SHIFTS, strict=True)}
    return {f"model {party}": model.astype(np.float32).tobytes() for party, model in values.items()}


def _updates() -> dict[str, bytes]:
    models = {party: np.frombuffer(model, np.float32).reshape(START.shape) for party, model in _models().items()}
    return {f"update {party}": (model - START).tobytes() for party, model in models.items()}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]

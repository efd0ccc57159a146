"""A real deployment on loopback: SuperLink and four SuperNodes as processes, TLS, node authentication, SQLite."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, PARTIES, SECONDS, SHIFTS, STRANGER, Federation, model, rows

from secfl.engines.flower.deployment import Deployment, marked_processes
from secfl.federation.committee_keys import load_committee_key
from secfl.federation.keys import load_key
from secfl.federation.roster_file import read_roster, revoke_member, write_roster

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

START = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
STEPS = np.arange(12).reshape(3, 4) * 0.01


class Search:
    """Looks for secrets in all that the SuperLink writes, over and over while it runs: what is fetched is deleted."""

    def __init__(self, folder: Path, secrets: dict[str, bytes]) -> None:
        self.found: set[str] = set()
        self.looks = 0
        self._folder, self._secrets = folder, secrets
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Search:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            for path in _files(self._folder):
                try:
                    content = path.read_bytes()
                except FileNotFoundError:  # SQLite's own, between two transactions
                    continue
                self.found |= {name for name, secret in self._secrets.items() if secret in content}
            self.looks += 1
            time.sleep(0.2)


@dataclass
class SecureRun:
    output: Path
    search: Search


@pytest.fixture(scope="module")
def secure(federation: Federation) -> SecureRun:
    secrets = _updates() | _models() | _losses()
    for party in PARTIES:
        home = federation.deployment.nodes[party].home
        secrets[f"identity {party}"] = load_key(home / "identity.key").private_bytes()
        secrets[f"committee {party}"] = load_committee_key(home / "identity.key.committee").private_bytes()[-32:]
    with Search(federation.deployment.directory / "superlink", secrets) as search:
        status, output = federation.run()
    assert status == "finished:completed"
    return SecureRun(output, search)


@pytest.fixture(scope="module")
def plain(federation: Federation, secure: SecureRun) -> Path:
    status, output = federation.run(secure=False)
    assert status == "finished:completed"
    return output


def test_the_secure_mean_equals_plain_fedavg_within_rounding(secure: SecureRun, plain: Path) -> None:
    np.testing.assert_allclose(model(secure.output), model(plain), rtol=0, atol=1e-5)
    np.testing.assert_allclose(model(plain), START + np.average(SHIFTS, weights=EXAMPLES) + STEPS, atol=1e-6)
    assert rows(secure.output)[0]["contributors"] == list(PARTIES)
    assert rows(secure.output)[0]["examples"] == sum(EXAMPLES)


def test_a_node_whose_app_raises_drops_out_at_once(federation: Federation) -> None:
    status, output = federation.run(failing="va")
    assert status == "finished:completed"
    (row,) = rows(output)[-1:]
    assert row["contributors"] == list(PARTIES[:3])
    assert row["events"]["va"].endswith("the app's training raised ValueError; its text stays at the node")
    expected = START + np.average(SHIFTS[:3], weights=EXAMPLES[:3]) + STEPS
    np.testing.assert_allclose(model(output), expected, atol=1e-5)


def test_a_node_with_another_roster_and_one_that_nobody_knows_take_no_part_and_are_named(
    federation: Federation,
) -> None:
    """The stranger is registered with Flower, which samples it like any other; its key is in no roster but its own."""
    roster_path = federation.deployment.nodes["va"].home / "roster.toml"
    agreed = roster_path.read_bytes()
    revoked = revoke_member(read_roster(roster_path), "cleveland")
    federation.deployment.start_node(STRANGER)
    try:
        write_roster(roster_path, revoked)
        federation.deployment.wait_online(5)
        status, output = federation.run(nodes=5)
    finally:
        roster_path.write_bytes(agreed)
        federation.deployment.stop_node(STRANGER)
    assert status == "finished:completed"
    (row,) = rows(output)[-1:]
    assert row["contributors"] == list(PARTIES[:3])
    assert any("'va' has pinned roster" in text for text in row["refused"])
    assert any(f"it calls itself '{STRANGER}'" in text for text in row["refused"])
    expected = START + np.average(SHIFTS[:3], weights=EXAMPLES[:3]) + STEPS
    np.testing.assert_allclose(model(output), expected, atol=1e-5)


def test_a_vector_that_somebody_changed_on_the_way_is_not_in_the_sum(federation: Federation) -> None:
    status, output = federation.run(tampering=True)
    assert status == "finished:completed"
    row = rows(output)[-1]
    (left_out,) = set(PARTIES) - set(row["contributors"])
    assert "signature does not verify" in row["events"][left_out]
    kept = [index for index, party in enumerate(PARTIES) if party != left_out]
    mean = np.average([SHIFTS[index] for index in kept], weights=[EXAMPLES[index] for index in kept])
    np.testing.assert_allclose(model(output), START + mean + STEPS, atol=1e-5)


def test_what_was_started_is_stopped_when_the_body_fails(tmp_path: Path) -> None:
    deployment, mark = Deployment(tmp_path / "alone", {}), ""

    def body() -> None:
        nonlocal mark
        with deployment.running():
            mark = json.loads((tmp_path / "alone" / "deployment.json").read_text())["mark"]
            assert len(marked_processes(mark)) >= 2  # the SuperLink, and what it starts apps with
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        body()
    assert mark
    assert marked_processes(mark) == []


def test_no_secret_passes_through_the_superlinks_database_or_log(federation: Federation, secure: SecureRun) -> None:
    assert secure.search.looks > 20
    assert secure.search.found == set()
    superlink = federation.deployment.directory / "superlink"
    assert {path.name for path in _files(superlink)} >= {"state.sqlite", "superlink.log"}


def test_no_secret_is_in_what_nodes_keep_or_log(federation: Federation, secure: SecureRun) -> None:
    secrets = _updates() | _models() | _losses()
    kept = [path for path in _files(federation.base / "homes") if path.name not in ("identity.key",)]
    assert any("sessions" in path.parts for path in kept)
    for path in [*kept, *_files(federation.deployment.directory / "nodes")]:
        content = path.read_bytes()
        assert [name for name, secret in secrets.items() if secret in content] == [], path


def test_without_secure_aggregation_the_same_search_finds_every_model(federation: Federation) -> None:
    with Search(federation.deployment.directory / "superlink", _models()) as search:
        run, _ = federation.begin(secure=False, lingering=600.0)  # replies wait to be fetched
        deadline = time.monotonic() + SECONDS
        while search.found != set(_models()) and time.monotonic() < deadline:
            time.sleep(0.5)
    federation.deployment.flwr("stop", str(run), "loopback")
    assert search.found == set(_models())


def _models() -> dict[str, bytes]:
    """To the last bit what the probe's training gives: the search without protection shows that it is."""
    values = {party: START + (shift + STEPS) for party, shift in zip(PARTIES, SHIFTS, strict=True)}
    return {f"model {party}": model.astype(np.float32).tobytes() for party, model in values.items()}


def _losses() -> dict[str, bytes]:
    return {f"loss {shift}": np.float64(7.654321 * shift).tobytes() for shift in SHIFTS}


def _updates() -> dict[str, bytes]:
    models = {party: np.frombuffer(model, np.float32).reshape(START.shape) for party, model in _models().items()}
    return {f"update {party}": (model - START).tobytes() for party, model in models.items()}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]

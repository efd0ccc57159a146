"""`secfl keys key-holder`: the key that opens CKKS sums, made for a deployment, and a session under it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from protocols import ckks
from protocols.ckks.keys import KeyHolderIdentity, pinned_hash
from protocols.identity import Identity, Role, Roster
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy
from protocols.shape import ArraySource
from protocols.testing.network import Network
from protocols.testing.storage import MemoryStore
from secfl.federation.identities import ckks_key_path, load_or_create_ckks_key, load_or_create_identity
from secfl.federation.key_holder_keys import ckks_context_path
from secfl.federation.keys import ENVIRONMENT, load_key
from secfl.federation.private_files import environment_passphrase
from secfl.federation.roster_file import read_roster
from secfl.privacy.discrete_gaussian import DiscreteGaussian

Command = Callable[..., Result]
HOLDER = "notary"


@pytest.fixture
def made(tmp_path: Path, secfl: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Result]:
    """An identity key and a CKKS key of the smaller record."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    key = tmp_path / "notary" / "identity.key"
    assert secfl("keys", "new", key, "--silo", HOLDER).exit_code == 0
    result = secfl("keys", "key-holder", key, "--record", "2")
    assert result.exit_code == 0, result.output
    return key, result


def test_files_are_the_encrypted_key_the_context_and_a_signed_statement(made: tuple[Path, Result]) -> None:
    key, result = made
    own, context = ckks_key_path(key), ckks_context_path(key)
    opened = load_or_create_ckks_key(own, load_key(key, environment_passphrase))
    assert opened.scheme.record.id == 2
    assert context.read_bytes() == opened.public_context
    assert result.stdout.splitlines() == [
        f"key version: {opened.version}",
        f"secret key: {own}",
        f"public context: {context}",
        f"for the roster, signed: {key}.ckks-{opened.version}.json",
    ]
    assert own.stat().st_mode & 0o777 == 0o600
    secret = opened.scheme.secret_bytes()
    for path in key.parent.iterdir():  # the middle of the secret key stands in no file
        assert secret[len(secret) // 2 :][:64] not in path.read_bytes()


def test_key_opens_with_its_identity_key_alone(made: tuple[Path, Result], tmp_path: Path, secfl: Command) -> None:
    key, _ = made
    other = tmp_path / "other.key"
    assert secfl("keys", "new", other, "--silo", "other").exit_code == 0
    ckks_key_path(key).rename(ckks_key_path(other))
    failed = secfl("keys", "key-holder", other, "--renew")
    assert failed.exit_code == 3
    assert "is no CKKS key" in failed.stderr


def test_second_key_needs_renew_and_renew_needs_a_first(
    made: tuple[Path, Result], tmp_path: Path, secfl: Command
) -> None:
    key, _ = made
    assert "there is a CKKS key already" in secfl("keys", "key-holder", key).stderr
    other = tmp_path / "other.key"
    assert secfl("keys", "new", other, "--silo", "other").exit_code == 0
    assert "there is no CKKS key" in secfl("keys", "key-holder", other, "--renew").stderr
    assert "CKKS record: 9" in secfl("keys", "key-holder", other, "--record", "9").stderr
    assert not ckks_key_path(other).exists()


def test_roster_moves_from_key_to_key_and_takes_no_statement_twice(
    made: tuple[Path, Result], tmp_path: Path, secfl: Command
) -> None:
    key, _ = made
    roster = tmp_path / "roster.toml"
    (first,) = key.parent.glob("identity.key.ckks-*.json")
    assert secfl("roster", "new", roster, f"{key}.pub").exit_code == 0
    assert secfl("roster", "apply", roster, first).exit_code == 0
    context = ckks_context_path(key).read_bytes()
    assert read_roster(roster).member(HOLDER).sealing_key == pinned_hash(context)
    renewed = secfl("keys", "key-holder", key, "--renew", "--record", "2")
    assert renewed.exit_code == 0, renewed.output
    (second,) = set(key.parent.glob("identity.key.ckks-*.json")) - {first}
    assert secfl("roster", "apply", roster, second).exit_code == 0
    pinned = read_roster(roster).member(HOLDER).sealing_key
    assert pinned == pinned_hash(ckks_context_path(key).read_bytes()) != pinned_hash(context)
    again = secfl("roster", "apply", roster, first)
    assert again.exit_code != 0
    assert "does not have now" in again.stderr


@pytest.mark.parametrize("sigma", [None, 3.0])
def test_session_under_the_keys_of_the_files(made: tuple[Path, Result], sigma: float | None) -> None:
    """With noise of the key holder's own, drawn exactly, if it is told to add some."""
    key, _ = made
    loaded = load_or_create_identity(key, HOLDER, {Role.KEY_HOLDER})
    assert isinstance(loaded, KeyHolderIdentity)
    noise = None if sigma is None else lambda count: DiscreteGaussian(sigma).sample(count, os.urandom)
    holder = KeyHolderIdentity(HOLDER, loaded.signing_key, loaded.ckks_key, noise=noise)
    clients = [Identity(name, SigningKey.generate(os.urandom)) for name in ("a", "b", "c")]
    roster = Roster([identity.member() for identity in (*clients, holder)])
    policy = ClientPolicy(protocols=frozenset({"ckks"}))
    length = 4000
    parameters = ckks.parameters(
        roster,
        ["a", "b", "c"],
        public_context=ckks_context_path(key).read_bytes(),
        record=2,
        value_bound=1000,
        nonce=os.urandom(32),
        run_id="run",
        round_number=1,
        modulus_bits=16,
        vector_length=length,
        context_hash=bytes(32),
    )
    parties = {
        identity.id: ckks.party(
            Role.KEY_HOLDER if identity is holder else Role.CLIENT,
            identity,
            roster,
            policy,
            entropy=os.urandom,
            store=MemoryStore(),
        )
        for identity in (*clients, holder)
    }
    drawn = {name: np.random.default_rng(i).integers(-1000, 1001, length) for i, name in enumerate("abc")}
    sources = {name: ArraySource(values.astype(np.int16).view(np.uint16)) for name, values in drawn.items()}
    aggregate = Network(ckks.server(parameters, roster), parties, sources).run()
    off = aggregate.sum.view(np.int16).astype(np.int64) - sum(drawn.values())
    if sigma is None:
        assert not off.any()
    else:
        assert 2.7 < off.std() < 3.3  # six deviations of 4,000 draws and more
        assert abs(off.mean()) < 0.3
        assert any("added integer noise of its own" in check for check in aggregate.checks)

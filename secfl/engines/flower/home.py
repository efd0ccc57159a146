"""A node's own files: identity, pinned roster, what was answered, open sessions, and the floors that it insists on.

    identity.key          made by `secfl keys new`; with it, for who opens sums, identity.key.committee or .ckks
    roster.toml           the public keys of all parties, compared over another channel
    answers.log           the once-only store; made here
    sessions/             open sessions, sealed; made here
    node.toml             floors, and what is private; optional

Nothing here is ever taken from a message, nor from the configuration of a run, which whoever starts the run writes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from protocols.ckks import KeyHolderIdentity
from protocols.errors import ConfigError
from protocols.identity import Identity, Roster
from protocols.oneshot import CommitteeIdentity
from protocols.primitives.labels import tagged_hash
from protocols.session import ClientPolicy, default_collusion_bound
from secfl.config_messages import describe_problem
from secfl.engines.flower.noise import NodePrivacy
from secfl.engines.flower.terms import assumed_collusion
from secfl.engines.sealed_sessions import SealedSessions
from secfl.engines.storage import FileStore
from secfl.federation.committee_keys import committee_key_path, load_committee_key
from secfl.federation.identities import ckks_key_path, load_or_create_ckks_key
from secfl.federation.keys import load_key
from secfl.federation.roster_file import ROSTER_NAME, read_roster
from secfl.registry import PROTOCOLS

__all__ = ["ENVIRONMENT", "HOME", "Floors", "NodeHome"]

HOME = "secfl-home"
"""Key of the node's own configuration (``flower-supernode --node-config``) that holds the folder's path."""
ENVIRONMENT = "SECFL_HOME"
"""Environment variable that does the same; ``{partition-id}`` in it stands for that key of the node's configuration."""
KEY, STORE, SESSIONS, FLOORS, LOCK = "identity.key", "answers.log", "sessions", "node.toml", ".busy"
LOCK_SECONDS = 120.0


class Floors(BaseModel):
    """What a node insists on, in ``node.toml``; whatever a server proposes below it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    protocols: Annotated[tuple[str, ...], Strict(False), Field(min_length=1)] = tuple(PROTOCOLS)
    minimum_cohort: Annotated[int, Field(ge=2)] = 3
    minimum_contributors: Annotated[int, Field(ge=2)] = 3
    collusion_bound: Annotated[int, Field(ge=0)] | None = None
    """Parties assumed to be in league with the server. Left out: a third of the cohort, if that fits."""
    maximum_vector_length: Annotated[int, Field(ge=1)] = 2**32
    weights: dict[str, Annotated[int, Field(ge=1, lt=2**29)]] = {}
    """Public weights, of all parties, as agreed on outside; without them a server may not set weights."""
    mark: str | None = None
    """Path of the once-only store's mark, in a place that no restore of this folder reaches; see `FileStore`."""
    privacy: NodePrivacy | None = None
    """With it the node sends updates under noise alone, as long as its budget lasts."""


@dataclass(frozen=True)
class NodeHome:
    """The opened folder of one node."""

    path: Path
    identity: Identity = field(repr=False)
    roster: Roster
    floors: Floors
    store: FileStore = field(repr=False)
    sessions: SealedSessions = field(repr=False)

    @staticmethod
    def locate(node_config: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Path:
        """The folder of the node that this process belongs to.

        :raises ConfigError: neither the node's configuration nor the environment names one, or it is not there.
        """
        allowed = f"""flower-supernode --node-config '{HOME}="/path/to/folder"', or {ENVIRONMENT} in its environment"""
        named = node_config.get(HOME) or environment.get(ENVIRONMENT)
        if not isinstance(named, str):
            raise ConfigError(HOME, "this node has no folder of secfl's", allowed)
        path = Path(named.replace("{partition-id}", str(node_config.get("partition-id", ""))))
        if not path.is_absolute() or not path.is_dir():
            raise ConfigError(HOME, f"{str(path)!r} is no folder", "the absolute path of one")
        return path

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, wait: float = LOCK_SECONDS) -> Iterator[NodeHome]:
        """Open a node's folder, for this process alone.

        :param wait: seconds for which another process of the node is waited for.
        :raises ConfigError: names the file that is missing or cannot be used, or says that another process holds on.
        """
        try:
            with FileLock(path / LOCK, timeout=wait, mode=0o600):
                key_path = path / KEY
                key = load_key(key_path)
                roster = read_roster(path / ROSTER_NAME)
                identity = _identity(key_path, _name(roster, key.public, path), key)
                floors = _floors(path / FLOORS)
                store = FileStore(path / STORE, mark=floors.mark)
                try:
                    sealed = SealedSessions(path / SESSIONS, tagged_hash("flower/sessions", key.private_bytes()))
                    yield cls(path, identity, roster, floors, store, sealed)
                finally:
                    store.close()
        except Timeout:
            raise ConfigError(str(path), f"in use by another process for {wait:g} seconds", "one at a time") from None

    def policy(self, protocol: str) -> ClientPolicy:
        """The floors for sessions of a protocol.

        Unless the node says otherwise it assumes a third of a cohort in league with the server, or as many as the
        protocol can take at most with these parties if that is less.
        """
        floors = self.floors
        bound = floors.collusion_bound
        if bound is None:
            everybody = sum(not member.revoked for member in self.roster)
            most = assumed_collusion(protocol, self.roster, everybody)
            bound = None if most == default_collusion_bound(everybody) else most
        return ClientPolicy(
            protocols=frozenset(floors.protocols),
            minimum_cohort=floors.minimum_cohort,
            minimum_contributors=floors.minimum_contributors,
            collusion_bound=bound,
            maximum_vector_length=floors.maximum_vector_length,
        )


def _name(roster: Roster, public: bytes, path: Path) -> str:
    for member in roster:
        if member.identity_key == public:
            return str(member.id)
    raise ConfigError(str(path / ROSTER_NAME), f"no member has the key in {KEY}", "the roster that holds this node")


def _identity(path: Path, name: str, key: Any) -> Identity:
    """The identity with whatever keys stand beside it; nothing is made."""
    if committee_key_path(path).exists():
        return CommitteeIdentity(name, key, load_committee_key(committee_key_path(path)))
    if ckks_key_path(path).exists():
        return KeyHolderIdentity(name, key, load_or_create_ckks_key(ckks_key_path(path), key))
    return Identity(name, key)


def _floors(path: Path) -> Floors:
    if not path.exists():
        return Floors()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}", "a TOML file") from None
    try:
        return Floors.model_validate(values)
    except ValidationError as error:
        problem = describe_problem(Floors, error)
        problem.add_note(str(path))
        raise problem from None

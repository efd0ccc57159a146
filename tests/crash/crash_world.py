"""The federation that the killed processes belong to: names, keys, vectors; the same in every process and life."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from protocols import ClientPolicy, Identity, Roster, SessionParameters, SigningKey, ckks, oneshot, secagg
from protocols.ckks.keys import CkksKey, KeyHolderIdentity
from protocols.primitives.ring import word_dtype
from protocols.shape import Words
from protocols.testing.randomness import DeterministicEntropy

PARTIES = ("a", "b", "c", "d")
"""The clients."""
HOLDER = "holder"
"""The key holder of CKKS, a process of its own."""
MODULES: dict[str, Any] = {"secagg": secagg, "oneshot": oneshot, "ckks": ckks}
BITS = 20
LENGTH = 150
VALUE_BOUND = 2**15
CKKS_RECORD = 2
CHUNK_LENGTH = 64
RUN = "run"
STORAGE_KEY = bytes(range(32))


class World:
    """What everybody knows, and where each party's files are.

    :param directory: of all files; each party's own, the server's and the supervisor's.
    """

    def __init__(self, protocol: str, directory: Path) -> None:
        self.protocol = protocol
        self.module = MODULES[protocol]
        self.directory = directory
        self.processes = (*PARTIES, HOLDER) if protocol == "ckks" else PARTIES
        """Names of the parties' processes."""
        for name in (*self.processes, "server", "log", "gone"):
            (directory / name).mkdir()

    @cached_property
    def identities(self) -> dict[str, Identity]:
        return {name: self._identity(name) for name in self.processes}

    @cached_property
    def roster(self) -> Roster:
        return Roster([identity.member() for identity in self.identities.values()])

    @property
    def policy(self) -> ClientPolicy:
        return ClientPolicy(protocols=frozenset({self.protocol}))

    def parameters(self, **changes: Any) -> SessionParameters:
        """Of a new session: its nonce is fresh."""
        arguments: dict[str, Any] = {
            "nonce": os.urandom(32),
            "run_id": RUN,
            "round_number": 1,
            "modulus_bits": BITS,
            "vector_length": LENGTH,
            "context_hash": bytes(32),
            "chunk_length": CHUNK_LENGTH,
        }
        if self.protocol == "ckks":
            context = self.identities[HOLDER].ckks_key.public_context  # type: ignore[attr-defined]
            arguments |= {"public_context": context, "value_bound": VALUE_BOUND, "record": CKKS_RECORD}
        parameters: SessionParameters = self.module.parameters(self.roster, PARTIES, **(arguments | changes))
        return parameters

    def vector(self, party: str) -> Words:
        dtype = word_dtype(BITS)
        drawn = DeterministicEntropy(f"vector/{party}")(LENGTH * dtype.itemsize)
        words = np.frombuffer(drawn, dtype)
        if self.protocol == "ckks":  # signed entries within the bound
            words = words % dtype.type(2 * VALUE_BOUND + 1) - dtype.type(VALUE_BOUND)
        return words & dtype.type((1 << BITS) - 1)

    def context(self) -> bytes:
        """What the parties are handed with each request."""
        return b""

    def total(self, contributors: Iterable[str]) -> list[int]:
        """The plain sum modulo 2^b, which only a test can compute."""
        total = sum(self.vector(party).astype(np.int64) for party in contributors)
        return [int(value) for value in np.asarray(total) % (1 << BITS)]

    def _identity(self, name: str) -> Identity:
        key = SigningKey.generate(DeterministicEntropy(f"identity/{name}"))
        if self.protocol == "oneshot":
            committee = oneshot.CommitteeKey.generate(DeterministicEntropy(f"committee/{name}"))
            return oneshot.CommitteeIdentity(name, key, committee)
        if name == HOLDER:
            return KeyHolderIdentity(name, key, CkksKey.generate(CKKS_RECORD))
        return Identity(name, key)

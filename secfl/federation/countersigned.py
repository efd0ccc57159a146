"""Countersigned ledger heads in a run of one process: the server's side and every silo's, with their messages.

Before an attempt the server tells each silo the newest head that it signed, after it the silo announces the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from protocols.identity import Identity, Roster
from protocols.shape import Entropy
from secfl.federation.keys import load_or_create_key
from secfl.privacy.countersigning import HeadKeeper, HeadWitness
from secfl.privacy.ledger import Head, Ledger

__all__ = ["SERVER", "CountersignedHeads"]

SERVER = "_server"
"""Directory of the server's key and of what it remembers; no silo can have this name."""


@dataclass(frozen=True)
class _Watched:
    witness: HeadWitness
    ledger: Ledger
    identity: Identity


class CountersignedHeads:
    """Heads of the silos' ledgers.

    :param keeper: the server's memory; None: nothing is countersigned.
    """

    def __init__(self, keeper: HeadKeeper | None) -> None:
        self._keeper = keeper
        self._witnesses: dict[str, tuple[HeadWitness, str]] = {}
        self._watched: dict[str, _Watched] = {}

    @classmethod
    def none(cls) -> CountersignedHeads:
        """Of parties without a server that remembers."""
        return cls(None)

    @classmethod
    def at(cls, directory: Path, roster: Roster, entropy: Entropy = os.urandom) -> CountersignedHeads:
        """With a server whose key and memory are in a directory; both are made when first needed."""
        members = {str(member.id): member.identity_key for member in roster}
        return cls(HeadKeeper(directory / "heads", load_or_create_key(directory / "server.key", entropy), members))

    def expected(self, ledger: Path, silo: str, lineage: str) -> Head | None:
        """What a ledger that is about to be opened must reach: what the server says, or what the silo kept, if newer.

        :raises PrivacyError: a signature that does not verify, or another server's.
        """
        if self._keeper is None:
            return None
        witness = HeadWitness(ledger, silo, lineage)
        told = self._keeper.recall(silo, lineage)
        if told is not None:
            witness.learn(told)
        self._witnesses[silo] = witness, lineage
        return witness.expected

    def watch(self, silo: str, ledger: Ledger, identity: Identity) -> None:
        """Countersign this ledger from now on."""
        if silo in self._witnesses:
            self._watched[silo] = _Watched(self._witnesses[silo][0], ledger, identity)

    def remind(self, silos: Iterable[str]) -> None:
        """Before an attempt: each silo hears what the server remembers, and compares.

        :raises LedgerRolledBack: a ledger is older than that.
        """
        for silo in silos:
            watched = self._watched.get(silo)
            if watched is None or self._keeper is None:
                continue
            told = self._keeper.recall(silo, self._witnesses[silo][1])
            if told is not None:
                watched.witness.learn(told)
            if watched.witness.expected is not None:
                watched.ledger.require_head(watched.witness.expected)

    def countersign(self) -> None:
        """After an attempt: silos whose ledgers went on announce them, and keep what the server signs.

        :raises LedgerRolledBack: the server has seen a newer ledger than is announced.
        """
        for watched in self._watched.values():
            if self._keeper is None or watched.ledger.head == watched.witness.expected:
                continue
            signed = self._keeper.countersign(watched.witness.announce(watched.ledger, watched.identity.signing_key))
            watched.witness.learn(signed)
            watched.witness.keep()

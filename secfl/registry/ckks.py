"""CKKS as secfl offers it: clients encrypt to a key holder, which decrypts sums. Needs the extra ``he``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from protocols import ckks
from protocols.ckks.records import DEFAULT_RECORD, RECORDS
from protocols.errors import UsageError
from protocols.identity import Identity, Role, Roster
from protocols.organisation import ProtocolPackage
from protocols.session import SessionParameters
from protocols.shape import Entropy, MessageLimits
from protocols.wire import CHUNK_INDEX_BYTES, HEADER_LIMIT
from secfl.registry.base import Cast, Entry, Figures

__all__ = ["Ckks"]

KEY_HOLDER = "key-holder"
"""Name of the key holder unless another is given."""


class Ckks(Entry):
    """Homomorphic encryption under one key, which a party of its own holds."""

    package: ClassVar[ProtocolPackage] = ckks
    suite: ClassVar[str] = "CKKS (TenSEAL, Microsoft SEAL; N = 8192, moduli 60/40/40, scale 2^40), Ed25519"
    settings: ClassVar[frozenset[str]] = frozenset({"key_holder"})

    def cast(self, silos: Iterable[str], _committee: Any = None, key_holder: str | None = None) -> Cast:
        """Every silo is a client; the key holder is somebody else, unless a silo is named."""
        return Cast(tuple(silos), key_holder=key_holder or KEY_HOLDER)

    def roles(self, identity: Identity, _roster: Roster, cohort: Collection[str]) -> frozenset[Role]:
        """The key holder is who has the key."""
        roles = super().roles(identity, _roster, cohort)
        return roles | {Role.KEY_HOLDER} if isinstance(identity, ckks.KeyHolderIdentity) else roles

    def equipped(self, identity: Identity, roles: Collection[Role], _entropy: Entropy) -> Identity:
        """See `Entry.equipped`."""
        if Role.KEY_HOLDER not in roles or isinstance(identity, ckks.KeyHolderIdentity):
            return identity
        key = ckks.CkksKey.generate()
        return ckks.KeyHolderIdentity(
            identity.id, identity.signing_key, key, post_quantum_key=identity.post_quantum_key
        )

    def public_context(self, identities: Iterable[Identity]) -> bytes:
        """Of the key holder among them.

        :raises UsageError: there is none.
        """
        for identity in identities:
            if isinstance(identity, ckks.KeyHolderIdentity):
                return identity.ckks_key.public_context
        raise UsageError("parties: ckks needs a key holder among them, an identity with a CKKS key")

    def thresholds(self, _cohort: int, _cast: Cast, _collusion_bound: int) -> tuple[int, int]:
        """The key holder decrypts alone."""
        return 1, 1

    def parameters(
        self, roster: Roster, cohort: Iterable[str], *, value_bound: int, public_context: bytes = b"", **agreed: Any
    ) -> SessionParameters:
        """See `Entry.parameters`."""
        return ckks.parameters(roster, cohort, value_bound=value_bound, public_context=public_context, **agreed)

    def value_bound(self, parameters: SessionParameters) -> int:
        """Under another bound, sums could be off."""
        return ckks.CkksParameters.of(parameters).value_bound

    def request_limits(self, _cohort: int, vector_length: int) -> MessageLimits:
        """The aggregate travels to the key holder, a ciphertext a chunk."""
        record = RECORDS[DEFAULT_RECORD]
        blocks = -(-vector_length // record.slots)
        return MessageLimits(HEADER_LIMIT, CHUNK_INDEX_BYTES + record.block_bytes, blocks)

    def describe(self, figures: Figures) -> dict[str, str | int | float]:
        """The key holder."""
        return {"key holder": figures.cast.key_holder}

    def promises(self, figures: Figures) -> tuple[str, ...]:
        """See `Entry.promises`."""
        holder = figures.cast.key_holder
        return (
            f"The server sees ciphertexts alone and {holder!r}, the key holder, sees sums alone, over "
            f"{figures.minimum_contributors} or more silos: as long as both keep to the protocol and do not help each "
            "other.",
            f"The server and {holder!r} together read every single update. So does the key holder if the server passes "
            "one silo's ciphertext off as the sum: nothing in the protocol prevents that.",
            "Another silo sees the global models and no single update; it holds no secret key.",
            "CKKS is believed to resist quantum computers; signatures are those of today.",
            "A wrong result is not noticed, be it the server's or the key holder's.",
        )

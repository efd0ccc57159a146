"""The client's side: one message, encrypted to the key holder (rules KS-1 to KS-9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeAlias

import numpy as np

from protocols import wire
from protocols.ckks import messages as m
from protocols.ckks.agreement import Agreement, agreed
from protocols.ckks.blocks import to_block
from protocols.ckks.slots import Integers, signed
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition, needed
from protocols.session import SessionParameters
from protocols.shape import Chunk, VectorSource
from protocols.signed import frame

__all__ = ["CkksClient"]


class Contributed(SecretState, frozen=True):
    """The one message is out; nothing of it is kept."""


States: TypeAlias = Idle | Contributed


class CkksClient(PartyShell[States]):
    """A client of the CKKS protocol. See `protocols.party.PartyShell` for the constructor."""

    PROTOCOL: ClassVar[str] = m.PROTOCOL
    STATES: ClassVar[Any] = States

    def _check_parameters(self, parameters: SessionParameters) -> None:
        agreed(parameters, self.roster, self.policy)
        if self.identity.id not in parameters.cohort:
            detail = f"{self.identity.id!r} is not in the cohort"
            raise PeerFault(FaultReason.UNKNOWN_PARTY, detail, rule="KS-9")

    def contribute(self, _state: Idle, _request: m.ContributionRequest, vector: VectorSource | None) -> Answer[States]:
        """The vector, encrypted."""
        fields = wire.opening_fields(self.session_id, m.ContributionReply, self.parameters.suite)
        return Answer(Contributed(), m.ContributionReply(*fields, self.identity.id), self._chunks(needed(vector)))

    def _chunks(self, vector: VectorSource) -> Iterator[Chunk]:
        agreement = Agreement.of(self.parameters)
        scheme = agreement.scheme()
        for number in range(agreement.blocks):
            block = to_block(scheme.encrypt(_integers(agreement, vector, number)), agreement.record)
            buffer, payload = frame(number, len(block))
            payload[:] = np.frombuffer(block, np.uint8)
            yield buffer

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(m.CONTRIBUTION, m.ContributionRequest, Idle, contribute, vector=True),
    )


def _integers(agreement: Agreement, vector: VectorSource, number: int) -> Integers:
    """The slots of one ciphertext.

    :raises UsageError: an entry that does not fit; a source that yields another length or dtype.
    """
    record, entries = agreement.record, agreement.entries(number)
    start = number * record.slots
    source = vector.read(start, start + entries)
    if source.shape != (entries,) or source.dtype.kind != "u":
        raise UsageError(f"vector: block {number} is {source.dtype}{list(source.shape)}; expected {entries} unsigned")
    try:
        return signed(source, agreement.parameters.modulus_bits, agreement.added.value_bound, record.slots)
    except UsageError as error:
        raise UsageError(f"vector: block {number}: {error}") from None

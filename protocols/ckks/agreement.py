"""What the CKKS protocol adds to a session's parameters, what follows from them, and what every party insists on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import msgspec

from protocols import wire
from protocols.ckks.keys import key_version, pinned_hash
from protocols.ckks.records import RECORDS, CkksRecord, check_sum, sum_error
from protocols.ckks.scheme import MAXIMUM_CONTEXT_BYTES, Scheme, public_scheme
from protocols.errors import FaultReason, PeerFault, PolicyRefused, UsageError
from protocols.identity import Roster
from protocols.session import ClientPolicy, SessionParameters
from protocols.suites import SUITES, suite

__all__ = ["Agreement", "CkksParameters", "agreed", "check_agreement", "validate_agreement"]


class CkksParameters(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What this protocol adds to the session's parameters, whose `threshold` is 1: one key holder decrypts."""

    key_holder: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    key_version: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    record: Annotated[int, msgspec.Meta(ge=0, lt=2**16)]
    value_bound: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """B, largest absolute value of an entry read as a signed number; 0, an encoding that may wrap, is refused."""
    public_context: Annotated[bytes, msgspec.Meta(max_length=MAXIMUM_CONTEXT_BYTES)]
    """TenSEAL's, with the public key and no other."""

    def to_bytes(self) -> bytes:
        """Canonical encoding, for `SessionParameters.extension`."""
        return wire.encode(self)

    @classmethod
    def proposed(cls, roster: Roster, public_context: bytes, record: int, value_bound: int) -> CkksParameters:
        """Those of a session whose key holder is the member, in good standing, that pins the context.

        :raises UsageError: there is no such member, or more than one.
        """
        pin, version = pinned_hash(public_context), key_version(public_context)
        holders = [member.id for member in roster if member.sealing_key == pin and not member.revoked]
        if len(holders) != 1:
            detail = f"{len(holders)} members pin the CKKS key {version}; exactly one is its key holder"
            raise UsageError(f"roster: {detail}")
        return cls(holders[0], version, record, value_bound, public_context)

    @classmethod
    def of(cls, parameters: SessionParameters) -> CkksParameters:
        """Read them from a session's parameters.

        :raises PeerFault: MALFORMED.
        """
        return _decoded(parameters.extension)


@lru_cache(maxsize=8)
def _decoded(extension: bytes) -> CkksParameters:
    """A third of a megabyte, asked for with each chunk."""
    return wire.decode_record(extension, CkksParameters)


@dataclass(frozen=True)
class Agreement:
    """All that follows from a session's parameters."""

    parameters: SessionParameters
    added: CkksParameters
    record: CkksRecord

    @classmethod
    def of(cls, parameters: SessionParameters) -> Agreement:
        """Work it out.

        :param parameters: of a known record; see `check_agreement`.
        """
        added = CkksParameters.of(parameters)
        return cls(parameters, added, RECORDS[added.record])

    @property
    def blocks(self) -> int:
        """Ciphertexts in which a vector travels."""
        return -(-self.parameters.vector_length // self.record.slots)

    def entries(self, block: int) -> int:
        """Entries of the vector in a ciphertext; the slots of the last one may not all be used."""
        return min(self.record.slots, self.parameters.vector_length - block * self.record.slots)

    def scheme(self) -> Scheme:
        """The public context, ready for use; read once a process.

        :raises MissingExtra: TenSEAL is not installed.
        """
        return public_scheme(self.added.record, self.added.public_context)

    def tolerance(self, contributors: int) -> float:
        """How far a slot of an honest sum of so many contributions may be from an integer."""
        return sum_error(self.record, contributors, self.added.value_bound)


def check_agreement(parameters: SessionParameters, roster: Roster) -> Agreement:
    """Refuse a key that is not pinned, and parameters whose sums would not be exact.

    :raises PolicyRefused: rules KS-2 (one key holder), KS-3 (record known), KS-4 (context pinned by the key holder that
        is named), KS-5 (key version), KS-6 (no encoding that wraps, bound fits the words), KS-7 (sums exact), KS-8 (the
        context is of the record and public), KS-17 (the key holder can sign in this suite).
    :raises PeerFault: MALFORMED extension.
    :raises UsageError: unknown suite.
    :raises MissingExtra: TenSEAL is not installed.
    """
    added = CkksParameters.of(parameters)
    if parameters.threshold != 1:
        raise PolicyRefused("threshold", parameters.threshold, "1: one key holder decrypts alone", rule="KS-2")
    if added.record not in RECORDS:
        raise PolicyRefused("CKKS record", added.record, f"one of {sorted(RECORDS)}", rule="KS-3")
    version = key_version(added.public_context)
    pin = roster.member(added.key_holder).sealing_key if roster.in_good_standing(added.key_holder) else b""
    if pin != pinned_hash(added.public_context):
        pinned = f"the key that the roster pins for {added.key_holder!r} ({pin.hex()[:16] or 'none'})"
        raise PolicyRefused("public context", version, pinned, rule="KS-4")
    if suite(parameters.suite).signature.post_quantum and not roster.member(added.key_holder).post_quantum_key:
        wanted = f"a party with an ML-DSA key in the roster (suite {parameters.suite})"
        raise PolicyRefused("key holder", added.key_holder, wanted, rule="KS-17")
    if added.key_version != version:
        raise PolicyRefused("key version", added.key_version, f"{version}, that of the pinned context", rule="KS-5")
    if not 1 <= added.value_bound < 1 << (parameters.modulus_bits - 1):
        allowed = f"1 to 2^{parameters.modulus_bits - 1} - 1: slots hold integers, which do not wrap"
        raise PolicyRefused("value bound", added.value_bound, allowed, rule="KS-6")
    try:
        check_sum(RECORDS[added.record], len(parameters.cohort), added.value_bound)
    except UsageError as error:
        raise PolicyRefused(
            "value bound", f"{added.value_bound} ({error})", "sums that are exact", rule="KS-7"
        ) from None
    agreement = Agreement.of(parameters)
    try:
        agreement.scheme()
    except PeerFault as fault:
        wanted = f"the public key alone, of CKKS record {added.record}"
        raise PolicyRefused("public context", f"{version} ({fault.detail})", wanted, rule="KS-8") from None
    return agreement


def validate_agreement(parameters: SessionParameters, roster: Roster) -> Agreement:
    """The same rules for the one who proposes.

    :raises UsageError: naming the parameter.
    """
    try:
        return check_agreement(parameters, roster)
    except PolicyRefused as refusal:
        raise UsageError(str(refusal)) from None


def agreed(parameters: SessionParameters, roster: Roster, policy: ClientPolicy) -> Agreement:
    """Check what every party of this protocol insists on.

    :raises PeerFault: MALFORMED, rule KS-1 (suite known) or the extension.
    :raises PolicyRefused: see `ClientPolicy.check` and `check_agreement`.
    """
    policy.check(parameters, roster)
    if parameters.suite not in SUITES:
        detail = f"suite {parameters.suite}; known: {', '.join(map(str, SUITES))}"
        raise PeerFault(FaultReason.MALFORMED, detail, rule="KS-1")
    return check_agreement(parameters, roster)

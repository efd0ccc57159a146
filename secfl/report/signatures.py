"""A silo's signature under a report: over the run, the final model and the head of its own ledger.

It is made by the silo's identity key, which the roster pins, so that a report cannot name another ledger, another
model or another run than the silo had before it.
"""

from __future__ import annotations

from protocols.errors import PeerFault, ReportMismatch
from protocols.primitives.labels import encode_parts
from protocols.primitives.signing import SigningKey, verify
from secfl.privacy.ledger_entries import Head

__all__ = ["sign_head", "verify_head"]

_LABEL = "secfl/v1/report/ledger-head"


def sign_head(key: SigningKey, *, run_id: str, model_hash: str, silo: str, lineage: str, head: Head) -> str:
    """Ed25519 signature in hex.

    :param model_hash: SHA-256 of the final model, hex.
    """
    return key.sign(_statement(run_id, model_hash, silo, lineage, head)).hex()


def verify_head(
    public_key: bytes, signature: str, *, run_id: str, model_hash: str, silo: str, lineage: str, head: Head
) -> None:
    """Check such a signature.

    :raises ReportMismatch: it is not one by this key over these values.
    """
    where = f"signature of {silo!r} over its ledger's head"
    try:
        raw = bytes.fromhex(signature)
        verify(public_key, _statement(run_id, model_hash, silo, lineage, head), raw)
    except ValueError:
        raise ReportMismatch(where, "is not hexadecimal", "64 bytes in hex") from None
    except PeerFault:
        raise ReportMismatch(where, "does not verify", "one by the key that the roster pins") from None


def _statement(run_id: str, model_hash: str, silo: str, lineage: str, head: Head) -> bytes:
    return encode_parts(_LABEL, run_id, model_hash, silo, lineage, head.sequence, head.hash)

"""What a server proposes to the nodes beside a session's parameters, and what a session is bound to.

Everything here comes from the server, and each node holds it against its own floors; the encoding is part of the
session's parameters, and all the rest enters its context hash: nodes that were told different things have no session
in common.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from protocols.errors import EncodingError, FaultReason, ServerFault
from protocols.identity import Roster
from protocols.primitives.labels import tagged_hash
from secfl.encoding import TensorLayout
from secfl.engines.flower.envelope import CHUNKS, own_records
from secfl.registry import offered

__all__ = ["Terms", "assumed_collusion", "bound_parts", "model_of", "settings_digest"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Weight = Annotated[int, msgspec.Meta(ge=1, lt=2**29)]


class Terms(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an app's reply becomes a vector.

    :param encoding: canonical bytes of how vectors become words; the session's parameters repeat them.
    :param weights: ``examples``: a node weights its update by the number of examples that its app gives, which goes
        into the sum; ``public``: by the weight in ``public``; ``uniform``: by 1.
    :param weighted_by: key of that number in the app's metric record.
    :param public: weight of each party, in the order of names; empty unless weights are public.
    :param noise: whether ``encoding`` is a `DistributedMechanism`, with a share of noise in each vector.
    """

    version: Literal[1] = 1
    encoding: Annotated[bytes, msgspec.Meta(max_length=1024)]
    weights: Literal["examples", "public", "uniform"]
    weighted_by: Name
    public: Annotated[tuple[tuple[Name, Weight], ...], msgspec.Meta(max_length=2**16)] = ()
    noise: bool = False

    def to_bytes(self) -> bytes:
        """Canonical encoding."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Terms:
        """Inverse of :meth:`to_bytes`.

        :raises ServerFault: MALFORMED.
        """
        try:
            terms = msgspec.msgpack.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerFault(FaultReason.MALFORMED, f"terms: {error}") from None
        if terms.to_bytes() != raw:
            raise ServerFault(FaultReason.MALFORMED, "terms: not in canonical form")
        return terms


def assumed_collusion(protocol: str, roster: Roster, cohort: int) -> int:
    """Parties assumed to be in league with the server unless somebody says otherwise: a third of the cohort, or what
    the protocol can take with this roster's committee if that is less.
    """
    standing = [member for member in roster if not member.revoked]
    committee = [str(member.id) for member in standing if member.sealing_key]
    entry = offered(protocol)
    return entry.collusion_bound(cohort, entry.cast([str(member.id) for member in standing], committee or None))


def model_of(content: RecordDict) -> tuple[str, ArrayRecord]:
    """The global model in a training message: its only array record beside ours, and that record's name.

    :raises EncodingError: none, or several.
    """
    found = [(name, record) for name, record in content.array_records.items() if name != CHUNKS]
    if len(found) != 1:
        raise EncodingError("arrays", f"{len(found)} array records in a training message; expected: one")
    return found[0]


def settings_digest(content: RecordDict) -> bytes:
    """Hash of everything in a training message but the model and our own records: settings and metrics, by name.

    Strategies put the number of the round there, learning rates and the like.
    """
    parts: list[bytes] = []
    for name, record in sorted(content.items()):
        if name in own_records() or isinstance(record, ArrayRecord):
            continue
        kind = "settings" if isinstance(record, ConfigRecord) else "metrics"
        for key, value in sorted(record.items()):
            parts += [kind.encode(), name.encode(), key.encode(), type(value).__name__.encode(), _plain(value)]
    return tagged_hash("flower/settings", *parts)


def bound_parts(content: RecordDict, terms: Terms, layout: TensorLayout) -> tuple[bytes, ...]:
    """What a session is bound to beside the model as float32: terms, settings, and the model itself if it is finer."""
    _, arrays = model_of(content)
    exact = b""
    if any(entry.dtype != "float32" for entry in layout.entries):
        digest = hashlib.sha256()
        for name in arrays:
            digest.update(tagged_hash("flower/array", name.encode(), arrays[name].data))
        exact = digest.digest()
    return terms.to_bytes(), settings_digest(content), exact


def _plain(value: object) -> bytes:
    return msgspec.msgpack.encode(value)

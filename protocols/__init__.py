"""Sum integer vectors over a cohort so that nobody learns an addend.

Pure computation: bytes in, bytes out. No sockets, no threads, no clock; randomness, storage and time-outs are passed
in.
"""

from __future__ import annotations

from protocols import errors, oneshot, secagg
from protocols.identity import ClientId, Identity, Member, Role, Roster, client_id
from protocols.organisation import Organisation
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import (
    Aggregate,
    ArraySource,
    Fault,
    Need,
    OnceStore,
    PartySession,
    PhaseSummary,
    Reply,
    Request,
    ServerSession,
    Spool,
    Upload,
    VectorSource,
)
from protocols.wire import peek_kind, peek_session_id

__all__ = [
    "Aggregate",
    "ArraySource",
    "ClientId",
    "ClientPolicy",
    "Fault",
    "Identity",
    "Member",
    "Need",
    "OnceStore",
    "Organisation",
    "PartySession",
    "PhaseSummary",
    "Reply",
    "Request",
    "Role",
    "Roster",
    "ServerSession",
    "SessionId",
    "SessionParameters",
    "SigningKey",
    "Spool",
    "Upload",
    "VectorSource",
    "client_id",
    "errors",
    "oneshot",
    "peek_kind",
    "peek_session_id",
    "secagg",
]

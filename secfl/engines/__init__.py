"""Engines: who carries the bytes of a session. A protocol is added without touching an engine, and the reverse."""

from __future__ import annotations

from secfl.engines.base import Carried, Engine, Party, PartyEvent, PhaseRecord
from secfl.engines.durable import DurableServer
from secfl.engines.embedded import EmbeddedEngine, Incident
from secfl.engines.journal import ServerJournal
from secfl.engines.sealed_sessions import SealedSessions
from secfl.engines.storage import FileStore

__all__ = [
    "Carried",
    "DurableServer",
    "EmbeddedEngine",
    "Engine",
    "FileStore",
    "Incident",
    "Party",
    "PartyEvent",
    "PhaseRecord",
    "SealedSessions",
    "ServerJournal",
]

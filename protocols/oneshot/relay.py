"""Contributions on their way to a member: a chunk a group, so that no request and no memory grows with the cohort."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice

import msgspec

from protocols.chunked import ChunkLayout, OutgoingChunks
from protocols.errors import FaultReason, PeerFault
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.server import ServerShell

__all__ = ["outbox", "relay", "relayed", "relayed_layout"]

GROUP_BYTES = 16
"""Bound on what a group adds to its contributions: two array headers."""


def relay(records: Callable[[], Iterable[bytes]]) -> tuple[OutgoingChunks, tuple[int, ...], bytes]:
    """Chunks of a request to a member, with the two fields that its header must have.

    :param records: makes the encoded `RelayedContribution`s, the same ones at every call.
    :returns: the chunks, their sizes, their digest.
    """
    chunks = OutgoingChunks(lambda: _groups(iter(records())))
    return (chunks, *chunks.measure())


def outbox(member: str) -> str:
    """Under which name `ServerShell.kept` has what is for a member: `RelayedContribution`s in the order of arrival."""
    return f"outbox/{member}"


def relayed(shell: ServerShell, member: str, arrived: Iterable[int], wanted: Container[int]) -> Iterator[bytes]:
    """The records of a member's outbox that are wanted.

    :param arrived: whose contributions are in it, in that order.
    """
    records = shell.kept(outbox(member)).chunks()
    return (bytes(record) for index, record in zip(arrived, records, strict=True) if index in wanted)


def relayed_layout(agreement: Agreement, sizes: tuple[int, ...], digest: bytes) -> ChunkLayout:
    """What chunks a request with these fields must have.

    :raises PeerFault: TOO_LARGE, more groups than clients, or one that is larger than a full group (rule OS-7).
    """
    clients = len(agreement.parameters.cohort)
    if len(sizes) > clients:
        raise PeerFault(FaultReason.TOO_LARGE, f"{len(sizes)} groups of {clients} clients", rule="OS-7")
    most = m.GROUP * agreement.relayed_bytes + GROUP_BYTES
    if sizes and max(sizes) > most:
        raise PeerFault(FaultReason.TOO_LARGE, f"a group of {max(sizes)} bytes, at most {most}", rule="OS-7")
    return ChunkLayout(len(sizes), sizes.__getitem__, digest)


def _groups(records: Iterator[bytes]) -> Iterator[bytes]:
    while batch := [msgspec.Raw(record) for record in islice(records, m.GROUP)]:
        yield msgspec.msgpack.encode((batch,))  # a `RelayedGroup`, without decoding what it holds

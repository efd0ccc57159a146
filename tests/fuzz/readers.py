"""Whatever reads bytes that come from outside a session, each with a genuine input."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from protocols import ckks, oneshot, secagg, wire
from protocols.ckks import messages as ckks_messages
from protocols.ckks.agreement import CkksParameters
from protocols.ckks.blocks import from_block, to_block
from protocols.identity import Roster
from protocols.oneshot import messages as oneshot_messages
from protocols.oneshot import packed_shamir
from protocols.oneshot.agreement import Agreement, CommitteeParameters
from protocols.primitives import bitpack, merkle, shamir
from protocols.primitives.signing import SigningKey
from protocols.secagg import messages as secagg_messages
from protocols.secagg.graph import graph_parameters
from protocols.session import SessionParameters
from protocols.testing.cohort import Cohort
from secfl.aggregation.framing import FrameLimits, Message, write_frames
from secfl.config import parse_config
from secfl.encoding import EncodingScheme, TensorLayout
from secfl.encoding.layout import TensorEntry
from secfl.federation.checkpoint import DirectoryJournal, load_checkpoint
from secfl.federation.key_statements import Introduction, Revocation, read_statement
from secfl.federation.keys import load_key
from secfl.federation.roster_file import read_roster, roster_text
from secfl.privacy.ledger_file import read_mark
from secfl.privacy.ledger_replay import Replay
from secfl.report.model import RunReport
from tests.fuzz.ledgers import small_ledger
from tests.protocols.ckks.ckks_cohort import CkksCohort
from tests.protocols.oneshot.oneshot_cohort import OneShotCohort

Reader = tuple[Callable[[bytes], Any], bytes]
"""What reads, and an input that it reads."""

KEY = (
    b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
    b"-----END PRIVATE KEY-----\n"
)
"""The Ed25519 private key 00 01 02 ..."""


def all_readers() -> list[Reader]:
    """Of records, of every protocol's messages and saved servers, of files."""
    return [*_records(), *_messages(), *_saved_servers(), *_files()]


def _records() -> Iterator[Reader]:
    """Structures inside messages, and what they are made of."""
    cohort, shot, crypt = Cohort(), OneShotCohort(), CkksCohort()
    scheme = EncodingScheme.choose(1.0, 16, maximum_contributors=3, layout_digest=bytes(32))
    layout = TensorLayout((TensorEntry("weight", "float32", (2, 3)), TensorEntry("bias", "float32", (3,))), ())
    frames = b"".join(write_frames(b"header", [b"chunk"], bytes(64)))
    agreement, record = Agreement.of(shot.parameters), crypt.key.scheme.record
    yield SessionParameters.from_bytes, cohort.parameters.to_bytes()
    yield Roster.from_bytes, cohort.roster.to_bytes()
    yield (lambda raw: Message.from_bytes(raw, FrameLimits(64, 64, 4, 64))), frames
    yield EncodingScheme.from_bytes, scheme.to_bytes()
    yield TensorLayout.from_bytes, layout.to_bytes()
    yield wire.peek_kind, cohort.request("c00").header
    yield _bitpack, b"\x05\x07" + bytes(5)
    yield _merkle, bytes(32) * 5
    yield (lambda raw: shamir.unpack_shares(raw, 1)), bytes(34)
    yield _with_extension(cohort, graph_parameters), cohort.parameters.extension
    yield _with_extension(shot, CommitteeParameters.of), shot.parameters.extension
    yield _with_extension(crypt, CkksParameters.of), crypt.parameters.extension
    elements = packed_shamir.pack_share(np.arange(agreement.share_elements, dtype=np.uint64))
    yield (lambda raw: packed_shamir.unpack_share(raw, agreement.share_elements)), elements
    block = to_block(crypt.key.scheme.encrypt(np.zeros(record.slots, np.int64)), record)
    yield (lambda raw: crypt.key.scheme.parse(from_block(raw, record))), block
    yield (lambda raw: type(crypt.key.scheme).load(record, raw)), crypt.key.public_context


def _with_extension(cohort: Any, read: Callable[[SessionParameters], Any]) -> Callable[[bytes], Any]:
    def reader(raw: bytes) -> Any:
        return read(msgspec.structs.replace(cohort.parameters, extension=raw))

    return reader


def _bitpack(raw: bytes) -> None:
    if len(raw) > 2 and 1 <= raw[0] <= 64:
        bitpack.unpack(raw[2:], raw[1], raw[0])


def _merkle(raw: bytes) -> None:
    if len(raw) >= 66:
        path = [raw[i : i + 32] for i in range(66, len(raw), 32)]
        merkle.verify_path(raw[:32], raw[32:64], raw[64], raw[65], path)


def _messages() -> Iterator[Reader]:
    """Every type of message; the genuine one has the opening fields and nothing of its own."""
    for module in (secagg_messages, oneshot_messages, ckks_messages):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, wire.Message) and kind.KIND:
                opening = msgspec.msgpack.encode([1, kind.PROTOCOL, 1, kind.KIND, bytes(32)])
                yield _decoder(kind), opening


def _decoder(kind: type[wire.Message]) -> Callable[[bytes], Any]:
    return lambda raw: wire.decode(raw, kind)


def _saved_servers() -> Iterator[Reader]:
    cohort, shot, crypt = Cohort(length=10), OneShotCohort(length=10), CkksCohort(length=10)
    cohort.advance("MaskedInput")
    yield (lambda raw: secagg.restore_server(raw, cohort.roster)), cohort.server.save()
    yield (lambda raw: oneshot.restore_server(raw, shot.roster)), shot.server.save()
    yield (lambda raw: ckks.restore_server(raw, crypt.roster)), crypt.server.save()


def _files() -> Iterator[Reader]:
    directory = Path(tempfile.mkdtemp(prefix="secfl-fuzz-"))
    key, now = SigningKey(bytes(range(32))), datetime(2026, 1, 1, tzinfo=UTC)
    heart = Path(__file__).parents[2] / "examples" / "heart" / "config.toml"

    def through(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        path = directory / name

        def through_a_file(raw: bytes) -> Any:
            path.write_bytes(raw)
            path.chmod(0o600)
            return read(path)

        return through_a_file

    yield (lambda raw: parse_config(raw.decode("utf-8", "replace"))), heart.read_bytes()
    ledger = small_ledger(key)
    yield (lambda raw: Replay("fuzz", key.public).read(raw, drop_torn_tail=True)), ledger
    yield through("mark", read_mark), b'{"sequence":1,"hash":"' + b"00" * 32 + b'"}\n'
    yield through("roster.toml", read_roster), roster_text(Cohort().roster).encode()
    yield through("introduction.json", read_statement), Introduction.make("c00", key, now).to_json()
    yield through("revocation.json", read_statement), Revocation.make("c00", key, now).to_json()
    yield through("key.pem", lambda path: load_key(path, lambda _: b"")), KEY
    yield RunReport.from_json, b'{"schema_version":1}'
    yield (
        through("attempt.json", lambda path: DirectoryJournal(path.parent).next_attempt(1)),
        b'{"round":1,"attempt":0}',
    )
    yield through("checkpoint.safetensors", lambda path: load_checkpoint(path.parent)), b"\x02" + bytes(7) + b"{}"

"""Every byte that a full run of each protocol shows is searched for every secret that the run made.

Shown: every message on the wire, every saved session of parties and server, every repr, every text of an error with its
traceback, every line of the log. Searched for: each secret's first and last 16 bytes, as they are, in hexadecimal, in
base64 at each of its three alignments, and as Python writes bytes.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import traceback
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from protocols.ckks.keys import KeyHolderIdentity
from protocols.errors import ProtocolError
from protocols.oneshot import client as oneshot_client
from protocols.oneshot.lattice import sample_key
from protocols.oneshot.packed_shamir import pack_share
from protocols.oneshot.sealing import CommitteeIdentity
from protocols.primitives import labels
from protocols.primitives.prg import MaskStream
from protocols.testing.network import Drop
from tests.protocols.any_protocol import PHASES, SLOWLY, VECTOR_PHASE, Adapter, cohort

STORAGE_KEY = hashlib.sha256(b"storage key").digest()
NEEDLE = 16
PREFIX = 8
"""Bytes by which candidates are found; what follows is compared in full."""


class Secrets:
    """What a run must not show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: set[bytes] = set()
        self.kinds: dict[str, int] = {}
        secrets, hkdf, begin = self, labels.HKDF, MaskStream.__init__

        class RecordingHkdf:
            def __init__(self, **arguments: Any) -> None:
                self.genuine = hkdf(**arguments)

            def derive(self, secret: bytes) -> bytes:
                key = self.genuine.derive(secret)
                secrets.add("inputs of key derivation", secret)
                secrets.add("derived keys", key)
                return key

        def recording_stream(stream: MaskStream, key: bytes, bits: int) -> None:
            secrets.add("stream keys", key)
            begin(stream, key, bits)

        def recording_key(*arguments: Any) -> np.ndarray:
            key = sample_key(*arguments)
            packed = pack_share((key.astype(np.int64) % (2**31 - 1)).astype(np.uint64))
            for form in (key.tobytes(), key.astype(np.int8).tobytes(), packed):
                secrets.add("lattice keys", form)
            return key

        monkeypatch.setattr(labels, "HKDF", RecordingHkdf)
        monkeypatch.setattr(MaskStream, "__init__", recording_stream)
        monkeypatch.setattr(oneshot_client, "sample_key", recording_key)

    def add(self, kind: str, secret: bytes) -> None:
        """A secret; what is shorter than a needle, such as a nonce, is none."""
        if len(secret) >= NEEDLE and any(secret):
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            self.found |= {secret[:NEEDLE], secret[-NEEDLE:]}

    def listen(self, attacked: Adapter) -> None:
        """Record what the parties draw, and what they came with."""
        for organisation in attacked.parties.values():
            for session in getattr(organisation, "sessions", {"": organisation}).values():
                session.entropy = self._listening(session.entropy)
        for identity in attacked.identities.values():
            self.add("identity keys", identity.signing_key.private_bytes())
            if isinstance(identity, CommitteeIdentity):
                self.add("committee keys", identity.committee_key.private_bytes())
        for vector in attacked.vectors.values():
            for form in (vector, vector.astype(np.uint64), vector.astype(np.float32)):
                self.add("vectors", form.tobytes())
        self.add("storage keys", STORAGE_KEY)
        if isinstance(attacked.identities.get("holder"), KeyHolderIdentity):
            self._ckks_key(attacked)

    def _listening(self, source: Any) -> Any:
        def entropy(count: int) -> bytes:
            drawn: bytes = source(count)
            self.add("draws", drawn)
            return drawn

        return entropy

    def _ckks_key(self, attacked: Adapter) -> None:
        """Pieces of the secret context; parameters and framing are in the public one as well, and no secret."""
        secret, public = attacked.key.scheme.secret_bytes(), attacked.key.public_context
        for at in range(0, len(secret) - 64, 256):
            piece = secret[at : at + 64]
            if piece[:NEEDLE] not in public and piece[-NEEDLE:] not in public:
                self.add("secret context", piece)


def forms(needle: bytes) -> Iterable[bytes]:
    """How a secret may be written."""
    yield needle
    yield needle.hex().encode()
    yield needle.hex().upper().encode()
    for skipped in range(3):
        # Behind 0, 1 or 2 other bytes the text differs; its first and last characters depend on the neighbours.
        text = base64.b64encode(bytes(skipped) + needle)
        yield text[-(-8 * skipped // 6) : 8 * (skipped + NEEDLE) // 6]
    yield repr(needle)[2:-1].encode()


def shown(haystack: bytes, needles: Iterable[bytes]) -> list[bytes]:
    """The needles that are written somewhere in it, in any form."""
    wanted = [(form, needle) for needle in needles for form in forms(needle)]
    prefixes = np.array([int.from_bytes(form[:PREFIX], "little") for form, _ in wanted], np.uint64)
    order = np.argsort(prefixes)
    ordered = prefixes[order]
    hits = []
    for offset in range(PREFIX):
        count = (len(haystack) - offset) // PREFIX
        windows = np.frombuffer(haystack, "<u8", count, offset)
        places = np.flatnonzero(np.isin(windows, ordered)) * PREFIX + offset
        for place in places.tolist():
            window = int.from_bytes(haystack[place : place + PREFIX], "little")
            at = int(np.searchsorted(ordered, np.uint64(window)))
            while at < ordered.size and int(ordered[at]) == window:
                form, needle = wanted[int(order[at])]
                if haystack.startswith(form, place):
                    hits.append(needle)
                at += 1
    return hits


def reprs(attacked: Adapter) -> Iterable[str]:
    yield repr(attacked.server)
    yield repr(vars(attacked.server))
    yield repr(attacked.roster)
    for organisation in attacked.parties.values():
        yield repr(organisation)
        for session in getattr(organisation, "sessions", {"": organisation}).values():
            yield repr(session)
            yield repr(vars(session))
            yield repr(session._state)
            yield repr(session.identity)


def errors(attacked: Adapter, party: str) -> Iterable[str]:
    """What a party and the server say to a request, a reply, that was changed on the way."""
    request = attacked.request(party)
    header, chunks = request.header, [bytes(chunk) for chunk in request.chunks]
    for bad in (header[:-1], header[:-2] + bytes([header[-2] ^ 1]) + header[-1:], b""):
        try:
            attacked.session(party).handle(bad, chunks, vector=None)
        except ProtocolError as error:
            yield "".join(traceback.format_exception(error)) + repr(vars(error))
    try:
        attacked.server.begin(header)
    except ProtocolError as error:
        yield "".join(traceback.format_exception(error)) + repr(vars(error))


def run(attacked: Adapter, protocol: str) -> bytes:
    """A whole run in which a client drops out; all that it showed."""
    seen: list[bytes] = []
    first_asked = attacked.clients[0]
    attacked.dropping([Drop(attacked.clients[1], VECTOR_PHASE[protocol])])
    while attacked.server.phase is not None:
        party = first_asked if attacked.server.phase == PHASES[protocol][0] else attacked.asked()
        seen += [text.encode() for text in errors(attacked, party)]
        attacked.network.run_phase()
        seen += [text.encode() for text in reprs(attacked)]
        if attacked.server.phase is not None:
            seen.append(attacked.server.save())
        for organisation in list(attacked.parties.values())[:6]:
            seen.append(organisation.save(STORAGE_KEY))
    seen += [raw for *_, raw in attacked.network.transcript]
    for *_, error in attacked.network.refusals:
        seen.append((str(error) + repr(vars(error))).encode())
    aggregate = attacked.server.result()
    assert attacked.clients[1] not in aggregate.contributors
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()
    return b"|".join([*seen, repr(aggregate).encode()])


MADE = {
    "secagg": {"draws", "inputs of key derivation", "derived keys", "stream keys", "identity keys", "vectors"},
    "oneshot": {"draws", "lattice keys", "committee keys", "identity keys", "vectors", "stream keys"},
    "ckks": {"secret context", "identity keys", "vectors"},
}


@pytest.mark.parametrize("protocol", SLOWLY)
def test_no_secret_of_a_run_is_on_the_wire_in_saved_state_logs_reprs_or_errors(
    protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = Secrets(monkeypatch)
    attacked = cohort(protocol, length=200)
    secrets.listen(attacked)
    with caplog.at_level(logging.DEBUG):
        haystack = run(attacked, protocol) + caplog.text.encode()
    assert secrets.kinds.keys() >= MADE[protocol.partition("-")[0]]
    assert len(secrets.found) > 20
    assert len(haystack) > 50_000
    assert shown(haystack, secrets.found) == []


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("form", range(7))
def test_the_search_finds_a_secret_in_every_form_at_every_place(form: int, offset: int) -> None:
    secret = bytes(range(100, 100 + NEEDLE))
    hidden = [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret + b"more"),
        base64.b64encode(b"x" + secret + b"more"),
        base64.b64encode(b"xy" + secret + b"more"),
        repr(b"some" + secret).encode(),
    ][form]
    haystack = bytes(offset) + b"." * 100 + hidden + b"." * 100
    assert set(shown(haystack, [secret, bytes(range(50, 66))])) == {secret}


@pytest.mark.parametrize("protocol", ["secagg", "oneshot", "ckks"])
def test_the_search_finds_what_a_careless_server_shows(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One party's vector in the clear among the bytes of a whole run: the very thing that must not be."""
    secrets = Secrets(monkeypatch)
    attacked = cohort(protocol, length=200)
    secrets.listen(attacked)
    leaked = attacked.vectors[attacked.clients[2]].tobytes()
    haystack = run(attacked, protocol) + leaked
    assert set(shown(haystack, secrets.found)) == {leaked[:NEEDLE], leaked[-NEEDLE:]}

"""What leaves a party shows nothing: uniform masked inputs, 256-bit keys, no secret on wire, disk, repr or error."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from scipy.stats import chi2

from protocols.errors import ProtocolError
from protocols.primitives import labels
from protocols.primitives.bitpack import unpack
from protocols.primitives.prg import MaskStream
from protocols.primitives.sealing import agree
from protocols.secagg import client as client_module
from protocols.secagg import masking as masking_module
from protocols.secagg import messages as m
from protocols.testing.cohort import STORAGE_KEY, Cohort
from protocols.testing.malformed import changed, decoded
from protocols.testing.network import Drop, deliver
from protocols.wire import CHUNK_INDEX_BYTES


def masked_words(cohort: Cohort) -> dict[str, np.ndarray]:
    """What the server receives from each client, unpacked."""
    cohort.advance("MaskedInput")
    parameters = cohort.parameters
    words = {}
    for party in cohort.identities:
        chunks = cohort.answer(party).chunks
        words[party] = np.concatenate(
            [
                unpack(chunk[CHUNK_INDEX_BYTES:], parameters.chunk_entries(index), parameters.modulus_bits)
                for index, chunk in enumerate(chunks)
            ]
        )
    return words


def assert_uniform(values: np.ndarray, cells: int) -> None:
    """Chi-square against the uniform distribution, both tails at 10^-6; the randomness is fixed, so never flaky."""
    counts = np.bincount(values, minlength=cells)
    assert counts.size == cells
    expected = values.size / cells
    assert expected >= 5
    statistic = float(((counts - expected) ** 2).sum() / expected)
    low, high = chi2.ppf([1e-6, 1 - 1e-6], cells - 1)
    assert low < statistic < high


def assert_constant_vectors_look_uniform(bits: int, length: int) -> None:
    cohort = Cohort(4, bits=bits, length=length, chunk_length=1024)
    for vector in cohort.vectors.values():
        vector[:] = 5
    cells = 256
    for words in masked_words(cohort).values():
        assert_uniform((words & words.dtype.type(cells - 1)).astype(np.int64), cells)
        assert_uniform((words >> words.dtype.type(bits - 8)).astype(np.int64), cells)
        pairs = (words[::2] & words.dtype.type(15)).astype(np.int64) * 16 + (words[1::2] & words.dtype.type(15))
        assert_uniform(pairs.astype(np.int64), cells)


@pytest.mark.parametrize("bits", [8, 13, 21, 32, 64])
def test_masked_input_of_a_constant_vector_is_uniform(bits: int) -> None:
    assert_constant_vectors_look_uniform(bits, 6000)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 11, 16, 24, 33, 64])
def test_masked_input_of_a_constant_vector_is_uniform_at_length(bits: int) -> None:
    assert_constant_vectors_look_uniform(bits, 4_000_000)


def test_uniformity_test_notices_an_unmasked_vector() -> None:
    with pytest.raises(AssertionError):
        assert_uniform(np.full(6000, 5), 256)
    drawn = np.random.default_rng(0).integers(0, 256, 100_000)
    assert_uniform(drawn, 256)
    drawn[::100] = 5  # one value in a hundred is not masked
    with pytest.raises(AssertionError):
        assert_uniform(drawn, 256)


# -- a run in which every secret is written down -----------------------------------------------------------------------


class Recorder:
    """Every secret of a run: what entropy gave, what was agreed on, what was derived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: dict[str, list[bytes]] = {}
        self.agreed: list[bytes] = []
        self.derived: list[tuple[bytes, bytes, bytes]] = []
        self.mask_keys: list[bytes] = []
        recorder = self

        genuine = labels.HKDF

        class RecordingHkdf:
            def __init__(self, **arguments) -> None:
                self.info = arguments["info"]
                self.genuine = genuine(**arguments)

            def derive(self, secret: bytes) -> bytes:
                key = self.genuine.derive(secret)
                recorder.derived.append((secret, self.info, key))
                return key

        class RecordingStream(MaskStream):
            def __init__(self, key: bytes, bits: int) -> None:
                super().__init__(key, bits)
                recorder.mask_keys.append(key)

        def recording_agree(own: object, public: bytes) -> bytes:
            secret = agree(own, public)
            recorder.agreed.append(secret)
            return secret

        monkeypatch.setattr(labels, "HKDF", RecordingHkdf)
        monkeypatch.setattr(masking_module, "MaskStream", RecordingStream)
        monkeypatch.setattr(client_module, "agree", recording_agree)

    def listen(self, cohort: Cohort) -> None:
        for party, session in cohort.parties.items():
            drawn = self.drawn.setdefault(party, [])

            def entropy(count: int, source=cohort.entropies[party], drawn=drawn) -> bytes:
                drawn.append(source(count))
                return drawn[-1]

            session.entropy = entropy

    def secrets(self, cohort: Cohort) -> Iterator[bytes]:
        for drawn in self.drawn.values():
            # Nonces of sealed blobs, of 12 bytes, travel in the clear.
            yield from (item for item in drawn if len(item) >= 32)
        yield from self.agreed
        yield from (key for _, _, key in self.derived)
        yield from (identity.signing_key.private_bytes() for identity in cohort.identities.values())
        for vector in cohort.vectors.values():
            yield vector.tobytes()
            yield vector.astype(np.uint64).tobytes()
        yield STORAGE_KEY


def states(cohort: Cohort) -> Iterator[str]:
    for session in cohort.parties.values():
        yield repr(session)
        yield repr(session._state)
        yield repr(vars(session))
        yield repr(session.identity)


def test_no_secret_of_a_run_is_on_the_wire_in_saved_files_reprs_or_errors(monkeypatch) -> None:
    recorder = Recorder(monkeypatch)
    cohort = Cohort(6, length=200)
    recorder.listen(cohort)
    cohort.dropping([Drop("c01", "MaskedInput")])
    seen: dict[str, bytes] = {}
    while cohort.server.phase is not None:
        phase = cohort.server.phase
        cohort.network.run_phase()
        if cohort.server.phase is not None:
            seen[f"server blob after {phase}"] = cohort.server.save()
            seen[f"server repr after {phase}"] = (repr(cohort.server) + repr(vars(cohort.server))).encode()
            first = next(iter(cohort.server.requests()))
            for session in cohort.parties.values():
                for bad in (first.header[:-1], changed_root(first.header)):
                    try:
                        session.handle(bad)
                    except ProtocolError as error:
                        text = repr(error) + str(error) + str(vars(error)) + "".join(traceback.format_exception(error))
                        seen[f"error after {phase} of {session.identity.id}: {len(seen)}"] = text.encode()
        for party, session in cohort.parties.items():
            seen[f"party blob of {party} after {phase}"] = session.save(STORAGE_KEY)
        seen[f"party reprs after {phase}"] = "\n".join(states(cohort)).encode()
    for number, (direction, phase, party, raw) in enumerate(cohort.network.transcript):
        seen[f"{number} {direction} {phase} {party}"] = raw
    secrets = set(recorder.secrets(cohort))
    assert len(secrets) > 6 * 6
    needles = {half for secret in secrets for half in (secret[:16], secret[len(secret) // 2 :][:16])}
    for name, raw in seen.items():
        for needle in needles:
            forms = (needle, needle.hex().encode(), base64.b64encode(needle)[:20], repr(needle)[2:-1].encode())
            assert not any(form in raw for form in forms), name
    np.testing.assert_array_equal(cohort.server.result().sum, cohort.total(cohort.server.result().contributors))


def changed_root(header: bytes) -> bytes:
    """The same header with one byte changed near its end."""
    return header[:-2] + bytes([header[-2] ^ 1]) + header[-1:]


def test_the_search_would_find_a_secret_that_leaks(monkeypatch) -> None:
    """The blobs hold the secrets, once unsealed: what is searched for is what is there."""
    from protocols.primitives.sealing import open_state

    recorder = Recorder(monkeypatch)
    cohort = Cohort()
    recorder.listen(cohort)
    cohort.advance("MaskedInput")
    session = cohort.parties["c00"]
    plain = open_state(STORAGE_KEY, session.save(STORAGE_KEY), type(session)._seal_label(session.identity))
    masking_private, sealing_private, seed = (item for item in recorder.drawn["c00"] if len(item) == 32)
    assert all(secret in plain for secret in (masking_private, sealing_private, seed))


def test_keys_and_seeds_are_gone_once_they_are_not_needed() -> None:
    cohort = Cohort()
    cohort.advance("MaskedInput")
    state = cohort.parties["c00"]._state
    own = (state.keys.masking_private, state.keys.sealing_private, state.self_mask_seed)
    cohort.advance("ConsistencyCheck")
    plain = msgspec.msgpack.encode(cohort.parties["c00"]._state)
    assert not any(secret in plain for secret in own)
    cohort.network.run()
    done = cohort.parties["c00"]._state
    assert done.__struct_fields__ == ()
    assert cohort.parties["c00"]._spool is None


# -- derivation of keys ------------------------------------------------------------------------------------------------


def test_every_key_is_256_bits_end_to_end_and_serves_one_purpose(monkeypatch) -> None:
    recorder = Recorder(monkeypatch)
    sessions = 8
    for number in range(sessions):
        cohort = Cohort(4, name=f"walk {number}", length=64)
        recorder.listen(cohort)
        cohort.advance("ConsistencyCheck")
    seeds = [item for drawn in recorder.drawn.values() for item in drawn if len(item) == 32]
    assert len(seeds) == sessions * 4 * 3  # masking key, sealing key, seed
    assert len(set(seeds)) == len(seeds)
    for keys in (seeds, [key for _, _, key in recorder.derived]):
        bits = np.array([np.unpackbits(np.frombuffer(key, np.uint8)) for key in set(keys)])
        assert bits.shape[1] == 256
        assert bits.any(axis=0).all()  # no bit is stuck
        assert not bits.all(axis=0).any()
        assert np.linalg.matrix_rank(bits.astype(float)) == min(len(set(keys)), 256)
    assert all(len(secret) == 32 and len(key) == 32 for secret, _, key in recorder.derived)
    by_label = {}
    for _, info, key in recorder.derived:
        label = next(name for name in (b"self-mask", b"pairwise-mask", b"share-sealing") if b"secagg/" + name in info)
        by_label.setdefault(label, []).append((info, key))
    # A pair has one mask, whose key both derive, and two directions of sealing: the sender derives the key once, the
    # receiver to look at the request and again to answer it.
    pairs = sessions * 4 * 3 // 2
    assert {label: (len(items), len({key for _, key in items})) for label, items in by_label.items()} == {
        b"self-mask": (sessions * 4, sessions * 4),
        b"pairwise-mask": (pairs * 2, pairs),
        b"share-sealing": (pairs * 2 * 3, pairs * 2),
    }
    infos = {}
    for _, info, key in recorder.derived:
        assert infos.setdefault(info, key) == key  # the label names the purpose, the pair and the session
    assert set(recorder.mask_keys) == {key for label in (b"self-mask", b"pairwise-mask") for _, key in by_label[label]}


def test_masks_never_repeat_between_sessions_pairs_and_chunks(monkeypatch) -> None:
    recorder = Recorder(monkeypatch)
    for number in range(6):
        Cohort(4, nonce=bytes([number]) * 32, length=64).advance("ConsistencyCheck")  # the parties' entropy repeats
    keys = set(recorder.mask_keys)
    assert len(keys) == 6 * (4 + 6)
    blocks = [
        MaskStream(key, 64).words(start, 64).tobytes()[at : at + 16]
        for key in keys
        for start in (0, 64, 128)
        for at in range(0, 512, 16)
    ]
    assert len(set(blocks)) == len(blocks)


def test_unmask_replies_give_one_kind_of_share_for_each_client() -> None:
    cohort = Cohort(6)
    cohort.dropping([Drop("c01", "MaskedInput")])
    cohort.advance("Unmask")
    held = {item.index: item for item in cohort.parties["c00"]._state.received}
    shares = decoded(cohort.answer("c00").header, m.UnmaskReply).shares
    for index, share in enumerate(shares):
        assert share == (held[index].of_masking_key if index == 1 else held[index].of_seed)
        assert held[index].of_seed != held[index].of_masking_key


def test_refused_request_reveals_nothing_and_answer_is_given_once() -> None:
    cohort = Cohort()
    cohort.advance("Unmask")
    header = cohort.request("c00").header
    bad = changed(header, m.UnmaskRequest, signatures=())
    with pytest.raises(ProtocolError):
        cohort.parties["c00"].handle(bad)
    deliver(cohort.server, cohort.answer("c00"))
    assert list(cohort.server._phase.shares) == [0]

"""The codec takes exactly what it writes, bounded; anything else is a `PeerFault`, and sessions stay as they were."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import peek_session_id, secagg, wire
from protocols.errors import FaultReason, PeerFault, ProtocolError, UsageError
from protocols.identity import Identity, Member, Roster, client_id
from protocols.primitives.signing import SigningKey
from protocols.secagg import messages as m
from protocols.session import SessionParameters
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import raw_fields

PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
KINDS = {
    f"{name}{direction}": getattr(m, f"{name}{direction}") for name in PHASES for direction in ("Request", "Reply")
}


def corpus() -> dict[str, bytes]:
    cohort = Cohort()
    headers = {}
    for phase in PHASES:
        cohort.advance(phase)
        headers[f"{phase}Request"] = cohort.request("c02").header
        headers[f"{phase}Reply"] = cohort.answer("c02").header
    return headers


CORPUS = corpus()


def malformed(raw: bytes, name: str, reason: FaultReason = FaultReason.MALFORMED) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        wire.decode(raw, KINDS[name])
    assert type(caught.value) is PeerFault
    assert caught.value.reason is reason
    return caught.value


@pytest.mark.parametrize("name", KINDS)
class TestEveryMessage:
    def test_comes_back_as_it_was(self, name: str) -> None:
        assert wire.encode(wire.decode(CORPUS[name], KINDS[name])) == CORPUS[name]
        assert wire.peek_kind(CORPUS[name]) == ("secagg", name)
        assert peek_session_id(CORPUS[name]) == Cohort().server.session_id

    def test_trailing_byte_is_refused(self, name: str) -> None:
        malformed(CORPUS[name] + b"\x00", name)

    def test_every_truncation_is_refused(self, name: str) -> None:
        for length in range(0, len(CORPUS[name]), max(1, len(CORPUS[name]) // 97)):
            malformed(CORPUS[name][:length], name)

    def test_field_too_many_or_too_few_is_refused(self, name: str) -> None:
        fields = raw_fields(CORPUS[name])
        malformed(msgspec.msgpack.encode([*fields, None]), name)
        malformed(msgspec.msgpack.encode(fields[:-1]), name)

    def test_array_header_longer_than_needed_is_refused(self, name: str) -> None:
        raw = CORPUS[name]
        assert raw[0] & 0xF0 == 0x90
        malformed(b"\xdc\x00" + bytes([raw[0] & 0x0F]) + raw[1:], name)

    def test_integer_longer_than_needed_is_refused(self, name: str) -> None:
        raw = CORPUS[name]
        assert raw[1] == wire.WIRE_VERSION
        malformed(raw[:1] + b"\xcc\x01" + raw[2:], name)

    def test_map_in_the_place_of_the_array_is_refused(self, name: str) -> None:
        malformed(msgspec.msgpack.encode({str(i): item for i, item in enumerate(raw_fields(CORPUS[name]))}), name)

    @pytest.mark.parametrize(
        ("position", "value"),
        [(0, 2), (0, 0), (0, True), (0, 1.0), (1, "other"), (2, 0), (2, 256), (3, "AdvertiseKey"), (4, bytes(31))],
    )
    def test_wrong_opening_field_is_refused(self, name: str, position: int, value: object) -> None:
        fields = raw_fields(CORPUS[name])
        fields[position] = value
        malformed(msgspec.msgpack.encode(fields), name)

    def test_every_field_of_another_type_is_refused(self, name: str) -> None:
        fields = raw_fields(CORPUS[name])
        for position in range(len(fields)):
            for value in (None, [[[]]], {"a": 1}, -1, 2**63, "\udcff".encode("utf-8", "surrogatepass")):
                if isinstance(value, bytes) and (name, position) == ("AdvertiseKeysRequest", 5):
                    continue  # parameters are any bytes, to this layer
                changed = [*fields[:position], value, *fields[position + 1 :]]
                with pytest.raises(PeerFault):
                    wire.decode(msgspec.msgpack.encode(changed), KINDS[name])

    def test_deep_nesting_is_a_fault_and_no_recursion_error(self, name: str) -> None:
        raw = CORPUS[name]
        deep = bytes([raw[0] + 1]) + raw[1:] + b"\x91" * 200_000 + b"\xc0"
        malformed(deep, name)
        malformed(b"\x91" * 300_000, name)
        with pytest.raises(PeerFault):
            wire.peek_kind(deep)

    def test_length_that_is_claimed_but_not_there_allocates_nothing(self, name: str) -> None:
        opening = raw_fields(CORPUS[name])[:5]
        start = bytes([0x90 + len(raw_fields(CORPUS[name]))]) + b"".join(map(msgspec.msgpack.encode, opening))
        tracemalloc.start()
        for bomb in (
            b"\xdd\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
        ):
            with pytest.raises(PeerFault):
                wire.decode(start + bomb, KINDS[name])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


def test_oversize_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr(wire.msgspec.msgpack, "decode", never)
    monkeypatch.setattr(wire, "HEADER_LIMIT", 1000)
    for read in (wire.peek_kind, peek_session_id, lambda raw: wire.decode(raw, m.UnmaskReply, limit=1000)):
        with pytest.raises(PeerFault) as caught:
            read(bytes(1001))
        assert caught.value.reason is FaultReason.TOO_LARGE


def test_no_detail_repeats_the_bytes_that_were_sent() -> None:
    secret = b"SECRET-SECRET-SECRET-SECRET-1234"
    for name, raw in CORPUS.items():
        fields = raw_fields(raw)
        for position in range(len(fields)):
            for value in (secret, secret.decode(), [secret] * 3):
                with pytest.raises(PeerFault) as caught:
                    wire.decode(
                        msgspec.msgpack.encode([*fields[:position], value, *fields[position + 1 :], 0]), KINDS[name]
                    )
                assert "SECRET-" not in str(caught.value) + repr(caught.value)


# -- raw bytes into sessions -------------------------------------------------------------------------------------------


def mutations() -> st.SearchStrategy[bytes]:
    """Bytes of any kind, and real messages with bytes changed, cut out and put in."""

    def mutate(raw: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
        for at, drop, put in edits:
            place = at % (len(raw) + 1)
            raw = raw[:place] + put + raw[place + drop :]
        return raw

    edit = st.tuples(st.integers(0, 2000), st.integers(0, 3), st.binary(max_size=3))
    return st.one_of(
        st.binary(max_size=300),
        st.builds(mutate, st.sampled_from(sorted(CORPUS.values())), st.lists(edit, min_size=1, max_size=4)),
    )


PREPARED = {phase: Cohort() for phase in PHASES}
for _phase, _cohort in PREPARED.items():
    _cohort.advance(_phase)


def fuzz(phase: str, raw: bytes) -> None:
    cohort = PREPARED[phase]
    session = cohort.parties["c02"]
    before = (session._state, session._parameters, session._answered, dict(session._store._records))
    vector = cohort.sources()["c02"] if phase == "MaskedInput" else None
    if raw in CORPUS.values():
        return  # the edits came to nothing
    with suppress(ProtocolError):  # it looks at less than `handle`, except before it asks for a vector
        assert not session.inspect(raw).vector
    with pytest.raises(ProtocolError):
        session.handle(raw, vector=vector)
    after = (session._state, session._parameters, session._answered, dict(session._store._records))
    assert after == before
    server = cohort.server
    answered, phase_before = list(server._phase.answered), server._phase
    try:
        upload = server.begin(raw)
    except PeerFault:
        pass
    else:  # a header that could be somebody's: nothing counts without a signature
        with pytest.raises((PeerFault, UsageError)):
            upload.commit(raw[:64])
    assert (server._phase, server._phase.answered, server._uploads) == (phase_before, answered, {})


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PHASES), mutations())
def test_raw_bytes_end_in_a_protocol_error_and_change_nothing(phase: str, raw: bytes) -> None:
    fuzz(phase, raw)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PHASES), mutations())
def test_raw_bytes_end_in_a_protocol_error_and_change_nothing_at_length(phase: str, raw: bytes) -> None:
    fuzz(phase, raw)


def test_sessions_that_were_fuzzed_still_give_the_exact_sum() -> None:
    for phase in PHASES:
        for raw in (b"", b"\x00", b"\x91" * 5000, CORPUS["UnmaskReply"] + b"\x00"):
            fuzz(phase, raw)
    for cohort in PREPARED.values():
        aggregate = cohort.network.run()
        np.testing.assert_array_equal(aggregate.sum, cohort.total(cohort.parameters.clients()))


# -- roster and parameters ---------------------------------------------------------------------------------------------


def member(name: str, seed: int = 1) -> Member:
    return Identity(name, SigningKey(bytes([seed]) * 32)).member()


def test_roster_comes_back_and_its_hash_covers_every_field() -> None:
    roster = Roster([member("b", 2), member("a", 1)])
    assert [line.id for line in roster] == ["a", "b"]
    assert Roster.from_bytes(roster.to_bytes()).digest() == roster.digest()
    line = member("b", 2)
    variants = [
        Roster([member("a", 1)]),
        Roster([member("a", 1), member("b", 3)]),
        Roster([member("a", 1), msgspec.structs.replace(line, revoked=True)]),
        Roster([member("a", 1), msgspec.structs.replace(line, sealing_key=b"k")]),
        Roster([member("a", 1), msgspec.structs.replace(line, id="c")]),
    ]
    assert len({roster.digest(), *(variant.digest() for variant in variants)}) == 6
    assert repr(roster) == f"Roster(2 members, {roster.digest().hex()[:16]})"
    assert len(roster) == 2
    assert "a" in roster


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([], "at least one member"),
        ([member("a", 1), member("a", 2)], "listed twice"),
        ([member("a", 1), member("b", 1)], "share one identity key"),
        ([Member("a", bytes(31))], "wrong length"),
        ([Member("a", b"\x01" + bytes(31))], "small order"),
        ([Member("A", member("a").identity_key)], "party name"),
        ([Member("a\n", member("a").identity_key)], "party name"),
    ],
)
def test_roster_that_nobody_should_pin_is_refused_whoever_made_it(members: list[Member], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Roster(members)
    with pytest.raises(PeerFault) as caught:
        Roster.from_bytes(msgspec.msgpack.encode([members]))
    assert caught.value.reason is FaultReason.MALFORMED


def test_roster_out_of_order_is_refused() -> None:
    with pytest.raises(PeerFault) as caught:
        Roster.from_bytes(msgspec.msgpack.encode([[member("b", 2), member("a", 1)]]))
    assert caught.value.reason is FaultReason.NOT_ORDERED


def test_signatures_of_unknown_revoked_and_other_parties_do_not_verify() -> None:
    identity, other = Identity("a", SigningKey(b"\x01" * 32)), Identity("b", SigningKey(b"\x02" * 32))
    revoked = msgspec.structs.replace(other.member(), revoked=True)
    roster = Roster([identity.member(), revoked])
    signature = identity.signing_key.sign(b"message")
    roster.verify("a", b"message", signature)
    for party, message, reason in (
        ("a", b"other", FaultReason.BAD_SIGNATURE),
        ("b", b"message", FaultReason.REVOKED_PARTY),
        ("c", b"message", FaultReason.UNKNOWN_PARTY),
    ):
        with pytest.raises(PeerFault) as caught:
            roster.verify(party, message, signature)
        assert caught.value.reason is reason
        assert repr(party) in caught.value.detail
    assert [roster.in_good_standing(party) for party in "abc"] == [True, False, False]
    assert repr(identity) == "Identity('a')"


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "ä", "a" * 65, "a\n"])
def test_party_names_are_checked(name: str) -> None:
    with pytest.raises(UsageError, match="party name"):
        client_id(name)
    assert client_id("a" * 64) == "a" * 64


@pytest.mark.parametrize("field", SessionParameters.__struct_fields__)
def test_session_id_depends_on_every_parameter(field: str) -> None:
    parameters = Cohort().parameters
    value = getattr(parameters, field)
    if isinstance(value, int):
        other: object = value + 64
    elif isinstance(value, tuple):
        other = (*value, "zz")
    else:
        other = value + (b"x" if isinstance(value, bytes) else "x")
    assert msgspec.structs.replace(parameters, **{field: other}).session_id() != parameters.session_id()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"nonce": bytes(31)}, "nonce"),
        ({"run_id": ""}, "run_id"),
        ({"round_number": -1}, "round_number"),
        ({"attempt": 2**16}, "attempt"),
        ({"modulus_bits": 7}, "allowed: 8 to 64"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"vector_length": 0}, "vector_length"),
        ({"vector_length": np.int64(5)}, "numpy.int64"),
        ({"vector_length": 2**70}, "serialize ints"),
        ({"vector_length": 2**39, "chunk_length": 64}, "at most 4294967296"),
        ({"chunk_length": 100}, "chunk_length"),
        ({"context_hash": b""}, "context_hash"),
        ({"threshold": 1}, "threshold"),
        ({"threshold": 6}, "threshold"),
        ({"minimum_contributors": 2}, "minimum_contributors"),
        ({"minimum_contributors": 6}, "minimum_contributors"),
        ({"collusion_bound": 4}, "minimum_contributors"),
    ],
)
def test_parameters_that_no_session_may_have_are_a_usage_error(changes: dict[str, object], problem: str) -> None:
    options = {"run_id": "run", "round_number": 1, "nonce": bytes(32), "context_hash": bytes(32), **changes}
    cohort = Cohort()
    with pytest.raises(UsageError, match=problem):
        secagg.parameters(cohort.roster, cohort.identities, **{"modulus_bits": 16, "vector_length": 10, **options})


def test_cohort_of_one_of_strangers_or_of_the_revoked_is_a_usage_error() -> None:
    cohort = Cohort()
    options = {"run_id": "r", "round_number": 1, "nonce": bytes(32), "context_hash": bytes(32), "vector_length": 1}
    with pytest.raises(UsageError, match="fewer than 2 hides nothing"):
        secagg.parameters(cohort.roster, ["c00"], modulus_bits=8, **options)
    strangers = secagg.parameters(cohort.roster, ["c00", "c01", "xx"], modulus_bits=8, **options)
    with pytest.raises(UsageError, match="'xx' is not in good standing"):
        secagg.server(strangers, cohort.roster)
    with pytest.raises(UsageError, match="its hash is not the one"):
        secagg.server(cohort.parameters, Cohort(name="other").roster)


def test_client_of_an_index_past_the_end_is_unknown() -> None:
    parameters = Cohort().parameters
    for index in (-1, 5):
        with pytest.raises(PeerFault) as caught:
            parameters.client(index)
        assert caught.value.reason is FaultReason.UNKNOWN_PARTY
    for party in ("", "c01x", "zz"):
        with pytest.raises(PeerFault):
            parameters.index(party)
    assert [parameters.index(party) for party in parameters.cohort] == [0, 1, 2, 3, 4]

"""No secret key stands on the wire, in a saved blob, a log or a repr; what is released is integers."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ckks_cohort import HOLDER, STORAGE_KEY, CkksCohort, ckks_key

from protocols.ckks.scheme import Scheme
from protocols.primitives.signing import SigningKey


def recorded_run() -> tuple[CkksCohort, list[bytes], list[bytes]]:
    """A run; everything carried, in both directions, chunks included; everything saved or shown."""
    cohort = CkksCohort(length=3000)
    carried, shown = [], []
    while cohort.server.phase is not None:
        for request in list(cohort.server.requests()):
            carried += [request.header, *(bytes(chunk) for chunk in request.chunks)]
            cohort.network._carry(cohort.server.phase, request)
            session = cohort.parties[request.party]
            shown.append(session.save(STORAGE_KEY))
            things = (session, session._state, session.identity, session.__dict__.get("_key"), session.parameters)
            shown += [repr(thing).encode() for thing in things]
        shown += [cohort.server.save(), repr(cohort.server).encode()]
        cohort.server.close_phase()
    carried += [item[3] for item in cohort.network.transcript]
    return cohort, carried, shown


def test_no_secret_stands_on_the_wire_in_saved_sessions_logs_or_reprs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        cohort, carried, shown = recorded_run()
    assert cohort.network.refusals == []
    everything = b"".join([*carried, *shown, caplog.text.encode()])
    secret = cohort.key.scheme.secret_bytes()
    public = cohort.key.public_context
    pieces = [secret[start : start + 24] for start in range(0, len(secret) - 24, 240)]
    # What secret and public context have in common, parameters and framing, is no secret.
    private = [piece for piece in pieces if piece not in public]
    assert len(private) > 0.98 * len(pieces) > 200
    for piece in private:
        assert piece not in everything
        assert piece.hex().encode() not in everything
    for identity in cohort.identities.values():
        key: SigningKey = identity.signing_key
        assert key._private.private_bytes_raw() not in everything
    for party, vector in cohort.vectors.items():
        assert vector.tobytes()[:64] not in everything, party


def test_server_session_holds_no_secret_key_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts that exist in a server's process: with the key holder elsewhere, none can decrypt."""
    cohort = CkksCohort()
    made: list[Scheme] = []
    original = Scheme.__init__

    def remembered(self: Scheme, *arguments) -> None:
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Scheme, "__init__", remembered)
    from protocols.ckks.scheme import public_scheme

    public_scheme.cache_clear()
    cohort.restore_server()
    for party in cohort.parameters.cohort:
        cohort.network._carry("Contribution", cohort.request(party))
    cohort.restore_server()
    cohort.server.close_phase()
    list(cohort.request(HOLDER).chunks)
    assert len(made) == 1  # the public context, read once, and shared with the clients of this process
    assert not made[0].secret
    for ciphertext in (made[0].parse(blob) for blob in cohort.server._phase.aggregate):
        with pytest.raises(ValueError, match="doesn't hold a secret_key"):
            ciphertext.decrypt()
    assert b"private" not in cohort.server.save()


def test_what_the_key_holder_releases_is_integers_without_a_trace_of_the_error() -> None:
    """Equal sums are released as equal bytes, whatever the noise of the ciphertexts (Li and Micciancio 2021)."""
    released, decrypted = [], []
    original = Scheme.decrypt
    for nonce in (b"\x01", b"\x02"):
        cohort = CkksCohort(nonce=nonce * 32, length=2048)
        cohort.advance("Decryption")
        blob = cohort.server._phase.aggregate[0]
        decrypted.append(original(cohort.key.scheme, cohort.key.scheme.parse(blob)))
        reply = cohort.answer_request(cohort.request(HOLDER))
        released.append([chunk[8:] for chunk in reply.chunks])
    assert released[0] == released[1]
    assert (decrypted[0] != decrypted[1]).all()
    np.testing.assert_array_equal(np.rint(decrypted[0]), np.rint(decrypted[1]))


def test_slots_past_the_vectors_end_carry_zeros_and_not_the_vector_again() -> None:
    """TenSEAL repeats a vector that is shorter than a ciphertext; the blocks are full."""
    cohort = CkksCohort(length=5)
    cohort.advance("Decryption")
    scheme = ckks_key().scheme
    slots = scheme.decrypt(scheme.parse(cohort.server._phase.aggregate[0]))
    assert np.rint(slots[:5]).any()
    assert not np.rint(slots[5:]).any()

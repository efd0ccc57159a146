"""No secret of a run stands on the wire, in a saved blob, a log or a repr; masks never repeat."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from oneshot_cohort import STORAGE_KEY, OneShotCohort, committee_key, relayed

from protocols.errors import UsageError
from protocols.identity import Role
from protocols.oneshot import client, messages
from protocols.oneshot.lattice import Encryption, sample_key
from protocols.oneshot.packed_shamir import decode, pack_share, unpack_share
from protocols.oneshot.sealing import share_label
from protocols.testing.randomness import DeterministicEntropy


class Recording:
    """Entropy that remembers what it gave."""

    def __init__(self, name: str) -> None:
        self.source, self.drawn = DeterministicEntropy(name), []

    def __call__(self, count: int) -> bytes:
        self.drawn.append(self.source(count))
        return self.drawn[-1]


def recorded_run(monkeypatch: pytest.MonkeyPatch) -> tuple[OneShotCohort, list[bytes], list[bytes], list[bytes]]:
    """A run; everything carried; everything saved or shown; every secret."""
    keys: list[np.ndarray] = []

    def remembered(*arguments):
        key = sample_key(*arguments)
        keys.append(key.copy())
        return key

    monkeypatch.setattr(client, "sample_key", remembered)
    cohort = OneShotCohort(length=500)
    recorders = {party: Recording(party) for party in cohort.identities}
    for party, organisation in cohort.parties.items():
        for session in organisation.sessions.values():
            session.entropy = recorders[party]
    shown, secrets = [], [committee_key(party).private_bytes() for party in cohort.members]
    while cohort.server.phase is not None:
        if cohort.server.phase == "Check":
            secrets += [pack_share(share) for dealer in range(4) for share in shares_of(cohort, dealer)]
        for request in list(cohort.server.requests()):
            cohort.network._carry(cohort.server.phase, request)
            session = cohort.session(request.party)
            shown.append(session.save(STORAGE_KEY))
            shown += [repr(thing).encode() for thing in (session, session._state, session.__dict__.get("_key"))]
        shown.append(cohort.server.save())
        shown.append(repr(cohort.server).encode())
        cohort.server.close_phase()
    # Each client's draws: key stream, then the elements of the sharing, then the error stream.
    secrets += [drawn for recorder in recorders.values() for drawn in recorder.drawn if len(drawn) >= 32]
    for key in keys:
        secrets += [key.tobytes(), key.astype(np.int8).tobytes(), (key % 2**32).astype(np.uint32).tobytes()]
    secrets += [vector.tobytes() for vector in cohort.vectors.values()]
    return cohort, [item[3] for item in cohort.network.transcript], shown, secrets


def test_no_secret_stands_on_the_wire_in_saved_sessions_logs_or_reprs(monkeypatch, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        cohort, carried, shown, secrets = recorded_run(monkeypatch)
    assert len(secrets) >= 4 + 16 + 4 * 3 + 4 * 3 + 4
    assert len(carried) > 30
    everything = b"".join([*carried, *shown, caplog.text.encode()])
    for secret in secrets:
        assert len(secret) >= 32
        for piece in (secret[:32], secret[-32:]):
            if piece != bytes(32):
                assert piece not in everything
                assert piece.hex().encode() not in everything
    np.testing.assert_array_equal(cohort.server.result().sum, cohort.total(cohort.parameters.cohort))


def test_client_keeps_nothing_after_its_message(monkeypatch) -> None:
    kept = []
    original = client.sample_key
    monkeypatch.setattr(client, "sample_key", lambda *arguments: kept.append(original(*arguments)) or kept[-1])
    cohort = OneShotCohort()
    cohort.answer("c01")
    assert not kept[0].any()  # erased in place
    assert cohort.parties["c01"].sessions[Role.CLIENT]._state == client.Contributed()


def shares_of(cohort: OneShotCohort, dealer: int) -> np.ndarray:
    """What the members would hold of one client's key, opened with all their private keys."""
    cohort.advance("Check")
    sealed = [next(item for item in relayed(cohort, member) if item.index == dealer) for member in cohort.members]
    labels = [share_label(cohort.server.session_id, dealer, i) for i in range(len(sealed))]
    opened = [
        committee_key(member).open_share(item.sealed_share, label)
        for member, item, label in zip(cohort.members, sealed, labels, strict=True)
    ]
    return np.stack([unpack_share(share, 4101) for share in opened])


def test_opened_shares_of_a_set_give_the_sum_of_its_keys_and_of_no_other_set(monkeypatch) -> None:
    keys = []
    monkeypatch.setattr(client, "sample_key", lambda *a: keys.append(sample_key(*a)) or keys[-1].copy())
    cohort = OneShotCohort()
    cohort.advance("Opening")
    replies = {member: cohort.answer(member) for member in cohort.members}
    summed = np.stack(
        [
            unpack_share(messages.wire.decode(replies[member].header, messages.OpeningReply).share, 4101)
            for member in cohort.members
        ]
    )[:, :4096]
    opened, wrong = decode([1, 2, 3, 4], summed, 3, 1)
    assert wrong == ()
    assert (opened == np.sum(keys, axis=0) % (2**31 - 1)).all()
    for key in keys:
        assert not (opened == key % (2**31 - 1)).all()


def test_shares_reach_exactly_the_threshold(monkeypatch) -> None:
    keys = []
    monkeypatch.setattr(client, "sample_key", lambda *a: keys.append(sample_key(*a)) or keys[-1].copy())
    cohort = OneShotCohort()
    shares = shares_of(cohort, 0)[:, :4096]
    assert (decode([1, 2, 4], shares[[0, 1, 3]], 3, 1)[0] == keys[0] % (2**31 - 1)).all()
    assert (decode([1, 2], shares[:2], 2, 1)[0] != keys[0] % (2**31 - 1)).mean() > 0.99  # fewer give noise


def test_ciphertexts_of_one_vector_in_two_sessions_or_of_two_clients_have_nothing_in_common() -> None:
    seen: list[np.ndarray] = []
    for nonce in (b"\x01", b"\x02"):
        cohort = OneShotCohort(nonce=nonce * 32, length=8192)
        for party in ("c00", "c01"):
            cohort.vectors[party] = np.zeros(8192, np.uint32)
            cohort.network.vectors = cohort.sources()
            chunks = cohort.answer(party).chunks[4:]
            seen.append(np.frombuffer(b"".join(chunk[8:] for chunk in chunks), np.uint8))
    for i, one in enumerate(seen):
        for other in seen[:i]:
            equal = (one == other).mean()  # 1/256 by chance
            assert 0.001 < equal < 0.01


@pytest.mark.parametrize("refused", [False, True])
def test_what_followed_from_the_key_is_overwritten_once_the_message_is_made_or_refused(monkeypatch, refused) -> None:
    made: list[Encryption] = []
    keys = []

    class Watched(Encryption):
        __slots__ = ()

        def __init__(self, lattice, layout, session_id, key, entropy) -> None:
            super().__init__(lattice, layout, session_id, key, entropy)
            made.append(self)
            keys.append(key)
            assert key.any()
            assert self._product._transform.any()

    monkeypatch.setattr(client, "Encryption", Watched)
    cohort = OneShotCohort()
    if refused:
        cohort.vectors["c00"] = np.full(150, 2**20, np.uint32)
        with pytest.raises(UsageError, match="does not fit"):
            cohort.answer("c00")
    else:
        cohort.answer("c00")
    (encryption,), (key,) = made, keys
    left = [key, encryption._blocks, encryption._drawn]
    left += [encryption._product._transform, encryption._product._folded, encryption._product._biased]
    assert not any(array.any() for array in left)

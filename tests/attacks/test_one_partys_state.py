"""Shared or group keys: the complete state of one party, tried as every kind of key, opens no other party's update."""

from __future__ import annotations

import msgspec
import numpy as np

from protocols.primitives.bitpack import unpack
from protocols.primitives.prg import MaskStream
from protocols.primitives.sealing import agree
from protocols.secagg.masking import pairwise_mask_key, self_mask_key
from protocols.testing.cohort import Cohort
from protocols.wire import CHUNK_INDEX_BYTES


def test_complete_state_of_one_party_opens_no_update_of_another() -> None:
    """Everything that c00 ever knew, tried as every kind of key on the masked vector of c01."""
    cohort = Cohort(4, bits=32, length=64)
    for vector in cohort.vectors.values():
        vector[:] = 5
    known: set[bytes] = set()
    target = np.array([])
    while cohort.server.phase is not None:
        request = cohort.request("c00").header
        state = cohort.parties["c00"]._state
        for raw in (request, msgspec.msgpack.encode(state)):
            known |= {raw[at : at + 32] for at in range(len(raw) - 31)}
        if cohort.server.phase == "MaskedInput":
            advertised = {item.index: item for item in state.advertisements}
            root, own = state.root, state.keys.masking_private
            chunk = cohort.answer("c01").chunks[0]
            target = unpack(chunk[CHUNK_INDEX_BYTES:], 64, 32)
        cohort.network.run_phase()
    shared = MaskStream(pairwise_mask_key(agree(own, advertised[1].masking_key), root, 0, 1), 32).words(0, 64)
    assert own in known
    candidates = [target, target + shared]  # c01 subtracts the mask it shares with c00
    for secret in known:
        keys = [secret, self_mask_key(secret, root, 1)]
        keys += [pairwise_mask_key(secret, root, 1, other) for other in (0, 2, 3)]
        for key in keys:
            mask = MaskStream(key, 32).words(0, 4)
            for masked in candidates:
                for left in (masked[:4] - mask, masked[:4] + mask):
                    assert not (left == 5).any()
    # Nor are the shares that it holds of c01 the secrets themselves.
    assert not any((masked == 5).any() for masked in candidates)

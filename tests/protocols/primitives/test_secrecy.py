"""Objects that hold secrets neither show nor copy them."""

from __future__ import annotations

import copy
import pickle

import pytest

from protocols.errors import UsageError
from protocols.primitives.prg import MaskStream
from protocols.primitives.sealing import SealingKeyPair
from protocols.primitives.signing import SigningKey

SECRET = bytes(range(65, 97))
HOLDERS = [MaskStream(SECRET, 32), SealingKeyPair(SECRET), SigningKey(SECRET)]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_no_rendering_shows_the_secret(holder):
    for text in (repr(holder), str(holder), f"{holder}", repr([holder])):
        assert type(holder).__name__ in text
        assert SECRET.hex() not in text
        assert SECRET.decode() not in text
        assert repr(SECRET)[2:-1] not in text


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, lambda holder: pickle.dumps(holder, 0)])
def test_copying_and_pickling_are_refused(holder, copied):
    with pytest.raises(UsageError, match="neither copied nor serialised"):
        copied(holder)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_there_is_no_attribute_dictionary_to_dump(holder):
    with pytest.raises(TypeError):
        vars(holder)

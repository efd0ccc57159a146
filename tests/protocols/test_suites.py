"""The table of suites."""

from __future__ import annotations

import pytest

from protocols.errors import UsageError
from protocols.primitives.signing import SignatureScheme
from protocols.suites import SUITES, SealingKem, Suite, suite


def test_suites_never_change_their_meaning() -> None:
    assert dict(SUITES) == {
        1: Suite(1, SealingKem.MLKEM768_X25519, SignatureScheme.ED25519),
        2: Suite(2, SealingKem.X25519, SignatureScheme.ED25519),
        3: Suite(3, SealingKem.MLKEM768_X25519, SignatureScheme.ED25519_MLDSA65),
    }
    assert [known.signature.signature_bytes for known in SUITES.values()] == [64, 64, 3373]


def test_unknown_suite_is_refused() -> None:
    assert suite(3) is SUITES[3]
    with pytest.raises(UsageError, match="suite: 4; known: 1, 2, 3"):
        suite(4)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ledger_workshop import EVENT, KEY, OTHER_KEY, filled_ledger, finish, new_ledger, open_ledger, reserve

from protocols.errors import BudgetExceeded, LedgerCorrupt, PrivacyError
from secfl.privacy.accounting import rdp_curve
from secfl.privacy.hand_over import hand_over
from secfl.privacy.ledger import verify


def test_rotated_key_goes_on_with_all_spend_and_no_more_budget(tmp_path: Path) -> None:
    old = filled_ledger(tmp_path / "records.ledger", rounds=9)
    path = hand_over(old, KEY, OTHER_KEY, "records-2")
    assert path == tmp_path / "records-2.ledger"
    summary = verify(path, OTHER_KEY.public)
    assert (summary.silo, summary.lineage, summary.source) == ("north", "records-2", verify(old, KEY.public).source)
    np.testing.assert_allclose(summary.spent_curve, 9 * rdp_curve(EVENT), rtol=1e-12)
    with open_ledger(path, key=OTHER_KEY) as ledger:
        finish(ledger, "r1")  # the budget admits ten of these and not eleven
        with pytest.raises(BudgetExceeded):
            reserve(ledger, "r2")
    with open_ledger(old) as ended, pytest.raises(PrivacyError, match=r"\[LG-15\]"):
        reserve(ended, "r1")


def test_interrupted_between_the_two_it_goes_on(tmp_path: Path) -> None:
    old = filled_ledger(tmp_path / "records.ledger")
    with open_ledger(old) as ledger:
        ledger.hand_over("next")
    path = hand_over(old, KEY, KEY, "next", source="a year later")
    assert verify(path, KEY.public).source == "a year later"


def test_second_successor_is_refused(tmp_path: Path) -> None:
    old = filled_ledger(tmp_path / "records.ledger")
    hand_over(old, KEY, KEY, "next")
    with pytest.raises(PrivacyError, match="its successor is 'next'"):
        hand_over(old, KEY, KEY, "another")
    with pytest.raises(PrivacyError, match=r"\[LG-23\]"):
        hand_over(old, KEY, KEY, "next")
    assert sorted(file.suffix for file in tmp_path.iterdir()).count(".ledger") == 2


@pytest.mark.parametrize("name", ["", "a/b", "../x"])
def test_name_that_is_none_changes_nothing(tmp_path: Path, name: str) -> None:
    old = filled_ledger(tmp_path / "records.ledger")
    before = old.read_bytes()
    with pytest.raises(PrivacyError, match="successor"):
        hand_over(old, KEY, KEY, name)
    assert old.read_bytes() == before


def test_another_key_than_the_ledgers_own_is_refused(tmp_path: Path) -> None:
    old = filled_ledger(tmp_path / "records.ledger")
    before = old.read_bytes()
    with pytest.raises(LedgerCorrupt, match=r"\[LG-7\]"):
        hand_over(old, OTHER_KEY, OTHER_KEY, "next")
    assert old.read_bytes() == before


def test_release_that_may_have_left_is_inherited(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "records.ledger") as ledger:
        ledger.sending(reserve(ledger, "r0"))
    summary = verify(hand_over(tmp_path / "records.ledger", KEY, OTHER_KEY, "next"), OTHER_KEY.public)
    np.testing.assert_allclose(summary.spent_curve, rdp_curve(EVENT), rtol=1e-12)

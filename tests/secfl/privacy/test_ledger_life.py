"""The life of a release, the budget over the life of a lineage, and what a reader sees of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from ledger_workshop import (
    BUDGET,
    EVENT,
    KEY,
    ORDER,
    filled_ledger,
    finish,
    lines_of,
    new_ledger,
    open_ledger,
    reserve,
)

from protocols.errors import BudgetExceeded, LedgerRolledBack, PrivacyError
from secfl.privacy.accounting import ORDERS, RdpFilter, compose, epsilon, rdp_curve
from secfl.privacy.budget import PrivacyBudget
from secfl.privacy.events import SampledGaussian
from secfl.privacy.ledger import Head, Ledger, Lineage, ReleaseState, Reservation, inspect, verify
from secfl.privacy.ledger_entries import Commit, Reserve, Sending, Void
from secfl.privacy.ledger_state import LedgerState


def test_new_ledger_has_spent_nothing(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger") as ledger:
        assert ledger.spent().filter_epsilon == 0.0
        assert ledger.spent().rdp_epsilon == 0.0
        assert ledger.remaining().filter_epsilon == BUDGET.epsilon
        assert list(ledger.releases()) == []
        assert ledger.head.sequence == 0


def test_release_moves_from_reserved_to_spent(tmp_path: Path) -> None:
    curve = rdp_curve(EVENT)
    by_filter, (best, order) = RdpFilter(ORDER, 3.0, 1e-5).epsilon_of(curve), epsilon(curve, 1e-5)
    with new_ledger(tmp_path / "ledger") as ledger:
        reservation = reserve(ledger, "r0")
        assert ledger.spent().filter_epsilon == 0.0
        assert ledger.reserved().filter_epsilon == by_filter
        assert ledger.remaining().filter_epsilon == 3.0 - by_filter
        ledger.sending(reservation)
        assert ledger.reserved().filter_epsilon == 0.0
        assert (ledger.spent().filter_epsilon, ledger.spent().rdp_epsilon, ledger.spent().rdp_order) == (
            by_filter,
            best,
            order,
        )
        ledger.commit(reservation)
        assert ledger.spent().filter_epsilon == by_filter
        assert ledger.remaining().filter_epsilon == 3.0 - by_filter
        assert ledger.remaining().rdp_epsilon == 3.0 - best


def test_budget_admits_ten_releases_and_refuses_the_eleventh_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with new_ledger(path) as ledger:
        for number in range(10):
            finish(ledger, f"r{number}")
        before, head = path.read_bytes(), ledger.head
        with pytest.raises(BudgetExceeded) as caught:
            reserve(ledger, "r10")
        assert path.read_bytes() == before
        assert ledger.head == head
        eleven = RdpFilter(ORDER, 3.0, 1e-5).epsilon_of(compose([rdp_curve(EVENT)] * 11))
        assert caught.value.requested == eleven > 3.0
        assert caught.value.remaining == ledger.remaining().filter_epsilon
        assert ledger.steps_left(EVENT.sampling_rate, EVENT.noise_multiplier) < EVENT.steps


def test_reserved_release_counts_against_the_next_one_and_a_void_one_does_not(tmp_path: Path) -> None:
    large = SampledGaussian(0.01, 1.0, 1200)
    with new_ledger(tmp_path / "ledger") as ledger:
        first = reserve(ledger, "r0", large)
        with pytest.raises(BudgetExceeded):
            reserve(ledger, "r1", large)
        ledger.void(first)
        reserve(ledger, "r1", large)
        assert [release.state for release in ledger.releases()] == [ReleaseState.VOID, ReleaseState.RESERVED]


def test_steps_left_are_what_the_ledger_then_admits(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger") as ledger:
        finish(ledger, "r0")
        left = ledger.steps_left(0.02, 1.3)
        assert left > 0
        with pytest.raises(BudgetExceeded):
            reserve(ledger, "r1", SampledGaussian(0.02, 1.3, left + 1))
        reserve(ledger, "r1", SampledGaussian(0.02, 1.3, left))
        assert ledger.steps_left(0.02, 1.3) == 0


def test_reopened_ledger_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with new_ledger(path) as ledger:
        finish(ledger, "r0")
        before = ledger.summary()
    with open_ledger(path) as ledger:
        after = ledger.summary()
    assert (after.head, after.spent, after.remaining) == (before.head, before.spent, before.remaining)
    assert [r.reservation for r in after.releases] == [Reservation("r0", "run-1", 0, 0, EVENT)]
    assert after.releases[0].state is ReleaseState.COMMITTED
    assert after.releases[0].reserved_at == "2026-01-01T00:00:01.000+00:00"
    assert after.releases[0].changed_at == "2026-01-01T00:00:03.000+00:00"


def test_release_reserved_when_the_process_ends_is_void_on_the_next_opening(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with new_ledger(path) as ledger:
        reservation = reserve(ledger, "r0")
    assert verify(path, KEY.public).releases[0].state is ReleaseState.RESERVED
    with open_ledger(path) as ledger:
        assert [release.state for release in ledger.releases()] == [ReleaseState.VOID]
        assert ledger.remaining().filter_epsilon == BUDGET.epsilon
        with pytest.raises(PrivacyError, match=r"\[LG-14\] release 'r0' is void"):
            ledger.sending(reservation)
    assert b'"reason":"interrupted before sending"' in lines_of(path)[-1]


def test_release_being_sent_when_the_process_ends_is_spent_and_can_be_committed_later(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with new_ledger(path) as ledger:
        ledger.sending(reserve(ledger, "r0"))
    with open_ledger(path) as ledger:
        assert ledger.spent().filter_epsilon > 0
        (waiting,) = ledger.unconfirmed()
        assert waiting.release_id == "r0"
        ledger.commit(waiting)
        assert ledger.unconfirmed() == ()


def test_closed_ledger_refuses_to_go_on(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger") as ledger:
        pass
    ledger.close()
    with pytest.raises(PrivacyError, match="the ledger is closed"):
        reserve(ledger, "r0")


def test_reservation_of_another_ledger_is_refused(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "one") as one, new_ledger(tmp_path / "two") as two:
        foreign = two.reserve("r0", EVENT, run="run-2", round=0, attempt=0)
        reserve(one, "r0")
        with pytest.raises(PrivacyError, match=r"\[LG-14\] release 'r0' is another one in this ledger"):
            one.sending(foreign)


@pytest.mark.parametrize(
    ("release_id", "run", "round_number"), [("", "run", 0), ("r" * 257, "run", 0), ("r", "", 0), ("r", "run", -1)]
)
def test_writer_writes_nothing_that_a_reader_would_refuse(
    tmp_path: Path, release_id: str, run: str, round_number: int
) -> None:
    path = tmp_path / "ledger"
    with new_ledger(path) as ledger:
        with pytest.raises(PrivacyError, match=r"\[LG-3\] entry not written: "):
            ledger.reserve(release_id, EVENT, run=run, round=round_number, attempt=0)
        finish(ledger, "r1")
    assert len(lines_of(path)) == 4


STEPS = {"sending": Sending("r"), "commit": Commit("r"), "void": Void("r", "")}
REACHED = {"reserved": [], "sending": ["sending"], "committed": ["sending", "commit"], "void": ["void"]}
LEGAL = {("reserved", "sending"), ("reserved", "void"), ("sending", "commit")}


@pytest.mark.parametrize("state", REACHED)
@pytest.mark.parametrize("step", STEPS)
def test_every_state_against_every_step(tmp_path: Path, state: str, step: str) -> None:
    with new_ledger(tmp_path / "ledger") as ledger:
        life = LedgerState(ledger._state.genesis)
    life.apply(Reserve("r", "run", 0, 0, EVENT, tuple(rdp_curve(EVENT).tolist())), "now")
    for earlier in REACHED[state]:
        life.apply(STEPS[earlier], "now")
    if (state, step) in LEGAL:
        life.apply(STEPS[step], "later")
    else:
        with pytest.raises(PrivacyError, match=rf"\[LG-14\] release 'r' is {state}; only a "):
            life.apply(STEPS[step], "later")
        found = life.find("r")
        assert found is not None
        assert found.state.value == state


class TestLineages:
    def test_successor_inherits_all_spend_of_all_parents(self, tmp_path: Path) -> None:
        parents = []
        for name in ("a", "b"):
            with new_ledger(tmp_path / name, lineage=Lineage("north", name, "source", 5000)) as ledger:
                finish(ledger, "r0")
                parents.append(ledger.hand_over("merged"))
        lineage = Lineage("north", "merged", "a and b", 10_000, parents=tuple(parents))
        with new_ledger(tmp_path / "merged", lineage=lineage) as ledger:
            both = compose([rdp_curve(EVENT)] * 2)
            assert ledger.spent().filter_epsilon == RdpFilter(ORDER, 3.0, 1e-5).epsilon_of(both)
            assert ledger.remaining().filter_epsilon < 3.0
            for number in range(8):
                finish(ledger, f"r{number}")
            with pytest.raises(BudgetExceeded):
                reserve(ledger, "r8")
        assert verify(tmp_path / "merged", KEY.public).spent_curve.shape == (len(ORDERS),)

    def test_parent_that_was_not_handed_over_is_refused(self, tmp_path: Path) -> None:
        parent = verify(filled_ledger(tmp_path / "ledger"), KEY.public)
        with pytest.raises(PrivacyError, match=r"\[LG-16\] parent 'cardiology' names None its successor, not 'next'"):
            new_ledger(tmp_path / "next", lineage=Lineage("north", "next", "s", 5000, parents=(parent,)))
        assert not (tmp_path / "next").exists()

    def test_parent_cannot_be_inherited_by_a_second_successor(self, tmp_path: Path) -> None:
        with new_ledger(tmp_path / "ledger") as ledger:
            parent = ledger.hand_over("next")
            with pytest.raises(PrivacyError, match=r"\[LG-15\] the lineage has ended; its successor is 'next'"):
                ledger.hand_over("fork")
        with pytest.raises(PrivacyError, match=r"\[LG-16\] .* names 'next' its successor, not 'fork'"):
            new_ledger(tmp_path / "fork", lineage=Lineage("north", "fork", "s", 5000, parents=(parent,)))

    def test_lineage_that_has_ended_admits_nothing(self, tmp_path: Path) -> None:
        with new_ledger(tmp_path / "ledger") as ledger:
            ledger.hand_over("next")
            with pytest.raises(PrivacyError, match=r"\[LG-15\]"):
                reserve(ledger, "r0")

    def test_lineage_with_a_reserved_release_is_not_handed_over(self, tmp_path: Path) -> None:
        with new_ledger(tmp_path / "ledger") as ledger:
            reserve(ledger, "r0")
            with pytest.raises(PrivacyError, match=r"\[LG-15\] release 'r0' is reserved"):
                ledger.hand_over("next")

    def test_lineage_is_not_handed_over_to_itself(self, tmp_path: Path) -> None:
        with (
            new_ledger(tmp_path / "ledger") as ledger,
            pytest.raises(PrivacyError, match=r"\[LG-15\] lineage 'cardiology'"),
        ):
            ledger.hand_over("cardiology")

    def test_parent_with_another_unit_of_privacy_is_refused(self, tmp_path: Path) -> None:
        with new_ledger(tmp_path / "ledger", budget=PrivacyBudget(3, 1e-5, "client")) as ledger:
            parent = ledger.hand_over("next")
        with pytest.raises(PrivacyError, match=r"\[LG-16\] parent 'cardiology': unit client, not record"):
            new_ledger(tmp_path / "next", lineage=Lineage("north", "next", "s", 5000, parents=(parent,)))


class TestReading:
    def test_verification_needs_no_private_key_and_changes_nothing(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        summary = verify(path, KEY.public)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
        assert (summary.silo, summary.lineage, summary.total_records) == ("north", "cardiology", 5000)
        assert (summary.budget, summary.order, summary.public_key) == (BUDGET, ORDER, KEY.public.hex())
        assert summary.head.sequence == 6
        np.testing.assert_array_equal(summary.spent_curve, 2 * rdp_curve(EVENT))

    def test_verification_works_beside_a_writer(self, tmp_path: Path) -> None:
        with new_ledger(tmp_path / "ledger") as ledger:
            finish(ledger, "r0")
            assert verify(tmp_path / "ledger", KEY.public).head == ledger.head

    def test_copy_without_its_mark_verifies_only_when_asked(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        assert verify(copy, KEY.public, require_mark=False).head == verify(path, KEY.public).head

    def test_head_that_others_remember_is_accepted_when_it_is_in_the_ledger(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger", 1)
        remembered = verify(path, KEY.public).head
        with open_ledger(path) as ledger:
            finish(ledger, "r1")
        assert verify(path, KEY.public, expected_head=remembered).head.sequence == 6
        open_ledger(path, expected_head=remembered).close()
        with pytest.raises(LedgerRolledBack):
            verify(path, KEY.public, expected_head=Head(7, remembered.hash))

    def test_corrupt_ledger_is_shown_as_far_as_it_verifies(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")
        lines = lines_of(path)
        path.write_bytes(b"".join(lines[:4]) + lines[4].replace(b'"round":1', b'"round":7') + b"".join(lines[5:]))
        found = inspect(path, KEY.public)
        assert found.summary is not None
        assert [release.reservation.release_id for release in found.summary.releases] == ["r0"]
        assert str(found.fault).startswith(f"[LG-7] {path}, line 5: ")

    def test_sound_ledger_is_shown_without_a_fault(self, tmp_path: Path) -> None:
        found = inspect(filled_ledger(tmp_path / "ledger"), KEY.public)
        assert found.fault is None
        assert found.summary is not None
        assert len(found.summary.releases) == 2

    def test_missing_ledger_is_shown_as_nothing(self, tmp_path: Path) -> None:
        found = inspect(tmp_path / "ledger", KEY.public)
        assert found.summary is None
        assert "[LG-1]" in str(found.fault)

    def test_private_key_is_nowhere_in_the_files(self, tmp_path: Path) -> None:
        filled_ledger(tmp_path / "ledger")
        for file in tmp_path.iterdir():
            assert KEY.private_bytes() not in file.read_bytes()
            assert KEY.private_bytes().hex().encode() not in file.read_bytes()


class LedgerLife(RuleBasedStateMachine):
    """Any sequence of calls, legal or not, with restarts in between, against a model of seven lines."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name, "ledger")
        self.ledger: Ledger = new_ledger(self.path)
        self.model: dict[str, str] = {}

    @rule(target=reservations)
    @precondition(lambda self: len(self.model) < 9)
    def reserve(self) -> Reservation:
        found = reserve(self.ledger, f"r{len(self.model)}")
        self.model[found.release_id] = "reserved"
        return found

    @rule(reservation=reservations, step=st.sampled_from(["sending", "commit", "void"]))
    def step(self, reservation: Reservation, step: str) -> None:
        state = self.model[reservation.release_id]
        method = getattr(self.ledger, step)
        if (state, step) in LEGAL:
            method(reservation)
            self.model[reservation.release_id] = {"commit": "committed"}.get(step, step)
        else:
            with pytest.raises(PrivacyError, match=r"LG-14"):
                method(reservation)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = open_ledger(self.path)
        self.model = {name: "void" if state == "reserved" else state for name, state in self.model.items()}

    @invariant()
    def ledger_and_model_agree(self) -> None:
        assert {r.reservation.release_id: r.state.value for r in self.ledger.releases()} == self.model
        charged = sum(state in ("sending", "committed") for state in self.model.values())
        np.testing.assert_allclose(verify(self.path, KEY.public).spent_curve, charged * rdp_curve(EVENT), rtol=1e-14)

    def teardown(self) -> None:
        self.ledger.close()
        self.directory.cleanup()


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)

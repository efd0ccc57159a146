"""What errors say, and the corners of the party shell that no protocol reaches."""

from __future__ import annotations

import msgspec
import pytest

from protocols import errors, wire
from protocols.errors import ClientFault, FaultReason, PeerFault, PolicyRefused, ServerFault, ThresholdNotMet
from protocols.party import SecretState, needed
from protocols.secagg import messages as m
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import raw_fields


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PeerFault(FaultReason.BAD_KEY), f"peer: {FaultReason.BAD_KEY.value}"),
        (
            ServerFault(FaultReason.TOO_FEW, "2 of 3", rule="SA-7", phase="ShareKeys"),
            "[SA-7] ShareKeys: server: list shorter than the required number: 2 of 3",
        ),
        (
            ClientFault("c1", FaultReason.BAD_SHARE, phase="Unmask"),
            "Unmask: client 'c1': share out of its range or of the wrong length",
        ),
        (
            PolicyRefused("threshold", 1, "at least 4", rule="SA-2"),
            "[SA-2] threshold: proposed 1, this party requires at least 4",
        ),
        (PolicyRefused("cohort", 1, 3), "cohort: proposed 1, this party requires 3"),
        (ThresholdNotMet(4, 2, phase="Unmask"), "Unmask: 2 parties present, 4 required"),
        (ThresholdNotMet(4, 2), "2 parties present, 4 required"),
        (errors.BudgetExceeded(2.5, 0.25), "requested epsilon 2.5, remaining 0.25"),
        (errors.BudgetExceeded(2.5, 0.25, detail="round 3"), "round 3: requested epsilon 2.5, remaining 0.25"),
        (errors.EncodingError("layer.weight", "not finite"), "tensor 'layer.weight': not finite"),
        (errors.ConfigError("round.clients", "0", "1 or more"), "round.clients: 0; allowed: 1 or more"),
        (errors.ConfigError("round.clients", "0"), "round.clients: 0"),
        (errors.MissingExtra("training", "train"), 'training needs an optional dependency: pip install "secfl[train]"'),
    ],
)
def test_errors_name_phase_rule_culprit_and_limit(error: errors.SecflError, text: str) -> None:
    assert str(error) == text


def test_every_error_is_of_one_root_and_every_reason_is_said_once() -> None:
    for name in errors.__all__:
        found = getattr(errors, name)
        if name != "FaultReason":
            assert issubclass(found, errors.SecflError), name
    assert issubclass(errors.LedgerRolledBack, errors.LedgerCorrupt)
    assert len({reason.value for reason in FaultReason}) == len(FaultReason)


class Holding(SecretState, frozen=True):
    key: bytes


def test_states_print_their_name_alone() -> None:
    state = Holding(b"secret")
    assert repr(state) == "Holding(...)"
    assert state.__rich_repr__() == []
    assert "secret" not in repr([state]) + str(state) + f"{state}"


def test_vector_that_the_shell_let_through_by_mistake_is_a_usage_error() -> None:
    with pytest.raises(errors.UsageError, match="needed now"):
        needed(None)


def test_fault_whose_culprit_is_known_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort()
    session = cohort.parties["c00"]
    fault = ClientFault("c01", FaultReason.BAD_KEY, evidence=(b"proof",))

    def blame(_: object) -> None:
        raise fault

    monkeypatch.setattr(session, "_check_parameters", blame)
    with pytest.raises(ClientFault) as caught:
        session.handle(cohort.request("c00").header)
    assert caught.value is fault


@pytest.mark.parametrize(("position", "value"), [(1, "plain"), (3, "AdvertiseKeysReply")])
def test_message_of_one_type_is_not_decoded_as_another_of_the_same_shape(position: int, value: str) -> None:
    fields = raw_fields(Cohort().request("c00").header)
    fields[position] = value
    with pytest.raises(PeerFault) as caught:
        wire.decode(msgspec.msgpack.encode(fields), m.AdvertiseKeysRequest)
    assert "secagg/AdvertiseKeysRequest" in caught.value.detail


def test_message_of_another_wire_version_is_not_even_peeked_at() -> None:
    fields = raw_fields(Cohort().request("c00").header)
    fields[0] = 2
    with pytest.raises(PeerFault) as caught:
        wire.peek_session_id(msgspec.msgpack.encode(fields))
    assert caught.value.reason is FaultReason.MALFORMED
    assert "wire version 2, known: 1" in caught.value.detail

"""What a node does about a server, and a server about a node, that is not what it should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from federation import FIRST_NODE, PARTIES, app_of, arithmetic, connected, initial_arrays, make_homes
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from loopback import RUN, LoopbackGrid

from protocols.errors import FaultReason, ProtocolError, ServerFault, ThresholdNotMet
from protocols.identity import Roster
from secfl.engines.flower import SecureAggregation, secagg_mod
from secfl.engines.flower.envelope import CHUNKS, RECORD
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import revoke_member, write_roster

MEMBERS = {"min_train_nodes": 4, "min_available_nodes": 4}
VA = FIRST_NODE + PARTIES.index("va")


def secure(roster: Roster, **options: object) -> SecureAggregation:
    return SecureAggregation(FedAvg(**MEMBERS), roster=roster, min_contributors=3, attempts=1, **options)  # type: ignore[arg-type]


def events(aggregation: SecureAggregation) -> dict[str, str]:
    phases = aggregation.rounds[-1].carried.phases
    return {event.party: str(event.error) for phase in phases for event in phase.events}


def test_a_server_without_secure_aggregation_gets_errors_and_no_update(tmp_path: Path) -> None:
    make_homes(tmp_path, "oneshot")
    trained: list[str] = []

    def train(party: str, message: Message) -> RecordDict:
        trained.append(party)
        return arithmetic(party, message)

    grid = connected(tmp_path, train=train)
    result = FedAvg(**MEMBERS).start(grid, initial_arrays(), num_rounds=1)
    assert not result.arrays
    assert trained == []


def test_a_mod_around_other_messages_lets_no_arrays_out(tmp_path: Path) -> None:
    app = ClientApp()

    @app.query(mods=[secagg_mod])
    def _query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": initial_arrays()}), reply_to=message)

    LoopbackGrid()
    with pytest.raises(ProtocolError, match="a reply with arrays to a message that is no training"):
        app(Message(RecordDict(), FIRST_NODE, "query"), Context(RUN, FIRST_NODE, {}, RecordDict(), {}))


def test_a_node_whose_app_raises_drops_out_and_what_it_said_stays_there(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")

    def train(party: str, message: Message) -> RecordDict:
        if party == "va":
            raise ValueError("patient 4711 has no age")
        return arithmetic(party, message)

    grid = connected(tmp_path, train=train)
    aggregation = secure(roster)
    result = aggregation.start(grid, initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES[:3]
    assert events(aggregation)["va"].endswith("the app's training raised ValueError; its text stays at the node")
    assert b"4711" not in b"".join(grid.wire)
    assert result.arrays is not None
    shift = np.average([0.1, 0.2, 0.3], weights=[227, 220, 92]) + np.arange(3) * 0.01
    np.testing.assert_allclose(result.arrays["bias"].numpy(), shift, atol=1e-4)


def test_too_few_nodes_end_in_an_error_that_names_each(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")

    def train(party: str, message: Message) -> RecordDict:
        raise MemoryError

    with pytest.raises(ThresholdNotMet) as failed:
        secure(roster).start(connected(tmp_path, train=train), initial_arrays(), num_rounds=1)
    notes = "\n".join(failed.value.__notes__)
    assert all(f": {party}: node " in notes for party in PARTIES)


def test_a_foreign_node_is_not_in_the_cohort(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    stranger = tmp_path / "stranger"
    identity = load_or_create_identity(stranger / "identity.key", "va", (), os.urandom)  # calls itself va
    others = [member for member in roster if member.id != "va"]
    write_roster(stranger / "roster.toml", Roster([*others, identity.member()]))
    grid = connected(tmp_path)
    grid.apps[2000] = (app_of("va"), {"secfl-home": str(stranger)})
    aggregation = SecureAggregation(FedAvg(min_train_nodes=5), roster=roster, min_contributors=3, attempts=1)
    aggregation.start(grid, initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES
    assert aggregation.engine.refused[2000].reason is FaultReason.BAD_SIGNATURE  # type: ignore[attr-defined]


def test_a_node_with_another_roster_is_named(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    write_roster(tmp_path / "va" / "roster.toml", revoke_member(roster, "cleveland"))
    aggregation = secure(roster)
    aggregation.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES[:3]
    refused = aggregation.engine.refused[VA]
    assert refused.reason is FaultReason.CONTEXT_MISMATCH  # type: ignore[attr-defined]
    assert "'va' has pinned roster" in str(refused)


def test_a_revoked_node_is_refused(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    revoked = revoke_member(roster, "va")
    for party in PARTIES:
        write_roster(tmp_path / party / "roster.toml", revoked)
    aggregation = secure(revoked)
    aggregation.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES[:3]
    assert aggregation.engine.refused[VA].reason is FaultReason.REVOKED_PARTY  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", ["oneshot", "secagg"])
def test_a_proxy_that_changes_a_vector_takes_that_node_out_of_the_sum(tmp_path: Path, protocol: str) -> None:
    roster, _ = make_homes(tmp_path, protocol)

    def tamper(node: int, message: Message) -> Message:
        if node == VA and message.has_content() and CHUNKS in message.content:
            record = message.content.array_records[CHUNKS]
            name, array = next(iter(record.items()))
            data = bytearray(array.data)
            data[len(data) // 2] ^= 1
            record[name] = Array(array.dtype, array.shape, array.stype, bytes(data))
        return message

    aggregation = secure(roster, protocol=protocol)
    aggregation.start(connected(tmp_path, on_reply=tamper), initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES[:3]
    assert "does not verify" in events(aggregation)["va"]


def test_a_proxy_that_swaps_the_model_for_one_node_gets_no_update_of_it(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")

    def swap(node: int, message: Message) -> Message:
        if node == VA and "arrays" in message.content:
            message.content["arrays"] = ArrayRecord({
                name: Array(array.numpy() + 1) for name, array in message.content.array_records["arrays"].items()
            })  # fmt: skip
        return message

    aggregation = secure(roster)
    aggregation.start(connected(tmp_path, on_request=swap), initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES[:3]
    assert "ServerFault" in events(aggregation)["va"]
    assert FaultReason.CONTEXT_MISMATCH.value in events(aggregation)["va"]


def test_a_proxy_that_changes_the_settings_for_one_node_gets_no_update_of_it(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")

    def change(node: int, message: Message) -> Message:
        if node == VA and "config" in message.content:
            message.content.config_records["config"]["lr"] = 1e9
        return message

    aggregation = secure(roster)
    aggregation.start(connected(tmp_path, on_request=change), initial_arrays(), num_rounds=1)
    assert FaultReason.CONTEXT_MISMATCH.value in events(aggregation)["va"]


def test_the_same_request_twice_gets_no_second_vector_even_when_the_nodes_sessions_are_lost(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    seen: dict[int, RecordDict] = {}

    def keep(node: int, message: Message) -> Message:
        if RECORD in message.content and "arrays" in message.content:
            seen[node] = RecordDict(dict(message.content))
        return message

    def repeated() -> str:
        message = Message(RecordDict(dict(seen[VA])), VA, "train")
        (reply,) = grid.pull_messages(list(grid.push_messages([message])))
        return str(reply.error.reason)

    grid = connected(tmp_path, on_request=keep)
    secure(roster).start(grid, initial_arrays(), num_rounds=1)
    assert "answered already before a restart; the vector was not kept" in repeated()
    shutil.rmtree(tmp_path / "va" / "sessions")
    assert FaultReason.ALREADY_ANSWERED.value in repeated()


def test_a_request_that_is_no_record_of_ours_is_malformed(tmp_path: Path) -> None:
    make_homes(tmp_path, "oneshot")
    grid = connected(tmp_path)
    content = RecordDict({"arrays": initial_arrays()})
    app, config = grid.apps[VA]
    message = Message(content, VA, "train")
    with pytest.raises(ServerFault, match="an unprotected update never leaves this node"):
        app(message, Context(RUN, VA, config, RecordDict(), {}))
    assert RECORD not in content


def test_a_node_whose_once_only_store_was_put_back_takes_no_part(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    (tmp_path / "va" / "node.toml").write_text(f'mark = "{tmp_path / "va.mark"}"\n')
    secure(roster).start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert (tmp_path / "va" / "answers.log").stat().st_size > 0
    (tmp_path / "va" / "answers.log").write_bytes(b"")
    aggregation = secure(roster)
    aggregation.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES[:3]
    assert "rolled back" in str(aggregation.engine.errors[VA])


def test_nodes_that_are_not_set_up_are_named_with_what_they_lack(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    grid = connected(tmp_path)
    for node, (app, _config) in grid.apps.items():
        grid.apps[node] = (app, {})
    with pytest.raises(ThresholdNotMet, match="roll call: 0 parties present, 3 required") as failed:
        secure(roster).start(grid, initial_arrays(), num_rounds=1)
    assert len(failed.value.__notes__) == len(PARTIES)
    assert all(
        "this node has no folder of secfl's; allowed: flower-supernode" in note for note in failed.value.__notes__
    )

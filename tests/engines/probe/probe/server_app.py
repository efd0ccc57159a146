"""FedAvg with and without secure aggregation; writes the final model and how the rounds went."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from secfl.engines.flower import SecureAggregation
from secfl.engines.flower.envelope import CHUNKS

app = ServerApp()


class Unprotected(FedAvg):
    """Asks for the app's training without the mod."""

    grid: Grid
    lingering: float

    def _construct_messages(self, record, node_ids, message_type):
        messages = super()._construct_messages(record, node_ids, "train.plain")
        if self.lingering:
            self.grid.push_messages(messages)
            time.sleep(self.lingering)
        return messages


def tampered(grid: Grid) -> Grid:
    """As if somebody between a node and the strategy changed that node's vector, Flower's own hashes included."""
    victim, honest = min(grid.get_node_ids()), grid.pull_messages

    def pull(identifiers):
        messages = list(honest(identifiers))
        for message in messages:
            if message.metadata.src_node_id == victim and message.has_content() and CHUNKS in message.content:
                record = message.content.array_records[CHUNKS]
                name, array = next(iter(record.items()))
                data = bytearray(array.data)
                data[len(data) // 2] ^= 1
                record[name] = Array(array.dtype, array.shape, array.stype, bytes(data))
        return messages

    grid.pull_messages = pull
    return grid


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    number = int(config["nodes"])
    nodes = {"min_train_nodes": number, "min_available_nodes": number, "fraction_evaluate": 0.0}
    start = ArrayRecord({"weight": Array(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))})
    rounds = int(config["rounds"])
    if not config["secure"]:
        strategy = Unprotected(**nodes)
        strategy.grid, strategy.lingering = grid, float(config["lingering"])
        result, rows = strategy.start(grid, start, num_rounds=rounds), []
    else:
        strategy = SecureAggregation(
            FedAvg(**nodes),
            roster=str(config["roster"]),
            protocol=str(config["protocol"]),
            min_contributors=3,
            deadline=float(config["deadline"]),
        )
        result = strategy.start(tampered(grid) if config["tampering"] else grid, start, num_rounds=rounds)
        rows = [
            {
                "contributors": row.contributors,
                "examples": row.examples,
                "events": {e.party: str(e.error) for phase in row.carried.phases for e in phase.events},
                "refused": sorted(map(str, strategy.engine.refused.values())),
                "seconds": {phase.phase: phase.seconds for phase in row.carried.phases},
            }
            for row in strategy.rounds
        ]
    output = Path(str(config["output"]))
    np.savez(output.with_suffix(".npz"), **{name: array.numpy() for name, array in result.arrays.items()})
    output.with_suffix(".json").write_text(json.dumps(rows))

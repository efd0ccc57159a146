"""Rounds with and without secure aggregation; writes when each ended, and how long each phase took."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from secfl.engines.flower import FlowerEngine, SecureAggregation
from secfl.federation.roster_file import read_roster

app = ServerApp()


class Plain(FedAvg):
    def _construct_messages(self, record, node_ids, _message_type):
        return super()._construct_messages(record, node_ids, "train.plain")


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes = {"min_train_nodes": 4, "min_available_nodes": 4, "fraction_evaluate": 0.0}
    start = ArrayRecord({"model": Array(np.zeros(int(config["size"]), np.float32))})
    ends: list[float] = []
    found: dict[str, object] = {}
    if config["protocol"]:
        roster = read_roster(Path(str(config["roster"])))
        began = time.monotonic()
        FlowerEngine(grid, roster).call_roll()  # one message to each node and back, with nothing in it
        found["message"] = time.monotonic() - began
        strategy = SecureAggregation(FedAvg(**nodes), roster=roster, protocol=str(config["protocol"]), deadline=1800.0)
    else:
        strategy = Plain(**nodes)
    strategy.start(
        grid, start, num_rounds=int(config["rounds"]), evaluate_fn=lambda _round, _arrays: ends.append(time.monotonic())
    )
    found["rounds"] = [after - before for before, after in itertools.pairwise(ends)]
    if config["protocol"]:
        found["phases"] = [{p.phase: p.seconds for p in row.carried.phases} for row in strategy.rounds]
        found["bytes_up"] = [sum(p.bytes_up for p in row.carried.phases) for row in strategy.rounds]
        found["contributors"] = [len(row.contributors) for row in strategy.rounds]
    Path(str(config["output"])).write_text(json.dumps(found))

"""Adds to every entry a number that tells party and entry apart."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from secfl.engines.flower import secagg_mod

app = ClientApp()


@app.train(mods=[secagg_mod])
def train(message: Message, context: Context) -> Message:
    config, node = context.run_config, context.node_config
    if node["party"] == config["failing"]:
        raise ValueError("patient 4711 has no age")
    if node["party"] == config["waiting"]:
        Path(str(node["pid-file"])).write_text(str(os.getpid()))
        time.sleep(600)
    trained = {}
    for name, array in message.content.array_records["arrays"].items():
        values = array.numpy()
        shift = float(node["shift"]) + np.arange(values.size).reshape(values.shape) * 0.01
        trained[name] = Array((values + shift).astype(np.float32))
    metrics = MetricRecord({"num-examples": int(node["examples"]), "train-loss": 7.654321 * float(node["shift"])})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)


@app.train("plain")
def plain(message: Message, context: Context) -> Message:
    """The same without the mod, to compare with."""
    return train(message, context)  # Flower's decorator leaves the function as it is

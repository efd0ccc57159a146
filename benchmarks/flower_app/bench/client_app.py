"""Training that takes no time: what is left is the engine's and the protocol's."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from secfl.engines.flower import secagg_mod

app = ClientApp()


@app.train(mods=[secagg_mod])
def train(message: Message, _context: Context) -> Message:
    (array,) = message.content["arrays"].values()
    values = array.numpy()
    trained = values + np.float32(0.01) * np.arange(values.size, dtype=np.float32) / values.size
    arrays = ArrayRecord({"model": Array(trained.astype(np.float32))})
    metrics = MetricRecord({"num-examples": 100})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.train("plain")
def plain(message: Message, context: Context) -> Message:
    return train(message, context)

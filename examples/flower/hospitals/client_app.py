"""hospitals: a Flower / PyTorch app."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hospitals.task import Net, load_data, records_of
from hospitals.task import test as test_fn
from hospitals.task import train as train_fn
from secfl.engines.flower import secagg_mod

app = ClientApp()


@app.train(mods=[secagg_mod])
def train(message: Message, context: Context) -> Message:
    """Train the model on this hospital's records."""
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    trainset, _ = load_data(records_of(context.node_config))
    config = context.run_config
    loss = train_fn(model, trainset, int(config["local-steps"]), float(config["learning-rate"]))
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(trainset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on this hospital's test records."""
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    _, testset = load_data(records_of(context.node_config))
    metrics = MetricRecord({"eval_acc": test_fn(model, testset), "num-examples": len(testset)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)

"""hospitals: a Flower / PyTorch app."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from safetensors.numpy import save_file

from hospitals.task import Net
from secfl.engines.flower import SecureAggregation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Main entry point for the ServerApp."""
    config = context.run_config
    arrays = ArrayRecord(Net().state_dict())
    strategy = FedAvg(min_available_nodes=4, min_train_nodes=4, min_evaluate_nodes=4)
    strategy = SecureAggregation(strategy, protocol=str(config["protocol"]), min_contributors=3)
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["num-server-rounds"]))
    if config["output"]:
        save_file({name: array.numpy() for name, array in result.arrays.items()}, str(config["output"]))

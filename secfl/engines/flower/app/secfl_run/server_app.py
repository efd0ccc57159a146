"""The server's end."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from secfl.engines.flower.run_server import serve_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study in the directory that the run's configuration names."""
    serve_study(grid, context)

"""A silo's end."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from secfl.engines.flower.study import answer_study

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a request of a secure session; nothing else is answered."""
    return answer_study(message, context)

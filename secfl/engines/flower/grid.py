"""A Flower grid on which training messages go through secure aggregation and all others pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocols.errors import UsageError

__all__ = ["TrainingGrid"]

Train = Callable[[list[Message], float | None], list[Message]]


def is_training(message: Message) -> bool:
    """Whether a message asks for an update."""
    return message.metadata.message_type.partition(".")[0] == "train"


class TrainingGrid(Grid):
    """See `flwr.serverapp.Grid`.

    :param train: from the training messages of a round, and the time for them in seconds, to the replies.
    """

    def __init__(self, grid: Grid, train: Train) -> None:
        self._grid = grid
        self._train = train

    def set_run(self, run: Any) -> None:
        """See `Grid.set_run`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """See `Grid.run`."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See `Grid.create_message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid.get_node_ids`."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """See `Grid.get_nodes`."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid.push_messages`.

        :raises UsageError: a training message, which has no place outside `send_and_receive`.
        """
        kept = list(messages)
        if any(map(is_training, kept)):
            raise UsageError("strategy: it pushes training messages by itself; they go through send_and_receive alone")
        return self._grid.push_messages(kept)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid.pull_messages`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See `Grid.send_and_receive`; training messages come back as one reply."""
        kept = list(messages)
        training = [message for message in kept if is_training(message)]
        others = [message for message in kept if not is_training(message)]
        replies = self._train(training, timeout) if training else []
        if others:
            replies += list(self._grid.send_and_receive(others, timeout=timeout))
        return replies

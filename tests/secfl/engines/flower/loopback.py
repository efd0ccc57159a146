"""A Flower grid in this process: every message goes through flwr's own serialisers, nothing else of Flower runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN = 77
Hook = Callable[[int, Message], Message | None]


def through_the_wire(message: Message, wire: list[bytes]) -> Message:
    """The message as its receiver gets it; its bytes are kept."""
    contents = {identifier: item.deflate() for identifier, item in get_all_nested_objects(message).items()}
    wire.extend(contents.values())
    received = inflate_object_from_contents(message.object_id, dict(contents))
    received.metadata.__dict__["_message_id"] = message.object_id
    assert isinstance(received, Message)
    return received


class LoopbackGrid(Grid):
    """Nodes by number, each with its app and its own configuration. A message is answered when it is pulled for.

    :param on_request: sees every message on its way to a node; what it gives is delivered in its place, None loses it.
    :param on_reply: likewise on the way back.
    """

    def __init__(self, on_request: Hook | None = None, on_reply: Hook | None = None) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
        self.apps: dict[int, tuple[ClientApp, dict[str, Any]]] = {}
        self.states: dict[int, RecordDict] = {}
        self.wire: list[bytes] = []
        """Everything that was on the wire, object by object."""
        self.sent: list[tuple[int, str]] = []
        """Node and type of each message."""
        self.on_request, self.on_reply = on_request, on_reply
        self._waiting: dict[str, Message] = {}
        self._nodes: dict[str, int] = {}
        self._run = Run.create_empty(RUN)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        return Message(*arguments, **options)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            node = message.metadata.dst_node_id
            self.sent.append((node, message.metadata.message_type))
            delivered: Message | None = through_the_wire(message, self.wire)
            if self.on_request is not None and delivered is not None:
                delivered = self.on_request(node, delivered)
            if delivered is not None:
                self._waiting[message.object_id] = delivered
                self._nodes[message.object_id] = node
            identifiers.append(message.object_id)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for identifier in message_ids:
            if identifier not in self._waiting:
                continue
            node = self._nodes[identifier]
            reply = self._answer(node, self._waiting.pop(identifier))
            received: Message | None = through_the_wire(reply, self.wire)
            if self.on_reply is not None and received is not None:
                received = self.on_reply(node, received)
            if received is not None:
                replies.append(received)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return list(self.pull_messages(list(self.push_messages(messages))))

    def _answer(self, node: int, message: Message) -> Message:
        """As `flwr-clientapp` does it: what the app raises becomes an error reply with its text."""
        app, config = self.apps[node]
        state = self.states.setdefault(node, RecordDict())
        context = Context(RUN, node, config, state, {})
        try:
            return app(message, context)
        except Exception as error:  # noqa: BLE001  as Flower does
            return Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)

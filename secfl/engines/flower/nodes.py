"""The exchange with Flower's nodes: letters out, letters in, each reply as soon as it is there.

Flower's own `Grid.send_and_receive` polls every three seconds and keeps all replies in memory; this one asks for one
reply at a time, so that a vector is in memory while it is added up and no longer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

import protocols.errors
from protocols.errors import BudgetExceeded, ProtocolError, SecflError
from secfl.engines.flower.envelope import Letter, read_letter, write_letter

__all__ = ["Exchange", "NodeReply"]

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
TRAIN = "train"
_RAISED = re.compile(r"^<class 'protocols\.errors\.(\w+)'>:<'(.*)'>$", re.DOTALL)


class NodeError(ProtocolError):
    """What a node said instead of an answer, or that it said nothing; unverified, as everything from a node."""


@dataclass(frozen=True)
class NodeReply:
    """A node's reply, or the error in its place."""

    node: int
    letter: Letter | None = field(repr=False)
    error: SecflError | None = None


@dataclass(frozen=True)
class Exchange:
    """Sends letters to nodes and gives their replies.

    :param grid: Flower's.
    :param action: of the messages: ``train``, or ``train.name`` where the app registers its function under a name.
    :param clock: seconds, monotonic; ``sleep`` likewise.
    """

    grid: Grid
    action: str = TRAIN
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def replies(
        self, letters: Iterable[tuple[int, Letter, RecordDict]], deadline: float, group: str = ""
    ) -> Iterator[NodeReply]:
        """Send, then give the replies as they come; who has not replied at the deadline is not heard of.

        :param letters: node, letter, and the records to send beside it.
        :param deadline: in seconds from now; messages expire then, too.
        """
        ends = self.clock() + deadline
        waiting: dict[str, int] = {}
        for node, letter, beside in letters:
            message = Message(write_letter(letter, beside), node, self.action, ttl=deadline, group_id=group)
            pushed = list(self.grid.push_messages([message]))
            if len(pushed) != 1 or not pushed[0]:
                yield NodeReply(node, None, NodeError(f"node {node}: the SuperLink did not take the message for it"))
                continue
            waiting[pushed[0]] = node
        pause = FIRST_PAUSE
        while waiting:
            before = len(waiting)
            for identifier in list(waiting):
                for reply in self.grid.pull_messages([identifier]):
                    # A dead node's error names another source: the request alone says whose reply it is.
                    yield _reply(waiting.pop(identifier), reply)
                    break
            if self.clock() >= ends:
                return
            pause = FIRST_PAUSE if len(waiting) < before else min(LONGEST_PAUSE, 1.5 * pause)
            if waiting:
                self.sleep(pause)


def _reply(node: int, message: Message) -> NodeReply:
    if message.has_error():
        return NodeReply(node, None, _error(node, message.error.code, message.error.reason or ""))
    try:
        return NodeReply(node, read_letter(message))
    except SecflError as error:
        return NodeReply(node, None, error)


def _error(node: int, code: int, reason: str) -> SecflError:
    """The node's error; one of ours in our terms."""
    raised = _RAISED.match(reason)
    if raised is None or not issubclass(getattr(protocols.errors, raised[1], Exception), SecflError):
        return NodeError(f"node {node}: error {code}: {reason[:500]}")
    if raised[1] == BudgetExceeded.__name__:
        return RemoteBudgetExceeded(raised[2][:500])
    return NodeError(f"node {node}: {raised[1]}: {raised[2][:500]}")


class RemoteBudgetExceeded(BudgetExceeded):
    """A node's ledger refused; in its words."""

    def __init__(self, text: str) -> None:
        SecflError.__init__(self, text)

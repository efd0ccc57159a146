"""Messages over a socket, with a deadline. In a deployment: the same over TLS with certificates on both sides."""

from __future__ import annotations

import socket
import time

from secfl.aggregation import FrameDecoder, FrameLimits

PIECE_BYTES = 64 * 1024


class Channel:
    """Sends and receives whole messages; frames are checked, and bounded, while they come in."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""

    def send(self, message: bytes, deadline: float) -> None:
        """Send a message.

        :raises OSError: the peer is gone or too slow.
        """
        self._set_timeout(deadline)
        self._socket.sendall(message)

    def receive(self, limits: FrameLimits, deadline: float) -> bytes | None:
        """The next message; None if the peer has closed the connection between two messages.

        :raises OSError: the peer is gone or too slow.
        :raises protocols.errors.PeerFault: what comes is no message, or larger than agreed on.
        """
        decoder = FrameDecoder(limits)
        pieces: list[bytes] = []
        while not decoder.finished:
            piece, self._rest = self._rest, b""
            if not piece:
                self._set_timeout(deadline)
                piece = self._socket.recv(PIECE_BYTES)
            if not piece:
                if pieces:
                    decoder.finish()  # says that the message is cut short
                return None
            decoder.feed(piece)
            self._rest = decoder.left_over
            pieces.append(piece[: len(piece) - len(self._rest)])
        return b"".join(pieces)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _set_timeout(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self._socket.settimeout(left)

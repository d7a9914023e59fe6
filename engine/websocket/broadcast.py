"""One message to many WebSockets.

Owns: that the message is encoded and compressed once. What becomes of it on a connection whose peer
is slow is the connection's affair (`WebSocket.offer`).
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.websocket.connection import WebSocket

__all__ = ["broadcast"]


def broadcast(connections: Iterable[WebSocket], message: str | bytes | bytearray | memoryview) -> int:
    """Send `message` to all of `connections`; synchronous, and never waits for any of them.

    It is encoded once, and compressed once for all that negotiated the same: nothing in it refers to
    earlier messages, so that each of them can read it. Closed connections are passed over. Where more
    than `websocket.max_unsent` bytes wait for a peer already, `websocket.slow_consumer` decides, and
    `WebSocket.dropped` counts.

    Returns:
        How many connections took it.

    Raises:
        LocalProtocolError: the text holds lone surrogates.
        TypeError: neither text nor bytes.
    """
    made: dict[tuple[int, int, int] | None, bytes] = {}
    return sum([ws.share(message, made) for ws in connections])

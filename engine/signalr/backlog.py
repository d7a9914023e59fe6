"""What waits for a client that takes too little, where broadcasts to it may be dropped.

Owns: the order of what waits, which of it goes first when there is too much, and the way of the rest
to the transport. Broadcasts may be dropped, the oldest before the newer; answers and streams never are.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from engine.errors import ConnectionClosed

if TYPE_CHECKING:
    from engine.signalr.transports import HubTransport

__all__ = ["HIGH_WATER", "Backlog"]

HIGH_WATER = 64 * 1024  # bytes in one outbox from which broadcasts wait aside, or are dropped


class Backlog:
    """Frames that wait for the transport to have room.

    Args:
        limit: bytes beyond which the oldest broadcasts are dropped.

    Attributes:
        size: bytes that wait.
    """

    __slots__ = ("_arrived", "_entries", "_limit", "size")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._entries: deque[tuple[bytes, bool]] = deque()
        self._arrived = trio.Event()  # replaced when nothing waits any more
        self.size = 0

    def __len__(self) -> int:
        """Frames that wait."""
        return len(self._entries)

    def put(self, frame: bytes, *, droppable: bool) -> int:
        """Let a frame wait behind the others.

        Returns:
            How many were dropped for it.
        """
        self._entries.append((frame, droppable))
        self.size += len(frame)
        self._arrived.set()
        return self._drop_oldest() if self.size > self._limit else 0

    def take(self) -> bytes:
        """The frame that has waited longest."""
        frame, _ = self._entries.popleft()
        self.size -= len(frame)
        return frame

    async def work_off(self, transport: HubTransport) -> None:
        """Send what waits, as the client makes room for it, until it is gone. Cancellation drops nothing."""
        while True:
            await self._arrived.wait()
            while self._entries:
                try:
                    await transport.drain()
                except ConnectionClosed:
                    return  # the connection's own scope tells it
                while self._entries and transport.queued <= HIGH_WATER:
                    transport.write(self.take())
                transport.flush()
            self._arrived = trio.Event()

    def clear(self) -> None:
        """Nothing is wanted any more."""
        self._entries.clear()
        self.size = 0

    def _drop_oldest(self) -> int:
        dropped = 0
        kept: deque[tuple[bytes, bool]] = deque()
        while self._entries and self.size > self._limit:
            frame, droppable = self._entries.popleft()
            if droppable:
                self.size -= len(frame)
                dropped += 1
            else:
                kept.append((frame, droppable))
        kept.extend(self._entries)
        self._entries = kept
        return dropped

"""What a server has sent and the user's code has not taken yet, on one hub connection.

Owns: how much that is, when to stop reading because of it, and whose it is when something has to go.

Theory of operation. What waits belongs to holders: streams, and the calls of handlers. Beyond the limit
the connection is not read, so that the server waits as over any TCP connection. Two things would make
that a deadlock, and then it is read on, and the holder of the most is shed: somebody waits for what is
behind (a result, say), or nobody has taken anything for a while.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

from engine.errors import LimitExceeded, LimitKind

__all__ = ["PATIENCE", "Holder", "Unread"]

PATIENCE = 5.0  # seconds without anything taken; a server gives up a client that reads nothing after 10 (ASP.NET Core)


class Holder(ABC):
    """Something that the user's code should empty.

    Attributes:
        held: bytes in it, by what they cost.
    """

    def __init__(self, unread: Unread) -> None:
        self._unread = unread
        self.held = 0

    @abstractmethod
    def shed(self, error: LimitExceeded) -> None:
        """Give up what is held, and tell the user."""

    def _hold(self, size: int) -> None:
        self.held += size
        self._unread.added(self, size)

    def _release(self, size: int) -> None:
        self.held -= size
        self._unread.taken(self, size)


class Unread:
    """See the module.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: float) -> None:
        # immutable
        self._limit = limit
        # owned by whoever adds and takes
        self._size = 0
        self._holders: set[Holder] = set()
        self._awaited: set[trio.Event] = set()
        self._last_taken = 0.0
        self._changed = trio.Event()  # replaced when somebody waits for it

    @property
    def full(self) -> bool:
        """More waits than should."""
        return self._size > self._limit

    def added(self, holder: Holder, size: int) -> None:
        """For holders."""
        if not self.full and self._size + size > self._limit:
            self._last_taken = trio.current_time()  # the user's code has its time from now on
        self._size += size
        self._holders.add(holder)

    def taken(self, holder: Holder, size: int) -> None:
        """For holders."""
        if not size:
            return
        if self.full:
            self._last_taken = trio.current_time()
        self._size -= size
        if not holder.held:
            self._holders.discard(holder)
        if not self.full:
            self._changed.set()

    async def wait(self, event: trio.Event) -> None:
        """Wait for what the server has still to send. Cancellation changes nothing."""
        self._awaited.add(event)
        self._changed.set()
        try:
            await event.wait()
        finally:
            self._awaited.discard(event)

    async def room(self) -> None:
        """Wait until the connection should be read. Cancellation changes nothing."""
        while self.full:
            wanted = any(not each.is_set() for each in self._awaited)
            if wanted or trio.current_time() >= self._last_taken + PATIENCE:
                self._shed()
                return
            self._changed = trio.Event()
            with trio.move_on_at(self._last_taken + PATIENCE):
                await self._changed.wait()

    def _shed(self) -> None:
        largest = max(self._holders, key=lambda each: each.held)
        largest.shed(
            LimitExceeded(
                "buffer_size",
                self._limit,
                largest.held,
                kind=LimitKind.CAPACITY,
                what="what the server sent and nobody took",
                hint="take it sooner, or raise buffer_size of the HubConnection",
            )
        )

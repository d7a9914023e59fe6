"""A queue with one reader that costs next to nothing while nobody waits.

Owns: the hand-over of items from the synchronous side of a connection (a driver that parses bytes)
to the one task that consumes them. Never bounds anything itself: whoever puts is bounded by credit
(a receive window, a paused reader), so `put` cannot block.

A `trio` memory channel does the same for 7 µs an item; this does it for less than one where items
are waiting, and for a single `reschedule` where the reader is parked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from engine.transport.parking import park, parking_message, wake

if TYPE_CHECKING:
    from engine.transport.poller import Poller

T = TypeVar("T")

_NOTHING: deque[Any] = deque(maxlen=0)  # stands for items: a deque is 760 bytes, and many mailboxes never get one


class Mailbox(Generic[T]):
    """Items in order, then perhaps an error, then the end."""

    __slots__ = ("_ended", "_error", "_leading", "_parking", "_poller", "_reader", "items")

    def __init__(self, poller: Poller | None = None) -> None:
        """`poller`: of the socket that fills it, for the reader to read that by itself while it waits."""
        self.items: deque[T] = _NOTHING  # that wait, the next one first; whoever receives may take from it
        self._reader: trio.lowlevel.Task | None = None
        self._parking: Any = None  # made when the reader first waits
        self._poller = poller
        self._leading = False  # the reader reads the poller's sockets
        self._ended = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        """Items that wait."""
        return len(self.items)

    @property
    def ended(self) -> bool:
        """No further item can come, although some may still wait."""
        return self._ended

    @property
    def failed(self) -> bool:
        """The end is an error."""
        return self._error is not None

    def put(self, item: T) -> None:
        """Add an item and wake the reader; ignored after the end."""
        if self._ended:
            return
        if self.items is _NOTHING:
            self.items = deque()
        self.items.append(item)
        self._wake()

    def put_all(self, items: Iterable[T]) -> None:
        """Add several items and wake the reader once; ignored after the end."""
        if self._ended:
            return
        if self.items is _NOTHING:
            self.items = deque()
        self.items.extend(items)
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """No more items: the reader gets those that wait, then `error` or the end. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._parking = None  # nobody parks any more, and it holds this mailbox
        self._wake()

    def clear(self) -> None:
        """Drop what waits."""
        self.items.clear()

    def get_nowait(self) -> T | None:
        """The next item, or None if none waits."""
        return self.items.popleft() if self.items else None

    async def get(self) -> T | None:
        """The next item; None at the end.

        A checkpoint. Cancellation loses nothing: no item is taken before the task runs again.

        Raises:
            BaseException: what `end` was given, once all items are out.
            trio.BusyResourceError: another task is reading.
        """
        if self.items:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self.items.popleft()
        if not self._ended:
            if self._reader is not None or self._leading:
                raise trio.BusyResourceError("another task is already receiving; receive in one task")
            if self._poller is not None and self._poller.free:
                self._leading = True
                try:
                    await self._poller.lead(self._arrived)
                finally:
                    self._leading = False
            else:
                if self._parking is None:
                    self._parking = parking_message(self._abort)
                self._reader = trio.lowlevel.current_task()
                try:
                    await park(self._parking)
                finally:
                    self._reader = None
            if self.items:
                return self.items.popleft()
        else:
            await trio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        return None

    def _wake(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            wake(reader)
        elif self._leading and self._poller is not None:
            self._poller.wake()

    def _arrived(self) -> bool:
        return bool(self.items) or self._ended

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None  # before the task runs again, `put` must not wake it a second time
        return trio.lowlevel.Abort.SUCCEEDED

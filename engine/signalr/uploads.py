"""Streams that a client sends to a method while the method runs.

Owns: the items that have arrived and were not read yet, and what happens when nobody reads them.
Never knows which method reads: the dispatcher opens and closes uploads.

Theory of operation. The hub protocol has no credit for a stream: what a client sends cannot be
stopped without stopping all that it sends. So items wait here, and an upload that nobody reads blocks
nothing but itself:

- While a method takes items, but slower than they come, reading of the connection pauses at
  `signalr.stream_buffer_capacity` waiting items, until half of them are left, but for `_PATIENCE` at
  most: pings, cancels, completions and closes get through.
- Only when unread items come to half of `signalr.max_upload_backlog` does it pause for as long as the
  method keeps taking them: back-pressure. A method that takes nothing for `_PATIENCE` ends the pause.
- At `signalr.max_upload_backlog` the upload that grows ends with an error, and what of it comes later
  is ignored, as is anything for an upload that ended.

Items are decoded when they are read, straight into the type of the parameter.

Spec: docs/specs/HubProtocol.md, "Upload streaming"; StreamTracker.cs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
import trio

from engine.errors import HubError, LimitExceeded, LimitKind, RemoteProtocolError
from engine.signalr import texts

_PATIENCE = 0.05  # seconds; long for a method that reads, short for a client that waits for its pings
_ITEM_COST = 200  # bytes beside its own that a waiting item takes
_YIELD_EVERY = 64  # items that were there already between two checkpoints that let other tasks run


class Source(Protocol):
    """The connection that items come from, as far as they need it."""

    def hold_reading(self, reason: object) -> None:
        """Read nothing more until `release_reading` for all reasons."""

    def release_reading(self, reason: object) -> None:
        """This reason is gone. Idempotent."""

    def start_soon(self, function: Callable[..., Awaitable[Any]], arguments: Sequence[Any] = ()) -> None:
        """Run something until the connection ends."""


class Upload:
    """One stream, as the method sees it: iterate over it, once.

    The iteration raises HubError for what the client ended the stream with, or for an item that does
    not fit; ConnectionClosed when the client went away; LimitExceeded when too much was left unread.
    """

    __slots__ = ("_decode", "_ended", "_error", "_items", "_read", "_reader", "_uploads", "is_read", "stream_id")

    def __init__(self, uploads: Uploads, stream_id: str) -> None:
        self._uploads = uploads
        self.stream_id = stream_id
        self._decode: Callable[[msgspec.Raw], Any]
        self._items: deque[msgspec.Raw] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._reader: trio.lowlevel.Task | None = None
        self._read = 0
        self.is_read = False  # lately: a method waits for items, or takes them

    def decode_with(self, decode: Callable[[msgspec.Raw], Any]) -> None:
        """The type of the items is known now."""
        self._decode = decode

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> Any:
        """The next item; cancellation loses none."""
        self.is_read = True
        self._read += 1
        if self._read % _YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        item = self._items.popleft()
        self._uploads.taken(self, _cost(item))
        try:
            return self._decode(item)
        except (msgspec.ValidationError, RemoteProtocolError):
            self.end(HubError(texts.ITEM_DOES_NOT_FIT))
            self._uploads.close((self.stream_id,))
            raise HubError(texts.ITEM_DOES_NOT_FIT) from None

    def push(self, item: msgspec.Raw) -> None:
        """An item arrived."""
        self._items.append(item)
        self._wake()

    def end(self, error: Exception | None) -> None:
        """Nothing more will come."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def discard(self) -> int:
        """Forget what waits; how many bytes it took."""
        cost = sum(map(_cost, self._items))
        self._items.clear()
        return cost

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED


class Uploads:
    """The uploads of one connection."""

    __slots__ = ("_backlog", "_capacity", "_connection", "_held_by", "_max_backlog", "_open", "_progress", "_watching")

    def __init__(self, connection: Source, capacity: int, max_backlog: int) -> None:
        # immutable
        self._connection = connection
        self._capacity = capacity
        self._max_backlog = max_backlog
        # owned by the reader and the methods, which are synchronous towards each other
        self._open: dict[str, Upload] = {}
        self._backlog = 0  # bytes that wait, of all uploads
        self._held_by: Upload | None = None  # for whom reading is paused
        self._progress = False  # it took something since the last look
        self._watching = False

    def __len__(self) -> int:
        """Those that are open."""
        return len(self._open)

    # -- for the dispatcher ---------------------------------------------------

    def open(self, stream_ids: Sequence[str]) -> None:
        """Items of these can come from now on.

        Raises:
            HubError: one of them is open already.
        """
        for index, stream_id in enumerate(stream_ids):
            if stream_id in self._open or stream_id in stream_ids[:index]:
                raise HubError(texts.stream_id_in_use(stream_id))
        for stream_id in stream_ids:
            self._open[stream_id] = Upload(self, stream_id)

    def find(self, stream_id: str) -> Upload | None:
        """An open upload."""
        return self._open.get(stream_id)

    def close(self, stream_ids: Sequence[str]) -> None:
        """Nobody will read these any more; what of them comes late is ignored. Idempotent."""
        for stream_id in stream_ids:
            upload = self._open.pop(stream_id, None)
            if upload is not None:
                self._backlog -= upload.discard()
                upload.end(None)
                self._release(upload)

    def fail_all(self, error: Exception) -> None:
        """The client is gone: whoever reads gets what arrived, and then this error."""
        for upload in self._open.values():
            upload.end(error)
            self._release(upload)

    # -- for the reader -------------------------------------------------------

    def receive(self, stream_id: str, item: msgspec.Raw) -> None:
        """An item of an upload; of one that is not open it is ignored."""
        upload = self._open.get(stream_id)
        if upload is None or upload._ended:
            return
        self._backlog += _cost(item)
        if self._backlog > self._max_backlog:
            self._overflow(upload, _cost(item))
            return
        upload.push(item)
        if upload.is_read and len(upload) > self._capacity and self._held_by is None:
            self._hold(upload)

    def complete(self, stream_id: str, error: str | None) -> bool:
        """The client ended an upload; False: none of ours."""
        upload = self._open.get(stream_id)
        if upload is None:
            return False
        upload.end(None if error is None else HubError(error))
        self._release(upload)
        return True

    def _overflow(self, upload: Upload, cost: int) -> None:
        self._backlog -= cost + upload.discard()
        upload.end(
            LimitExceeded(
                "signalr.max_upload_backlog", self._max_backlog, kind=LimitKind.CAPACITY, what="unread stream items"
            )
        )
        self._release(upload)

    # -- back-pressure --------------------------------------------------------

    def taken(self, upload: Upload, cost: int) -> None:
        """A method took an item."""
        self._backlog -= cost
        self._progress = True
        if upload is self._held_by and len(upload) <= self._capacity // 2:
            self._release(upload)

    def _hold(self, upload: Upload) -> None:
        self._held_by = upload
        if not self._watching:
            self._watching = True
            self._connection.start_soon(self._watch)
        self._progress = True  # its patience begins at the next look
        self._connection.hold_reading(self)

    def _release(self, upload: Upload) -> None:
        if upload is self._held_by:
            self._held_by = None
            self._connection.release_reading(self)

    async def _watch(self) -> None:
        """Look now and then whether the method that reading waits for still reads."""
        try:
            while (upload := self._held_by) is not None:
                self._progress = False
                await trio.sleep(_PATIENCE)
                if upload is self._held_by and not self._took_any():
                    upload.is_read = False  # until it takes the next item
                    self._release(upload)
                elif self._backlog <= self._max_backlog // 2:
                    self._release(upload)  # it reads, and there is room: the moment is over
        finally:
            self._watching = False

    def _took_any(self) -> bool:
        return self._progress


def _cost(item: msgspec.Raw) -> int:
    return memoryview(item).nbytes + _ITEM_COST

"""Calls of hub methods that wait for something: a result, or the items of a stream.

Owns: what has arrived for a call and was not taken yet. Never sends by itself: the link does. How much
may wait is `unread`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from engine.errors import HubError, LimitExceeded, RemoteProtocolError
from engine.signalr.client.unread import Holder, Unread

if TYPE_CHECKING:
    from engine.wire.signalr.messages import Completion, HubProtocol

__all__ = ["Call", "ItemStream", "PendingCall"]

_ITEM_COST = 200  # bytes beside its own that a waiting item takes
_YIELD_EVERY = 64  # items that were there already between two checkpoints


def decode_as(protocol: HubProtocol, value: msgspec.Raw | None, type_: Any, what: str) -> Any:
    """A value from the server as the type that the user wants.

    Raises:
        RemoteProtocolError: it does not fit.
    """
    if value is None:
        return None
    try:
        return protocol.decode(value, type_)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"{what} does not fit the type that was asked for: {error}") from None


class Call:
    """One invocation that the server will complete."""

    __slots__ = ("uploads",)

    def __init__(self) -> None:
        self.uploads: list[trio.CancelScope] = []  # of the streams that go with it

    def item(self, value: msgspec.Raw) -> None:
        """The server sent an item."""

    def complete(self, completion: Completion) -> None:
        """The server is done."""
        self.stop_uploads()

    def fail(self, error: Exception) -> None:
        """The connection is gone."""
        self.stop_uploads()

    def stop_uploads(self) -> None:
        """Nobody reads them any more."""
        for scope in self.uploads:
            scope.cancel()


class PendingCall(Call):
    """A call with one result."""

    __slots__ = ("_done", "_error", "_method", "_protocol", "_result", "_type", "_unread")

    def __init__(self, protocol: HubProtocol, method: str, result_type: Any, unread: Unread) -> None:
        super().__init__()
        self._unread = unread
        self._protocol = protocol
        self._method = method
        self._type = result_type
        self._done = trio.Event()
        self._result: msgspec.Raw | None = None
        self._error: Exception | None = None

    def complete(self, completion: Completion) -> None:
        super().complete(completion)
        if completion.error is not None:
            self._error = HubError(completion.error)
        self._result = completion.result
        self._done.set()

    def fail(self, error: Exception) -> None:
        super().fail(error)
        self._error = error
        self._done.set()

    async def wait(self) -> Any:
        """The result. Cancellation takes nothing away."""
        await self._unread.wait(self._done)
        if self._error is not None:
            raise self._error
        return decode_as(self._protocol, self._result, self._type, f"the result of {self._method}")


class ItemStream(Call, Holder):
    """The items of a stream: iterate over it, once.

    Where it is read slowly, the server waits. The iteration raises HubError for what the server ended the
    stream with, ConnectionClosed when the connection is lost, RemoteProtocolError for an item that is not
    of the type asked for, and LimitExceeded when so much waits unread that nothing else could come through.
    """

    __slots__ = ("_cancel", "_ended", "_error", "_items", "_news", "_protocol", "_read", "_type")

    def __init__(self, protocol: HubProtocol, item_type: Any, unread: Unread, cancel: Callable[[], None]) -> None:
        Call.__init__(self)
        Holder.__init__(self, unread)
        self._protocol = protocol
        self._type = item_type
        self._cancel = cancel
        self._items: deque[msgspec.Raw] = deque()
        self._read = 0
        self._ended = False
        self._error: Exception | None = None
        self._news = trio.Event()

    def cancel(self) -> None:
        """Tell the server to stop; the iteration ends. Idempotent."""
        self._stop(None)

    def shed(self, error: LimitExceeded) -> None:
        self._stop(error)

    def _stop(self, error: LimitExceeded | None) -> None:
        if not self._ended:
            self._end(None)
            self._cancel()
        if error is not None:
            self._error = error
        self._items.clear()
        self._release(self.held)

    def item(self, value: msgspec.Raw) -> None:
        if not self._ended:
            self._items.append(value)
            self._hold(_cost(value))
            self._news.set()

    def complete(self, completion: Completion) -> None:
        super().complete(completion)
        self._end(None if completion.error is None else HubError(completion.error))

    def fail(self, error: Exception) -> None:
        super().fail(error)
        self._end(error)

    def __aiter__(self) -> ItemStream:
        return self

    async def __anext__(self) -> Any:
        """The next item. Cancellation loses none."""
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._unread.wait(self._news)
        self._read += 1
        if self._read % _YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        value = self._items.popleft()
        self._release(_cost(value))
        return decode_as(self._protocol, value, self._type, "an item")

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._news.set()


def _cost(value: msgspec.Raw) -> int:
    return len(memoryview(value)) + _ITEM_COST

"""WebSockets as synchronous callbacks: messages or frames in, messages or frames out, with no task switch.

Owns: `WebSocketProtocol`, which applications derive from, and how its callbacks are run. The connection
itself, its limits, keep-alive and closing handshake are those of every WebSocket
(`engine.websocket.link`, `engine.websocket.connection`).

The callbacks run in the reader. What they write during one read leaves in one system call after it. What
one raises closes its connection with 1011, and meets the exchange barrier in the exchange's own task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVarTuple

import trio

from engine.errors import ConfigError
from engine.transport.exchange import Exchange
from engine.transport.watchdog import Timer
from engine.websocket.connection import Closed, Data, WebSocket
from engine.websocket.endpoint import WebSocketEndpoint
from engine.websocket.link import HIGH_WATER
from engine.wire.websocket.events import Frame, Ping

__all__ = ["CallbackWebSocket", "WebSocketProtocol"]

Arguments = TypeVarTuple("Arguments")

_RECEIVED = (str, bytes, Frame)


class WebSocketProtocol:
    """A WebSocket as callbacks; derive from it and override what you need.

    An instance lives for one connection. The callbacks are synchronous and must not block; their names are
    those of `engine.StreamProtocol`. An exception that leaves one is logged and closes this connection with
    1011, and no other.

    Attributes:
        connection: what to write to; set before `connection_made`.
    """

    connection: CallbackWebSocket

    def connection_made(self) -> None:
        """The handshake is done."""

    def message_received(self, message: str | bytes) -> None:
        """A whole message came."""
        raise NotImplementedError("override message_received")

    def frame_received(self, frame: Frame) -> None:
        """A frame came, of any opcode but a close frame's; only where the path has `frames=True`."""
        raise NotImplementedError("override frame_received")

    def pause_writing(self) -> None:
        """More than 64 KiB wait for a slow peer. Stops reading from it, unless it is overridden."""
        self.connection.pause_reading()

    def resume_writing(self) -> None:
        """What waited has left. Reads again, unless it is overridden."""
        self.connection.resume_reading()

    def drain_requested(self) -> None:
        """The server wants to stop, and cancels in `server.graceful_timeout`. Closes with 1001, unless overridden."""
        self.connection.start_closing(1001, "the server is stopping")

    def connection_lost(self, closed: Closed) -> None:
        """The connection is over; called once, last."""


class CallbackWebSocket(WebSocket):
    """The `WebSocket` of a `WebSocketProtocol`: `write` instead of `send`, and nothing to receive.

    `start_closing` closes it; `engine.broadcast` takes it as any other.
    """

    __slots__ = ("_batching", "_failure", "_protocol", "_queued_at_pause", "_received", "_resumption")

    def __init__(
        self, exchange: Exchange, protocol: WebSocketProtocol, *, frames: bool = False, **options: Any
    ) -> None:
        super().__init__(exchange, frames=frames, **options)
        # immutable
        self._protocol = protocol
        self._received: Callable[[Any], None] = protocol.frame_received if frames else protocol.message_received
        # owned by whoever calls back
        self._batching = False  # a callback runs: what it writes leaves when it is done
        self._queued_at_pause = 0  # bytes, when writing was paused; 0: it is not
        self._resumption: Timer | None = None  # of writing; made when it is first paused
        self._failure: Exception | None = None  # what a callback raised
        protocol.connection = self

    # -- for the protocol -----------------------------------------------------

    def write(self, message: Data) -> None:
        """Send a whole message: text for `str`, else binary. Never waits; discarded once the connection closes.

        A peer that does not take what is written is the protocol's to slow down for (`pause_writing`).
        Where it writes on, and more than `websocket.max_unsent` bytes wait, the connection is closed with 1013.

        Raises:
            LocalProtocolError: the text holds lone surrogates.
            TypeError: neither text nor bytes.
        """
        if self._closed is not None:
            return
        if self._occupied:
            # Behind what was broadcast and waits: that refers to nothing before it, and so must this.
            self._core.sent_shared()
            self.offer(self._core.send_message(message))
            return
        self._write(self._core.send_message(message))
        if not self._batching:
            self._flush()

    def write_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        """Send any frame but a close frame, right or wrong. Never waits; discarded once the connection closes.

        Raises:
            LocalProtocolError: a close frame, or an opcode or RSV bits beyond what a header can say.
        """
        if self._closed is None:
            self._write(self._core.send_frame(opcode, payload, fin=fin, rsv=rsv))
            if not self._batching:
                self._flush()

    @property
    def queued(self) -> int:
        """Bytes written that the peer has not taken."""
        return self._exchange.queued

    def pause_reading(self) -> None:
        """Read no more, and let the peer's sends wait; what was read already still comes. Idempotent."""
        if self._closed is None and not self._paused:
            self._paused = True
            self._exchange.pause_receiving()

    def resume_reading(self) -> None:
        """Undo `pause_reading`. Idempotent."""
        self._resume()

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer that calls back synchronously, until the connection ends."""
        return self._exchange.timer(lambda: self._call(callback))

    # -- for the endpoint -----------------------------------------------------

    def start(self) -> None:
        self._call(self._protocol.connection_made)
        super().start()

    async def run(self) -> None:
        """Wait for the end. Raises what a callback raised."""
        await self._finished.wait()
        if self._failure is not None:
            raise self._failure

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        if self._failure not in (None, error):
            raise self._failure  # of `connection_lost`: nobody waits in `run` any more

    # -- calling back ---------------------------------------------------------

    def _receive_data(self, data: bytes) -> None:
        if self._over:
            return
        self._heard = True
        if data:
            messages = self._core.receive_messages(data)
            if messages is not None:
                self._call(self._hand_over_messages, messages)
                return
        else:
            self._core.receive_eof()
        self._call(self._hand_over)
        self._flush_control()

    def _hand_over_messages(self, messages: list[str | bytes]) -> None:
        """What a read brought that held nothing else, as nearly all do."""
        received = self._received
        for message in messages:
            if self._closed is None:
                received(message)

    def _hand_over(self) -> None:
        next_event, received = self._core.next_event, self._received
        while (event := next_event()) is not None:
            if isinstance(event, _RECEIVED):
                if self._closed is None:
                    received(event)
            elif not isinstance(event, Ping):
                self._receive_event(event)  # type: ignore[arg-type]  # no MessagePart: whole messages only

    def _call(self, callback: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
        """A callback, and then one write for all that it wrote."""
        outer, self._batching = self._batching, True
        try:
            callback(*arguments)
        except Exception as error:  # for the exchange barrier, by way of `run`
            if self._failure is None:
                self._failure = error
            super().fail(error)
        finally:
            self._batching = outer
        if not outer:
            self._flush()

    def _flush(self) -> None:
        exchange = self._exchange
        exchange.flush()
        if exchange.queued > HIGH_WATER and self._closed is None:
            if not self._queued_at_pause:
                self._queued_at_pause = exchange.queued
                self._expect_room()
                self._call(self._protocol.pause_writing)
            elif exchange.queued > max(self._config.max_unsent, self._queued_at_pause):
                self.start_closing(1013, "too slow for what is sent")

    def _room(self) -> None:
        super()._room()
        if self._queued_at_pause and not self._room_expected and self._closed is None:
            # A write may be under way: the protocol's own must not begin before that is done.
            if self._resumption is None:
                self._resumption = self.timer(self._resume_writing)
            self._resumption.set(trio.current_time())

    def _resume_writing(self) -> None:
        self._queued_at_pause = 0
        self._protocol.resume_writing()

    def _drain(self) -> None:
        self._call(self._protocol.drain_requested)

    def _finish(self) -> None:
        if not self._finished.is_set():
            super()._finish()
            self._call(self._protocol.connection_lost, self._closed or Closed(1006, "", clean=False))


class CallbackEndpoint(WebSocketEndpoint):
    """Runs a `WebSocketProtocol` for each WebSocket that is opened; options are those of `WebSocketEndpoint`."""

    def __init__(self, factory: Callable[[], WebSocketProtocol], **options: Any) -> None:
        """Raises ConfigError for a class that is no `WebSocketProtocol`, and for what `WebSocketEndpoint` refuses."""
        if isinstance(factory, type) and not issubclass(factory, WebSocketProtocol):
            raise ConfigError("factory", factory.__qualname__, "derive it from engine.WebSocketProtocol for a path")
        super().__init__(_run, **options)
        self._factory = factory

    def _new_socket(self, exchange: Exchange, **options: Any) -> WebSocket:
        return CallbackWebSocket(exchange, self._factory(), **options)


async def _run(ws: WebSocket) -> None:
    assert isinstance(ws, CallbackWebSocket)  # the endpoint makes no others
    await ws.run()

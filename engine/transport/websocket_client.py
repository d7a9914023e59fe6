"""A client's WebSocket connection, once it is switched: its bytes in and out over HTTP/1.1.

Owns: `ClientConnection`, what `engine.websocket.client` holds of any connection, and `SwitchedConnection`,
an exchange in raw mode on a stream of its own. What bytes mean is `engine.wire.websocket`'s; how the
connection came about is `engine.websocket.opening`'s.

The reader calls the sink synchronously, as a server's driver does. A lost server is not cause to cancel
anybody: there is no handler, and whoever sends or receives gets `ConnectionClosed`.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, Http2Code, LimitExceeded
from engine.transport.exchange import Exchange, Fields, Peer, RequestHead
from engine.transport.outbox import Outbox
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Timer, Watchdog

_BLOCK = 1024  # bytes of randomness at once; a system call for each key would cost as much as its frame


def masking_keys(entropy: Callable[[int], bytes]) -> Callable[[], bytes]:
    """Keys for frames, "derived from a strong source of entropy" (RFC 6455 section 5.3).

    Args:
        entropy: `os.urandom`, or what stands for it in tests.
    """

    def keys() -> Iterator[bytes]:
        while True:
            block = entropy(_BLOCK)
            for start in range(0, _BLOCK, 4):
                yield block[start : start + 4]

    return keys().__next__


class ClientConnection(ABC):
    """What runs a client's connection in a nursery, and ends it.

    Attributes:
        exchange: what a `WebSocket` is made on.
        outbox: what leaves.
        watchdog: keeps all deadlines of the connection.
        over: the stream is closed.
    """

    exchange: Exchange
    outbox: Outbox

    def __init__(self, stream: ByteStream, config: Config) -> None:
        # immutable
        self.stream = stream
        self.config = config
        self.watchdog = Watchdog()
        # owned by the connection's tasks
        self.over = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._reading = trio.CancelScope()
        self._parked: trio.Event | None = None
        self._paused = False

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to read, in tasks of `nursery`. The exchange has its sink."""
        self._nursery = nursery
        nursery.start_soon(self.watchdog.run)
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        """Read until the connection is over, and close the stream. Cancelling it closes the stream too."""
        try:
            try:
                with self._reading:
                    await self._read()
            finally:
                self._end()  # the sink gets it, however the end came
            with trio.move_on_after(self.config.server.close_timeout):
                await self.outbox.drained()
        except ConnectionClosed:
            pass  # whoever sends or receives gets it from the WebSocket
        finally:
            self.outbox.close()
            await self.stream.aclose()
            self.over.set()

    async def _read(self) -> None:
        while self._wants_more():
            if self._paused:
                self._parked = trio.Event()
                await self._parked.wait()
            else:
                await self.stream.pump(self._receive)

    @abstractmethod
    def _receive(self, data: bytes) -> bool:
        """Take one read; False to stop reading, for now or for good."""

    @abstractmethod
    def _wants_more(self) -> bool:
        """The server may still send."""

    @abstractmethod
    def _end(self) -> None:
        """Nothing more can come."""

    def pause(self) -> None:
        """Read no more for now."""
        self._paused = True

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if self._parked is not None:
            self._parked.set()
            self._parked = None

    def close_soon(self) -> None:
        """Our last bytes are written: "the server closes first" (RFC 6455 section 7.1.1), if it does so soon."""
        self._reading.deadline = trio.current_time() + self.config.server.close_timeout

    async def sent(self) -> None:
        """Wait until everything that was written has left, or cannot any more."""
        with contextlib.suppress(ConnectionClosed):
            await self.outbox.drained()

    def start_writer(self) -> None:
        """For the outbox."""
        assert self._nursery is not None  # nothing is written before `start`
        self._nursery.start_soon(self.outbox.run_writer)

    def lose(self, _error: ConnectionClosed | LimitExceeded) -> None:
        """Writing failed: for the outbox, in the middle of a write."""
        self._reading.cancel()


class SwitchedConnection(ClientConnection):
    """A connection that was switched from HTTP/1.1.

    Args:
        stream: of this connection alone; closed at its end.
        head: the request that opened it.
        peer: who answered.
        config: read and write limits.
        trailing: what came behind the answer.
    """

    def __init__(self, stream: ByteStream, head: RequestHead, peer: Peer, config: Config, trailing: bytes) -> None:
        super().__init__(stream, config)
        self._stopped = False  # the server's last byte is here
        self.outbox = Outbox(stream, config.server, self.watchdog, on_failure=self.lose, start_writer=self.start_writer)
        self.exchange: SwitchedExchange = SwitchedExchange(self, head, peer, trailing)

    def _receive(self, data: bytes) -> bool:
        if not data:
            self._stopped = True
            return False
        self.exchange.sink(data)
        return not self._paused

    def _wants_more(self) -> bool:
        return not self._stopped

    def _end(self) -> None:
        self.exchange.sink(b"")


def _nobody(_data: bytes) -> None:
    """The sink before there is one."""


class SwitchedExchange(Exchange):
    """See `Exchange`: of its interface, what is left after the switch."""

    __slots__ = ("_connection", "_outbox", "_switched_at", "_trailing", "sink")

    def __init__(self, connection: SwitchedConnection, head: RequestHead, peer: Peer, trailing: bytes) -> None:
        # immutable
        self.head = head
        self.peer = peer
        self.config = connection.config
        self._connection = connection
        self._outbox = connection.outbox
        # owned by the connection
        self.scope = trio.CancelScope()  # nobody is in it
        self.cancel_reason = None
        self.status = 101
        self._switched_at = connection.outbox.written
        self.response_ended = False
        self.draining = False
        # owned by the WebSocket
        self.max_body = math.inf
        self.min_body_rate = 0
        self.on_cancelled = None
        self.on_draining = None
        self.sink: Callable[[bytes], None] = _nobody
        self._trailing = trailing

    # -- receiving ------------------------------------------------------------

    async def receive(self) -> bytes:
        raise _no_response()

    def receive_nowait(self) -> bytes | None:
        raise _no_response()

    def attach(self, sink: Callable[[bytes], None]) -> None:
        self.sink = sink
        if self._trailing:
            sink(self._trailing)

    def pause_receiving(self) -> None:
        self._connection.pause()

    def resume_receiving(self) -> None:
        self._connection.resume()

    # -- sending --------------------------------------------------------------

    def write_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        raise _no_response()

    def write_informational(self, status: int, headers: Fields = ()) -> None:
        raise _no_response()

    def write_trailers(self, headers: Fields) -> None:
        raise _no_response()

    def switch_protocol(self, headers: Fields = ()) -> None:
        raise _no_response()

    def write(self, data: bytes, *, end: bool = False) -> None:
        if not self.response_ended:
            self._outbox.write(data)

    @property
    def bytes_sent(self) -> int:
        return self._outbox.written - self._switched_at

    def writers(self) -> tuple[Callable[[bytes], bool], Callable[[bytes], bool]]:
        return self._outbox.send, self._outbox.send_soon

    def write_now(self, data: bytes) -> bool:
        if not self.response_ended:
            return self._outbox.send(data)
        return True

    def write_soon(self, data: bytes) -> bool:
        if not self.response_ended:
            return self._outbox.send_soon(data)
        return True

    @property
    def queued(self) -> int:
        return self._outbox.queued

    def flush(self) -> None:
        self._outbox.flush()

    def flush_soon(self) -> None:
        self._outbox.flush_soon()

    async def drain(self) -> None:
        await self._outbox.drain()
        await trio.lowlevel.checkpoint_if_cancelled()

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        self._outbox.call_when_writable(callback)

    # -- time and the end -----------------------------------------------------

    def timer(self, callback: Callable[[], None]) -> Timer:
        return self._connection.watchdog.timer(callback)

    def reset(self, code: Http2Code = Http2Code.CANCEL) -> None:
        self.response_ended = True
        self._connection.stream.abort()

    def close(self) -> None:
        if not self.response_ended:
            self.response_ended = True
            self._outbox.flush()
            self._outbox.release()
            self._connection.close_soon()


def _no_response() -> AssertionError:
    return AssertionError("a client's exchange has no response to write and no body to receive; attach to it")

"""Drives a connection of a custom protocol: bytes to its callbacks, with no task switch between.

Owns: the life of one `StreamProtocol` on one connection: its reads, its writes and their bounds, its
tasks, its end. What the bytes mean is the protocol's affair alone.

The callbacks run in the reader, synchronously. What they write during one read leaves in one system
call after it. A peer that does not take what is written is the protocol's to slow down for
(`pause_writing`), and is dropped at `server.outbox_size` all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, LimitExceeded, LimitKind
from engine.transport.exchange import Peer
from engine.transport.outbox import HIGH_WATER, Outbox
from engine.transport.statistics import ExchangeStatistics
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Timer, Watchdog

_log = logging.getLogger(__name__)

Arguments = TypeVarTuple("Arguments")


class StreamProtocol:
    """A protocol of your own over TCP, TLS or a Unix socket; derive from it and override what you need.

    An instance lives for one connection. The callbacks are synchronous and must not block; they are
    named as those of `asyncio.Protocol`. An exception that leaves one is logged and ends this
    connection, and no other.

    Attributes:
        connection: what to write to; set before `connection_made`.
    """

    connection: ProtocolConnection

    def connection_made(self) -> None:
        """The connection is open (and, over TLS, secured)."""

    def data_received(self, data: bytes) -> None:
        """Bytes came, cut wherever the network cut them."""
        raise NotImplementedError("override data_received")

    def eof_received(self) -> None:
        """The peer sends no more; it may still read. Closes, unless it is overridden."""
        self.connection.close()

    def pause_writing(self) -> None:
        """More than 64 KiB wait to be sent: write less until `resume_writing`."""

    def resume_writing(self) -> None:
        """What waited has left."""

    def drain_requested(self) -> None:
        """The server wants to stop, and cancels in `server.graceful_timeout`. Closes, unless overridden."""
        self.connection.close()

    def connection_lost(self, reason: str) -> None:
        """The connection is over; called once, last."""


class ProtocolConnection:
    """One connection, as a `StreamProtocol` sees it.

    Attributes:
        peer: who is at the other end.
        config: the server's settings.
    """

    def __init__(self, driver: ProtocolDriver) -> None:
        self.peer: Peer = driver.peer
        self.config: Config = driver.config
        self._driver = driver

    @property
    def queued(self) -> int:
        """Bytes written that the transport has not taken."""
        return self._driver.outbox.queued

    def write(self, data: bytes) -> None:
        """Send bytes, in order; never waits. Within a callback they leave when it and its read are done."""
        self._driver.write(data)

    def close(self) -> None:
        """Send what is queued, then close. Nothing more is received. Idempotent."""
        self._driver.close()

    def abort(self) -> None:
        """Close at once; what is queued is lost. Idempotent."""
        self._driver.lose("closed on our side")

    def pause_reading(self) -> None:
        """Call `data_received` no more, and let the peer's sends wait. Idempotent."""
        self._driver.pause()

    def resume_reading(self) -> None:
        """Undo `pause_reading`. Idempotent."""
        self._driver.resume()

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer that calls back synchronously, until the connection ends."""
        return self._driver.timer(callback)

    def start_soon(self, function: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
        """Run a coroutine function as a task of this connection; it is cancelled when that ends."""
        self._driver.nursery.start_soon(function, *arguments)


class ProtocolDriver:
    """One connection of a custom protocol.

    Args:
        stream: the transport; the caller closes it after `run`.
        config: the server's settings.
        peer: who is connected.
        factory: makes the protocol of this connection.
        watchdog: keeps the deadlines.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        config: Config,
        peer: Peer,
        factory: Callable[[], StreamProtocol],
        watchdog: Watchdog,
    ) -> None:
        # immutable
        self.config = config
        self.peer = peer
        self._stream = stream
        self._protocol = factory()
        self._protocol.connection = ProtocolConnection(self)
        self._watchdog = watchdog
        self.outbox = Outbox(
            stream,
            config.server,
            watchdog,
            on_failure=lambda error: self.lose(str(error)),
            start_writer=self._start_writer,
        )
        # owned by the connection task
        self.nursery: trio.Nursery
        self._reading = trio.CancelScope()
        self._parked: trio.Event | None = None  # the reader, while reading is paused
        self._paused = False
        self._in_callback = False
        self._writing_paused = False
        self._closing = False
        self._lost: str | None = None
        self._failure: Exception | None = None  # what a callback raised
        self._timers: list[Timer] = []
        self.draining = False

    @property
    def requests(self) -> int:
        """A custom protocol counts its own."""
        return 0

    def exchanges(self) -> list[ExchangeStatistics]:
        """None: they are HTTP's."""
        return []

    async def run(self, initial: bytes = b"") -> None:
        """Serve the connection until it is over. Cancelling it ends it at once.

        Args:
            initial: bytes that were read before.
        """
        try:
            async with trio.open_nursery() as self.nursery:
                with self._reading:
                    self._call(self._protocol.connection_made)
                    if not initial or self._receive(initial):
                        await self._read()
                if self._failure is None and self._lost is None:
                    await self._say_goodbye()
                self.nursery.cancel_scope.cancel()
        finally:
            for timer in self._timers:
                timer.clear()
            self.outbox.close()
            self._call(self._protocol.connection_lost, self._lost or "closed")
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """The server wants to stop."""
        self.draining = True
        self._call(self._protocol.drain_requested)

    def stop(self) -> None:
        """The grace is over."""
        self.lose("the server is stopping")

    async def _read(self) -> None:
        while not self._closing:
            if self._paused:
                self._parked = trio.Event()
                await self._parked.wait()
                continue
            try:
                await self._stream.pump(self._receive)
            except ConnectionClosed as error:
                self.lose(error.reason)

    def _receive(self, data: bytes) -> bool:
        if data:
            self._call(self._protocol.data_received, data)
            return not self._closing and not self._paused
        self._call(self._protocol.eof_received)
        if not self._closing:
            self._paused = True  # the protocol goes on writing; there is nothing to read any more
        return False

    def _call(self, callback: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
        """A callback, and then one write for all that it wrote.

        It may be called from another task (the watchdog's, the server's): what it raises is raised by
        `run`, in the connection's own, and meets the barrier there.
        """
        self._in_callback = True
        try:
            callback(*arguments)
        except Exception as error:
            self._failure = self._failure or error
            self.close()
        finally:
            self._in_callback = False
        self.outbox.flush()
        self._check_queue()

    async def _say_goodbye(self) -> None:
        """Let the last bytes arrive: closing over unread input would make the kernel destroy them."""
        try:
            await self.outbox.drained()
            with trio.move_on_after(self.config.server.close_timeout):
                await self._stream.send_eof()
                while await self._stream.receive_some():
                    pass
        except ConnectionClosed as error:
            self._lost = error.reason

    # -- for the protocol -----------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue, and send unless a callback is running."""
        if self._closing:
            return
        self.outbox.write(data)
        if not self._in_callback:
            self.outbox.flush()
            self._check_queue()

    def _check_queue(self) -> None:
        queued, limit = self.outbox.queued, self.config.server.outbox_size
        if queued > limit:
            what = "the queue of a peer that does not read"
            self.lose(str(LimitExceeded("server.outbox_size", limit, queued, kind=LimitKind.CAPACITY, what=what)))
            _log.info("connection %d: %s", self.peer.connection_id, self._lost)
        elif queued > HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self.nursery.start_soon(self._resume_writing)
            self._call(self._protocol.pause_writing)

    async def _resume_writing(self) -> None:
        try:
            await self.outbox.drained()
        except ConnectionClosed:
            return
        self._writing_paused = False
        self._call(self._protocol.resume_writing)

    def close(self) -> None:
        """Read no more; `run` sends what is queued."""
        self._closing = True
        self._reading.cancel()

    def lose(self, reason: str) -> None:
        """Send and read no more."""
        if self._lost is None:
            self._lost = reason
            self.close()
            self._stream.abort()

    def pause(self) -> None:
        """Read no more, for now."""
        self._paused = True

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if self._parked is not None:
            self._parked.set()
            self._parked = None

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer of the protocol's."""
        timer = self._watchdog.timer(lambda: self._call(callback))
        self._timers.append(timer)
        return timer

    def _start_writer(self) -> None:
        self.nursery.start_soon(self.outbox.run_writer)

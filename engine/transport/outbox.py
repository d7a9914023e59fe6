"""The one door by which bytes leave a connection.

Owns: what is queued for the wire, the non-blocking attempt, the writer task, and the deadline of a
peer that takes nothing. Never decides what to send.

A non-blocking `send` straight from the caller costs 2 µs and cannot be cancelled half way; what the
transport does not take is left to `run_writer`, the only caller of `send_all`, which can be.

Theory of operation. `write` queues. `flush` sends at once where the writer is not busy; `flush_soon`
wakes the writer, which runs when the tasks that are runnable now have run: what they all write leaves
in one system call. A `source` (the HTTP/2 scheduler) is asked for more only when the queue is empty,
so that fairness between streams is decided as late as possible.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from engine.config import ServerConfig
from engine.errors import ConnectionClosed, LimitExceeded, LimitKind
from engine.transport.parking import wake
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog

HIGH_WATER = 64 * 1024  # bytes queued before a well-behaved writer waits; asyncio's and Kestrel's
_JOINED = 64 * 1024  # bytes of small chunks that leave in one write; copying more would cost more than a call
_STALL_SLICE = 64 * 1024  # the write deadline starts anew for each: 2 KiB/s keep a slow reader alive


class Outbox:
    """Bytes waiting to leave, in order.

    Args:
        stream: where they go.
        config: `write_timeout` is used.
        watchdog: keeps the write deadline.
        on_failure: called once when the transport broke or stalled; the outbox discards from then on.
        source: asked for more bytes whenever the queue is empty.
        start_writer: starts `run_writer` in a task; called at the first need of one.
    """

    __slots__ = (
        "_callbacks",
        "_chunks",
        "_config",
        "_failure",
        "_idle",
        "_on_failure",
        "_released",
        "_size",
        "_source",
        "_stall",
        "_start_writer",
        "_stream",
        "_waiters",
        "_writer_busy",
        "_writer_started",
        "bytes_sent",
    )

    def __init__(
        self,
        stream: ByteStream,
        config: ServerConfig,
        watchdog: Watchdog,
        *,
        on_failure: Callable[[ConnectionClosed | LimitExceeded], None],
        start_writer: Callable[[], None],
        source: Callable[[], bytes] | None = None,
    ) -> None:
        # immutable
        self._stream = stream
        self._config = config
        self._on_failure = on_failure
        self._start_writer = start_writer
        self._source = source
        # owned by whoever writes
        self._chunks: list[bytes | memoryview] = []
        self._size = 0
        self._waiters: list[trio.lowlevel.Task] = []
        self._callbacks: list[Callable[[], None]] = []
        self._released = False  # nobody waits for room any more
        self._failure: ConnectionClosed | LimitExceeded | None = None
        self.bytes_sent = 0
        # owned by the writer
        self._writer_started = False
        self._writer_busy = False
        self._idle: trio.lowlevel.Task | None = None
        self._stall = watchdog.timer(self._stalled)

    @property
    def queued(self) -> int:
        """Bytes that the transport has not taken."""
        return self._size

    @property
    def written(self) -> int:
        """Bytes that were written, taken by the transport or not; after a failure, those that were taken."""
        return self.bytes_sent + self._size

    @property
    def failed(self) -> bool:
        """Everything written from here on is discarded."""
        return self._failure is not None

    def write(self, data: bytes) -> None:
        """Queue; discarded after a failure, for the handler learns of that by its scope."""
        if self._failure is None and data:
            self._chunks.append(data)
            self._size += len(data)

    def send(self, data: bytes) -> bool:
        """`write` and `flush`; without a detour where nothing is in front of it.

        Returns:
            False where more than the high-water mark is queued.
        """
        if self._size or self._writer_busy or self._failure is not None or self._source is not None:
            self.write(data)
            self.flush()
            return self._size <= HIGH_WATER
        try:
            sent = self._stream.send_nowait(data)
        except ConnectionClosed as error:
            self._fail(error)
            return True
        self.bytes_sent += sent
        if sent == len(data):
            return True
        self._size = len(data) - sent
        self._keep(data, sent)
        return self._size <= HIGH_WATER

    def send_soon(self, data: bytes) -> bool:
        """`write` and `flush_soon`. False where more than the high-water mark is queued."""
        if self._failure is not None:
            return True
        self._chunks.append(data)
        self._size += len(data)
        if self._idle is not None or not self._writer_started:
            self._wake_writer()
        return self._size <= HIGH_WATER

    def flush(self) -> None:
        """Send what the transport takes now; the writer does the rest."""
        if self._writer_busy or self._failure is not None:
            return
        data: bytes | memoryview
        chunks = self._chunks
        while True:
            if len(chunks) == 1:
                data = chunks.pop()
            elif not self._size:
                if self._source is None:
                    return
                data = self._source()
                if not data:
                    return
                self._size = len(data)
            else:
                data = self._next()
            try:
                sent = self._stream.send_nowait(data)
            except ConnectionClosed as error:
                self._fail(error)
                return
            self.bytes_sent += sent
            self._size -= sent
            if sent != len(data):
                self._keep(data, sent)
                return

    def _next(self) -> bytes | memoryview:
        """What is queued first: small chunks joined, large ones as they are."""
        chunks = self._chunks
        data = chunks[0]
        if len(chunks) == 1:
            chunks.clear()
        elif self._size <= _JOINED:
            data = b"".join(chunks)
            chunks.clear()
        else:
            size, count = len(data), 1
            while count < len(chunks) and size + len(chunks[count]) <= _JOINED:
                size += len(chunks[count])
                count += 1
            if count > 1:
                data = b"".join(chunks[:count])
            del chunks[:count]
        return data

    def _keep(self, data: bytes | memoryview, sent: int) -> None:
        """Leave to the writer what the transport has not taken."""
        self._chunks.insert(0, memoryview(data)[sent:] if sent else data)
        self._wake_writer()

    def flush_soon(self) -> None:
        """Send after the tasks that are runnable now, so that their writes join this one."""
        if not self._writer_busy and self._failure is None:
            self._wake_writer()

    async def drain(self) -> None:
        """`flush`, then wait while more than the high-water mark is queued.

        A checkpoint only where it waits; cancellation leaves the queue as it is.

        Raises:
            ConnectionClosed: the transport broke or stalled.
        """
        self.flush()
        while self._size > HIGH_WATER and self._failure is None and not self._released:
            await self._wait()
        if self._failure is not None:
            raise self._closed()

    def release(self) -> None:
        """The last was written: `drain` waits no longer, although the peer may take what is queued late or never."""
        self._released = True
        self._wake_waiters()

    async def drained(self) -> None:
        """Wait until everything has left.

        Raises:
            ConnectionClosed: the transport broke or stalled.
        """
        self.flush()
        while (self._size or self._writer_busy) and self._failure is None:
            await self._wait()
        if self._failure is not None:
            raise self._closed()

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once when at most the high-water mark is queued, or after a failure."""
        self._callbacks.append(callback)
        self.flush_soon()

    async def run_writer(self) -> None:
        """The writer task: the only caller of `send_all`. Ends when cancelled or after a failure."""
        while self._failure is None:
            self._writer_busy = True
            try:
                await self._send_queued()
            except ConnectionClosed as error:
                self._fail(error)
                return
            finally:
                self._writer_busy = False
                self._stall.clear()
            self._wake_waiters()
            if not self._size:
                await self._rest()

    async def _rest(self) -> None:
        """Wait until there is something to do; not after a failure, for then nobody would wake us."""
        if self._failure is None:
            self._idle = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_idle)

    async def _send_queued(self) -> None:
        """Send until nothing is queued and the source is dry."""
        write_timeout, stream = self._config.write_timeout, self._stream
        while self._failure is None:
            if self._size:
                data = self._next()
            else:
                data = self._source() if self._source is not None else b""
                if not data:
                    return
                self._size = len(data)
            rest = memoryview(data)[stream.send_nowait(data) :]
            while rest:
                self._stall.set(trio.current_time() + write_timeout)
                await stream.send_all(rest[:_STALL_SLICE])
                rest = rest[_STALL_SLICE:]
                if rest:
                    rest = rest[stream.send_nowait(rest) :]
            self.bytes_sent += len(data)
            self._size = max(self._size - len(data), 0)  # a failure meanwhile has set it to 0
            if self._size <= HIGH_WATER and (self._waiters or self._callbacks):
                self._wake_waiters()

    def close(self) -> None:
        """Discard what is queued and all that comes."""
        self._fail(ConnectionClosed(1006, "closed on our side"), report=False)

    def _wake_writer(self) -> None:
        if not self._writer_started:
            self._writer_started = True
            self._start_writer()
        elif self._idle is not None:
            idle, self._idle = self._idle, None
            wake(idle)

    def _abort_idle(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._idle = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _wait(self) -> None:
        task = trio.lowlevel.current_task()
        self._waiters.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            wake(task)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _stalled(self) -> None:
        limit = self._config.write_timeout
        self._fail(LimitExceeded("server.write_timeout", limit, kind=LimitKind.TIMEOUT, what="a write that stalls"))

    def _fail(self, error: ConnectionClosed | LimitExceeded, *, report: bool = True) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._chunks.clear()
        self._size = 0
        self._stall.clear()
        self._wake_waiters()
        if self._idle is not None:
            idle, self._idle = self._idle, None
            wake(idle)
        if report:
            self._on_failure(error)

    def _closed(self) -> ConnectionClosed:
        if isinstance(self._failure, ConnectionClosed):
            return ConnectionClosed(self._failure.code, self._failure.reason)
        return ConnectionClosed(1006, str(self._failure))

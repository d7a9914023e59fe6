"""Drives one outgoing HTTP/2 connection (RFC 9113): bytes to `Http2Core`, events to streams, requests out.

Owns: the reader, the slots of the peer's SETTINGS_MAX_CONCURRENT_STREAMS with the queue for them, what a
GOAWAY means for each stream, keep-alive PINGs (gRFC A8) and the orderly end. What a response means is the
business of the `StreamHandler` that opened the stream; whether it is asked for again is its caller's.

Every read is applied synchronously: a handler's methods are called from the reader and must not block.
A stream's handler hears exactly one of `ended` and `lost`, unless it reset the stream itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import outcome
import trio

from engine.config import ChannelConfig
from engine.errors import ConnectionClosed, Http2Code, LimitExceeded, LocalProtocolError
from engine.transport.moderation import ReadModeration
from engine.transport.outbox import Outbox
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog
from engine.wire.http2 import (
    ConnectionFailed,
    DataReceived,
    Fields,
    GoAwayReceived,
    Http2Core,
    PeerSettingsChanged,
    PingAcknowledged,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)

__all__ = ["Http2ClientConnection", "LossKind", "StreamHandler", "StreamLoss"]

_READ_SLICE = 64 * 1024  # responses are ours to wait for: larger bites than a server's
_SEND_BUFFER_SHARE = 2  # a sender that waited goes on at half of http2.send_buffer
_KEEPALIVE_PING = b"alive?  "


class LossKind(Enum):
    """Why a stream ended before its response did."""

    UNSENT = "unsent"  # its head never left: it may be repeated without limit
    UNPROCESSED = "unprocessed"  # the peer says that it has done nothing: REFUSED_STREAM, GOAWAY below it
    RESET = "reset"  # RST_STREAM of the peer's, or ours for a stream error of the peer
    CONNECTION = "connection"  # the connection is gone
    CLOSED = "closed"  # we closed the connection


@dataclass(frozen=True, slots=True)
class StreamLoss:
    """What a handler learns of a stream that ended early."""

    kind: LossKind
    reason: str  # "RST_STREAM CANCEL", "GOAWAY NO_ERROR", "connection lost: ..."
    code: int | None = None  # of RST_STREAM or GOAWAY


class StreamHandler(Protocol):
    """Who opened a stream. Called from the reader; must neither block nor raise."""

    def head_received(self, status: int, headers: Fields) -> None:
        """The response's final head."""

    def data_received(self, data: bytes, flow_length: int) -> None:
        """Body; give `flow_length` to `consumed` once it is used."""

    def ended(self, trailers: Fields) -> None:
        """The response is complete; the slot is free again."""

    def lost(self, loss: StreamLoss) -> None:
        """The stream is gone; the slot is free again."""

    def writable(self) -> None:
        """What was queued has shrunk to where a sender may go on."""


def code_name(code: int) -> str:
    """`CANCEL` for 8, `0xff` for what has no name."""
    try:
        return Http2Code(code).name
    except ValueError:
        return hex(code)


class Http2ClientConnection:
    """One connection, from its preface to its end.

    Args:
        stream: the transport; closed when `run` returns.
        config: the limits and the times of keep-alive.
        watchdog: keeps the deadlines.
        on_ready: called once, when the peer's SETTINGS have come.
        on_unusable: called once, when no stream can be opened any more.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        config: ChannelConfig,
        watchdog: Watchdog,
        on_ready: Callable[[], None],
        on_unusable: Callable[[], None],
        keepalive_time: float | None = None,
    ) -> None:
        # immutable
        self._stream = stream
        self._config = config
        self._on_ready = on_ready
        self._on_unusable = on_unusable
        self._low_water = config.http2.send_buffer // _SEND_BUFFER_SHARE
        self.peer_address = stream.peer_address
        self.core = Http2Core(config.http2, client=True)
        self.outbox = Outbox(
            stream,
            config.server,
            watchdog,
            on_failure=self._on_outbox_failure,
            start_writer=self._start_writer,
            source=self._next_write,
        )
        # owned by the connection task
        self._nursery: trio.Nursery | None = None
        self._reading = trio.CancelScope()
        self._over = False
        self.ready = False
        self.usable = True  # new streams may be opened
        self.too_many_pings = False
        self.ended_by = ""  # what made it unusable
        self._goaway: GoAwayReceived | None = None
        # slots
        self._handlers: dict[int, StreamHandler] = {}
        self._blocked: set[int] = set()  # streams whose sender waits
        self._max_streams = 0
        self.max_header_list = math.inf  # bytes of a request's fields that the server takes
        self._reserved = 0
        self._waiting: deque[trio.lowlevel.Task] = deque()
        # reading
        self._moderation = ReadModeration()
        self._pause = 0.0  # seconds until the next read
        # keep-alive
        self._keepalive_time = max(keepalive_time or config.keepalive_time, config.min_keepalive_time)
        self._last_read = 0.0
        self._pinged = False
        self._keepalive = watchdog.timer(self._keepalive_due)

    # -- the connection -------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it is over. Cancelling it loses every stream at once."""
        if self._over:  # closed before it began
            await self._stream.aclose()
            return
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._last_read = trio.current_time()
                self.core.initiate()
                self.outbox.flush()
                with self._reading:
                    await self._read()
                await self._say_goodbye()
                nursery.cancel_scope.cancel()
        finally:
            self._lose(LossKind.CLOSED, "the connection was closed on our side")
            self._keepalive.clear()
            self.outbox.close()
            await self._stream.aclose()

    def close(self, reason: str = "the channel was closed") -> None:
        """End it in order: streams are cancelled, GOAWAY leaves. Synchronous, idempotent."""
        if self._over:
            return
        if self._nursery is not None:  # else nothing has left yet, and nothing will
            for stream_id in list(self._handlers):
                self.core.reset_stream(stream_id, Http2Code.CANCEL)
            self.core.go_away(0, Http2Code.NO_ERROR)
            self.outbox.flush()
        self._lose(LossKind.CLOSED, reason)

    def retire(self, reason: str) -> None:
        """Open no more streams; close when the last one has ended."""
        self._stop_accepting(reason)
        self._check_done()

    async def _read(self) -> None:
        while not self._over:
            try:
                await self._stream.pump(self._receive, _READ_SLICE)
            except ConnectionClosed as error:
                self._lose(LossKind.CONNECTION, f"connection lost: {error.reason}")
                return
            if self._pause:
                await trio.sleep(self._pause)
            elif not self._over:
                # Paused: replies that the peer does not read wait in memory; read on when they left.
                try:
                    await self.outbox.drained()
                except ConnectionClosed:
                    return

    def _receive(self, data: bytes) -> bool:
        """Apply one read: no awaiting."""
        core = self.core
        if data:
            self._last_read = now = trio.current_time()
            if self._pinged:
                self._pinged = False
                self._keepalive.set(now + self._keepalive_time)
            core.receive_data(data, now)
        else:
            core.receive_eof()
        event = core.next_event()
        while event is not None:
            apply = _APPLY.get(type(event))
            if apply is not None:
                apply(self, event)
            event = core.next_event()
        if not data:
            self._lose(LossKind.CONNECTION, "connection lost: the server closed it")
            return False
        if core.sendable:
            self.outbox.flush()
        if self._over or core.control_backlog >= self._config.http2.max_control_backlog:
            self._pause = 0.0
            return False
        self._pause = self._moderation.pause(len(self._handlers))
        return not self._pause

    async def _say_goodbye(self) -> None:
        """Let the last bytes arrive: closing over unread input would make the kernel destroy them."""
        with trio.move_on_after(self._config.close_timeout):
            try:
                await self.outbox.drained()
                await self._stream.send_eof()
                while await self._stream.receive_some():
                    pass
            except ConnectionClosed:
                return

    def _lose(self, kind: LossKind, reason: str) -> None:
        """The peer can no longer be reached."""
        if self._over:
            return
        self._over = True
        code = None
        if self._goaway is not None:
            code = self._goaway.code
            reason = f"{reason}, after {_describe(self._goaway)}"
        self._stop_accepting(reason)
        handlers, self._handlers = self._handlers, {}
        for stream_id, handler in handlers.items():
            unsent = kind is not LossKind.CLOSED and not self.core.head_left(stream_id)
            handler.lost(StreamLoss(LossKind.UNSENT if unsent else kind, reason, code))
        self._reading.cancel()

    def _stop_accepting(self, reason: str) -> None:
        if not self.usable:
            return
        self.usable = False
        self.ended_by = reason
        waiting, self._waiting = self._waiting, deque()
        for task in waiting:
            trio.lowlevel.reschedule(task, outcome.Value(False))
        self._on_unusable()

    def _check_done(self) -> None:
        """After GOAWAY the last stream takes the connection with it."""
        if not self.usable and not self._handlers and not self._reserved and not self._over:
            self.close(self.ended_by)

    def _on_outbox_failure(self, error: ConnectionClosed | LimitExceeded) -> None:
        reason = error.reason if isinstance(error, ConnectionClosed) else str(error)
        self._lose(LossKind.CONNECTION, f"connection lost: {reason}")

    def _start_writer(self) -> None:
        assert self._nursery is not None  # set before the first flush
        self._nursery.start_soon(self.outbox.run_writer)

    # -- slots ----------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """Streams that are running."""
        return len(self._handlers)

    @property
    def has_slot(self) -> bool:
        """A stream may be opened right now, and nobody waits to open one."""
        return (
            self.ready
            and self.usable
            and len(self._handlers) + self._reserved < self._max_streams
            and not self._waiting
        )

    async def reserve(self) -> bool:
        """Wait, first come first served, for a slot; `open` uses it up, `release` gives it back.

        A checkpoint only where it waits. Cancellation gives up the place in the queue.

        Returns:
            False: the connection takes no more streams.
        """
        if self.has_slot:
            self._reserved += 1
            return True
        if not self.usable:
            return False
        task = trio.lowlevel.current_task()
        self._waiting.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        granted: bool = await trio.lowlevel.wait_task_rescheduled(abort)
        return granted

    def release(self) -> None:
        """Give back a slot that `reserve` gave and `open` did not use."""
        self._reserved -= 1
        self._grant()
        self._check_done()

    def _grant(self) -> None:
        """Hand free slots to those who wait, in their order."""
        while self._waiting and self.usable and len(self._handlers) + self._reserved < self._max_streams:
            self._reserved += 1
            trio.lowlevel.reschedule(self._waiting.popleft(), outcome.Value(True))

    def open(self, handler: StreamHandler, fields: Fields, *, reserved: bool, single: bool = False) -> int | None:
        """Queue a request's head; `flush` or `flush_soon` sends it.

        Args:
            reserved: the slot is one of `reserve`; else `has_slot` has just been seen.
            single: the handler waits for the whole response: its parts may come a little later.

        Returns:
            The stream's id; None where the connection has become unusable, the slot is given back.

        Raises:
            LocalProtocolError: a field that HTTP cannot carry.
        """
        if not self.usable:
            if reserved:
                self.release()
            return None
        try:
            stream_id = self.core.next_stream_id()
        except LocalProtocolError as error:
            if reserved:
                self._reserved -= 1
            self.retire(str(error))
            return None
        try:
            self.core.send_headers(stream_id, fields)
        except LocalProtocolError:
            if reserved:
                self.release()
            raise
        if reserved:
            self._reserved -= 1
        if not self._handlers:
            self._begin_keepalive()
        self._handlers[stream_id] = handler
        if single:
            self._moderation.opened(stream_id, trio.current_time())
        return stream_id

    def _pop(self, stream_id: int) -> StreamHandler | None:
        """A stream is over: its slot is free."""
        handler = self._handlers.pop(stream_id, None)
        self._moderation.forget(stream_id)
        if self._blocked:
            self._blocked.discard(stream_id)
        if self._waiting:
            self._grant()
        if not self.usable:
            self._check_done()
        return handler

    # -- streams --------------------------------------------------------------

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue body; see `queued` and `notify_when_writable`."""
        self.core.send_data(stream_id, data, end_stream=end)

    def queued(self, stream_id: int) -> int:
        """Bytes of body that wait to leave."""
        return self.core.queued(stream_id)

    def notify_when_writable(self, stream_id: int) -> None:
        """Call the handler's `writable` when half of `http2.send_buffer` is free again."""
        self._blocked.add(stream_id)

    def consumed(self, stream_id: int, flow_length: int) -> None:
        """So much of a body was used: credit for as much goes back, in batches."""
        core = self.core
        core.consumed(stream_id, flow_length)
        if core.control_backlog:
            self.outbox.flush_soon()

    def reset(self, stream_id: int, code: Http2Code) -> None:
        """Give a stream up; its handler hears nothing more."""
        self.core.reset_stream(stream_id, code)
        self._pop(stream_id)
        self.outbox.flush()

    def flush(self) -> None:
        """Now where one stream runs, at the end of the tick where others may join the write.

        A full batch goes at once: the server works on it while the callers behind it run.
        """
        if len(self._handlers) > 1 and not self.core.batch_full:
            self.outbox.flush_soon()
        else:
            self.outbox.flush()

    def _next_write(self) -> bytes:
        data = self.core.data_to_send()
        if data and self._blocked:
            for stream_id in [each for each in self._blocked if self.core.queued(each) <= self._low_water]:
                self._blocked.discard(stream_id)
                handler = self._handlers.get(stream_id)
                if handler is not None:
                    handler.writable()
        return data

    # -- events ---------------------------------------------------------------

    def _on_response(self, event: ResponseReceived) -> None:
        handler = self._handlers.get(event.stream_id)
        if handler is None or event.status < 200:
            return  # RFC 9113 8.1: interim responses may come at any time; nobody here waits for one
        handler.head_received(event.status, event.headers)
        if event.end_stream:
            self._end(event.stream_id, ())

    def _on_data(self, event: DataReceived) -> None:
        stream_id = event.stream_id
        handler = self._handlers.get(stream_id)
        if handler is None:
            self.core.consumed(stream_id, event.flow_length)
            return
        handler.data_received(event.data, event.flow_length)
        if event.end_stream:
            self._end(stream_id, ())

    def _on_trailers(self, event: TrailersReceived) -> None:
        self._end(event.stream_id, event.headers)

    def _end(self, stream_id: int, trailers: Fields) -> None:
        self._moderation.ended(stream_id, self._last_read)
        handler = self._pop(stream_id)
        if handler is None:
            return
        queued = self.core.queued(stream_id)
        # PROTOCOL-HTTP2, "Early Server Closure": the response is complete although the request is not.
        # Ignored by the core where the stream has ended on both sides.
        self.core.reset_stream(stream_id, Http2Code.CANCEL if queued else Http2Code.NO_ERROR)
        handler.ended(trailers)

    def _on_reset(self, event: StreamReset) -> None:
        handler = self._pop(event.stream_id)
        if handler is None:
            return
        name = code_name(event.code)
        if not event.by_peer:
            reason = f"a stream error of the server, answered with RST_STREAM {name}"
            handler.lost(StreamLoss(LossKind.RESET, reason, event.code))
            return
        refused = event.code == Http2Code.REFUSED_STREAM
        kind = LossKind.UNPROCESSED if refused else LossKind.RESET
        handler.lost(StreamLoss(kind, f"RST_STREAM {name}", event.code))

    def _on_settings(self, event: PeerSettingsChanged) -> None:
        self._max_streams = self.core.peer_max_streams
        limit = self.core.peer_max_header_list
        self.max_header_list = math.inf if limit is None else limit
        if not self.ready:
            self.ready = True
            if self._config.keepalive_without_calls:
                self._begin_keepalive()
            self._on_ready()
        self._grant()

    def _on_goaway(self, event: GoAwayReceived) -> None:
        """RFC 9113 6.8: streams above the id were not processed; the others may finish."""
        self._goaway = event
        if event.code == Http2Code.ENHANCE_YOUR_CALM and event.debug == b"too_many_pings":
            self.too_many_pings = True
        reason = _describe(event)
        self._stop_accepting(reason)
        for stream_id in [each for each in self._handlers if each > event.last_stream_id]:
            handler = self._handlers.pop(stream_id)
            self._moderation.forget(stream_id)
            self._blocked.discard(stream_id)
            unsent = not self.core.head_left(stream_id)
            self.core.reset_stream(stream_id, Http2Code.CANCEL)
            handler.lost(StreamLoss(LossKind.UNSENT if unsent else LossKind.UNPROCESSED, reason, event.code))
        self._check_done()

    def _on_ping_acknowledged(self, event: PingAcknowledged) -> None:
        self._pinged = False

    def _on_failed(self, event: ConnectionFailed) -> None:
        self.outbox.flush()  # the GOAWAY that says why
        self._lose(LossKind.CONNECTION, f"connection failed: {event.error}")

    # -- keep-alive -----------------------------------------------------------

    def _begin_keepalive(self) -> None:
        if self._keepalive_time != math.inf and not self._keepalive.armed:
            # After a quiet time without calls the first byte may be long ago: count from now.
            self._last_read = max(self._last_read, trio.current_time())
            self._keepalive.set(self._last_read + self._keepalive_time)

    def _keepalive_due(self) -> None:
        now = trio.current_time()
        if self._pinged:
            timeout = self._config.keepalive_timeout
            self._lose(LossKind.CONNECTION, f"connection lost: no answer to a keep-alive PING in {timeout:g} s")
            self._stream.abort()
        elif not self._handlers and not self._config.keepalive_without_calls:
            return  # dormant until the next stream
        elif now < self._last_read + self._keepalive_time:
            self._keepalive.set(self._last_read + self._keepalive_time)
        else:
            self._pinged = True
            self.core.ping(_KEEPALIVE_PING)
            self.outbox.flush()
            self._keepalive.set(now + self._config.keepalive_timeout)


def _describe(event: GoAwayReceived) -> str:
    debug = f" ({event.debug.decode('utf-8', 'replace')[:100]})" if event.debug else ""
    return f"GOAWAY {code_name(event.code)}{debug}"


_APPLY: dict[type[object], Callable[[Http2ClientConnection, Any], None]] = {
    ResponseReceived: Http2ClientConnection._on_response,
    DataReceived: Http2ClientConnection._on_data,
    TrailersReceived: Http2ClientConnection._on_trailers,
    StreamReset: Http2ClientConnection._on_reset,
    PeerSettingsChanged: Http2ClientConnection._on_settings,
    GoAwayReceived: Http2ClientConnection._on_goaway,
    PingAcknowledged: Http2ClientConnection._on_ping_acknowledged,
    ConnectionFailed: Http2ClientConnection._on_failed,
}

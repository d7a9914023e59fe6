"""Drives one HTTP/2 connection (RFC 9113): bytes to `Http2Core`, events to exchanges, replies out.

Owns: the reader, a task for each exchange, the deadlines of the connection and its drain. What bytes
mean is `engine.wire.http2`'s; what a request means is the handler's.

Every read is applied synchronously and as a whole before the first handler of it starts, so that a
stream that is reset in the same read costs no task. Handlers are counted beside streams: a place is
free again when the handler has ended and its response has left (CVE-2023-44487, CVE-2025-8671).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, Http2Code, LimitExceeded, RemoteProtocolError, answer_for
from engine.transport.exchange import CancelReason, Exchange, Peer
from engine.transport.http2_exchange import EARLY_END_DELAY, Http2Exchange
from engine.transport.http2_policies import Http2Policies
from engine.transport.outbox import Outbox
from engine.transport.request_heads import RequestHeads
from engine.transport.statistics import ExchangeStatistics, describe_exchange
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog
from engine.wire.grpc import status as grpc_status
from engine.wire.http2 import (
    ConnectionFailed,
    DataReceived,
    GoAwayReceived,
    Http2Core,
    PingAcknowledged,
    RequestReceived,
    RequestRefused,
    StreamReset,
    TrailersReceived,
)

_READ_SLICE = 16 * 1024  # h2 works through a whole buffer in one go: small bites keep others alive
_DRAIN_PING = b"drained?"
_HANDLERS_PER_STREAM = 2  # Kestrel tracks as many streams
_MAX_STREAM_ID = 2**31 - 1


class Http2Driver:
    """One connection, from its preface to its end.

    Args:
        stream: the transport; the caller closes it after `run`.
        config: the server's settings.
        peer: who is connected.
        handler: runs one exchange; must not raise `Exception`.
        watchdog: keeps the deadlines.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        config: Config,
        peer: Peer,
        handler: Callable[[Exchange], Awaitable[None]],
        watchdog: Watchdog,
    ) -> None:
        # immutable
        self.config = config
        self.peer = peer
        self.watchdog = watchdog
        self._stream = stream
        self._handler = handler
        self.core = Http2Core(config.http2, enable_connect_protocol=True)
        self.outbox = Outbox(
            stream,
            config.server,
            watchdog,
            on_failure=self._on_outbox_failure,
            start_writer=self._start_writer,
            source=self._next_write,
        )
        self._heads = RequestHeads("https" if peer.tls else "http")
        # owned by the connection task
        self._nursery: trio.Nursery | None = None
        self._reading = trio.CancelScope()
        self._started: list[Http2Exchange] = []
        self._lost: str | None = None
        self._over = False  # GOAWAY with an error is out, or the peer is gone
        self._draining = False
        self._drain_debug = b""
        self._final_goaway = False
        # the exchanges, by stream: running, or ended with data still queued
        self.running = 0
        self._exchanges: dict[int, Http2Exchange] = {}
        self._finishing: set[Http2Exchange] = set()
        self.waiting: set[Http2Exchange] = set()  # in `drain`, for their stream's queue to shrink
        self.recheck = False  # somebody waits whose queue may be small enough already
        # deadlines
        self._preface_timer = watchdog.timer(self._preface_late)
        self._block_timer = watchdog.timer(self._header_block_late)
        self._settings_timer = watchdog.timer(self._settings_ack_late)
        self._idle_timer = watchdog.timer(self._idle)
        self._drain_timer = watchdog.timer(self._send_final_goaway)
        self._policies = Http2Policies(self)

    # -- the connection -------------------------------------------------------

    async def run(self, initial: bytes = b"") -> None:
        """Serve the connection until it is over. Cancelling it ends every exchange at once.

        Args:
            initial: bytes that were read to find out that this is HTTP/2.
        """
        settings = self.config.http2
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.core.initiate()
                now = trio.current_time()
                self._preface_timer.set(now + settings.preface_timeout)
                self._policies.start(now)
                self.outbox.flush()
                if self._draining:
                    self._begin_drain()
                with self._reading:
                    if not initial or self._receive(initial):
                        await self._read()
                if self._lost is None:
                    await self._say_goodbye()
                self.lose(self._lost or "the connection has ended")
                nursery.cancel_scope.cancel()
        finally:
            for timer in (
                self._preface_timer,
                self._block_timer,
                self._settings_timer,
                self._idle_timer,
                self._drain_timer,
            ):
                timer.clear()
            self._policies.end()
            self.outbox.close()

    def stop(self) -> None:
        """The grace is over: cancel what still runs, and end the connection."""
        for exchange in list(self._exchanges.values()):
            exchange.cancel(CancelReason.SHUTDOWN)
        self._final_goaway = True
        self._check_done()

    def drain(self, debug: str = "") -> None:
        """Begin the graceful end (RFC 9113 6.8): exchanges finish, new ones are refused. Idempotent.

        Args:
            debug: why, for the client's log.
        """
        if not self._draining:
            self._draining = True
            self._drain_debug = debug.encode()
            if self._nursery is not None and not self._over:
                self._begin_drain()

    @property
    def draining(self) -> bool:
        """The end has begun."""
        return self._draining

    @property
    def requests(self) -> int:
        """Requests so far."""
        return self.core.traffic.streams

    def exchanges(self) -> list[ExchangeStatistics]:
        """What is under way."""
        return [describe_exchange(exchange, number) for number, exchange in self._exchanges.items()]

    @property
    def has_exchanges(self) -> bool:
        """A request is under way."""
        return bool(self._exchanges)

    async def _read(self) -> None:
        """Feed the core until the connection is over."""
        while not self._over:
            try:
                await self._stream.pump(self._receive, _READ_SLICE)
            except ConnectionClosed as error:
                self.lose(error.reason)
                return
            if not self._over:
                # Paused: replies that the peer does not read wait in memory; read on when they left.
                try:
                    await self.outbox.drained()
                except ConnectionClosed:
                    return

    def _receive(self, data: bytes) -> bool:
        """Apply one read: no awaiting, no user code."""
        core = self.core
        if not data:
            core.receive_eof()
            self.lose("the peer closed the connection")
            return False
        now = trio.current_time()
        core.receive_data(data, now)
        event = core.next_event()
        while event is not None:
            apply = _APPLY.get(type(event))
            if apply is not None:
                apply(self, event)
            event = core.next_event()
        self._policies.received(now)
        if self._preface_timer.armed and core.preface_complete:
            self._preface_timer.clear()
            self._settings_timer.set(trio.current_time() + self.config.http2.settings_ack_timeout)
            self._check_idle()
        if core.header_block_open:
            if not self._block_timer.armed:
                self._block_timer.set(trio.current_time() + self.config.http2.header_block_timeout)
        elif self._block_timer.armed:
            self._block_timer.clear()
        if self._started:
            self._start_exchanges()
        if core.sendable:  # replies, and DATA that this read has opened a window for
            self.outbox.flush()
        return not self._over and core.control_backlog < self.config.http2.max_control_backlog

    def _start_exchanges(self) -> None:
        started, self._started = self._started, []
        assert self._nursery is not None  # set before the first read
        for exchange in started:
            if exchange.cancel_reason is None:
                self.running += 1
                self._nursery.start_soon(self._run_exchange, exchange)
            else:
                self._forget(exchange)

    def lose(self, reason: str) -> None:
        """The peer can no longer be reached: every handler learns of it at once."""
        if self._lost is not None:
            return
        self._lost = reason
        self._over = True
        for exchange in list(self._exchanges.values()):
            exchange.abandon(CancelReason.CONNECTION_LOST, reason)
        self._reading.cancel()

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        """The core gave the connection up; its GOAWAY is queued."""
        self._over = True
        for exchange in list(self._exchanges.values()):
            exchange.abandon(CancelReason.CONNECTION_LOST, str(error))
        self.outbox.flush()
        self._reading.cancel()

    async def _say_goodbye(self) -> None:
        """Let the last bytes arrive: closing over unread input would make the kernel destroy them."""
        with trio.move_on_after(self.config.server.close_timeout):
            try:
                await self.outbox.drained()
                await self._stream.send_eof()
                while await self._stream.receive_some():
                    pass
            except ConnectionClosed:
                return

    def _on_outbox_failure(self, error: ConnectionClosed | LimitExceeded) -> None:
        self.lose(str(error))

    def _start_writer(self) -> None:
        assert self._nursery is not None  # set before the first flush
        self._nursery.start_soon(self.outbox.run_writer)

    # -- events ---------------------------------------------------------------

    def _on_request(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if self._final_goaway or self._is_full():
            self.core.refuse(stream_id)
            return
        head = self._heads.head_for(event)
        self._policies.request(head)
        exchange = Http2Exchange(self, stream_id, head, event.head.content_length or 0)
        exchange.draining = self._draining
        if event.end_stream:
            exchange.body_ended()
        self._exchanges[stream_id] = exchange
        self._started.append(exchange)
        if self._idle_timer.armed:
            self._idle_timer.clear()

    def _is_full(self) -> bool:
        """The client opened more streams than were announced, or its resets leave handlers behind.

        A handler may end after its last frame has left, and an honest client opens the next stream
        by then: so handlers are bounded at a multiple of what is announced.
        """
        most, exchanges = self.config.http2.max_concurrent_streams, len(self._exchanges)
        if exchanges < most:
            return False
        return self.core.open_streams > most or exchanges >= most * _HANDLERS_PER_STREAM

    def _on_refused(self, event: RequestRefused) -> None:
        if event.grpc:
            limit = self.config.grpc.max_status_message_size
            code = answer_for(event.error).grpc_code
            status = grpc_status.trailers(code, str(event.error), max_message_size=limit)
            head = ((b":status", b"200"), (b"content-type", b"application/grpc"), *status)
            self.core.send_headers(event.stream_id, head, end_stream=True)
        else:
            text = f"{event.error}\n".encode()
            fields = (
                (b":status", str(event.status).encode()),
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(text)).encode()),
            )
            self.core.send_headers(event.stream_id, fields)
            self.core.send_data(event.stream_id, text, end_stream=True)
        if not event.end_stream:
            self.core.ignore_body(event.stream_id)
            stop = self.watchdog.timer(lambda: self._stop_upload(event.stream_id))
            stop.set(trio.current_time() + EARLY_END_DELAY)
        self.outbox.flush_soon()

    def _stop_upload(self, stream_id: int) -> None:
        self.core.finish_early(stream_id)
        self.outbox.flush()

    def _on_data(self, event: DataReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            self.core.consumed(event.stream_id, event.flow_length)
            return
        exchange.body_received(event.data, event.flow_length)
        if event.end_stream:
            exchange.body_ended()

    def _on_trailers(self, event: TrailersReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            exchange.trailers = event.headers
            exchange.body_ended()

    def _on_reset(self, event: StreamReset) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            who = "the peer" if event.by_peer else "a stream error of the peer"
            exchange.abandon(CancelReason.PEER_RESET, f"{who} reset the stream with {event.code}")

    def _on_ping_acknowledged(self, event: PingAcknowledged) -> None:
        if event.payload == _DRAIN_PING and self._draining:
            self._send_final_goaway()

    def _on_goaway(self, event: GoAwayReceived) -> None:
        """The client opens no more streams; those that are open finish, unless it has failed.

        RFC 9113 5.4.1: after a GOAWAY for an error it "MUST close the TCP connection": nobody waits for an answer.
        """
        if event.code != Http2Code.NO_ERROR:
            self.lose(f"the peer ended the connection with error {event.code:#x}")
            return
        self._check_done()

    def _on_failed(self, event: ConnectionFailed) -> None:
        self._fail(event.error)

    # -- exchanges ------------------------------------------------------------

    async def _run_exchange(self, exchange: Http2Exchange) -> None:
        try:
            with exchange.scope:
                await self._handler(exchange)
            if exchange.scope.cancelled_caught:
                reason = exchange.cancel_reason or CancelReason.DEADLINE
                exchange.cancel_reason = reason
                if exchange.on_cancelled is not None:
                    exchange.on_cancelled(reason)
        finally:
            self.running -= 1
            exchange.finish()
            if exchange.is_flushed:
                self._forget(exchange)
            else:
                self._finishing.add(exchange)

    def _forget(self, exchange: Http2Exchange) -> None:
        exchange.release()
        if self._exchanges.pop(exchange.stream_id, None) is not None and not self._exchanges:
            self._check_idle()

    def forget_finished(self) -> None:
        """Free the slots of exchanges whose last bytes have left; the others must not stall for ever."""
        for exchange in list(self._finishing):
            if exchange.is_flushed:
                self._finishing.discard(exchange)
                self._forget(exchange)
            elif not exchange.stall_watched:
                exchange.watch_stall()

    def _check_idle(self) -> None:
        if self._draining:
            self._check_done()
        elif not self._exchanges and not self._preface_timer.armed and not self._over:
            self._idle_timer.set(trio.current_time() + self.config.http2.idle_timeout)

    # -- sending --------------------------------------------------------------

    def _next_write(self) -> bytes:
        """The outbox is empty: what goes next, decided as late as possible."""
        data = self.core.data_to_send()
        if data:
            # A thousand streams may stand still: they are looked at where a queue can have shrunk.
            if self.waiting and (self.core.body_left or self.recheck):
                self.recheck = False
                for exchange in [each for each in self.waiting if each.below_high_water]:
                    exchange.wake()
            if self._finishing:
                self.forget_finished()
        return data

    @property
    def high_water(self) -> int:
        """Bytes that a stream may have queued before its writer waits.

        A client that does not read must not cost a full buffer for each of a thousand streams. A stream whose
        window is open soon has nothing queued, so one that stands still never stops another.
        """
        settings = self.config.http2
        return min(settings.send_buffer, settings.connection_send_buffer // (len(self.waiting) + 1))

    def flush(self) -> None:
        """Now where one handler runs, at the end of the tick where others may join the write.

        A full batch goes at once: the client works on it while the handlers behind it run.
        """
        if self.running > 1 and not self.core.batch_full:
            self.outbox.flush_soon()
        else:
            self.outbox.flush()

    # -- drain and deadlines --------------------------------------------------

    def _begin_drain(self) -> None:
        self._idle_timer.clear()
        self.core.go_away(_MAX_STREAM_ID, Http2Code.NO_ERROR, self._drain_debug)
        self.core.ping(_DRAIN_PING)
        self._drain_timer.set(trio.current_time() + self.config.http2.drain_ping_timeout)
        self.outbox.flush()
        for exchange in list(self._exchanges.values()):
            exchange.draining = True
            if exchange.on_draining is not None:
                exchange.on_draining()

    def _send_final_goaway(self) -> None:
        if self._final_goaway or self._over:
            return
        self._final_goaway = True
        self._drain_timer.clear()
        self.core.go_away(self.core.last_peer_stream_id, Http2Code.NO_ERROR, self._drain_debug)
        self.outbox.flush()
        self._check_done()

    def _check_done(self) -> None:
        if self._final_goaway and not self._exchanges and not self._over:
            self._over = True
            self._reading.cancel()

    def give_up(self, code: Http2Code, debug: str) -> None:
        """End the connection now: GOAWAY with this code and text."""
        if self._over:
            return
        self._over = True
        self.core.go_away(self.core.last_peer_stream_id, code, debug.encode())
        for exchange in list(self._exchanges.values()):
            exchange.abandon(CancelReason.CONNECTION_LOST, debug)
        self.outbox.flush()
        self._reading.cancel()

    def _preface_late(self) -> None:
        self.give_up(Http2Code.SETTINGS_TIMEOUT, "http2.preface_timeout")

    def _settings_ack_late(self) -> None:
        if not self.core.settings_acknowledged:
            self.give_up(Http2Code.SETTINGS_TIMEOUT, "http2.settings_ack_timeout")

    def _header_block_late(self) -> None:
        self.give_up(Http2Code.ENHANCE_YOUR_CALM, "http2.header_block_timeout")

    def _idle(self) -> None:
        if not self._exchanges:
            self.give_up(Http2Code.NO_ERROR, "max_idle")  # gRFC A9's word


_APPLY: dict[type[object], Callable[[Http2Driver, Any], None]] = {
    RequestReceived: Http2Driver._on_request,
    RequestRefused: Http2Driver._on_refused,
    DataReceived: Http2Driver._on_data,
    TrailersReceived: Http2Driver._on_trailers,
    StreamReset: Http2Driver._on_reset,
    PingAcknowledged: Http2Driver._on_ping_acknowledged,
    GoAwayReceived: Http2Driver._on_goaway,
    ConnectionFailed: Http2Driver._on_failed,
}

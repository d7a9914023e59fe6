"""Drives one HTTP/1 connection (RFC 9112): bytes to `Http1Core`, events to exchanges, replies out.

Owns: the reader, the task that runs the handlers one after the other, the deadlines of the connection,
how it ends, and the answers to what never reaches a handler. What bytes mean is `engine.wire.http1`'s.

Reading goes on while a handler runs, so that a lost peer is noticed; it stops when what nobody has
taken yet, body or pipelined requests, fills `http1.receive_buffer`.

How a connection ends (`_Ending`): NOW, when nothing is under way. LINGER, after a response: send it
all, end our direction, then read and discard for `server.close_timeout`; closing over unread input
would make the kernel send a reset, which destroys the answer that the peer has not read yet (RFC 9112
9.6). ABORT, when a response was cut short, so that nobody takes it for whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, LimitExceeded, LimitKind, RemoteProtocolError, answer_for
from engine.transport.date import http_date
from engine.transport.exchange import CancelReason, Exchange, Peer
from engine.transport.http1_exchange import Http1Exchange
from engine.transport.outbox import Outbox
from engine.transport.statistics import ExchangeStatistics, describe_exchange
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog
from engine.wire.http1 import BodyReceived, Http1Core, RequestEnded, RequestReceived

_CANCELLED_TEXT = {
    CancelReason.DEADLINE: "the handler did not finish before its deadline; try again later",
    CancelReason.SHUTDOWN: "the server is stopping; try again",
}


class _Phase(Enum):
    """What the connection's one deadline is for."""

    NONE = auto()  # a handler runs, and has its request
    IDLE = auto()  # http1.keep_alive_timeout
    HEAD = auto()  # http1.head_timeout, from the head's first byte
    BODY = auto()  # http1.min_body_rate
    DISCARD = auto()  # the rest of a body that nobody wants
    HALF_CLOSED = auto()  # http1.half_close_grace


class _Ending(Enum):
    """How a connection ends; the higher value wins."""

    NOW = 1
    LINGER = 2
    ABORT = 3


class Http1Driver:
    """One connection, from its first request to its end.

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
        self.scheme = "https" if peer.tls else "http"
        self.watchdog = watchdog
        self.poller = stream.poller
        self._stream = stream
        self._handler = handler
        self.core = Http1Core(config.http1)
        self.outbox = Outbox(
            stream, config.server, watchdog, on_failure=self._on_outbox_failure, start_writer=self._start_writer
        )
        # owned by the connection task
        self._nursery: trio.Nursery | None = None
        self._reading = trio.CancelScope()
        self._writing = trio.CancelScope()
        self._lingering = trio.CancelScope()
        self._parked: trio.Event | None = None  # the reader, while there is no room
        self._ending: _Ending | None = None
        self._ended = False  # the peer sends no more
        self.draining = False
        # the exchange under way
        self._exchange: Http1Exchange | None = None
        self.requests = 0  # so far
        self._serving = False  # the task that runs handlers is there
        self._close_after = False  # the response must be the connection's last
        self._discard = 0  # bytes of body that may still be thrown away
        # the deadline
        self._timer = watchdog.timer(self._on_deadline)
        self._phase = _Phase.NONE
        self._rate_deadline = 0.0
        self._progress = 0

    # -- the connection -------------------------------------------------------

    async def run(self, initial: bytes = b"") -> None:
        """Serve the connection until it is over. Cancelling it ends the exchange at once.

        Args:
            initial: bytes that were read to find out that this is HTTP/1.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._await(_Phase.IDLE, self.config.http1.keep_alive_timeout)
                with self._reading:
                    if initial:
                        self._receive(initial)
                    await self._read()
                await self._finish()
        finally:
            self._timer.clear()
            self.outbox.close()

    def drain(self) -> None:
        """Begin the graceful end: the request under way is the last, an idle connection closes. Idempotent."""
        if self.draining:
            return
        self.draining = True
        exchange = self._exchange
        if exchange is not None:
            exchange.draining = True
            if exchange.on_draining is not None:
                exchange.on_draining()
        elif self.core.idle:
            self._end(_Ending.NOW)
        elif self._phase is _Phase.DISCARD:
            self._end(_Ending.LINGER)

    def exchanges(self) -> list[ExchangeStatistics]:
        """What is under way."""
        return [] if self._exchange is None else [describe_exchange(self._exchange)]

    def stop(self) -> None:
        """The grace is over: cancel what still runs, and end the connection."""
        self.drain()
        # The last answer still gets its chance to leave, but no more than that.
        self._lingering.deadline = trio.current_time() + self.config.server.close_timeout
        if self._exchange is not None:
            self._exchange.cancel(CancelReason.SHUTDOWN)
        else:
            self._end(_Ending.NOW)

    async def _read(self) -> None:
        """Feed the core, or after a switch the exchange, until `_end` cancels this."""
        while not self._ended and self._ending is None:
            exchange = self._exchange
            sink = self._receive if exchange is None or not exchange.raw else exchange.receive_raw
            try:
                if self._has_room():
                    await self._stream.pump(sink)
                else:
                    self._parked = trio.Event()
                    await self._parked.wait()
            except ConnectionClosed as error:
                self._lose(error.reason)
        await trio.sleep_forever()  # the peer sends no more, but the handler is not done

    def _has_room(self) -> bool:
        if self._ending is not None:
            return False
        exchange = self._exchange
        return (exchange is None or exchange.wants_more) and self.core.buffered < self.config.http1.receive_buffer

    def resume(self) -> None:
        """There may be room again."""
        if self._parked is not None and self._has_room():
            if self._phase is _Phase.BODY:
                # Until now it was us who did not read.
                self._rate_deadline = trio.current_time() + self.config.http1.min_body_rate_grace
            self._parked.set()
            self._parked = None

    def _receive(self, data: bytes) -> bool:
        """Apply one read: no awaiting, no user code."""
        if self._ending is not None:
            return False
        exchange = self._exchange
        if exchange is not None and exchange.raw:
            exchange.receive_raw(data)
            return False  # so that `_read` goes on with the exchange's own sink
        if data:
            self.core.receive_data(data)
            self._apply_events()
            return self._has_room()
        self._ended = True
        self.core.receive_eof()
        self._apply_events()
        return False

    def raw_ended(self) -> None:
        """The peer ended its direction of a switched protocol."""
        self._ended = True
        if self._exchange is not None:
            self._exchange.body_ended()
        self._expect_half_closed()

    def _apply_events(self) -> None:
        core = self.core
        event = core.next_event()
        while event is not None:
            exchange = self._exchange
            kind = type(event)
            if kind is RequestReceived:
                self._begin(event)  # type: ignore[arg-type]  # `kind` says so; isinstance costs on each read
            elif kind is BodyReceived:
                self._on_body(event.data)  # type: ignore[union-attr]
            elif kind is RequestEnded:
                if exchange is not None:
                    exchange.trailers = event.trailers  # type: ignore[union-attr]
                    exchange.body_ended()
                elif self._ending is None:
                    self._next_request()
            else:
                self._fail(event.error)  # type: ignore[union-attr]
            event = core.next_event()
        self._choose_deadline()

    def _begin(self, event: RequestReceived) -> None:
        self._exchange = Http1Exchange(self, event)
        self.requests += 1
        if not self._serving:
            self._serving = True
            assert self._nursery is not None  # set before the first read
            self._nursery.start_soon(self._serve)

    def _on_body(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._discard -= len(data)
            if self._discard < 0:
                self._end(_Ending.LINGER)
            return
        if exchange.min_body_rate > 0 and self._phase is _Phase.BODY:
            earned = self._rate_deadline + len(data) / exchange.min_body_rate
            self._rate_deadline = min(earned, trio.current_time() + self._patience)
        exchange.body_received(data)

    # -- exchanges ------------------------------------------------------------

    async def _serve(self) -> None:
        """Run handlers, one after the other, as long as there is a request."""
        while True:
            exchange = self._exchange
            if exchange is None:
                break
            if exchange.cancel_reason is None:
                with exchange.scope:
                    await self._handler(exchange)
                if exchange.scope.cancelled_caught:
                    exchange.cancelled()
            self._complete(exchange)
            if self._exchange is not None:
                # Pipelined requests take turns with other connections, and wait for a slow reader.
                await trio.lowlevel.checkpoint()
                with suppress(ConnectionClosed):  # `_lose` knows, and has cancelled the exchange
                    await self.outbox.drain()
        self._serving = False

    def _complete(self, exchange: Http1Exchange) -> None:
        """The handler has ended: what becomes of the connection."""
        self._exchange = None
        exchange.release()
        if self._ending is not None:
            return
        if exchange.raw:
            self._end(_Ending.LINGER)
        elif not exchange.status:
            reason = exchange.cancel_reason
            if reason is None:
                self._refuse(500, "the handler ended without a response; return one")
            else:
                self._refuse(503, _CANCELLED_TEXT.get(reason, reason.value))
        elif not exchange.response_ended:
            self._end(_Ending.ABORT)
        else:
            self.outbox.flush()
            self._await_next_request()

    def _await_next_request(self) -> None:
        """The response is out: the next request, or first the rest of this one, or the end."""
        core = self.core
        if not core.keeps_alive or self.draining or self._close_after:
            self._end(_Ending.LINGER)
        elif core.request_complete:
            self._next_request()
            self._apply_events()
        else:
            self._discard = self.config.http1.receive_buffer
            if (core.body_remaining or 0) > self._discard:
                self._end(_Ending.LINGER)
            else:
                self._await(_Phase.DISCARD, self.config.http1.head_timeout)
        self.resume()

    def _next_request(self) -> None:
        """Look at what has arrived behind the request that is answered."""
        self._phase = _Phase.NONE
        self.core.next_request()

    @property
    def closes_after_response(self) -> bool:
        """The response head must say `Connection: close`."""
        # A final answer instead of 100 Continue leaves open whether the body follows (RFC 9110 10.1.1).
        last = self._ended and not self.core.buffered
        return self.draining or self._close_after or last or self.core.awaits_continue

    def close_after_response(self) -> None:
        """The rest of the request will not be read."""
        self._close_after = True

    def send_continue(self) -> None:
        """The handler wants the body: say so to a peer that waits for it."""
        if self.core.awaits_continue:
            self.outbox.write(self.core.send_informational(100))
            self.outbox.flush()

    def switched(self, trailing: bytes) -> None:
        """From here on the bytes are the exchange's; `trailing` came already."""
        exchange = self._exchange
        assert exchange is not None  # it is the caller
        if trailing:
            exchange.receive_raw(trailing)
        if self._ended:
            exchange.body_ended()
        self.resume()

    # -- the end --------------------------------------------------------------

    def _end(self, how: _Ending) -> None:
        if self._ending is None or how.value > self._ending.value:
            self._ending = how
            self._timer.clear()
            self._phase = _Phase.NONE
            self._reading.cancel()
            if how is _Ending.ABORT:
                self.outbox.close()
                self._lingering.cancel()

    def abort(self) -> None:
        """The exchange gave its response up."""
        self._end(_Ending.ABORT)

    def close(self) -> None:
        """The exchange ended its switched protocol."""
        self.outbox.flush()
        self._end(_Ending.LINGER)

    def _lose(self, reason: str) -> None:
        """The peer can no longer be reached: the handler learns of it at once."""
        self._end(_Ending.ABORT)
        if self._exchange is not None:
            self._exchange.abandon(CancelReason.CONNECTION_LOST, reason)

    def _refuse(self, status: int, text: str) -> None:
        """Answer instead of a handler, as the connection's last word."""
        fields = ((b"date", http_date()), (b"server", b"engine"))
        self.outbox.write(self.core.refuse(status, fields, f"{text}\n"))
        self.outbox.flush()
        self._end(_Ending.LINGER)

    def _fail(self, error: RemoteProtocolError | LimitExceeded) -> None:
        """What arrived was refused: answer it where no answer has begun."""
        exchange = self._exchange
        if self._ending is not None:
            return
        if exchange is None:
            if self._phase is _Phase.DISCARD:
                self._end(_Ending.LINGER)  # its request was answered
            else:
                self._refuse(answer_for(error).http_status, str(error))
            return
        ended = exchange.response_ended
        exchange.abandon(CancelReason.CONNECTION_LOST, str(error))
        if not exchange.status:
            exchange.status = answer_for(error).http_status
            self._refuse(exchange.status, str(error))
        else:
            self._end(_Ending.LINGER if ended else _Ending.ABORT)

    give_up_request = _fail

    async def _finish(self) -> None:
        """What is left to do when reading is over."""
        if self._ending is _Ending.LINGER:
            with self._lingering:
                await self._linger()
        if self._ending is _Ending.ABORT:
            self._stream.abort()
        elif self._exchange is not None:
            # A handler that goes on after the end: the descriptor need not wait for it.
            await self._stream.aclose()
        self._writing.cancel()

    async def _linger(self) -> None:
        try:
            await self.outbox.drained()  # as long as the peer takes something: the outbox has a deadline
            with trio.move_on_after(self.config.server.close_timeout):
                await self._stream.send_eof()
                while not self._ended and await self._stream.receive_some():
                    pass
        except ConnectionClosed as error:
            self._lose(error.reason)

    def _on_outbox_failure(self, error: ConnectionClosed | LimitExceeded) -> None:
        self._lose(str(error))

    def _start_writer(self) -> None:
        assert self._nursery is not None  # set before the first flush
        self._nursery.start_soon(self._write)

    async def _write(self) -> None:
        with self._writing:
            await self.outbox.run_writer()

    # -- deadlines ------------------------------------------------------------

    @property
    def _patience(self) -> float:
        """How long a body that came fast enough so far may pause."""
        settings = self.config.http1
        return max(settings.min_body_rate_grace, settings.head_timeout)

    def _await(self, phase: _Phase, seconds: float) -> None:
        self._phase = phase
        self._timer.set(trio.current_time() + seconds)

    def _choose_deadline(self) -> None:
        """What is waited for now that a read has been applied."""
        settings = self.config.http1
        if self._ending is not None:
            return
        if self._ended:
            self._expect_half_closed()
        elif self._exchange is not None:
            if self.core.request_complete:
                self._phase = _Phase.NONE
                self._timer.clear()
            elif self._phase is not _Phase.BODY:
                self._await(_Phase.BODY, settings.min_body_rate_grace)
                self._rate_deadline = self._timer.deadline
        elif self.core.in_head:
            if self._phase is not _Phase.HEAD:
                self._await(_Phase.HEAD, settings.head_timeout)
        elif self._phase is not _Phase.IDLE and self._phase is not _Phase.DISCARD:
            self._await(_Phase.IDLE, settings.keep_alive_timeout)

    def _on_deadline(self) -> None:
        phase = self._phase
        if phase is _Phase.IDLE:
            self._end(_Ending.NOW)
        elif phase is _Phase.HEAD:
            limit, what = self.config.http1.head_timeout, "time of a request head"
            self._fail(LimitExceeded("http1.head_timeout", limit, kind=LimitKind.TIMEOUT, what=what))
        elif phase is _Phase.BODY:
            self._check_body_rate()
        elif phase is _Phase.DISCARD:
            self._end(_Ending.LINGER)
        elif phase is _Phase.HALF_CLOSED:
            self._check_progress()

    def _check_body_rate(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.min_body_rate <= 0:
            return
        now = trio.current_time()
        if exchange.unread or exchange.paused or self.core.awaits_continue:
            # The handler is the slow side, not the peer.
            self._rate_deadline = now + self.config.http1.min_body_rate_grace
        if now < self._rate_deadline:
            self._timer.set(self._rate_deadline)
            return
        self._close_after = True
        rate, what = exchange.min_body_rate, "a slow request body"
        exchange.body_failed(LimitExceeded("http1.min_body_rate", rate, kind=LimitKind.TIMEOUT, what=what))

    def _expect_half_closed(self) -> None:
        """The peer may have ended its direction and still want the answer, or be gone; nobody can tell."""
        if self._ending is None:
            if self._exchange is None:
                self._end(_Ending.LINGER)
            else:
                self._progress = self.outbox.bytes_sent
                self._await(_Phase.HALF_CLOSED, self.config.http1.half_close_grace)

    def _check_progress(self) -> None:
        if self.outbox.bytes_sent > self._progress:
            self._expect_half_closed()
        else:
            self._lose("the peer closed the connection")

"""An `Exchange` on one HTTP/2 stream.

Owns: the request body that waits for its handler (its stream credit goes back when the handler takes
it), the response's state, and the waiting of a handler whose peer grants no window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import outcome
import trio

from engine.errors import ConnectionClosed, Http2Code, LimitExceeded, LimitKind, LocalProtocolError
from engine.transport.body_mailbox import BodyMailbox
from engine.transport.exchange import CancelReason, Exchange, Fields, RequestHead

if TYPE_CHECKING:
    from engine.transport.http2 import Http2Driver
    from engine.transport.watchdog import Timer


EARLY_END_DELAY = 0.1  # seconds from a complete answer to RST_STREAM(NO_ERROR)


class Http2Exchange(Exchange):
    """See `Exchange`; made by `Http2Driver`."""

    __slots__ = (
        "_asked",
        "_attached",
        "_body",
        "_bytes_sent",
        "_content_length",
        "_driver",
        "_early_end",
        "_held_back",
        "_paused",
        "_rate_mark",
        "_rate_timer",
        "_received",
        "_released",
        "_reset",
        "_stall_timer",
        "_timers",
        "_waiters",
        "_when_writable",
        "stream_id",
        "trailers",
    )

    def __init__(self, driver: Http2Driver, stream_id: int, head: RequestHead, content_length: int = 0) -> None:
        # immutable
        self.head = head
        self.peer = driver.peer
        self.config = driver.config
        self.stream_id = stream_id
        self._driver = driver
        self._content_length = content_length
        # owned by the driver
        self.scope = trio.CancelScope()
        self.cancel_reason = None
        self.status = 0
        self._bytes_sent = 0
        self.response_ended = False
        self.draining = False
        self.trailers: Fields = ()
        self._body = BodyMailbox()
        self._received = 0
        self._asked = False  # 100 Continue was sent
        self._rate_mark = 0
        self._rate_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        self._waiters: list[trio.lowlevel.Task] = []  # in `drain`
        self._when_writable: Callable[[], None] | None = None
        self._reset = False
        self._released = False  # nobody waits for room any more
        self._early_end = False  # RST_STREAM(NO_ERROR) is due
        # owned by the endpoint
        self.max_body: float = driver.config.http2.max_body_size
        self.min_body_rate = driver.config.http2.min_body_rate
        self.on_cancelled: Callable[[CancelReason], None] | None = None
        self.on_draining: Callable[[], None] | None = None
        self._attached: Callable[[bytes], None] | None = None
        self._paused = False
        self._held_back = 0  # credit withheld while paused
        self._timers: list[Timer] = []

    # -- for the driver -------------------------------------------------------

    def body_received(self, data: bytes, flow_length: int) -> None:
        """DATA arrived."""
        self._received += len(data)
        size = max(self._received, self._content_length)  # what says how large it will be is refused before it has come
        if size > self.max_body:
            name = "http2.max_body_size"
            error = LimitExceeded(name, self.max_body, size, kind=LimitKind.MESSAGE_SIZE, what="request body")
            self._body.end(error)
            self._driver.core.consumed(self.stream_id, flow_length)
        elif self._attached is None:
            self._body.add(data, flow_length)
        else:
            if self._paused:
                self._held_back += flow_length
            else:
                self._driver.core.consumed(self.stream_id, flow_length)
            if data:
                self._attached(data)

    def body_ended(self) -> None:
        """The request is complete."""
        if self._rate_timer is not None:
            self._rate_timer.clear()
        if self._attached is not None and not self._body.ended:
            self._attached(b"")
        self._body.end()

    def _watch_body_rate(self) -> None:
        """The handler waits for the body: expect `min_body_rate` of it from now on."""
        grace = self.config.http2.min_body_rate_grace
        if grace != math.inf:
            self._rate_mark = self._received
            self._rate_timer = self._driver.watchdog.timer(self._check_body_rate)
            self._rate_timer.set(trio.current_time() + grace)

    def _check_body_rate(self) -> None:
        grace = self.config.http2.min_body_rate_grace
        if not self.min_body_rate or self._body.ended or self._rate_timer is None:
            return
        # A handler that has not taken what waits is the slow side, not the peer.
        if not self._body and self._received - self._rate_mark < self.min_body_rate * grace:
            self._body.end(
                LimitExceeded(
                    "http2.min_body_rate", self.min_body_rate, kind=LimitKind.TIMEOUT, what="a slow request body"
                )
            )
            return
        self._rate_mark = self._received
        self._rate_timer.set(trio.current_time() + grace)

    def abandon(self, cause: CancelReason, reason: str) -> None:
        """The peer reset the stream or is gone: the handler is cancelled, nothing more is sent."""
        self._reset = True
        self.response_ended = True
        self._body.end(ConnectionClosed(1006, reason))
        self._body.clear()
        self.cancel(cause)
        self.wake()

    def finish(self) -> None:
        """The handler has ended: end the stream in the way that its state asks for."""
        driver = self._driver
        for timer in self._timers:
            timer.clear()
        self._timers.clear()
        if self._reset:
            return
        if not self.response_ended:
            self.reset(Http2Code.CANCEL if self.cancel_reason else Http2Code.INTERNAL_ERROR)
        else:
            if not self._body.ended:
                self._end_early()
            driver.flush()

    def _end_early(self) -> None:
        """Complete answer, unfinished request: a little later ask the peer to stop (RFC 9113 8.1).

        At once, RST_STREAM would reach some clients in one read with the answer, and destroy it there.
        """
        driver = self._driver
        self._body.end(ConnectionClosed(1006, "the exchange has ended"))
        driver.core.ignore_body(self.stream_id)
        self._early_end = True
        self.timer(self._finish_early).set(trio.current_time() + EARLY_END_DELAY)

    def _finish_early(self) -> None:
        self._early_end = False
        self._driver.core.finish_early(self.stream_id)
        self._driver.outbox.flush()
        self._driver.forget_finished()

    @property
    def is_flushed(self) -> bool:
        """Nothing of the exchange is left to be sent."""
        return self._reset or not (self._early_end or self._driver.core.queued(self.stream_id))

    def release(self) -> None:
        """The exchange is over: give back the credit of what nobody read."""
        # Bound methods of what holds this exchange: cycles, which only the garbage collector would undo.
        self.on_cancelled = self.on_draining = self._attached = None
        if self._rate_timer is not None:
            self._rate_timer.clear()
        if self._stall_timer is not None:
            self._stall_timer.clear()
        if self._when_writable is not None:
            self._when_writable = None
            self._driver.waiting.discard(self)
        for timer in self._timers:
            timer.clear()
        item = self._body.get_nowait()
        while item is not None:
            self._driver.core.consumed(self.stream_id, item.credit)
            item = self._body.get_nowait()
        if self._held_back:
            self._driver.core.consumed(self.stream_id, self._held_back)
            self._held_back = 0

    @property
    def stall_watched(self) -> bool:
        """`watch_stall` is in force."""
        return self._stall_timer is not None and self._stall_timer.armed

    def watch_stall(self) -> None:
        """Data waits for the peer's window: reset the stream if it grants none for too long."""
        if self._stall_timer is None:
            self._stall_timer = self._driver.watchdog.timer(self._stalled)
        self._stall_timer.set(trio.current_time() + self.config.http2.zero_window_timeout)

    def _stalled(self) -> None:
        if self._reset or not self._driver.core.queued(self.stream_id):
            return
        self.reset(Http2Code.CANCEL)
        self.abandon(CancelReason.CONNECTION_LOST, "the peer granted no window for http2.zero_window_timeout")
        self._driver.forget_finished()

    def wake(self) -> None:
        """The queue has shrunk, or will not matter any more."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            self._driver.waiting.discard(self)
            for task in waiters:
                trio.lowlevel.reschedule(task, outcome.Value(None))
        if self._when_writable is not None:
            callback, self._when_writable = self._when_writable, None
            self._driver.waiting.discard(self)
            if self._stall_timer is not None:
                self._stall_timer.clear()
            callback()

    @property
    def below_high_water(self) -> bool:
        """A writer need not wait."""
        return self.queued <= self.high_water

    @property
    def high_water(self) -> int:
        return self._driver.high_water

    # -- receiving ------------------------------------------------------------

    async def receive(self) -> bytes:
        if not self._received and not self._body.ended:
            self._ask_for_body()
        if self.min_body_rate > 0 and self._rate_timer is None and not self._body and not self._body.ended:
            self._watch_body_rate()
        item = await self._body.get()
        if item is None:
            return b""
        self._consumed(item.credit)
        return bytes(item.data) or await self.receive()

    def _ask_for_body(self) -> None:
        """Send 100 Continue where that is waited for (RFC 9110 10.1.1)."""
        expects = self.head.header(b"expect")
        if expects is not None and not self._asked and not self.status and expects.lower() == b"100-continue":
            self._asked = True
            self.write_informational(100)
            self._driver.flush()

    def receive_nowait(self) -> bytes | None:
        item = self._body.get_nowait()
        while item is not None:
            self._consumed(item.credit)
            if item.data:
                return bytes(item.data)
            item = self._body.get_nowait()
        if self._body.ended and not self._body.failed:
            return b""
        return None

    def _consumed(self, flow_length: int) -> None:
        core = self._driver.core
        core.consumed(self.stream_id, flow_length)
        if core.control_backlog:
            self._driver.outbox.flush_soon()

    def attach(self, sink: Callable[[bytes], None]) -> None:
        self._attached = sink
        item = self._body.get_nowait()
        while item is not None:
            self._consumed(item.credit)
            if item.data:
                sink(bytes(item.data))
            item = self._body.get_nowait()
        if self._body.ended:
            sink(b"")

    def pause_receiving(self) -> None:
        self._paused = True

    def resume_receiving(self) -> None:
        self._paused = False
        if self._held_back:
            self._consumed(self._held_back)
            self._held_back = 0

    # -- sending --------------------------------------------------------------

    def write_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        if self.status:
            raise LocalProtocolError("a response head was written before; an exchange has one response")
        self.status = status
        if self._reset:
            return
        bodiless = end or self.head.method == "HEAD" or status in (204, 304)
        self._driver.core.send_headers(self.stream_id, (_STATUS[status], *headers), end_stream=bodiless)
        self.response_ended = bodiless

    def write_informational(self, status: int, headers: Fields = ()) -> None:
        if self.status:
            raise LocalProtocolError("an informational head must come before the response head")
        if not self._reset:
            self._driver.core.send_headers(self.stream_id, (_STATUS[status], *headers))

    def write(self, data: bytes, *, end: bool = False) -> None:
        if self.response_ended:
            return
        if not self.status:
            raise LocalProtocolError("write a response head before the body")
        self._bytes_sent += len(data)
        self.response_ended = end
        self._driver.core.send_data(self.stream_id, data, end_stream=end)

    def write_trailers(self, headers: Fields) -> None:
        if self.response_ended:
            return
        if not self.status:
            raise LocalProtocolError("write a response head before the trailers")
        self.response_ended = True
        self._driver.core.send_trailers(self.stream_id, headers)

    def switch_protocol(self, headers: Fields = ()) -> None:
        self.max_body = math.inf
        self.min_body_rate = 0
        self.write_head(200, headers)

    @property
    def bytes_sent(self) -> int:
        return self._bytes_sent

    @property
    def queued(self) -> int:
        return 0 if self._reset else self._driver.core.queued(self.stream_id)

    def flush(self) -> None:
        self._driver.flush()

    def flush_soon(self) -> None:
        self._driver.outbox.flush_soon()

    async def drain(self) -> None:
        self._driver.flush()
        while self.queued > self.high_water and not self._released:
            # What the writer has not been given yet may fit the window: that is no reason to wait.
            self._driver.outbox.flush()
            if self.queued <= self.high_water:
                break
            self.watch_stall()
            await self._wait()
        if self._stall_timer is not None:
            self._stall_timer.clear()
        if self._reset:
            raise ConnectionClosed(1006, "the stream was reset")
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _wait(self) -> None:
        """Until `wake`."""
        task = trio.lowlevel.current_task()
        self._waiters.append(task)
        self._driver.waiting.add(self)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            if not self._waiters and self._when_writable is None:
                self._driver.waiting.discard(self)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        self._when_writable = callback
        self._driver.waiting.add(self)
        self._driver.recheck = True
        self.watch_stall()
        self._driver.outbox.flush_soon()

    # -- time and the end -----------------------------------------------------

    def timer(self, callback: Callable[[], None]) -> Timer:
        timer = self._driver.watchdog.timer(callback)
        self._timers.append(timer)
        return timer

    def reset(self, code: Http2Code = Http2Code.CANCEL) -> None:
        if self._reset:
            return
        if self.response_ended and code is Http2Code.NO_ERROR:
            if not self._body.ended:
                self._body.end(ConnectionClosed(1006, "the exchange has ended"))
                self._driver.core.finish_early(self.stream_id)
        else:
            self._reset = True
            self.response_ended = True
            self._body.end(ConnectionClosed(1006, "the stream was reset on our side"))
            self._driver.core.reset_stream(self.stream_id, code)
        self._driver.flush()

    def close(self) -> None:
        if not self.response_ended:
            self.write(b"", end=True)
            self._driver.flush()
            self._released = True
            self.wake()


class _StatusFields(dict[int, tuple[bytes, bytes]]):
    """`:status` fields, made once: the header memo is keyed by them."""

    def __missing__(self, status: int) -> tuple[bytes, bytes]:
        field = (b":status", b"%d" % status)
        self[status] = field
        return field


_STATUS = _StatusFields()

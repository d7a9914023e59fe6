"""An `Exchange` on an HTTP/1 connection.

Owns: the request body that waits for its handler (what is unread stops the reading of the connection),
the response's state, and, once the protocol was switched, the raw bytes of both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from engine.errors import ConnectionClosed, Http2Code, LimitExceeded, LimitKind, LocalProtocolError
from engine.transport.body_mailbox import BodyMailbox
from engine.transport.exchange import CancelReason, Exchange, Fields, RequestHead
from engine.transport.request_heads import decode_path

if TYPE_CHECKING:
    from engine.transport.http1 import Http1Driver
    from engine.transport.watchdog import Timer
    from engine.wire.http1 import RequestReceived


def request_head(event: RequestReceived, scheme: str) -> RequestHead:
    """The head as endpoints see it."""
    return RequestHead(
        method=event.method.decode("ascii"),
        path=decode_path(event.path),
        query=event.query.decode("ascii"),
        scheme=scheme,
        authority=event.authority.decode("ascii"),
        headers=event.fields,
        http_version=event.http_version,
        protocol="websocket" if event.wants_websocket else None,
        raw_path=event.path,
    )


class Http1Exchange(Exchange):
    """See `Exchange`; made by `Http1Driver`."""

    __slots__ = (
        "_body",
        "_body_sent",
        "_content_length",
        "_dead",
        "_driver",
        "_outbox",
        "_raw",
        "_sink",
        "_switchable",
        "_switched_at",
        "_taken",
        "_timers",
        "_unread",
        "paused",
        "poller",
        "trailers",
    )

    def __init__(self, driver: Http1Driver, event: RequestReceived) -> None:
        # immutable
        self.head = request_head(event, driver.scheme)
        self.peer = driver.peer
        self.config = driver.config
        self.poller = driver.poller
        self._driver = driver
        self._outbox = driver.outbox
        self._content_length = event.content_length or 0
        # owned by the driver
        self.scope = trio.CancelScope()
        self.cancel_reason = None
        self.status = 0
        self._body_sent = 0  # bytes
        self._switched_at = 0  # bytes of the connection that had been written by then
        self.response_ended = False
        self.draining = driver.draining
        self.trailers: Fields = ()
        self._body = BodyMailbox()
        self._unread = 0  # bytes in the mailbox
        self._dead = False  # nothing of it can arrive any more
        self._raw = False  # the protocol was switched
        self._switchable = event.wants_websocket  # until then: its request has no body and no end
        # owned by the endpoint
        self.max_body: float = driver.config.http1.max_body_size
        self.min_body_rate = driver.config.http1.min_body_rate
        self.on_cancelled: Callable[[CancelReason], None] | None = None
        self.on_draining: Callable[[], None] | None = None
        self.paused = False
        self._taken = 0  # bytes of body handed to the endpoint
        self._sink: Callable[[bytes], None] | None = None
        self._timers: list[Timer] = []

    # -- for the driver -------------------------------------------------------

    @property
    def raw(self) -> bool:
        """The protocol was switched: bytes go to `receive_raw`."""
        return self._raw

    @property
    def wants_more(self) -> bool:
        """There is room for what the peer sends."""
        return not self.paused and self._unread < self.config.http1.receive_buffer

    @property
    def unread(self) -> int:
        """Bytes of body that wait for the handler."""
        return self._unread

    def body_received(self, data: bytes) -> None:
        """A piece of body arrived."""
        if self._body.ended:
            return  # given up: thrown away
        if self._sink is None:
            self._unread += len(data)
            self._body.add(data)
            return
        self._hand_over(self._sink, data)

    def _hand_over(self, sink: Callable[[bytes], None], data: bytes) -> None:
        self._taken += len(data)
        if self._taken > self.max_body:
            self._driver.give_up_request(self._too_large(self._taken))
        else:
            sink(data)

    def body_ended(self) -> None:
        """The request is complete, or, once the protocol was switched, the peer sends no more."""
        if self._switchable and not self._raw:
            return
        if self._sink is not None and not self._body.ended:
            self._sink(b"")
        self._body.end()

    def body_failed(self, error: LimitExceeded) -> None:
        """The rest of the body is not waited for: whoever receives it gets `error`."""
        if self._sink is not None:
            self._driver.give_up_request(error)
        self._body.end(error)

    def receive_raw(self, data: bytes) -> bool:
        """A sink of the stream, once the protocol was switched."""
        if self._sink is not None and data:
            self._sink(data)
            return not self.paused
        if not data:
            self._driver.raw_ended()
            return False
        self._unread += len(data)
        self._body.add(data)
        return self.wants_more

    def abandon(self, cause: CancelReason, reason: str) -> None:
        """The peer is gone, or was refused: the handler is cancelled, nothing more is sent."""
        self._dead = True
        self.response_ended = True
        self._body.end(ConnectionClosed(1006, reason))
        self._body.clear()
        self.cancel(cause)

    def cancelled(self) -> None:
        """The scope was cancelled, and the handler is gone."""
        if self.cancel_reason is None:
            self.cancel_reason = CancelReason.DEADLINE
        if self.on_cancelled is not None:
            self.on_cancelled(self.cancel_reason)

    def release(self) -> None:
        """The handler has ended."""
        for timer in self._timers:
            timer.clear()
        self._dead = True
        self._sink = None
        self._body.end(ConnectionClosed(1006, "the exchange has ended"))
        self._body.clear()
        self._unread = 0

    # -- receiving ------------------------------------------------------------

    async def receive(self) -> bytes:
        if self._switchable and not self._raw:
            await trio.lowlevel.checkpoint()
            return b""
        self._ask_for_body()
        piece = await self._body.get()
        return b"" if piece is None else self._take(bytes(piece.data))

    def receive_nowait(self) -> bytes | None:
        if self._switchable and not self._raw:
            return b""
        if not self._body.ended:
            if self._content_length > self.max_body:
                return None  # `receive` says why
            self._ask_for_body()
        piece = self._body.get_nowait()
        if piece is not None:
            return self._take(bytes(piece.data))
        return b"" if self._body.ended and not self._body.failed else None

    def _take(self, data: bytes) -> bytes:
        size = len(data)
        self._unread -= size
        self._taken += size
        if self._taken > self.max_body and not self._raw:
            raise self._refuse_body(self._taken)
        self._driver.resume()
        return data

    def _ask_for_body(self) -> None:
        """Refuse a body that is too large before it is sent; send 100 Continue where that is waited for."""
        if self._content_length > self.max_body:
            raise self._refuse_body(self._content_length)
        if not self._dead and not self.status:
            self._driver.send_continue()

    def _refuse_body(self, size: int) -> LimitExceeded:
        self._driver.close_after_response()
        error = self._too_large(size)
        self._body.end(error)
        self._body.clear()
        self._unread = 0
        return error

    def _too_large(self, size: int) -> LimitExceeded:
        kind = LimitKind.MESSAGE_SIZE
        return LimitExceeded("http1.max_body_size", self.max_body, size, kind=kind, what="request body")

    def give_up_body(self) -> None:
        if not self._driver.core.request_complete:
            self._driver.close_after_response()

    def attach(self, sink: Callable[[bytes], None]) -> None:
        if not self._switchable:
            self._ask_for_body()
        self._sink = sink
        piece = self._body.get_nowait()
        while piece is not None:
            self._unread -= len(piece.data)
            self._hand_over(sink, bytes(piece.data))
            piece = self._body.get_nowait()
        if self._body.ended and not self._body.failed:
            sink(b"")
        self._driver.resume()

    def pause_receiving(self) -> None:
        self.paused = True

    def resume_receiving(self) -> None:
        if self.paused:
            self.paused = False
            self._driver.resume()

    # -- sending --------------------------------------------------------------

    def write_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        if self.status:
            raise LocalProtocolError("a response head was written before; an exchange has one response")
        if self._dead:
            self.status = status
            return
        driver = self._driver
        core = driver.core
        self._outbox.write(core.send_response(status, headers, end=end, close=driver.closes_after_response))
        self.status = status
        self.response_ended = end or core.bodiless

    def write_informational(self, status: int, headers: Fields = ()) -> None:
        if self.status:
            raise LocalProtocolError("an informational head must come before the response head")
        if not self._dead:
            self._outbox.write(self._driver.core.send_informational(status, headers))

    def write(self, data: bytes, *, end: bool = False) -> None:
        if self._raw:
            if not self.response_ended and not self._dead:
                self._outbox.write(data)
                if end:
                    self.close()
            return
        if self.response_ended:
            return
        if not self.status:
            raise LocalProtocolError("write a response head before the body")
        core = self._driver.core
        self._outbox.write(core.send_data(data))
        self._body_sent += len(data)
        if end:
            self._outbox.write(core.end_response())
            self.response_ended = True

    def write_trailers(self, headers: Fields) -> None:
        if self.response_ended:
            return
        if not self.status or self._raw:
            raise LocalProtocolError("write a response head before the trailers")
        self._outbox.write(self._driver.core.end_response(headers))
        self.response_ended = True

    def switch_protocol(self, headers: Fields = ()) -> None:
        if self.status:
            raise LocalProtocolError("a response head was written before; switch protocols instead of answering")
        if self._dead:
            self.status = 101
            return
        head, trailing = self._driver.core.switch_protocol(headers)
        self._outbox.write(head)
        self.status = 101
        self.max_body = math.inf
        self.min_body_rate = 0
        self._raw = True
        self._switched_at = self._outbox.written
        self._driver.switched(trailing)

    @property
    def bytes_sent(self) -> int:
        return self._outbox.written - self._switched_at if self._raw else self._body_sent

    def writers(self) -> tuple[Callable[[bytes], bool], Callable[[bytes], bool]]:
        return (self._outbox.send, self._outbox.send_soon) if self._raw else super().writers()

    def write_now(self, data: bytes) -> bool:
        if self._raw and not self.response_ended and not self._dead:
            return self._outbox.send(data)
        return super().write_now(data)

    def write_soon(self, data: bytes) -> bool:
        if self._raw and not self.response_ended and not self._dead:
            return self._outbox.send_soon(data)
        return super().write_soon(data)

    @property
    def queued(self) -> int:
        return self._outbox.queued

    def flush(self) -> None:
        self._outbox.flush()

    def flush_soon(self) -> None:
        self._outbox.flush_soon()

    async def drain(self) -> None:
        if self._dead:
            await trio.lowlevel.checkpoint()
            raise ConnectionClosed(1006, "the connection is lost")
        await self._outbox.drain()
        await trio.lowlevel.checkpoint_if_cancelled()

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        self._outbox.call_when_writable(callback)

    # -- time and the end -----------------------------------------------------

    def timer(self, callback: Callable[[], None]) -> Timer:
        timer = self._driver.watchdog.timer(callback)
        self._timers.append(timer)
        return timer

    def reset(self, code: Http2Code = Http2Code.CANCEL) -> None:
        if self.response_ended:
            return
        self._dead = True
        self.response_ended = True
        self._body.end(ConnectionClosed(1006, "the exchange was reset on our side"))
        self._driver.abort()

    def close(self) -> None:
        if self._raw and not self.response_ended:
            self.response_ended = True
            self._driver.close()
            self._outbox.release()

"""A client's WebSocket on a stream of an HTTP/2 connection of its own (RFC 8441).

Owns: the driver of such a connection, before and after the answer to the extended CONNECT. What
HTTP/2's bytes mean is `engine.wire.http2`'s; the stream is the same exchange that a server has.
"""

from __future__ import annotations

import math
from typing import cast

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, Http2Code, RemoteProtocolError
from engine.transport.exchange import CancelReason, Peer, RequestHead
from engine.transport.http2 import Http2Driver
from engine.transport.http2_exchange import Http2Exchange
from engine.transport.outbox import Outbox
from engine.transport.stream import ByteStream
from engine.transport.websocket_client import ClientConnection
from engine.wire.http2 import (
    ConnectionFailed,
    DataReceived,
    Fields,
    GoAwayReceived,
    Http2Core,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)


class Http2ClientConnection(ClientConnection):
    """One connection with one stream.

    Args:
        stream: of this connection alone; closed at its end.
        head: the request, for the WebSocket.
        peer: who is at the other end.
        config: the limits.
    """

    def __init__(self, stream: ByteStream, head: RequestHead, peer: Peer, config: Config) -> None:
        super().__init__(stream, config)
        # immutable; an exchange knows them by these names
        self.peer = peer
        self.core = Http2Core(config.http2, client=True)
        self.outbox = Outbox(
            stream,
            config.server,
            self.watchdog,
            on_failure=self.lose,
            start_writer=self.start_writer,
            source=self._next_write,
        )
        # owned by the connection's tasks
        self.waiting: set[Http2Exchange] = set()
        self.recheck = False  # there is one stream: it is always looked at
        self._stream_id = self.core.next_stream_id()
        self._lost: str | None = None  # why nothing more can come
        self._peer_ended = False  # END_STREAM came
        self._response: ResponseReceived | None = None
        self.high_water = config.http2.send_buffer  # there is one stream
        # It asks of its driver what this class has, and cannot tell which end it is on.
        self.exchange: Http2Exchange = Http2Exchange(cast("Http2Driver", self), self._stream_id, head)
        self.exchange.status = 200
        self.exchange.max_body = math.inf
        self.exchange.min_body_rate = 0

    # -- the handshake ----------------------------------------------------------

    async def connect(self, fields: Fields) -> ResponseReceived:
        """Begin the connection and send an extended CONNECT; returns its answer.

        Cancellation leaves the stream for the caller to close.

        Raises:
            ConnectionClosed: the server ended the connection, or the stream.
            RemoteProtocolError: it does not offer extended CONNECT, or does not speak HTTP/2.
        """
        core = self.core
        core.initiate()
        while not core.preface_complete:
            await self._exchange_bytes()
        if not core.peer_takes_extended_connect:
            core.go_away(0, Http2Code.NO_ERROR)
            await self.stream.send_all(core.data_to_send())
            raise RemoteProtocolError("the server does not offer WebSockets over HTTP/2 (RFC 8441); use HTTP/1.1")
        core.send_headers(self._stream_id, fields)
        while self._response is None:
            await self._exchange_bytes()
        return self._response

    async def receive_body(self, body: bytearray, limit: int) -> None:
        """Add the first bytes of a response that opened nothing to `body`, until it ends or has `limit`."""
        self.exchange.attach(body.extend)
        while self._lost is None and not self._peer_ended and len(body) < limit:
            try:
                await self._exchange_bytes()
            except ConnectionClosed:
                return

    async def _exchange_bytes(self) -> None:
        data = self.core.data_to_send()
        if data:
            await self.stream.send_all(data)
        self._apply(await self.stream.receive_some())
        if self._lost is not None and self._response is None:
            raise ConnectionClosed(1006, f"no answer to the handshake: {self._lost}")

    # -- receiving ------------------------------------------------------------

    def _receive(self, data: bytes) -> bool:
        self._apply(data)
        if self.core.sendable:
            self.outbox.flush()
        return self._wants_more()

    def _apply(self, data: bytes) -> None:
        core, exchange = self.core, self.exchange
        if not data:
            core.receive_eof()
            self._lost = self._lost or "the server ended the connection"
            return
        core.receive_data(data, trio.current_time())
        while (event := core.next_event()) is not None:
            if isinstance(event, DataReceived):
                exchange.body_received(event.data, event.flow_length)
                if event.end_stream:
                    self._end_body()
            elif isinstance(event, ResponseReceived):
                if event.status >= 200:
                    self._response = event
                    if event.end_stream:
                        self._end_body()
            elif isinstance(event, TrailersReceived):
                self._end_body()
            elif isinstance(event, StreamReset):
                self._lost = f"the stream was reset with {_name(event.code)}"
            elif isinstance(event, GoAwayReceived):
                if event.last_stream_id < self._stream_id:
                    self._lost = "the server takes no more streams"
            elif isinstance(event, ConnectionFailed):
                self._lost = str(event.error)

    def _end_body(self) -> None:
        self._peer_ended = True
        self.exchange.body_ended()

    def _wants_more(self) -> bool:
        return self._lost is None and not (self._peer_ended and self.exchange.response_ended)

    def _end(self) -> None:
        reason = self._lost or "the connection has ended"
        self.exchange.body_ended()
        self.exchange.abandon(CancelReason.CONNECTION_LOST, reason)
        self.core.go_away(0, Http2Code.NO_ERROR)
        self.outbox.flush()

    # -- for the exchange -----------------------------------------------------

    def _next_write(self) -> bytes:
        data = self.core.data_to_send()
        if data and self.waiting and self.exchange.below_high_water:
            self.exchange.wake()
        return data

    def flush(self) -> None:
        """What is queued leaves now. END_STREAM, the last of it, begins the end."""
        self.outbox.flush()
        if self.exchange.response_ended:
            self.close_soon()
            if self._peer_ended:
                self._reading.cancel()

    def forget_finished(self) -> None:
        """The exchange is over before its time: it was reset."""
        self._lost = self._lost or "the stream was given up"
        self._reading.cancel()


def _name(code: int) -> str:
    # RFC 9113 section 7: "Unknown or unsupported error codes MUST NOT trigger any special behavior."
    return Http2Code(code).name if code in Http2Code._value2member_map_ else f"{code:#x}"

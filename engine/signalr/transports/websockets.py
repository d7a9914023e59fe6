"""Hub connections over WebSockets.

The boundaries of WebSocket messages mean nothing: a hub message may span several and one may hold
many. What we send is text for JSON, binary for MessagePack; the handshake's answer is always JSON,
in the frames of what follows it.

Spec: docs/specs/TransportProtocols.md, "WebSockets"; WebSocketsServerTransport.cs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import trio

from engine.signalr.transports import HubTransport
from engine.websocket.connection import Closed, WebSocket
from engine.wire.signalr.messages import HubProtocol, TransferFormat
from engine.wire.signalr.negotiate import TRANSFER_FORMATS, TransportKind
from engine.wire.websocket import frames

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.transport.exchange import Exchange
    from engine.transport.watchdog import Timer


class WebSocketTransport(HubTransport):
    """A WebSocket whose messages are chunks of a byte stream.

    Args:
        exchange: already switched.
        settings: of the hub.
        on_data: called synchronously with the chunks of one read.
        on_end: called once when the client ended the transport, well or badly.
    """

    __slots__ = (
        "_aborted",
        "_exchange",
        "_frame",
        "_on_data",
        "_on_end",
        "_over",
        "_write_now",
        "_write_soon",
        "_ws",
        "framing",
        "poller",
        "released",
    )

    kind: ClassVar[TransportKind] = TransportKind.WEB_SOCKETS
    formats: ClassVar[frozenset[TransferFormat]] = frozenset(TRANSFER_FORMATS[TransportKind.WEB_SOCKETS])

    def __init__(
        self,
        exchange: Exchange,
        settings: SignalRConfig,
        on_data: Callable[[list[bytes]], None],
        on_end: Callable[[Closed], None],
    ) -> None:
        general = exchange.config.websocket
        config = dataclasses.replace(
            general,
            # One WebSocket message may hold several hub messages.
            max_message_size=max(general.max_message_size, 2 * settings.max_message_size),
            ping_interval=math.inf,  # hubs have pings of their own, which browsers can send as well
        )
        self._exchange = exchange
        self.poller = exchange.poller
        self._write_now, self._write_soon = exchange.writers()
        self._on_data = on_data
        self._on_end = on_end
        self._over = trio.Event()  # one of the two sides has begun to end it
        self._aborted = False
        self.released = trio.Event()
        """Set by the exchange's task when it has ended."""
        self._ws = WebSocket(exchange, config=config, on_messages=self._receive, on_closed=self._end)
        self.use_format(TransferFormat.TEXT)

    def start(self) -> None:
        """Begin to receive; `on_data` may be called before it returns."""
        self._ws.start()

    def use_protocol(self, protocol: HubProtocol, version: int) -> None:
        self.use_format(protocol.transfer_format)

    def use_format(self, transfer_format: TransferFormat) -> None:
        """Send text or binary messages from here on."""
        self.framing, self._frame = framing_of(transfer_format)

    def frame(self, payload: bytes) -> bytes:
        return self._frame(payload)

    def write(self, frame: bytes) -> None:
        if self._ws.closed is None:
            self._exchange.write(frame)

    def write_now(self, frame: bytes) -> bool:
        return self._ws.closed is not None or self._write_now(frame)

    def write_soon(self, frame: bytes) -> bool:
        return self._ws.closed is not None or self._write_soon(frame)

    def flush(self) -> None:
        self._exchange.flush()

    def flush_soon(self) -> None:
        self._exchange.flush_soon()

    @property
    def queued(self) -> int:
        return self._exchange.queued

    async def drain(self) -> None:
        await self._exchange.drain()

    def pause(self) -> None:
        self._exchange.pause_receiving()

    def resume(self) -> None:
        self._exchange.resume_receiving()

    def timer(self, callback: Callable[[], None]) -> Timer:
        return self._exchange.timer(callback)

    def close(self, *, going_away: bool = False) -> None:
        self._exchange.resume_receiving()  # the client's close frame is behind what was held back
        self._ws.start_closing(1001 if going_away else 1000)
        self._over.set()

    def abort(self) -> None:
        self._aborted = True
        self._exchange.reset()
        self._over.set()

    async def over(self) -> None:
        """Wait until one of the two sides begins to end it, then for the end."""
        await self._over.wait()
        await self.closed()

    async def closed(self) -> None:
        if not self._aborted:
            await self._ws.close()

    def abandon(self, error: BaseException) -> None:
        self._ws.fail(error)

    def _end(self, closed: Closed) -> None:
        self._over.set()
        self._on_end(closed)

    def _receive(self, messages: list[str | bytes]) -> None:
        # The type of a WebSocket message means nothing: JSON in a binary one works as well.
        self._on_data([each.encode() if isinstance(each, str) else each for each in messages])


def framing_of(transfer_format: TransferFormat) -> tuple[str, Callable[[bytes], bytes]]:
    """The name of a framing and the function that frames."""
    if transfer_format is TransferFormat.TEXT:
        return "websocket text", _text_frame
    return "websocket binary", frames.binary_frame


_SHORT_TEXT = [bytes((frames.FIN | frames.TEXT, length)) for length in range(126)]


def _text_frame(payload: bytes) -> bytes:
    """A whole text message of UTF-8 that is already encoded."""
    if len(payload) < 126:
        return _SHORT_TEXT[len(payload)] + payload
    frame = frames.binary_frame(payload)
    return _SHORT_TEXT[0][:1] + frame[1:]

"""How the bytes of a hub connection travel: the seam, and WebSockets.

Owns: framing of hub messages for a transport, and the transport's end. Never parses hub messages.
Server-Sent Events and Long Polling will be further `HubTransport`s.

Spec: docs/specs/TransportProtocols.md. On WebSockets the boundaries of messages mean nothing: a hub
message may span several and one may hold many. What we send is text for JSON, binary for MessagePack.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from engine.websocket.connection import Closed, WebSocket
from engine.wire.signalr.messages import TransferFormat
from engine.wire.signalr.negotiate import TRANSFER_FORMATS, TransportKind
from engine.wire.websocket import frames

if TYPE_CHECKING:
    from engine.config import SignalRConfig
    from engine.transport.exchange import Exchange
    from engine.transport.watchdog import Timer


class HubTransport(ABC):
    """One transport of one hub connection."""

    kind: ClassVar[TransportKind]
    formats: ClassVar[frozenset[TransferFormat]]

    framing: str
    """Two transports with equal `framing` make the same frame of the same payload."""

    @abstractmethod
    def use_format(self, transfer_format: TransferFormat) -> None:
        """The handshake chose an encoding."""

    @abstractmethod
    def frame(self, payload: bytes) -> bytes:
        """Hub messages as they travel; pure, so that a broadcast frames once."""

    @abstractmethod
    def write(self, frame: bytes) -> None:
        """Queue a frame; ignored once the transport is closing."""

    @abstractmethod
    def flush(self) -> None:
        """Send what is queued as far as it goes now."""

    @abstractmethod
    def flush_soon(self) -> None:
        """Send what is queued before the event loop waits."""

    @property
    @abstractmethod
    def queued(self) -> int:
        """Bytes that the client has not taken."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait while much is queued. Cancellation loses nothing.

        Raises:
            ConnectionClosed: the client is gone.
        """

    @abstractmethod
    def pause(self) -> None:
        """Read no more for now."""

    @abstractmethod
    def resume(self) -> None:
        """Read on."""

    @abstractmethod
    def timer(self, callback: Callable[[], None]) -> Timer:
        """A timer until the transport ends."""

    @abstractmethod
    def close(self, *, going_away: bool = False) -> None:
        """End the transport well, behind what is queued. Idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """End the transport now; what is queued is lost."""

    @abstractmethod
    async def closed(self) -> None:
        """Wait for the end, within the transport's own time limit."""

    @abstractmethod
    def abandon(self, error: BaseException) -> None:
        """The connection's task ends with `error`: end the transport as it allows, and do not wait."""


class WebSocketTransport(HubTransport):
    """A WebSocket whose messages are chunks of a byte stream.

    Args:
        exchange: already switched.
        settings: of the hub.
        on_data: called synchronously with the chunks of one read.
        on_end: called once when the client ended the transport, well or badly.
    """

    __slots__ = ("_exchange", "_frame", "_on_data", "_ws", "framing")

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
        self._on_data = on_data
        self._ws = WebSocket(exchange, config=config, on_messages=self._receive, on_closed=on_end)
        self.use_format(TransferFormat.TEXT)  # also of the handshake's answer

    def start(self) -> None:
        """Begin to receive; `on_data` may be called before it returns."""
        self._ws.start()

    def use_format(self, transfer_format: TransferFormat) -> None:
        text = transfer_format is TransferFormat.TEXT
        self.framing = "websocket text" if text else "websocket binary"
        self._frame = _text_frame if text else frames.binary_frame

    def frame(self, payload: bytes) -> bytes:
        return self._frame(payload)

    def write(self, frame: bytes) -> None:
        if self._ws.closed is None:
            self._exchange.write(frame)

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

    def abort(self) -> None:
        self._exchange.reset()

    async def closed(self) -> None:
        await self._ws.close()

    def abandon(self, error: BaseException) -> None:
        self._ws.fail(error)

    def _receive(self, messages: list[str | bytes]) -> None:
        # The type of a WebSocket message means nothing: JSON in a binary one works as well.
        self._on_data([each.encode() if isinstance(each, str) else each for each in messages])


_SHORT_TEXT = [bytes((frames.FIN | frames.TEXT, length)) for length in range(126)]


def _text_frame(payload: bytes) -> bytes:
    """A whole text message of UTF-8 that is already encoded."""
    if len(payload) < 126:
        return _SHORT_TEXT[len(payload)] + payload
    frame = frames.binary_frame(payload)
    return _SHORT_TEXT[0][:1] + frame[1:]

"""Hub connections over Server-Sent Events: a response that never ends, and POST for the other way.

Only text: an event cannot carry arbitrary bytes, so MessagePack is refused in the handshake.

Spec: docs/specs/TransportProtocols.md, "Server-Sent Events"; ServerSentEventsServerTransport.cs;
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from engine.signalr.transports.posted import PostedTransport
from engine.wire.signalr.messages import HubProtocol, TransferFormat
from engine.wire.signalr.negotiate import TRANSFER_FORMATS, TransportKind

if TYPE_CHECKING:
    from engine.transport.exchange import Exchange, Fields
    from engine.transport.watchdog import Timer

_HEAD = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache,no-store"),
    (b"pragma", b"no-cache"),
    (b"content-encoding", b"identity"),  # no proxy may gather events in order to compress them
    (b"x-accel-buffering", b"no"),  # nginx
)
_FIRST = b":\r\n"  # Firefox calls the stream open at its first byte


class ServerSentEventsTransport(PostedTransport):
    """One endless response.

    Args:
        exchange: of the GET request; nothing was answered yet.
        on_data: called synchronously with the chunks of one POST.
        fields: what every response carries.
    """

    kind: ClassVar[TransportKind] = TransportKind.SERVER_SENT_EVENTS
    formats: ClassVar[frozenset[TransferFormat]] = frozenset(TRANSFER_FORMATS[TransportKind.SERVER_SENT_EVENTS])
    framing = "server-sent events"

    def __init__(self, exchange: Exchange, on_data: Callable[[list[bytes]], None], fields: Fields) -> None:
        super().__init__(on_data)
        self._exchange = exchange
        self._fields = fields
        self._ended = False

    def start(self) -> None:
        """Answer the request."""
        self._exchange.write_head(200, (*self._fields, *_HEAD))
        self._exchange.write(_FIRST)
        self._exchange.flush()

    @property
    def ended(self) -> bool:
        return self._ended

    def use_protocol(self, protocol: HubProtocol, version: int) -> None:
        pass

    def frame(self, payload: bytes) -> bytes:
        if b"\n" not in payload:
            return b"data: %b\r\n\r\n" % payload
        lines = [line.removesuffix(b"\r") for line in payload.split(b"\n")]
        return b"".join(b"data: %b\r\n" % line for line in lines) + b"\r\n"

    def write(self, frame: bytes) -> None:
        if not self._ended:
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

    def timer(self, callback: Callable[[], None]) -> Timer:
        return self._exchange.timer(callback)

    def close(self, *, going_away: bool = False) -> None:
        if not self._ended:
            self._finish()
            self._exchange.write(b"", end=True)
            self._exchange.flush()

    def abort(self) -> None:
        self._finish()
        self._exchange.reset()

    async def closed(self) -> None:
        pass

    def abandon(self, error: BaseException) -> None:
        self.close()

    def _finish(self) -> None:
        self._ended = True
        self.resume()

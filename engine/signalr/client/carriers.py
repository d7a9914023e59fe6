"""What carries the bytes of a hub connection: a WebSocket, server-sent events, or polls.

Owns: the seam between a link and its transport, and the three that there are. Frames, events and polls
mean nothing to a hub: bytes go in and come out. Never knows why it is opened or closed.

Spec: docs/specs/TransportProtocols.md; WebSocketTransport.ts, ServerSentEventsTransport.ts,
LongPollingTransport.ts of the official client.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import ClassVar

import trio

from engine.config import WebSocketConfig
from engine.errors import ConnectionClosed, EngineError, HandshakeRejected, LimitExceeded, RemoteProtocolError
from engine.signalr.client.event_stream import EventStreamReader
from engine.signalr.client.requests import REQUEST_TIMEOUT, HubRequests
from engine.transport.exchange import Fields
from engine.transport.http1_client import Response, StreamedResponse, discard, field
from engine.transport.stream import ByteStream
from engine.transport.websocket_client import masking_keys
from engine.wire.signalr.messages import TransferFormat
from engine.wire.signalr.negotiate import TransportKind
from engine.wire.websocket import frames
from engine.wire.websocket.client_frames import masked_frame
from engine.wire.websocket.client_handshake import Rejected
from engine.wire.websocket.closing import State
from engine.wire.websocket.core import WebSocketCore
from engine.wire.websocket.events import CloseReceived, ConnectionFailed, MessagePart, Ping

__all__ = ["Carrier", "open_long_polling", "open_server_sent_events", "open_websocket"]


OPEN_TIMEOUT = 15.0  # seconds for a WebSocket or an event stream to open; then another transport is tried
_BATCH = 2 * 1024 * 1024  # bytes of other messages that may be in one event with a large one
_MAX_REJECTION = 64 * 1024  # bytes of why a server said no
# A message of a WebSocket means nothing to a hub: what is bounded is the hub's own message.
_UNLIMITED = WebSocketConfig(max_message_size=sys.maxsize, max_fragments=sys.maxsize)


class Carrier(ABC):
    """Bytes both ways. One task sends, one receives.

    Attributes:
        control_due: set by the sender: called by `receive` when there is something for `send_control`.
    """

    kind: ClassVar[TransportKind]
    keeps_alive: ClassVar[bool] = False  # by itself: no pings, no server time-out

    def __init__(self) -> None:
        self.control_due: Callable[[], None] = _nobody

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send whole hub messages. After cancellation it is unknown how much left.

        Raises:
            ConnectionClosed: it is broken.
        """

    async def send_control(self) -> None:
        """Send the transport's own answers to what was received; raises as `send`."""
        return  # most have none

    @abstractmethod
    async def receive(self) -> bytes:
        """The next bytes; `b""` when the server ended it in order. Cancellation may lose bytes.

        Raises:
            ConnectionClosed: it broke.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close in order; nobody may be sending or receiving. Cancellation closes at once."""

    @abstractmethod
    async def discard(self) -> None:
        """Close at once, also when cancelled."""


def _nobody() -> None:
    """Nobody sends yet."""


def _rejected(status: int, fields: Fields, body: bytes) -> HandshakeRejected:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    return HandshakeRejected(status, headers, body)


# -- WebSockets -----------------------------------------------------------------


class WebSocketCarrier(Carrier):
    """A WebSocket; text frames for text protocols, as servers and clients insist on.

    Messages are handed on in parts, as they come: a server may put any number of hub messages in one.
    """

    kind = TransportKind.WEB_SOCKETS

    def __init__(self, stream: ByteStream, initial: bytes, transfer_format: TransferFormat) -> None:
        super().__init__()
        self._stream = stream
        self._first = frames.FIN | (frames.TEXT if transfer_format is TransferFormat.TEXT else frames.BINARY)
        self._key = masking_keys(os.urandom)
        self._core = WebSocketCore(_UNLIMITED, masking_key=self._key)
        self._core.stream_messages()
        self._core.receive_data(initial)
        self._closed = False  # by the server
        self._half_sent = False

    async def send(self, data: bytes) -> None:
        await self._write(masked_frame(self._first, data, self._key()))

    async def send_control(self) -> None:
        pongs = self._core.data_to_send(hold_answer=True)
        if pongs:
            await self._write(pongs)

    async def receive(self) -> bytes:
        while not self._closed:
            event = self._core.next_event()
            if event is None:
                data = await self._stream.receive_some()
                if data:
                    self._core.receive_data(data)
                else:
                    self._core.receive_eof()
            elif isinstance(event, str):
                return event.encode()
            elif isinstance(event, bytes):
                return event
            elif isinstance(event, MessagePart):
                if event.data:
                    return event.data.encode() if isinstance(event.data, str) else event.data
            elif isinstance(event, Ping):
                self.control_due()
            elif isinstance(event, CloseReceived):
                self._closed = True
                if event.code not in (1000, frames.NO_STATUS):
                    raise ConnectionClosed(event.code, event.reason, clean=True)
            elif isinstance(event, ConnectionFailed):
                self._closed = True
                raise ConnectionClosed(event.code, _why(event.error))
        return b""

    async def aclose(self) -> None:
        try:
            if not self._half_sent:
                if self._core.state is State.OPEN:
                    self._core.send_close()
                await self._write(self._core.data_to_send())
                while not self._closed:
                    await self.receive()
                await self._stream.aclose()
        except ConnectionClosed:
            pass
        finally:
            await discard(self._stream)  # noqa: ASYNC102  it shields itself

    async def discard(self) -> None:
        await discard(self._stream)

    async def _write(self, data: bytes) -> None:
        self._half_sent = True  # until all of it has left: nothing may follow half a frame
        await self._stream.send_all(data)
        self._half_sent = False


def _why(error: RemoteProtocolError | LimitExceeded | ConnectionClosed) -> str:
    return error.reason if isinstance(error, ConnectionClosed) else str(error)


async def open_websocket(
    requests: HubRequests, url: str, transfer_format: TransferFormat, limit: float
) -> WebSocketCarrier:
    """Open a WebSocket.

    Raises:
        HandshakeRejected: the server answered with something else.
        ConnectionClosed, RemoteProtocolError: it cannot be reached, or speaks no HTTP.
    """
    with trio.move_on_after(OPEN_TIMEOUT):
        answer = await requests.upgrade(url)
        if isinstance(answer, Rejected):
            raise _rejected(answer.status, answer.headers, answer.body)
        stream, opened = answer
        return WebSocketCarrier(stream, opened.trailing, transfer_format)
    raise ConnectionClosed(1006, f"no answer from {url} within {OPEN_TIMEOUT:g} s")


# -- server-sent events ---------------------------------------------------------


async def _request(
    requests: HubRequests, method: str, url: str, body: bytes | None = None, content_type: str = ""
) -> Response:
    """A request of a connection that is open: whatever goes wrong, it is lost."""
    try:
        return await requests.request(method, url, body, content_type)
    except ConnectionClosed:
        raise
    except EngineError as error:
        raise ConnectionClosed(1006, str(error)) from None


async def _post(requests: HubRequests, url: str, data: bytes, transfer_format: TransferFormat) -> None:
    text = transfer_format is TransferFormat.TEXT
    content_type = "text/plain;charset=UTF-8" if text else "application/octet-stream"
    response = await _request(requests, "POST", url, data, content_type)
    if response.status >= 300:
        raise ConnectionClosed(1006, f"the server answered a message with {response.status}")


class ServerSentEventsCarrier(Carrier):
    """Events down, POSTs up."""

    kind = TransportKind.SERVER_SENT_EVENTS

    def __init__(
        self, requests: HubRequests, url: str, response: StreamedResponse, stack: AsyncExitStack, limit: float
    ) -> None:
        super().__init__()
        self._requests = requests
        self._url = url
        self._response = response
        self._stack = stack
        self._reader = EventStreamReader(limit + _BATCH)

    async def send(self, data: bytes) -> None:
        await _post(self._requests, self._url, data, TransferFormat.TEXT)

    async def receive(self) -> bytes:
        try:
            while (event := self._reader.next_event()) is None:
                data = await self._response.receive_some()
                if not data:
                    return b""
                self._reader.receive_data(data)
        except RemoteProtocolError as error:
            raise ConnectionClosed(1006, str(error)) from None
        return event

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def discard(self) -> None:
        await self._response.discard()
        await self._stack.aclose()


async def open_server_sent_events(
    requests: HubRequests, url: str, transfer_format: TransferFormat, limit: float
) -> ServerSentEventsCarrier:
    """Open an event stream; raises as `open_websocket`."""
    async with AsyncExitStack() as stack:
        with trio.move_on_after(OPEN_TIMEOUT):
            response = await stack.enter_async_context(requests.stream(url, "text/event-stream"))
            media_type = (field(response.headers, b"content-type") or "").partition(";")[0].strip().lower()
            if response.status != 200:
                raise _rejected(response.status, response.headers, await response.read(_MAX_REJECTION))
            if media_type != "text/event-stream":
                raise RemoteProtocolError(f"the server answered with {media_type or 'no type'}, not with events")
            return ServerSentEventsCarrier(requests, url, response, stack.pop_all(), limit)
    raise ConnectionClosed(1006, f"no answer from {url} within {OPEN_TIMEOUT:g} s")


# -- long polling -----------------------------------------------------------------

_POLL_TIMEOUT = REQUEST_TIMEOUT - 1  # seconds; ASP.NET Core answers an empty poll after 90


class LongPollingCarrier(Carrier):
    """Polls down, POSTs up."""

    kind = TransportKind.LONG_POLLING
    keeps_alive = True

    def __init__(self, requests: HubRequests, url: str, transfer_format: TransferFormat) -> None:
        super().__init__()
        self._requests = requests
        self._url = url
        self._format = transfer_format
        self._first = b""  # what the first poll brought, which brings nothing as a rule
        self._ended = False

    async def open(self) -> None:
        """The first poll, which opens the connection; raises HandshakeRejected, ConnectionClosed."""
        response = await self.poll()
        if response.status != 200:
            raise _rejected(response.status, response.headers, response.body)
        self._first = response.body

    async def poll(self) -> Response:
        """One GET; the query keeps caches away."""
        separator = "&" if "?" in self._url else "?"
        return await _request(self._requests, "GET", f"{self._url}{separator}_={time.time_ns() // 1_000_000}")

    async def send(self, data: bytes) -> None:
        await _post(self._requests, self._url, data, self._format)

    async def receive(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        while not self._ended:
            with trio.move_on_after(_POLL_TIMEOUT) as patience:
                response = await self.poll()
            if patience.cancelled_caught:
                continue  # the server polls longer than we wait
            if response.status == 204:
                self._ended = True
            elif response.status != 200:
                self._ended = True
                raise ConnectionClosed(1006, f"the server answered a poll with {response.status}")
            elif response.body:
                return response.body
        return b""

    async def aclose(self) -> None:
        try:
            if not self._ended:
                await self._requests.request("DELETE", self._url)
        except EngineError:
            pass  # it is gone, or will notice that nobody polls

    async def discard(self) -> None:
        self._ended = True


async def open_long_polling(
    requests: HubRequests, url: str, transfer_format: TransferFormat, limit: float
) -> LongPollingCarrier:
    """Poll once, which opens the connection; raises as `open_websocket`."""
    carrier = LongPollingCarrier(requests, url, transfer_format)
    await carrier.open()
    return carrier

"""What carries the bytes of a hub connection: a WebSocket, server-sent events, or polls.

Owns: the seam between a link and its transport, and the three that there are. Frames, events and polls
mean nothing to a hub: bytes go in and come out. Never knows why it is opened or closed.

Spec: docs/specs/TransportProtocols.md; WebSocketTransport.ts, ServerSentEventsTransport.ts,
LongPollingTransport.ts of the official client.
"""

from __future__ import annotations

import base64
import os
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import ClassVar

import trio

from engine.errors import ConnectionClosed, EngineError, HandshakeRejected, RemoteProtocolError
from engine.signalr.client.event_stream import EventStreamReader
from engine.signalr.client.frames import CloseFrame, PingFrame, ServerFrameReader, client_frame
from engine.signalr.client.requests import REQUEST_TIMEOUT, HubRequests
from engine.transport.http1_client import Response, StreamedResponse, discard, field
from engine.transport.stream import ByteStream
from engine.wire.signalr.messages import TransferFormat
from engine.wire.signalr.negotiate import TransportKind
from engine.wire.websocket.frames import BINARY, CLOSE, PONG, TEXT, close_payload
from engine.wire.websocket.handshake import accept_token

__all__ = ["Carrier", "open_long_polling", "open_server_sent_events", "open_websocket"]


class Carrier(ABC):
    """Bytes both ways. One task sends, one receives."""

    kind: ClassVar[TransportKind]
    keeps_alive: ClassVar[bool] = False  # by itself: no pings, no server time-out

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send whole hub messages. After cancellation it is unknown how much left.

        Raises:
            ConnectionClosed: it is broken.
        """

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


def _rejected(response: Response | StreamedResponse, body: bytes = b"") -> HandshakeRejected:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
    return HandshakeRejected(response.status, headers, body)


# -- WebSockets -----------------------------------------------------------------


class WebSocketCarrier(Carrier):
    """A WebSocket; text frames for text protocols, as servers and clients insist on."""

    kind = TransportKind.WEB_SOCKETS

    def __init__(self, stream: ByteStream, initial: bytes, transfer_format: TransferFormat, limit: float) -> None:
        self._stream = stream
        self._opcode = TEXT if transfer_format is TransferFormat.TEXT else BINARY
        self._reader = ServerFrameReader(limit)
        self._initial = initial
        self._lock = trio.Lock()  # pongs and messages
        self._over = False

    async def send(self, data: bytes) -> None:
        await self._send_frame(self._opcode, data)

    async def receive(self) -> bytes:
        try:
            while not self._over:
                event = self._reader.next_event()
                if isinstance(event, bytes):
                    return event
                if isinstance(event, PingFrame):
                    await self._send_frame(PONG, event.payload)
                elif isinstance(event, CloseFrame):
                    self._over = True
                    if event.code not in (1000, 1005):
                        raise ConnectionClosed(event.code, event.reason, clean=True)
                else:
                    await self._read()
        except RemoteProtocolError as error:
            self._stream.abort()  # `aclose` follows
            raise ConnectionClosed(error.websocket_code, str(error)) from None
        return b""

    async def aclose(self) -> None:
        try:
            over, self._over = self._over, True
            await self._send_frame(CLOSE, close_payload(1000, ""))
            while not over:
                event = self._reader.next_event()
                over = isinstance(event, CloseFrame)
                if event is None:
                    await self._read()
            await self._stream.aclose()
        except (ConnectionClosed, RemoteProtocolError):
            pass
        finally:
            await discard(self._stream)  # noqa: ASYNC102  it shields itself

    async def discard(self) -> None:
        await discard(self._stream)

    async def _read(self) -> None:
        data, self._initial = self._initial or await self._stream.receive_some(), b""
        if not data:
            raise ConnectionClosed(1006, "the server went away")
        self._reader.receive_data(data)

    async def _send_frame(self, opcode: int, payload: bytes) -> None:
        frame = client_frame(opcode, payload, os.urandom(4))
        async with self._lock:
            await self._stream.send_all(frame)


async def open_websocket(
    requests: HubRequests, url: str, transfer_format: TransferFormat, limit: float
) -> WebSocketCarrier:
    """Open a WebSocket.

    Raises:
        HandshakeRejected: the server answered with something else.
        ConnectionClosed, RemoteProtocolError: it cannot be reached, or speaks no HTTP.
    """
    key = base64.b64encode(os.urandom(16))
    fields = (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key.decode()),
    )
    answer = await requests.upgrade(url, fields)
    if isinstance(answer, Response):
        raise _rejected(answer, answer.body)
    stream, initial, head = answer
    if field(head.headers, b"sec-websocket-accept") != accept_token(key).decode():
        await discard(stream)
        raise RemoteProtocolError("the server's Sec-WebSocket-Accept is wrong; is there a cache in between?")
    return WebSocketCarrier(stream, initial, transfer_format, limit)


# -- server-sent events ---------------------------------------------------------


async def _post(requests: HubRequests, url: str, data: bytes, transfer_format: TransferFormat) -> None:
    text = transfer_format is TransferFormat.TEXT
    content_type = "text/plain;charset=UTF-8" if text else "application/octet-stream"
    response = await requests.request("POST", url, data, content_type)
    if response.status >= 300:
        raise ConnectionClosed(1006, f"the server answered a message with {response.status}")


class ServerSentEventsCarrier(Carrier):
    """Events down, POSTs up."""

    kind = TransportKind.SERVER_SENT_EVENTS

    def __init__(
        self, requests: HubRequests, url: str, response: StreamedResponse, stack: AsyncExitStack, limit: float
    ) -> None:
        self._requests = requests
        self._url = url
        self._response = response
        self._stack = stack
        self._reader = EventStreamReader(limit)

    async def send(self, data: bytes) -> None:
        try:
            await _post(self._requests, self._url, data, TransferFormat.TEXT)
        except RemoteProtocolError as error:
            raise ConnectionClosed(1006, str(error)) from None

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


async def open_server_sent_events(
    requests: HubRequests, url: str, transfer_format: TransferFormat, limit: float
) -> ServerSentEventsCarrier:
    """Open an event stream; raises as `open_websocket`."""
    async with AsyncExitStack() as stack:
        with trio.move_on_after(REQUEST_TIMEOUT):
            response = await stack.enter_async_context(requests.stream(url, "text/event-stream"))
            media_type = (field(response.headers, b"content-type") or "").partition(";")[0].strip().lower()
            if response.status != 200:
                raise _rejected(response, await response.read())
            if media_type != "text/event-stream":
                raise RemoteProtocolError(f"the server answered with {media_type or 'no type'}, not with events")
            return ServerSentEventsCarrier(requests, url, response, stack.pop_all(), limit)
    raise ConnectionClosed(1006, f"no answer from {url} within {REQUEST_TIMEOUT:g} s")


# -- long polling -----------------------------------------------------------------

_POLL_TIMEOUT = REQUEST_TIMEOUT - 1  # seconds; ASP.NET Core answers an empty poll after 90


class LongPollingCarrier(Carrier):
    """Polls down, POSTs up."""

    kind = TransportKind.LONG_POLLING
    keeps_alive = True

    def __init__(self, requests: HubRequests, url: str, transfer_format: TransferFormat) -> None:
        self._requests = requests
        self._url = url
        self._format = transfer_format
        self._ended = False

    async def poll(self) -> Response:
        """One GET; the query keeps caches away."""
        return await self._requests.request("GET", f"{self._url}&_={time.time_ns() // 1_000_000}")

    async def send(self, data: bytes) -> None:
        try:
            await _post(self._requests, self._url, data, self._format)
        except RemoteProtocolError as error:
            raise ConnectionClosed(1006, str(error)) from None

    async def receive(self) -> bytes:
        while not self._ended:
            with trio.move_on_after(_POLL_TIMEOUT) as patience:
                try:
                    response = await self.poll()
                except RemoteProtocolError as error:
                    raise ConnectionClosed(1006, str(error)) from None
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
    response = await carrier.poll()
    if response.status != 200:
        raise _rejected(response, response.body)
    return carrier

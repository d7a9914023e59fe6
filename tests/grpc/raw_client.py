"""A client of raw HTTP/2 streams, on the h2 library, and a server for it.

Owns: what each stream got, in order: heads, bytes, trailers, resets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import trio
import trio.testing

from engine.app import App
from engine.config import Config
from engine.grpc import ServiceBase
from engine.server import Server
from engine.wire.grpc.framing import MessageParser

_LIMIT = 20.0  # seconds for a test: a hang becomes a failure that says where

Fields = Iterable[tuple[bytes, bytes]]


@dataclass
class Stream:
    """What arrived on one stream."""

    heads: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    order: list[str] = field(default_factory=list)

    @property
    def http_status(self) -> int:
        return int(dict(self.heads[0])[b":status"])

    @property
    def grpc_status(self) -> int:
        return int(dict(self.heads[-1])[b"grpc-status"])

    @property
    def messages(self) -> list[bytes]:
        parser = MessageParser(2**32)
        parser.receive_data(self.body)
        return list(iter(parser.next_message, None))


class RawClient:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.h2.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.hold_window = False
        self.goaway: h2.events.ConnectionTerminated | None = None

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def start(self, path: str, headers: Fields = (), *, end: bool = False, **changes: bytes) -> int:
        """Send a request head; `method`, `te` and `content_type` may be changed, b"" leaves a field out."""
        stream_id = self.h2.get_next_available_stream_id()
        self.streams[stream_id] = Stream()
        fields = [
            (b":method", changes.get("method", b"POST")),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"localhost"),
            (b"te", changes.get("te", b"trailers")),
            (b"content-type", changes.get("content_type", b"application/grpc")),
            *headers,
        ]
        self.h2.send_headers(stream_id, [item for item in fields if item[1]], end_stream=end)
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, *pieces: bytes, end: bool = False) -> None:
        """Each piece in a DATA frame of its own."""
        for piece in pieces:
            self.h2.send_data(stream_id, piece)
        if end:
            self.h2.end_stream(stream_id)
        await self.flush()

    async def reset(self, stream_id: int, code: int = 8) -> None:
        self.h2.reset_stream(stream_id, code)
        await self.flush()

    async def until(self, done: Callable[[], object]) -> None:
        """Receive until something holds."""
        while not done():
            data = await self.stream.receive_some(65536)
            assert data, "the server closed the connection"
            for event in self.h2.receive_data(data):
                self._apply(event)
            await self.flush()

    async def ended(self, stream_id: int) -> Stream:
        """Receive until the stream is over."""
        stream = self.streams[stream_id]
        await self.until(lambda: stream.ended or stream.reset is not None)
        return stream

    async def settled(self) -> None:
        """A PING round trip: what the server had written before is here."""
        acknowledged: list[bytes] = []
        self._on_ping = acknowledged.append
        self.h2.ping(b"settled!")
        await self.flush()
        await self.until(lambda: acknowledged)

    def _on_ping(self, payload: bytes) -> None:
        """Replaced while a PING is under way."""

    def _apply(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.PingAckReceived):
            self._on_ping(event.ping_data)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            stream.heads.append(list(event.headers))
            stream.order.append("head" if isinstance(event, h2.events.ResponseReceived) else "trailers")
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            stream.order.append("data")
            if not self.hold_window:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = event.error_code
            stream.order.append(f"reset {int(event.error_code)}")


@asynccontextmanager
async def connected(
    *services: ServiceBase, over: str = "socket", config: Config | None = None
) -> AsyncIterator[RawClient]:
    """A server of these services and one client connection to it, over a real socket or in memory."""
    app = App()
    for service in services:
        app.add_service(service)
    server = Server(app, (config or Config()).replace(server__port=0))
    with trio.fail_after(_LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            stream: trio.abc.Stream
            if over == "socket":
                host, _, port = server.addresses[0].rpartition(":")
                stream = await trio.open_tcp_stream(host, int(port))
            else:
                stream, other = trio.testing.memory_stream_pair()
                nursery.start_soon(server.serve_stream, other)
            async with stream:
                client = RawClient(stream)
                await client.flush()
                yield client
            server.stop()

"""A driver under test, and a client at the other end that reads responses byte by byte as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
import trio.testing

from engine.config import Config
from engine.errors import ConnectionClosed
from engine.transport.exchange import Exchange, Peer
from engine.transport.http1 import Http1Driver
from engine.transport.stream import ByteStream, SocketByteStream, WrappedByteStream
from engine.transport.watchdog import Watchdog

Handler = Callable[[Exchange], Awaitable[None]]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)


class Client:
    """Sends bytes and reads responses."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, driver: Http1Driver) -> None:
        self.stream = stream
        self.driver = driver
        self.over = trio.Event()  # the driver's `run` has returned, and the stream is closed
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self._buffer += data
        return bool(data)

    async def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            assert await self._more(), f"the connection ended behind {self._buffer!r}"
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            assert await self._more(), f"the connection ended behind {self._buffer!r}"
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def rest(self) -> bytes:
        """All that comes until the server ends its direction, or resets the connection."""
        with suppress(trio.BrokenResourceError):
            while await self._more():
                pass
        data, self._buffer = self._buffer, b""
        return data

    async def _fields(self) -> dict[str, str]:
        fields = {}
        while line := await self.line():
            name, _, value = line.decode("latin-1").partition(": ")
            fields[name.lower()] = value
        return fields

    async def reply(self, method: str = "GET") -> Reply:
        version, status, *_ = (await self.line()).split(b" ", 2)
        assert version == b"HTTP/1.1"
        reply = Reply(int(status), await self._fields())
        if method == "HEAD" or reply.status < 200 or reply.status in (204, 304):
            return reply
        if reply.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.line(), 16):
                reply.body += await self.exactly(size)
                assert await self.line() == b""
            reply.trailers = await self._fields()
        elif "content-length" in reply.headers:
            reply.body = await self.exactly(int(reply.headers["content-length"]))
        else:
            reply.body = await self.rest()
        return reply

    async def ask(self, request: bytes) -> Reply:
        await self.send(request)
        return await self.reply(request.split(b" ", 1)[0].decode())


async def _streams(over: str, config: Config, stalled: bool) -> tuple[trio.abc.HalfCloseableStream, ByteStream]:
    if over == "memory":
        client, server = trio.testing.memory_stream_pair()
        if stalled:
            server.send_stream.send_all_hook = trio.sleep_forever
        return client, WrappedByteStream(server, read_size=config.server.read_size)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        accepted = await listener.accept()
        sock = accepted.socket._sock.dup()  # the plain socket, as the engine's listener gives it
        await accepted.aclose()
    return client, SocketByteStream(sock, read_size=config.server.read_size)


@asynccontextmanager
async def connected(
    handler: Handler, config: Config | None = None, over: str = "memory", *, stalled: bool = False
) -> AsyncIterator[Client]:
    """A client of a driver that runs `handler`; at the end everything is cancelled.

    `stalled`, over memory streams only: the client takes nothing of what the server sends.
    """
    config = config or Config()
    watchdog = Watchdog()
    stream, server_stream = await _streams(over, config, stalled)
    peer = Peer("memory", "memory", 1)

    async def handle(exchange: Exchange) -> None:
        with suppress(ConnectionClosed):  # the app's barrier does as much
            await handler(exchange)

    driver = Http1Driver(server_stream, config=config, peer=peer, handler=handle, watchdog=watchdog)
    client = Client(stream, driver)

    async def drive() -> None:
        try:
            await driver.run()
            await server_stream.aclose()
            client.over.set()
        finally:
            server_stream.abort()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.run)
        nursery.start_soon(drive)
        async with stream:
            yield client
        nursery.cancel_scope.cancel()

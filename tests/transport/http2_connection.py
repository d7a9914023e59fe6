"""An HTTP/2 driver under test: hand-built frames in, frames out, over memory streams."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio
import trio.testing

from engine.config import Config
from engine.errors import ConnectionClosed
from engine.transport.exchange import CancelReason, Exchange, Peer
from engine.transport.http2 import Http2Driver
from engine.transport.stream import WrappedByteStream
from engine.transport.watchdog import Watchdog
from tests.wire.http2_peer import DATA, GOAWAY, PREFACE, SETTINGS, frame, settings

Handler = Callable[[Exchange], Awaitable[None]]
Frame = tuple[int, int, int, bytes]

END_STREAM = 1


class Connection:
    """The client's end."""

    def __init__(self, stream: trio.testing.StapledMemoryStream, driver: Http2Driver) -> None:
        self.stream = stream
        self.driver = driver
        self.over = trio.Event()  # the driver's `run` has returned
        self._buffer = b""

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def frame(self) -> Frame | None:
        """The next frame, or None at the end."""
        while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
            more = await self.stream.receive_some(65536)
            if not more:
                assert not self._buffer, self._buffer
                return None
            self._buffer += more
        high, low, kind, flags, stream_id = struct.unpack_from(">HBBBL", self._buffer)
        length = high << 8 | low
        payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
        return kind, flags, stream_id, payload

    async def until(self, kind: int, stream_id: int | None = None) -> Frame:
        """The next frame of a kind; others before it are dropped."""
        while (found := await self.frame()) is not None:
            if found[0] == kind and stream_id in (None, found[2]):
                return found
        raise AssertionError("the connection ended")

    async def rest(self) -> list[Frame]:
        """All frames until the end."""
        frames = []
        while (found := await self.frame()) is not None:
            frames.append(found)
        return frames

    async def goaway(self) -> tuple[int, int, bytes]:
        """Last stream id, code and text of the next GOAWAY."""
        payload = (await self.until(GOAWAY))[3]
        return (*struct.unpack_from(">LL", payload), payload[8:])


@asynccontextmanager
async def connected(
    handler: Handler, *, greet: bytes | None = None, lockstep: bool = False, **options: object
) -> AsyncIterator[Connection]:
    """A client of a driver that runs `handler`; at the end everything is cancelled.

    Args:
        greet: what the client sends first; preface, SETTINGS and the acknowledgement where None.
        lockstep: the server's sends wait until the client reads.
        options: settings, as `Config.replace` takes them.
    """
    config = Config().replace(**options)
    watchdog = Watchdog()
    client, server = trio.testing.memory_stream_pair()
    if lockstep:
        client, server = trio.testing.lockstep_stream_pair()  # type: ignore[assignment]  # the same methods

    async def handle(exchange: Exchange) -> None:
        with suppress(ConnectionClosed):  # the app's barrier does as much
            await handler(exchange)

    stream = WrappedByteStream(server, read_size=config.server.read_size)
    driver = Http2Driver(stream, config=config, peer=Peer("memory", "memory", 1), handler=handle, watchdog=watchdog)
    connection = Connection(client, driver)

    async def drive() -> None:
        await driver.run()
        await stream.aclose()
        connection.over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.run)
        nursery.start_soon(drive)
        first = PREFACE + settings() + frame(SETTINGS, 1) if greet is None else greet
        if first:
            await connection.send(first)
        yield connection
        nursery.cancel_scope.cancel()


class Hanging:
    """Handlers that wait, and what they were told."""

    def __init__(self) -> None:
        self.running = 0
        self.seen: list[CancelReason | None] = []

    async def __call__(self, exchange: Exchange) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1
            self.seen.append(exchange.cancel_reason)


async def bodies_of(connection: Connection, count: int) -> dict[int, bytes]:
    """The next `count` bodies to be complete, in whatever order they come."""
    bodies: dict[int, bytes] = {}
    while count:
        _, flags, stream_id, payload = await connection.until(DATA)
        bodies[stream_id] = bodies.get(stream_id, b"") + payload
        count -= flags & END_STREAM
    return bodies


async def body_of(connection: Connection, stream_id: int) -> bytes:
    body = b""
    while True:
        _, flags, _, payload = await connection.until(DATA, stream_id)
        body += payload
        if flags & END_STREAM:
            return body

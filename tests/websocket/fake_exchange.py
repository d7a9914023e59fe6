"""An exchange without a connection: what the peer sends is put in, what was written can be read out."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from engine.config import Config
from engine.errors import ConnectionClosed, Http2Code
from engine.transport.exchange import Exchange, Fields, Peer, RequestHead
from engine.transport.watchdog import Timer, Watchdog

GOOD_FIELDS: list[tuple[bytes, bytes]] = [
    (b"host", b"example.com"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
]


class FakeExchange(Exchange):
    """Writes go nowhere: `flush` moves them from `queued_data` to `sent`, unless `blocked`."""

    def __init__(
        self,
        config: Config | None = None,
        watchdog: Watchdog | None = None,
        *,
        method: str = "GET",
        http_version: str = "1.1",
        protocol: str | None = "websocket",
        fields: list[tuple[bytes, bytes]] = GOOD_FIELDS,
    ) -> None:
        self.head = RequestHead(method, "/", "", "http", "example.com", fields, http_version, protocol, b"/")
        self.peer = Peer("memory", "memory", 1)
        self.config = config or Config()
        self.scope = trio.CancelScope()
        self.cancel_reason = None
        self.status = 0
        self.response_ended = False
        self.draining = False
        self.on_cancelled = None
        self.on_draining = None
        self.max_body: float = 1000
        self.min_body_rate: float = 100
        self.watchdog = watchdog or Watchdog()
        self.response_fields: Fields = ()
        self.queued_data = b""
        self.sent = b""
        self.blocked = False  # the peer takes nothing
        self.closed = False
        self.was_reset = False
        self.paused = False
        self.early = b""  # what came behind the handshake
        self.soon = 0  # calls of flush_soon
        self.sink: Callable[[bytes], None] | None = None
        self._unblocked = trio.Event()
        self.when_writable: Callable[[], None] | None = None

    def deliver(self, data: bytes) -> None:
        """The peer sent this."""
        assert self.sink is not None
        self.sink(data)

    def take_sent(self) -> bytes:
        """What arrived at the peer since the last call."""
        sent, self.sent = self.sent, b""
        return sent

    def unblock(self) -> None:
        """The peer takes everything again."""
        self.blocked = False
        self.flush()
        self._unblocked.set()
        while self.when_writable is not None:
            callback, self.when_writable = self.when_writable, None
            callback()
            self.flush()

    async def receive(self) -> bytes:
        raise AssertionError("a WebSocket attaches")

    def receive_nowait(self) -> bytes | None:
        raise AssertionError("a WebSocket attaches")

    def attach(self, sink: Callable[[bytes], None]) -> None:
        assert self.status, "attached before the switch"
        self.sink = sink
        if self.early:
            sink(self.early)

    def pause_receiving(self) -> None:
        self.paused = True

    def resume_receiving(self) -> None:
        self.paused = False

    def write_head(self, status: int, headers: Fields = (), *, end: bool = False) -> None:
        assert not self.status
        self.status, self.response_fields, self.response_ended = status, headers, end

    def write_informational(self, status: int, headers: Fields = ()) -> None:
        raise AssertionError("not for a WebSocket")

    @property
    def bytes_sent(self) -> int:
        return 0

    def write(self, data: bytes, *, end: bool = False) -> None:
        assert self.status
        assert not self.response_ended, f"written after the end: {data!r}"
        self.queued_data += data
        self.response_ended = end

    def write_trailers(self, headers: Fields) -> None:
        raise AssertionError("not for a WebSocket")

    def switch_protocol(self, headers: Fields = ()) -> None:
        self.max_body, self.min_body_rate = math.inf, 0
        self.write_head(101 if self.head.http_version == "1.1" else 200, headers)

    @property
    def queued(self) -> int:
        return len(self.queued_data)

    def flush(self) -> None:
        if not self.blocked:
            self.sent += self.queued_data
            self.queued_data = b""

    def flush_soon(self) -> None:
        self.soon += 1

    async def drain(self) -> None:
        self.flush()
        while self.queued:
            self._unblocked = trio.Event()
            await self._unblocked.wait()
        if self.was_reset:
            raise ConnectionClosed(1006, "reset")
        await trio.lowlevel.checkpoint()

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        assert self.when_writable is None
        self.when_writable = callback

    def timer(self, callback: Callable[[], None]) -> Timer:
        return self.watchdog.timer(callback)

    def reset(self, code: Http2Code = Http2Code.CANCEL) -> None:
        self.was_reset = self.response_ended = True

    def close(self) -> None:
        self.flush()
        self.closed = self.response_ended = True

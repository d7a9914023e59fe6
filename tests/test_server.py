"""The whole server over memory streams: phases, cancellation, barriers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing

from engine import App, Config, Request, Response, WebSocket, serve
from engine.errors import Http2Code, StartupError
from engine.server import Phase, Server

if TYPE_CHECKING:
    from trio.testing import MockClock

QUIET = Config().replace(server__port=0)


@asynccontextmanager
async def running(app: App, config: Config = QUIET) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, app, config)
        yield server
        server.stop()


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[trio.testing.MemoryReceiveStream]:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        yield near  # type: ignore[misc]
        await near.aclose()


async def read_until(stream: trio.abc.ReceiveStream, needle: bytes) -> bytes:
    data = b""
    while needle not in data:
        more = await stream.receive_some(65536)
        if not more:
            raise AssertionError(f"the end came before {needle!r}: {data!r}")
        data += more
    return data


class Http2Client:
    """A client that the h2 package drives; nothing of ours is in it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="ascii"))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    async def request(self, path: str, *, method: str = "GET", end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        self.h2.send_headers(stream_id, head, end_stream=end)
        await self.flush()
        return stream_id

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def until(self, kind: type[h2.events.Event], stream_id: int | None = None) -> h2.events.Event:
        while True:
            for event in self.events:
                if isinstance(event, kind) and (stream_id is None or getattr(event, "stream_id", None) == stream_id):
                    self.events.remove(event)
                    return event
            data = await self.stream.receive_some(65536)
            assert data, f"the end came before {kind.__name__}; {self.events}"
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.events.append(event)
            await self.flush()


class Handlers:
    """An app whose handlers tell what became of them."""

    def __init__(self) -> None:
        self.app = App()
        self.started = trio.Event()
        self.cancelled = trio.Event()
        self.app.route("/hang")(self.hang)
        self.app.route("/fail")(self.fail)
        self.app.route("/ok")(self.ok)
        self.app.websocket("/hang-ws")(self.hang_ws)
        self.app.websocket("/echo")(self.echo)

    async def _hang(self) -> None:
        self.started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def hang(self, request: Request) -> Response:
        await self._hang()
        return Response("never")

    async def fail(self, request: Request) -> Response:
        raise ValueError("secret text")

    async def ok(self, request: Request) -> Response:
        return Response("ok")

    async def hang_ws(self, ws: WebSocket) -> None:
        await self._hang()

    async def echo(self, ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)


HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def http1_hang(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")


async def websocket_hang(stream: trio.abc.Stream) -> None:
    await stream.send_all(HANDSHAKE % b"/hang-ws")


async def http2_hang(stream: trio.abc.Stream) -> None:
    await Http2Client(stream).request("/hang")


@pytest.mark.parametrize("begin", [http1_hang, http2_hang, websocket_hang])
async def test_a_lost_connection_cancels_the_handler(
    begin: Callable[[trio.abc.Stream], Awaitable[None]], autojump_clock: MockClock
) -> None:
    handlers = Handlers()
    async with running(handlers.app) as server, connected(server) as stream:
        await begin(stream)
        await handlers.started.wait()
        await stream.aclose()
        await handlers.cancelled.wait()
    assert server.connection_count == 0


async def test_a_reset_stream_cancels_its_handler_and_leaves_the_others(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    async with running(handlers.app) as server, connected(server) as stream:
        client = Http2Client(stream)
        hanging = await client.request("/hang")
        await handlers.started.wait()
        client.h2.reset_stream(hanging, Http2Code.CANCEL)
        await client.flush()
        await handlers.cancelled.wait()
        other = await client.request("/ok")
        await client.until(h2.events.StreamEnded, other)


@pytest.mark.parametrize("detailed", [False, True])
async def test_a_failing_handler_answers_500_is_logged_once_and_harms_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, detailed: bool
) -> None:
    handlers = Handlers()
    config = QUIET.replace(detailed_errors=detailed)
    async with running(handlers.app, config) as server, connected(server) as stream, connected(server) as other:
        with caplog.at_level(logging.ERROR):
            await stream.send_all(b"GET /fail HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await read_until(stream, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        await stream.send_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n")
        await read_until(stream, b"200 OK")
        client = Http2Client(other)
        failed = await client.request("/fail")
        head = await client.until(h2.events.ResponseReceived, failed)
        assert dict(head.headers)[":status"] == "500"  # type: ignore[attr-defined]
        body = await client.until(h2.events.DataReceived, failed)
        assert (b"secret" in body.data) is detailed  # type: ignore[attr-defined]
        await client.until(h2.events.StreamEnded, await client.request("/ok"))
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2
    assert all("secret text" in record.getMessage() for record in errors)


async def test_a_drain_lets_running_exchanges_finish_and_refuses_new_ones(autojump_clock: MockClock) -> None:
    app = App()
    release = trio.Event()
    started = trio.Event()

    @app.route("/slow")
    async def slow(request: Request) -> Response:
        started.set()
        await release.wait()
        return Response("done")

    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, app, QUIET)
        near, far = trio.testing.memory_stream_pair()
        near1, far1 = trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve_stream, far)
        nursery.start_soon(server.serve_stream, far1)
        await near1.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        client = Http2Client(near)
        stream_id = await client.request("/slow")
        await started.wait()
        await client.until(h2.events.RemoteSettingsChanged)
        server.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert server.phase is Phase.DRAINING
        assert not app.ready
        release.set()
        # The h2 package takes any GOAWAY for the end of its connection: read the frames by hand.
        data = await read_until(near, b"done")
        assert b"\x7f\xff\xff\xff\x00\x00\x00\x00" in data  # GOAWAY(2^31-1, NO_ERROR)
        answer = await read_until(near1, b"done")
        assert b"connection: close" in answer.lower()
        assert await near1.receive_some(1) == b""
        await near1.aclose()
        await near.aclose()
    assert server.phase is Phase.STOPPED
    assert stream_id == 1


async def test_what_does_not_finish_within_the_grace_is_cancelled(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, handlers.app, QUIET)
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve_stream, far)
        await near.send_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
        await handlers.started.wait()
        begin = trio.current_time()
        server.drain()
        await handlers.cancelled.wait()
        assert trio.current_time() - begin == QUIET.server.graceful_timeout
    await near.aclose()


async def test_a_draining_server_closes_websockets_with_1001(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, handlers.app, QUIET)
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve_stream, far)
        await near.send_all(HANDSHAKE % b"/echo")
        await read_until(near, b"\r\n\r\n")
        server.drain()
        assert (await read_until(near, b"\x03\xe9"))[:1] == b"\x88"
        await near.send_all(b"\x88\x82\x00\x00\x00\x00\x03\xe9")
        assert await near.receive_some(10) == b""
        await near.aclose()


async def test_connections_beyond_the_limit_wait_and_are_not_dropped() -> None:
    handlers = Handlers()
    async with running(handlers.app, QUIET.replace(server__max_connections=1)) as server:
        host, port = server.addresses[0].split(":")
        first = await trio.open_tcp_stream(host, int(port))
        await first.send_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n")
        await read_until(first, b"200 OK")
        second = await trio.open_tcp_stream(host, int(port))
        await second.send_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n")
        assert server.connection_count == 1
        await first.aclose()
        await read_until(second, b"200 OK")
        await second.aclose()


async def test_a_busy_port_is_a_start_up_error_that_says_what_to_do() -> None:
    async with running(App()) as server:
        port = int(server.addresses[0].rpartition(":")[2])
        with pytest.raises(StartupError, match=r"cannot listen on 127\.0\.0\.1:\d+: address already in use; .*--port"):
            await Server(App(), QUIET.replace(server__port=port)).run()


async def test_a_failing_lifespan_is_a_start_up_error() -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    with pytest.raises(StartupError, match="lifespan failed with RuntimeError: no database"):
        await Server(App(lifespan=lifespan), QUIET).run()


async def test_cancelling_the_task_of_a_server_ends_it_at_once(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("stop")

    handlers.app._lifespan = lifespan  # the app of this test is made by its class
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, handlers.app, QUIET)
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve_stream, far)
        await near.send_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
        await handlers.started.wait()
        begin = trio.current_time()
        nursery.cancel_scope.cancel()
    assert handlers.cancelled.is_set()
    assert trio.current_time() - begin <= 2
    assert events[0] == "start"
    await near.aclose()


@pytest.mark.parametrize("shared_poller", [True, False])
async def test_sockets_are_served_with_a_shared_poller_and_without(shared_poller: bool) -> None:
    async with running(Handlers().app, QUIET.replace(server__shared_poller=shared_poller)) as server:
        port = int(server.addresses[0].rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _ in range(2):
                await stream.send_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await read_until(stream, b"ok")).startswith(b"HTTP/1.1 200 ")

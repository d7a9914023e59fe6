"""WebSockets as synchronous callbacks on a path of the application."""

import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

import engine
from engine import App, Config, WebSocketProtocol, broadcast, serve
from engine.errors import ConfigError, ConnectionClosed, HandshakeRejected, LocalProtocolError
from engine.server import Server
from engine.websocket.callbacks import CallbackWebSocket
from engine.websocket.connection import Closed, Frame
from engine.wire.websocket.deflate import Agreement
from tests.transport.test_callbacks import Echo as StreamEcho
from tests.websocket.fake_exchange import FakeExchange
from tests.wire.websocket.client_frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame, server_frames

QUIET = Config().replace(server__port=0)


class Echo(WebSocketProtocol):
    """Writes down how it ended."""

    def __init__(self) -> None:
        self.ended: list[Closed] = []

    def message_received(self, message: str | bytes) -> None:
        self.connection.write(message)

    def connection_lost(self, closed: Closed) -> None:
        self.ended.append(closed)


def opened(
    protocol: WebSocketProtocol, *, frames: bool = False, agreed: Agreement | None = None, **settings: float | str
) -> tuple[CallbackWebSocket, FakeExchange]:
    config = Config().replace(**{f"websocket__{name}": value for name, value in settings.items()})
    exchange = FakeExchange(config)
    exchange.switch_protocol()
    ws = CallbackWebSocket(exchange, protocol, frames=frames, agreed=agreed)
    ws.start()
    return ws, exchange


@asynccontextmanager
async def serving(app: App, config: Config = QUIET) -> AsyncIterator[tuple[Server, str]]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serve, app, config)
            yield server, f"ws://127.0.0.1:{server.addresses[0].rpartition(':')[2]}"
            server.stop()


# -- over sockets ---------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("size", [0, 5, 300, 70_000, 1 << 20])
async def test_messages_come_back_in_their_own_type(size: int, http2: bool) -> None:
    protocols: list[Echo] = []
    app = App()
    app.protocol("/echo/{name}", lambda: protocols.append(Echo()) or protocols[-1], subprotocols=("a",))
    async with serving(app) as (server, url):
        async with engine.connect_websocket(f"{url}/echo/x", http2=http2, subprotocols=["a"]) as ws:
            for message in ("x" * size, bytes(size)):
                await ws.send(message)
                assert await ws.receive() == message
            assert ws.subprotocol == "a"
        await server.wait_until_idle()
        [protocol] = protocols
        assert protocol.ended == [Closed(1000, "", clean=True)]
        assert protocol.connection.path_params == {"name": "x"}


async def test_a_message_behind_the_handshake_in_the_same_packet_is_answered() -> None:
    app = App()
    app.protocol("/", Echo)
    async with serving(app) as (server, _):
        host, _, port = server.addresses[0].rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + frame(TEXT, b"early") + close_frame(1000)
        )
        answer = b"".join([bytes(data) async for data in stream])
        await stream.aclose()
        assert server_frames(answer.partition(b"\r\n\r\n")[2]) == [(TEXT, b"early"), (CLOSE, b"\x03\xe8")]


async def test_the_handshake_has_the_options_of_any_websocket() -> None:
    app = App()
    app.protocol("/", Echo, origins=["https://example.com"], max_message_size=10)
    async with serving(app) as (_, url):
        with pytest.raises(HandshakeRejected, match="403"):
            async with engine.connect_websocket(url, headers={"Origin": "https://evil.example"}):
                pass
        async with engine.connect_websocket(url) as ws:
            await ws.send("x" * 11)
            with pytest.raises(ConnectionClosed) as closed:
                await ws.receive()
            assert closed.value.code == 1009


@pytest.mark.parametrize("when", ["connection_made", "message_received", "connection_lost"])
async def test_a_callback_that_raises_ends_its_connection_and_no_other(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Echo):
        armed = False

    def fail(self: Broken, *arguments: object) -> None:
        if Broken.armed:
            raise ValueError("mine")
        getattr(Echo, when)(self, *arguments)

    setattr(Broken, when, fail)
    app = App()
    app.protocol("/", Broken)
    async with serving(app) as (server, url), engine.connect_websocket(url) as other:
        Broken.armed = True
        async with engine.connect_websocket(url) as ws:
            if when == "connection_lost":
                await ws.close()
            else:
                with suppress(ConnectionClosed):  # it may be closed already
                    await ws.send("x")
                with pytest.raises(ConnectionClosed) as closed:
                    await ws.receive()
                assert closed.value.code == 1011
        while server.connection_count > 1:  # noqa: ASYNC110  # nothing tells of it
            await trio.sleep(0.01)
        Broken.armed = False
        await other.send("still here")
        assert await other.receive() == "still here"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["engine.error"]
    assert "ValueError: mine" in errors[0].getMessage()
    caplog.clear()


async def test_a_factory_that_raises_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    def factory() -> WebSocketProtocol:
        raise ValueError("mine")

    app = App()
    app.protocol("/", factory)
    async with serving(app) as (_, url):
        with pytest.raises(HandshakeRejected, match="500"):
            async with engine.connect_websocket(url):
                pass
    caplog.clear()


async def test_a_drain_closes_with_1001() -> None:
    app = App()
    app.protocol("/", Echo)
    async with serving(app) as (server, url), engine.connect_websocket(url) as ws:
        await ws.send("x")
        await ws.receive()
        server.drain()
        with pytest.raises(ConnectionClosed) as closed:
            await ws.receive()
        assert (closed.value.code, closed.value.clean) == (1001, True)


async def test_a_stop_without_a_drain_tells_the_protocol_too() -> None:
    protocol = Echo()
    app = App()
    app.protocol("/", lambda: protocol)
    async with serving(app) as (server, url), engine.connect_websocket(url) as ws:
        await ws.send("x")
        await ws.receive()
        server.stop()
        with pytest.raises(ConnectionClosed):
            await ws.receive()
    assert [closed.code for closed in protocol.ended] == [1001]


# -- on an exchange without a connection ------------------------------------------


async def test_what_is_written_during_one_read_leaves_at_once() -> None:
    _, exchange = opened(Echo())
    flushed: list[int] = []
    flush = exchange.flush
    exchange.flush = lambda: (flushed.append(exchange.queued), flush())[0]  # type: ignore[method-assign]
    exchange.deliver(frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c"))
    assert [size for size in flushed if size] == [9]
    assert server_frames(exchange.take_sent()) == [(TEXT, b"a"), (BINARY, b"b"), (TEXT, b"c")]


async def test_what_is_written_from_elsewhere_leaves_at_once() -> None:
    ws, exchange = opened(Echo())
    ws.write("tick")
    assert server_frames(exchange.take_sent()) == [(TEXT, b"tick")]


async def test_frames_come_as_they_are_and_go_as_they_are_given() -> None:
    class Frames(WebSocketProtocol):
        def frame_received(self, frame: Frame) -> None:
            if frame.opcode != PING:
                self.connection.write_frame(frame.opcode + 1, frame.payload, fin=frame.fin, rsv=frame.rsv)

    ws, exchange = opened(Frames(), frames=True)
    exchange.deliver(frame(3, b"\xff", fin=False) + frame(PING, b"p"))
    sent = exchange.take_sent()
    assert sent[:3] == b"\x04\x01\xff"
    assert server_frames(sent[3:]) == [(PONG, b"p")]
    with pytest.raises(LocalProtocolError):
        ws.write_frame(CLOSE)


async def test_nothing_is_handed_over_behind_a_close_of_ours() -> None:
    class Once(Echo):
        def message_received(self, message: str | bytes) -> None:
            super().message_received(message)
            self.connection.start_closing(4000)
            self.connection.write("late")
            self.connection.write_frame(TEXT, b"late")

    protocol = Once()
    _, exchange = opened(protocol)
    exchange.deliver(frame(TEXT, b"a") + frame(TEXT, b"b"))
    assert server_frames(exchange.take_sent()) == [(TEXT, b"a"), (CLOSE, b"\x0f\xa0")]
    assert protocol.ended == []
    exchange.deliver(close_frame(4000))
    assert protocol.ended == [Closed(4000, "", clean=True)]
    exchange.deliver(frame(TEXT, b"c"))
    assert exchange.closed


async def test_a_peer_that_vanishes_is_told_once() -> None:
    protocol = Echo()
    _, exchange = opened(protocol)
    exchange.deliver(b"")
    exchange.deliver(b"")
    assert [(closed.code, closed.clean) for closed in protocol.ended] == [(1006, False)]
    assert exchange.scope.cancel_called


async def test_reading_stops_while_the_peer_is_slow_and_goes_on(nursery: trio.Nursery) -> None:
    _, exchange = opened(Echo())
    nursery.start_soon(exchange.watchdog.run)
    exchange.blocked = True
    exchange.deliver(frame(BINARY, bytes(70_000)))
    assert exchange.paused
    exchange.unblock()
    await trio.testing.wait_all_tasks_blocked()
    assert not exchange.paused
    nursery.cancel_scope.cancel()


async def test_a_protocol_that_writes_on_to_a_slow_peer_is_closed_with_1013() -> None:
    told: list[str] = []

    class Feed(Echo):
        def pause_writing(self) -> None:
            told.append("pause")

        def resume_writing(self) -> None:
            told.append("resume")

    protocol = Feed()
    ws, exchange = opened(protocol, max_unsent=100_000)
    exchange.blocked = True
    for _ in range(4):
        ws.write(bytes(30_000))
    assert (told, ws.queued, exchange.paused) == (["pause"], 120_045, False)  # a close frame among them
    assert ws.closed == Closed(1013, "too slow for what is sent", clean=False)
    exchange.unblock()
    assert server_frames(exchange.take_sent())[-1][1][:2] == b"\x03\xf5"
    assert told == ["pause"]


async def test_a_message_larger_than_what_may_wait_can_be_written() -> None:
    ws, exchange = opened(Echo(), max_unsent=1000)
    exchange.blocked = True
    ws.write(bytes(200_000))
    assert ws.closed is None


async def test_what_is_written_keeps_its_place_behind_what_was_broadcast() -> None:
    ws, exchange = opened(Echo(), agreed=Agreement(), compression_threshold=1)
    exchange.blocked = True
    text = "hello hello hello"
    ws.write(text)
    ws.write_frame(BINARY, bytes(70_000))
    assert broadcast([ws], text * 2) == 1
    ws.write(text * 3)
    assert broadcast([ws], text * 4) == 1
    ws.write(text * 5)
    exchange.unblock()
    stream = zlib.decompressobj(-15)
    exchange.flush()
    data, found = exchange.take_sent(), []
    while data:
        if data[0] == 0xC1:  # compressed text, all of them short
            found.append(stream.decompress(data[2 : 2 + data[1]] + b"\0\0\xff\xff").decode())
            data = data[2 + data[1] :]
        else:
            data = data[10 + 70_000 :]
    assert found == [text * count for count in range(1, 6)]


async def test_a_timer_calls_back_and_what_it_raises_stays_inside(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    class Late(Echo):
        def connection_made(self) -> None:
            self.connection.timer(self.tick).set(trio.current_time() + 3)

        def tick(self) -> None:
            self.connection.write("tick")
            raise ValueError("mine")

    protocol = Late()
    ws, exchange = opened(protocol)
    nursery.start_soon(exchange.watchdog.run)
    with pytest.raises(ValueError, match="mine"):
        await ws.run()
    assert trio.current_time() == pytest.approx(3)
    assert server_frames(exchange.take_sent()) == [(TEXT, b"tick"), (CLOSE, b"\x03\xf3")]
    assert protocol.ended[0].code == 1011
    nursery.cancel_scope.cancel()


def test_what_is_no_message_cannot_be_written() -> None:
    class Wrong(WebSocketProtocol):
        pass

    with pytest.raises(NotImplementedError):
        Wrong().message_received("x")
    with pytest.raises(NotImplementedError):
        Wrong().frame_received(Frame(1, b""))


@pytest.mark.parametrize(
    ("address", "factory", "options", "message"),
    [
        ("/a", StreamEcho, {}, "WebSocketProtocol"),
        (0, Echo, {}, "served on a path"),
        ("/a", Echo, {"tls": True}, "leave it out"),
        (0, StreamEcho, {"frames": True}, "only the path of a WebSocket has options"),
        ("/a", Echo, {"max_size": 1}, "no such option"),
    ],
)
def test_an_address_goes_with_its_factory(
    address: int | str, factory: type, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        App().protocol(address, factory, **options)


def test_a_path_is_listed_among_the_routes() -> None:
    app = App()
    app.protocol("/ticks", Echo)
    [route] = app.routes()
    assert (route.kind, route.path, route.name, route.detail) == ("websocket", "/ticks", "Echo", "callbacks")
    with pytest.raises(ConfigError, match="collides"):
        app.protocol("/ticks", Echo)

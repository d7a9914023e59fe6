"""The client against our own server, and against servers that do what they should not."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import engine
from engine import App, Config, WebSocket, serve
from engine.errors import (
    ConfigError,
    ConnectionClosed,
    HandshakeRejected,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
)
from engine.server import Server
from engine.websocket.client import connect_websocket
from tests.websocket.client_peers import QUIET, attempt, echo_app, echo_server, read_head, scripted, switch, url_of
from tests.wire.websocket.client_frames import BINARY, CLOSE, TEXT, frame, server_frame

MESSAGES = ["", "grüße", "x" * 100, b"", b"y" * 1000, "z" * 70_000, bytes(300_000)]


# -- against our own server -----------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
async def test_messages_come_back_in_order_and_the_end_is_clean(http2: bool) -> None:
    with trio.fail_after(20):
        async with echo_server() as server:
            async with engine.connect_websocket(url_of(server), http2=http2, subprotocols=["b"]) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.receive() == message
                assert ws.subprotocol == "b"
                assert ws.closed is None
                assert dict(ws.response_headers)[b"sec-websocket-protocol"] == b"b"
            assert ws.closed is not None
            assert (ws.closed.code, ws.closed.clean) == (1000, True)


@pytest.mark.parametrize("http2", [False, True])
async def test_more_than_the_windows_hold_goes_both_ways_at_once(http2: bool) -> None:
    with trio.fail_after(30):
        async with (
            echo_server() as server,
            engine.connect_websocket(url_of(server), http2=http2, compression=False) as ws,
            trio.open_nursery() as nursery,
        ):

            async def send() -> None:
                for _ in range(30):
                    await ws.send(bytes(200_000))

            nursery.start_soon(send)
            for _ in range(30):
                assert len(await ws.receive()) == 200_000


@pytest.mark.parametrize("http2", [False, True])
async def test_the_servers_close_ends_the_iteration_or_raises(http2: bool) -> None:
    with trio.fail_after(10):
        async with echo_server() as server, engine.connect_websocket(url_of(server, "/bye"), http2=http2) as ws:
            assert await ws.receive() == "the last word"
            with pytest.raises(ConnectionClosed) as closed:
                await ws.receive()
            assert (closed.value.code, closed.value.reason, closed.value.clean) == (4000, "bye", True)
            with pytest.raises(ConnectionClosed):
                await ws.send("too late")


@pytest.mark.parametrize("http2", [False, True])
async def test_compression_is_used_where_it_is_not_refused(http2: bool) -> None:
    with trio.fail_after(10):
        async with echo_server() as server:
            for compression in (True, False):
                async with engine.connect_websocket(url_of(server), http2=http2, compression=compression) as ws:
                    agreed = b"sec-websocket-extensions" in dict(ws.response_headers)
                    assert agreed is compression
                    await ws.send("x" * 50_000)
                    assert await ws.receive() == "x" * 50_000


@pytest.mark.parametrize("http2", [False, True])
async def test_frames_can_be_had_as_they_are(http2: bool) -> None:
    with trio.fail_after(10):
        async with (
            echo_server() as server,
            engine.connect_websocket(url_of(server), http2=http2, frames=True) as ws,
        ):
            await ws.send_frame(TEXT, b"ab", fin=False)
            await ws.send_frame(0, b"cd")
            got = await anext(ws.frames())
            assert (got.opcode, got.payload, got.fin) == (TEXT, b"abcd", True)


async def test_headers_and_credentials_of_the_url_are_sent() -> None:
    with trio.fail_after(10):
        async with echo_server() as server:
            url = url_of(server, "/head?x=1").replace("//", "//user:pass%20word@")
            async with engine.connect_websocket(url, headers={"Origin": "http://here", "X-Y": "z"}) as ws:
                got = [line async for line in ws]
    assert "authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in got
    assert "origin: http://here" in got
    assert "x-y: z" in got
    assert any(line.startswith("host: localhost:") for line in got)


@pytest.mark.parametrize("http2", [False, True])
async def test_a_path_without_a_websocket_is_a_rejection_with_status_headers_and_body(http2: bool) -> None:
    with trio.fail_after(10):
        async with echo_server() as server:
            with pytest.raises(HandshakeRejected, match=r"/nowhere answered .* 404 \(Not Found\); check") as rejected:
                async with engine.connect_websocket(url_of(server, "/nowhere"), http2=http2):
                    pass
    assert rejected.value.status == 404
    assert dict(rejected.value.headers)["server"] == "engine"
    assert rejected.value.body


@pytest.mark.parametrize("http2", [False, True])
async def test_over_tls_with_a_trusted_certificate(tmp_path: Path, http2: bool) -> None:
    ca = trustme.CA()
    pem = tmp_path / "server.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    if http2:
        trusting.set_alpn_protocols(["h2"])
    config = Config(server=QUIET.server, tls=engine.config.TlsConfig(cert_file=str(pem)))
    with trio.fail_after(20):
        async with echo_server(config) as server:
            url = url_of(server, scheme="wss")
            async with engine.connect_websocket(url, ssl_context=trusting, http2=http2) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.receive() == message
                assert ws.peer.tls
            assert ws.closed is not None
            assert ws.closed.clean
            with pytest.raises(ConnectionClosed, match="certificate is not trusted") as distrusted:
                async with engine.connect_websocket(url, http2=http2):
                    pass
            assert isinstance(distrusted.value.__cause__, ssl.SSLCertVerificationError)
            with pytest.raises(ConnectionClosed, match="not trusted"):
                async with engine.connect_websocket(url, ssl_context=trusting, server_name="example.com"):
                    pass


async def test_http2_over_tls_must_be_negotiated(tmp_path: Path) -> None:
    ca = trustme.CA()
    pem = tmp_path / "server.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    config = Config(server=QUIET.server, tls=engine.config.TlsConfig(cert_file=str(pem)))
    with trio.fail_after(10):
        async with echo_server(config) as server:
            with pytest.raises(ConnectionClosed, match=r"by ALPN .*, not on h2"):
                async with engine.connect_websocket(url_of(server, scheme="wss"), ssl_context=trusting, http2=True):
                    pass


@pytest.mark.parametrize("how", ["url", "argument"])
async def test_over_a_unix_socket(tmp_path: Path, how: str) -> None:
    path = tmp_path / "app.sock"
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serve, echo_app(), QUIET)
            nursery.start_soon(trio.serve_listeners, server.serve_stream, [trio.SocketListener(listener)])
            if how == "url":
                connecting = engine.connect_websocket(f"ws+unix://{path}:/echo?x=1")
            else:
                connecting = engine.connect_websocket("ws://somewhere/echo?x=1", unix=str(path))
            async with connecting as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                assert ws.head.raw_path == b"/echo"
                assert ws.head.query == "x=1"
            nursery.cancel_scope.cancel()


# -- the block ------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
async def test_an_error_leaves_the_block_as_it_is_and_the_server_learns_of_it(http2: bool) -> None:
    class Mine(Exception):
        pass

    codes: list[int] = []
    app = App()

    @app.websocket("/")
    async def handler(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosed) as closed:
            await ws.receive()
        codes.append(closed.value.code)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serve, app, QUIET)
            with pytest.raises(Mine):
                async with engine.connect_websocket(url_of(server, "/"), http2=http2):
                    raise Mine
            with trio.CancelScope() as scope:
                async with engine.connect_websocket(url_of(server, "/"), http2=http2):
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            while len(codes) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            server.stop()
    assert codes == [1011, 1001]


async def test_an_error_is_not_lost_where_the_block_is_being_cancelled() -> None:
    class Mine(Exception):
        pass

    with trio.fail_after(10):
        async with echo_server() as server:
            scope = trio.CancelScope()

            async def fail() -> None:
                async with engine.connect_websocket(url_of(server)):
                    scope.cancel()
                    raise Mine

            with scope, pytest.raises(Mine):
                await fail()


async def test_no_task_and_no_socket_outlives_the_block() -> None:
    with trio.fail_after(10):
        async with echo_server() as server:
            async with engine.connect_websocket(url_of(server)):
                pass
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = trio.lowlevel.current_statistics().tasks_living
            for http2 in (False, True):
                async with engine.connect_websocket(url_of(server), http2=http2) as ws:
                    await ws.send("x")
            while server.connection_count:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_time_out_around_an_attempt_ends_it() -> None:
    async def silent(stream: trio.SocketStream, head: bytes) -> None:
        await trio.sleep_forever()

    async with scripted(silent) as port:
        with trio.move_on_after(0.05) as scope:
            async with engine.connect_websocket(f"ws://127.0.0.1:{port}/"):
                pass
        assert scope.cancelled_caught


async def test_a_connection_is_entered_once() -> None:
    with trio.fail_after(10):
        async with echo_server() as server:
            connecting = engine.connect_websocket(url_of(server))
            async with connecting:
                pass
            with pytest.raises(RuntimeError, match="opened once"):
                async with connecting:
                    pass


async def test_a_server_that_does_not_exist_is_a_closed_connection_with_its_cause() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        why = f"cannot connect to 127.0.0.1:{port}: Connection refused"
        with pytest.raises(ConnectionClosed, match=why) as refused:
            async with engine.connect_websocket(f"ws://127.0.0.1:{port}/"):
                pass
    assert isinstance(refused.value.__cause__, OSError)
    with pytest.raises(ConnectionClosed, match="cannot connect to /nowhere/at/all"):
        async with engine.connect_websocket("ws+unix:///nowhere/at/all:/"):
            pass


# -- servers that do what they should not ---------------------------------


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"101", b"200", HandshakeRejected),
        (b"Upgrade: websocket", b"Upgrade: foo", RemoteProtocolError),
        (b"Connection: Upgrade", b"Connection: close", RemoteProtocolError),
        (b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: x", RemoteProtocolError),
        (b"\r\n\r\n", b"\r\nsec-websocket-protocol: c\r\n\r\n", RemoteProtocolError),
        (b"\r\n\r\n", b"\r\nsec-websocket-extensions: foo\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1", b"220 smtp", RemoteProtocolError),
        (b"\r\n\r\n", b"\r\nx: " + b"y" * 40_000, LimitExceeded),
        (b"\r\n\r\n", b"", ConnectionClosed),
    ],
)
async def test_a_bad_answer_is_an_error_that_says_so(old: bytes, new: bytes, error: type[Exception]) -> None:
    async def bad(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(switch(head).replace(old, new))

    async with scripted(bad) as port:
        with pytest.raises(error):
            await attempt(port, subprotocols=["a"])


async def test_frames_behind_the_answer_in_the_same_packet_are_not_lost() -> None:
    async def eager(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(switch(head) + server_frame(TEXT, b"first") + server_frame(BINARY, b"second"))
        await read_head(stream)

    with trio.fail_after(10):
        async with scripted(eager) as port, engine.connect_websocket(f"ws://127.0.0.1:{port}/") as ws:
            assert [await ws.receive(), await ws.receive()] == ["first", b"second"]


async def test_a_masked_frame_is_answered_with_1002() -> None:
    answers: list[bytes] = []

    async def masks(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(switch(head) + frame(TEXT, b"x"))
        answers.append(bytes(await stream.receive_some()))

    with trio.fail_after(10):
        async with scripted(masks) as port:
            async with engine.connect_websocket(f"ws://127.0.0.1:{port}/", entropy=bytes) as ws:
                with pytest.raises(ConnectionClosed) as closed:
                    await ws.receive()
            assert closed.value.code == 1002
    assert answers[0][:1] == b"\x88"
    assert answers[0][6:8] == b"\x03\xea"


@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_a_server_that_vanishes_raises_and_cancels_nothing(how: str) -> None:
    async def vanishes(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(switch(head))
        if how == "reset":
            await stream.receive_some()
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.socket.close()

    with trio.fail_after(10):
        async with scripted(vanishes) as port, engine.connect_websocket(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send("x")
            with pytest.raises(ConnectionClosed) as lost:
                await ws.receive()
            assert (lost.value.code, lost.value.clean) == (1006, False)
            await trio.lowlevel.checkpoint()
            with pytest.raises(ConnectionClosed):
                await ws.send("y")


async def test_a_server_that_never_ends_the_connection_is_not_waited_for() -> None:
    async def lingers(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(switch(head))
        await stream.receive_some()
        await stream.send_all(server_frame(CLOSE, b"\x03\xe8"))
        await trio.sleep_forever()

    config = Config().replace(server__close_timeout=0.05)
    with trio.fail_after(10):
        async with scripted(lingers) as port:
            async with engine.connect_websocket(f"ws://127.0.0.1:{port}/", config=config) as ws:
                pass
            assert ws.closed is not None
            assert ws.closed.clean


async def test_a_rejection_whose_body_never_ends_is_not_waited_for() -> None:
    async def dribbles(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 503 Busy\r\n\r\nplease")
        await trio.sleep_forever()

    async with scripted(dribbles) as port:
        with pytest.raises(HandshakeRejected) as rejected:
            await attempt(port, close_timeout=0.05)
    assert (rejected.value.status, rejected.value.body) == (503, b"please")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_server_without_http2_is_an_error(answer: bytes) -> None:
    async def old(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(answer)

    async with scripted(old) as port:
        with pytest.raises((RemoteProtocolError, ConnectionClosed)):
            await attempt(port, http2=True)


async def test_a_server_without_extended_connect_is_an_error() -> None:
    async def plain_http2(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        async for _ in stream:
            pass

    async with scripted(plain_http2) as port:
        with pytest.raises(RemoteProtocolError, match="RFC 8441"):
            await attempt(port, http2=True)


# -- arguments ------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("ftp://x/", {}, ConfigError),
        ("ws://x/", {"max_redirects": -1}, ConfigError),
        ("ws://x/", {"no_such": 1}, ConfigError),
        ("ws://x/", {"max_message_size": -1}, ConfigError),
        ("ws://x/", {"headers": {"a b": "c"}}, LocalProtocolError),
        ("ws://x/", {"headers": {"a": "€"}}, LocalProtocolError),
        ("ws://x/", {"subprotocols": ["a b"]}, LocalProtocolError),
        ("ws://x/", {"proxy": "socks5://x"}, ConfigError),
    ],
)
def test_arguments_that_cannot_be_used_are_an_error_at_once(
    url: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        connect_websocket(url, **options)

"""Our WebSocket client against the servers of others: websockets, trio-websocket, aiohttp, picows and Node's `ws`.

Each echoes on any path; /bye closes with 4000, /refuse answers 401 or another status of its own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
import trio

import engine
from engine.errors import ConnectionClosed, HandshakeRejected
from tests.interop import peers
from tests.interop.server_process import ServerProcess

pytestmark = pytest.mark.interop

MESSAGES = ["", "hello", "grüße · 你好", "x" * 5000, b"", bytes(range(256)), b"y" * 200_000, "z" * 70_000]
LIMIT = 30


@asynccontextmanager
async def websockets_server() -> AsyncIterator[int]:
    server = pytest.importorskip("websockets.sync.server", reason="install the package websockets")

    def handler(connection: Any) -> None:
        if connection.request.path == "/bye":
            connection.send("the last word")
            connection.close(4000, "bye")
        for message in connection:
            if connection.request.path == "/frag":
                half = len(message) // 2
                connection.send([message[:half], message[half:]])
            else:
                connection.send(message)

    def refuse(connection: Any, request: Any) -> Any:
        return connection.respond(401, "secret") if request.path == "/refuse" else None

    with server.serve(
        handler, "127.0.0.1", 0, subprotocols=["b"], process_request=refuse, select_subprotocol=choose_b
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.socket.getsockname()[1]
        finally:
            running.shutdown()
            await trio.to_thread.run_sync(thread.join, abandon_on_cancel=True)  # noqa: ASYNC102  # it ends soon


def choose_b(_connection: Any, offered: Any) -> str | None:
    return "b" if "b" in offered else None


@asynccontextmanager
async def trio_websocket_server() -> AsyncIterator[int]:
    trio_websocket = pytest.importorskip("trio_websocket", reason="install the package trio-websocket")

    async def handler(request: Any) -> None:
        if request.path == "/refuse":
            await request.reject(401, extra_headers=[(b"X-Why", b"test")], body=b"secret")
            return
        ws = await request.accept(subprotocol="b" if "b" in request.proposed_subprotocols else None)
        try:
            if request.path == "/bye":
                await ws.send_message("the last word")
                await ws.aclose(4000, "bye")
            while True:
                await ws.send_message(await ws.get_message())
        except trio_websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, None)
        yield server.port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def aiohttp_server() -> AsyncIterator[int]:
    web = pytest.importorskip("aiohttp.web", reason="install the package aiohttp")

    async def handler(request: Any) -> Any:
        if request.path == "/refuse":
            return web.Response(status=401, text="secret", headers={"X-Why": "test"})
        ws = web.WebSocketResponse(protocols=["b"])
        await ws.prepare(request)
        if request.path == "/bye":
            await ws.send_str("the last word")
            await ws.close(code=4000, message=b"bye")
        async for message in ws:
            await (ws.send_str if isinstance(message.data, str) else ws.send_bytes)(message.data)
        return ws

    started = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.update(loop=asyncio.get_running_loop(), stop=asyncio.Event(), port=runner.addresses[0][1])
        started.set()
        await found["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    await trio.to_thread.run_sync(started.wait)
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        await trio.to_thread.run_sync(thread.join, abandon_on_cancel=True)  # noqa: ASYNC102  # it ends soon


@asynccontextmanager
async def picows_server() -> AsyncIterator[int]:
    """It speaks frames: what is put together and chosen here is its user's."""
    picows = pytest.importorskip("picows", reason="install the package picows")

    class Listener(picows.WSListener):
        def __init__(self, path: bytes) -> None:
            self.path = path

        def on_ws_connected(self, transport: Any) -> None:
            if self.path == b"/bye":
                transport.send(picows.WSMsgType.TEXT, b"the last word")
                transport.send_close(4000, b"bye")

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            elif frame.msg_type == picows.WSMsgType.PING:
                transport.send_pong(frame.get_payload_as_bytes())
            elif frame.msg_type in (picows.WSMsgType.TEXT, picows.WSMsgType.BINARY):
                payload = frame.get_payload_as_bytes()
                half = len(payload) // 2 if self.path == b"/frag" else len(payload)
                transport.send(frame.msg_type, payload[:half], fin=half == len(payload))
                if half < len(payload):
                    transport.send(picows.WSMsgType.CONTINUATION, payload[half:])

    def listener_for(request: Any) -> Any:
        if request.path == b"/refuse":
            response = picows.WSUpgradeResponse.create_error_response(HTTPStatus.UNAUTHORIZED, b"secret")
            return picows.WSUpgradeResponseWithListener(response, None)
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        fields = {"Sec-WebSocket-Protocol": "b"} if "b" in offered else None
        response = picows.WSUpgradeResponse.create_101_response(extra_headers=fields)
        return picows.WSUpgradeResponseWithListener(response, Listener(request.path))

    started = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        server = await picows.ws_create_server(
            listener_for, "127.0.0.1", 0, max_frame_size=1 << 20, enable_auto_ping=False, enable_auto_pong=False
        )
        found.update(loop=asyncio.get_running_loop(), stop=asyncio.Event(), port=server.sockets[0].getsockname()[1])
        started.set()
        await found["stop"].wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    await trio.to_thread.run_sync(started.wait)
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        await trio.to_thread.run_sync(thread.join, abandon_on_cancel=True)  # noqa: ASYNC102  # it ends soon


@asynccontextmanager
async def node_ws_server() -> AsyncIterator[int]:
    program = peers.require("node", "nodejs")
    if not (peers.NODE_FOLDER / "node_modules").is_dir():
        pytest.skip("the Node.js packages are missing; run npm ci in tests/interop/node")
    script = str(peers.NODE_FOLDER / "ws_server.mjs")
    process = await trio.lowlevel.open_process([program, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        yield json.loads(line)["port"]
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await process.stdin.aclose()
            await process.wait()
            await process.stdout.aclose()


SERVERS = [websockets_server, trio_websocket_server, aiohttp_server, picows_server, node_ws_server]
WITHOUT_COMPRESSION = [trio_websocket_server, picows_server]
Server = Callable[[], Any]


def url(port: int, path: str = "/") -> str:
    return f"ws://127.0.0.1:{port}{path}"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("compression", [True, False])
async def test_messages_come_back_in_their_own_type(server: Server, compression: bool) -> None:
    with trio.fail_after(LIMIT):
        async with server() as port:
            async with engine.connect_websocket(url(port), compression=compression, compression_threshold=0) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.receive() == message
                agreed = b"sec-websocket-extensions" in dict(ws.response_headers)
                assert agreed is (compression and server not in WITHOUT_COMPRESSION)
            assert ws.closed is not None
            assert (ws.closed.code, ws.closed.clean) == (1000, True)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_subprotocol_is_agreed_on(server: Server) -> None:
    with trio.fail_after(LIMIT):
        async with server() as port, engine.connect_websocket(url(port), subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"


@pytest.mark.parametrize("server", SERVERS)
async def test_the_servers_close_has_its_code_and_reason(server: Server) -> None:
    with trio.fail_after(LIMIT):
        async with server() as port, engine.connect_websocket(url(port, "/bye")) as ws:
            assert await ws.receive() == "the last word"
            with pytest.raises(ConnectionClosed) as closed:
                await ws.receive()
            assert (closed.value.code, closed.value.reason, closed.value.clean) == (4000, "bye", True)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_refusal_has_status_and_body(server: Server) -> None:
    with trio.fail_after(LIMIT):
        async with server() as port:
            with pytest.raises(HandshakeRejected) as rejected:
                async with engine.connect_websocket(url(port, "/refuse")):
                    pass
    assert rejected.value.status == 401
    assert b"secret" in rejected.value.body


@pytest.mark.parametrize("server", [websockets_server, picows_server, node_ws_server])
async def test_fragments_are_put_together(server: Server) -> None:
    with trio.fail_after(LIMIT):
        async with server() as port, engine.connect_websocket(url(port, "/frag")) as ws:
            for message in ("fragments of text", b"\x00" * 10_000):
                await ws.send(message)
                assert await ws.receive() == message


@pytest.mark.parametrize("server", SERVERS)
async def test_keep_alive_pings_measure_the_latency(server: Server) -> None:
    with trio.fail_after(LIMIT):
        async with server() as port, engine.connect_websocket(url(port), ping_interval=0.02) as ws:
            while ws.latency is None:  # noqa: ASYNC110  # nothing tells of it
                await trio.sleep(0.01)
            assert 0 < ws.latency < LIMIT


@pytest.mark.parametrize("http2", [False, True])
async def test_a_server_of_ours_in_its_own_process(engine_tls_server: ServerProcess, http2: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2" if http2 else "http/1.1"])
    wss = engine_tls_server.tls_url.replace("https", "wss")
    for target, options in ((wss, {"ssl_context": context}), (engine_tls_server.websocket_url, {})):
        with trio.fail_after(LIMIT):
            async with engine.connect_websocket(f"{target}/echo", http2=http2, **options) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.receive() == message

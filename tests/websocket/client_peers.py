"""Servers for tests of the client: our own with an echo, and one that does whatever a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

import engine
from engine import App, Config, WebSocket, serve
from engine.server import Server
from engine.wire.websocket.handshake import accept_token

QUIET = Config().replace(server__port=0)


def echo_app() -> App:
    app = App()

    @app.websocket("/echo", subprotocols=("a", "b"))
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    @app.websocket("/bye")
    async def bye(ws: WebSocket) -> None:
        await ws.send("the last word")
        await ws.close(4000, "bye")

    @app.websocket("/head")
    async def head(ws: WebSocket) -> None:
        for name, value in ws.headers:
            await ws.send(f"{name.decode()}: {value.decode()}")

    return app


@asynccontextmanager
async def echo_server(config: Config = QUIET) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve, echo_app(), config)
        yield server
        server.stop()


def url_of(server: Server, path: str = "/echo", scheme: str = "ws") -> str:
    address = server.addresses[0]
    return f"{scheme}://localhost:{address.rpartition(':')[2]}{path}"


Script = Callable[[trio.SocketStream, bytes], Awaitable[None]]


async def read_head(stream: trio.abc.ReceiveStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        more = await stream.receive_some()
        if not more:
            break
        head += bytes(more)
    return head


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[int]:
    """A server that reads each request's head, and then does what the test says; yields its port."""

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            await script(stream, await read_head(stream))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve_one, listeners)  # noqa: ASYNC113  # they listen already
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def switch(head: bytes, *fields: bytes) -> bytes:
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_token(key),
        *fields,
        b"\r\n",
    ]
    return b"\r\n".join(lines)


async def attempt(port: int, **options: object) -> None:
    with trio.fail_after(10):
        async with engine.connect_websocket(f"ws://127.0.0.1:{port}/", **options):
            pass

"""A handler that waits for a peer which reads nothing learns at once that the WebSocket is closed."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest
import trio

from engine import App, Config, WebSocket, serve
from engine.errors import ConnectionClosed
from engine.server import Server
from tests.wire.websocket.client_frames import close_frame

UPGRADE = (
    b"GET /blast HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
QUIET = Config().replace(server__port=0, server__write_timeout=60.0, websocket__close_timeout=0.1)


class Blast:
    """Sends without end; says when it is stuck, and how it ended."""

    def __init__(self, *, closes: bool) -> None:
        self.app = App(QUIET)
        self.app.websocket("/blast")(self.blast)
        self.closes = closes
        self.stuck = trio.Event()
        self.ended: trio.Event = trio.Event()

    async def blast(self, ws: WebSocket) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.tell, ws)
                while True:
                    self.sent = trio.current_time()
                    await ws.send(bytes(100_000))
        except* ConnectionClosed:
            self.ended.set()

    async def tell(self, ws: WebSocket) -> None:
        while trio.current_time() < self.sent + 0.3:  # noqa: ASYNC110  # the absence of progress is no event
            await trio.sleep(0.05)
        self.stuck.set()
        if self.closes:
            await ws.close(4000)


async def open_http1(stream: trio.SocketStream) -> bytes:
    await stream.send_all(UPGRADE)
    return close_frame(1000)


async def open_http2(stream: trio.SocketStream) -> bytes:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    peer.initiate_connection()
    await stream.send_all(peer.data_to_send())
    while not peer.remote_settings.enable_connect_protocol:
        peer.receive_data(await stream.receive_some(65536))
    head = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": "x", ":path": "/blast"}
    peer.send_headers(1, [*head.items(), ("sec-websocket-version", "13")])
    await stream.send_all(peer.data_to_send())
    peer.send_data(1, close_frame(1000))
    return peer.data_to_send()


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("opening", [open_http1, open_http2])
async def test_a_sender_that_is_stuck_is_released_by_a_close_of_either_side(opening, closes: bool) -> None:
    blast = Blast(closes=closes)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serve, blast.app)
            host, _, port = server.addresses[0].rpartition(":")
            stream = await trio.open_tcp_stream(host, int(port))
            close = await opening(stream)
            await blast.stuck.wait()
            if not closes:
                await stream.send_all(close)
            await blast.ended.wait()
            await stream.aclose()
            server.stop()

"""The client over HTTP/2 (RFC 8441) against a server that is made of h2 and wsproto, and against bad ones."""

from __future__ import annotations

from contextlib import aclosing

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
import wsproto.events
from wsproto.connection import Connection, ConnectionState, ConnectionType

import engine
from engine.errors import ConnectionClosed, HandshakeRejected, RemoteProtocolError
from tests.websocket.client_peers import attempt, scripted

SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x08\x00\x00\x00\x01"  # with extended CONNECT


class H2Server:
    """One connection of a server: echoes messages, closes on "bye", resets on "reset"."""

    def __init__(self, stream: trio.SocketStream, status: int = 200) -> None:
        self.stream = stream
        self.status = status
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        values = {codes.ENABLE_CONNECT_PROTOCOL: 1, codes.MAX_CONCURRENT_STREAMS: 10}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self.h2.initiate_connection()
        self.ws = Connection(ConnectionType.SERVER)
        self.request: dict[str, str] = {}
        self.outgoing = b""
        self.ended = False

    async def run(self, first: bytes) -> None:
        self.receive(first)
        await self.send()
        async with aclosing(self.stream):
            async for data in self.stream:
                self.receive(bytes(data))
                await self.send()

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.request = dict(event.headers)
                self.h2.send_headers(1, [(":status", str(self.status)), ("x-y", "z")], end_stream=self.status != 200)
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
                if event.data:
                    self.ws.receive_data(event.data)
                    for message in self.ws.events():
                        self.answer(message)

    def answer(self, event: wsproto.events.Event) -> None:
        if isinstance(event, wsproto.events.CloseConnection):
            if self.ws.state is ConnectionState.REMOTE_CLOSING:
                self.outgoing += self.ws.send(event.response())
        elif getattr(event, "data", None) == "reset":
            self.h2.reset_stream(1, 0xDEAD)
        elif getattr(event, "data", None) == "bye":
            self.outgoing += self.ws.send(wsproto.events.CloseConnection(4000, "bye"))
        else:
            self.outgoing += self.ws.send(event)

    async def send(self) -> None:
        while self.outgoing and (size := min(self.h2.local_flow_control_window(1), 16384)):
            self.h2.send_data(1, self.outgoing[:size])
            self.outgoing = self.outgoing[size:]
        if self.ws.state is ConnectionState.CLOSED and not self.outgoing and not self.ended:
            self.ended = True
            self.h2.end_stream(1)
        await self.stream.send_all(self.h2.data_to_send())


@pytest.mark.parametrize("size", [0, 10, 60_000])
async def test_messages_come_back_from_a_server_of_other_parts(size: int) -> None:
    servers: list[H2Server] = []

    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        servers.append(H2Server(stream))
        await servers[-1].run(head)

    with trio.fail_after(10):
        async with scripted(serve) as port:
            url = f"ws://127.0.0.1:{port}/path?q=1"
            async with engine.connect_websocket(url, http2=True, subprotocols=["a"], headers={"X-Y": "z"}) as ws:
                for message in ("x" * size, b"y" * size):
                    await ws.send(message)
                    assert await ws.receive() == message
                assert (b"x-y", b"z") in ws.response_headers
            assert ws.closed is not None
            assert ws.closed.clean
    request = servers[0].request
    assert {name: request[name] for name in request if name[0] == ":"} == {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":scheme": "http",
        ":path": "/path?q=1",
        ":authority": f"127.0.0.1:{port}",
    }
    assert request["sec-websocket-version"] == "13"
    assert request["sec-websocket-protocol"] == "a"
    assert request["x-y"] == "z"
    assert not request.keys() & {"sec-websocket-key", "upgrade", "connection", "host"}


@pytest.mark.parametrize(("word", "code", "clean"), [("bye", 4000, True), ("reset", 1006, False)])
async def test_the_servers_end_is_told_from_a_reset(word: str, code: int, clean: bool) -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await H2Server(stream).run(head)

    with trio.fail_after(10):
        async with scripted(serve) as port:
            async with engine.connect_websocket(f"ws://127.0.0.1:{port}/", http2=True) as ws:
                await ws.send(word)
                with pytest.raises(ConnectionClosed) as closed:
                    await ws.receive()
            assert (closed.value.code, closed.value.clean) == (code, clean)


async def test_another_status_is_a_rejection() -> None:
    async def serve(stream: trio.SocketStream, head: bytes) -> None:
        await H2Server(stream, 403).run(head)

    async with scripted(serve) as port:
        with pytest.raises(HandshakeRejected) as rejected:
            await attempt(port, http2=True)
    assert rejected.value.status == 403
    assert ("x-y", "z") in rejected.value.headers


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x07", "REFUSED_STREAM"),
        (b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\xde\xad", "0xdead"),
        (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "takes no more streams"),
        (b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\xff", "no answer to the handshake"),
        (b"", "ended the connection"),
    ],
)
async def test_an_end_instead_of_an_answer_says_how(answer: bytes, error: str) -> None:
    async def ends(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(SETTINGS)
        data = b""
        while b"\x01\x04\x00\x00\x00\x01" not in data:  # HEADERS of stream 1
            data += bytes(await stream.receive_some())
        await stream.send_all(answer)
        if answer:
            async for _ in stream:
                pass

    async with scripted(ends) as port:
        with pytest.raises((ConnectionClosed, RemoteProtocolError), match=error):
            await attempt(port, http2=True)

"""Whatever a server sends, a hub client ends with errors of ours, closes its streams and keeps no task.

The first byte of an input says what it is for: the answer to the negotiation, an event stream, the bytes
of a WebSocket or hub messages; and which protocol and options the client has.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import trio
import trio.testing

from engine import HubConnection
from engine.errors import ConnectionClosed, EngineError
from engine.transport.stream import ByteStream, WrappedByteStream
from engine.wire.websocket.frames import BINARY, TEXT, binary_frame, text_frame

_MESSAGEPACK, _STATEFUL, _RECONNECT, _RAW, _NEGOTIATION, _EVENTS = (1 << bit for bit in range(6))
_CONNECTIONS = 4  # then nobody answers
_LIMIT = 300.0  # seconds of virtual time: any time-out of the client is over by then

SEEDS: list[bytes] = [
    b'\x00{"type":1,"invocationId":"s1","target":"a","arguments":[1]}\x1e{"type":3,"invocationId":"1","result":[]}\x1e',
    b'\x02{"type":2,"invocationId":"3","item":1}\x1e{"type":8,"sequenceId":2}\x1e{"type":9,"sequenceId":1}\x1e',
    b'\x04{"type":7,"error":"x","allowReconnect":true}\x1e',
    b'\x06{"type":3,"invocationId":"3"}\x1e{"type":3,"invocationId":"1","error":"no"}\x1e{"type":6}\x1e',
    b'\x00{"type":3,"invocationId":"2","result":"3"}\x1e{"type":2,"invocationId":"3","item":[]}\x1e',
    b"\x01\x02\x91\x06\x06\x94\x02\x80\xa1\x33\x01\x07\x95\x03\x80\xa1\x32\x03\x05\x04\x93\x07\xc0\xc3",
    b"\x08\x81\x03{}\x1e\x01\x01{\x89\x01p\x80\x01}\x88\x02\x03\xe8",
    b"\x08\x82\x7e\x00\x80" + bytes(128),
    b'\x10{"negotiateVersion":1,"connectionToken":"t","availableTransports":[{"transport":"LongPolling"}]}',
    b'\x10{"url":"http://hub.test/","accessToken":"x"}',
    b'\x10{"error":"no"}',
    b'\x20data: {}\x1e\r\n\r\n:\r\n\r\ndata: {"type":1,"target":"a",\r\ndata: "arguments":[1]}\x1e\r\n\r\n',
]


class _Server:
    def __init__(self, data: bytes) -> None:
        self._flags = data[0] if data else 0
        self._payload = data[1:]
        self._transport = "ServerSentEvents" if self._flags & _EVENTS else "WebSockets"

    async def serve(self, stream: trio.StapledStream) -> None:
        received = bytearray()
        try:
            while True:
                while b"\r\n\r\n" not in received:
                    data = await stream.receive_some()
                    if not data:
                        return
                    received += data
                head, _, rest = bytes(received).partition(b"\r\n\r\n")
                received[:] = rest
                if b"/negotiate?" in head:
                    await self._negotiate(stream)
                elif head.startswith(b"GET"):
                    await self._stream(stream, head)
                    return
                else:
                    await stream.send_all(b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await stream.aclose()

    async def _negotiate(self, stream: trio.StapledStream) -> None:
        body = (
            b'{"negotiateVersion":1,"connectionId":"i","connectionToken":"t","useStatefulReconnect":%b,'
            b'"availableTransports":[{"transport":"%b","transferFormats":["Text","Binary"]}]}'
            % (b"true" if self._flags & _STATEFUL else b"false", self._transport.encode())
        )
        if self._flags & _NEGOTIATION:
            body = self._payload
        await stream.send_all(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def _stream(self, stream: trio.StapledStream, head: bytes) -> None:
        if self._flags & _EVENTS:
            await stream.send_all(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\x1e\r\n\r\n")
            await trio.sleep(1)
            await stream.send_all(self._payload)
        else:
            key = next(
                (line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")), b""
            )
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            fields = b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " + accept
            await stream.send_all(b"HTTP/1.1 101 X\r\n" + fields + b"\r\n\r\n")
            await stream.send_all(b"\x81\x03{}\x1e")
            await trio.sleep(1)  # the calls come first
            opcode = BINARY if self._flags & _MESSAGEPACK else TEXT
            await stream.send_all(self._payload if self._flags & _RAW else _frame(opcode, self._payload))
        with trio.move_on_after(5):
            while await stream.receive_some():
                pass


def _frame(opcode: int, payload: bytes) -> bytes:
    return text_frame(payload.decode("utf-8", "replace")) if opcode == TEXT else binary_frame(payload)


async def _numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number
        await trio.sleep(0.1)


async def _use(action: Any) -> None:
    try:
        await action()
    except EngineError:
        pass


async def _live(data: bytes) -> None:
    flags = data[0] if data else 0
    server, open_streams, connections = _Server(data), set(), 0

    class Watched(WrappedByteStream):
        async def aclose(self) -> None:
            open_streams.discard(self)
            await super().aclose()

    async with trio.open_nursery() as nursery:

        async def dial(origin: Any, context: Any) -> ByteStream:
            nonlocal connections
            await trio.lowlevel.checkpoint()
            connections += 1
            if connections > _CONNECTIONS:
                raise ConnectionClosed(1006, "refused")
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve, theirs)
            stream = Watched(ours, read_size=65536)
            open_streams.add(stream)
            return stream

        hub = HubConnection(
            "http://hub.test/hub",
            protocol="messagepack" if flags & _MESSAGEPACK else "json",
            stateful_reconnect=bool(flags & _STATEFUL),
            automatic_reconnect=bool(flags & _RECONNECT),
            max_message_size=4096,
            buffer_size=4096,
            dial=dial,
        )
        hub.on("a", lambda *arguments: arguments)

        async def iterate() -> None:
            async with hub.stream("Stream") as items:
                async for _ in items:
                    pass

        try:
            with trio.fail_after(_LIMIT):
                async with hub, trio.open_nursery() as actions:
                    for action in (
                        lambda: hub.invoke("Upload", _numbers()),  # its stream is 0, and it is 1
                        lambda: hub.invoke("Add", 1, 2, result_type=int),  # 2
                        iterate,  # 3
                        lambda: hub.send("Tell"),
                    ):
                        actions.start_soon(_use, action)
                        await trio.sleep(0.01)
                    await trio.sleep(8)
                    actions.cancel_scope.cancel()
        except EngineError:
            pass
        assert not open_streams, "streams were left open"
        nursery.cancel_scope.cancel()


def run(data: bytes) -> None:
    """One life of a client, against one server."""
    trio.run(_live, data, clock=trio.testing.MockClock(autojump_threshold=0))

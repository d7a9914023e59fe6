"""What the hub client talks to in tests: a hub over memory streams, or a server that follows a script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import trio.testing

from engine import HubConnection
from engine.config import Config
from engine.errors import ConnectionClosed
from engine.transport.http1_client import Dial
from engine.transport.stream import ByteStream, WrappedByteStream
from tests.signalr.hub_peer import HubHost, _parse_frame

URL = "http://hub.test/hub"
OFFER = ("WebSockets", "ServerSentEvents", "LongPolling")


def hub_dial(host: HubHost, streams: list[trio.StapledStream] | None = None) -> Dial:
    """Connects to a host; `streams` gets our end of each connection, for a test to cut."""

    async def dial(origin: object, context: object) -> ByteStream:
        stream = await host.open_stream()
        if streams is not None:
            streams.append(stream)
        return WrappedByteStream(stream, read_size=65536)

    return dial


@asynccontextmanager
async def connected(hub_class: type, *, config: Config | None = None, **options: Any) -> AsyncIterator[HubConnection]:
    """A hub over memory streams, and a client of it."""
    async with trio.open_nursery() as nursery:
        host = HubHost(nursery, config or Config())
        host.mount(hub_class)
        async with HubConnection(URL, dial=hub_dial(host), **options) as hub:
            yield hub
        nursery.cancel_scope.cancel()


def cut(stream: trio.StapledStream) -> None:
    """Break a memory connection, both ways, at once."""
    stream.send_stream.close()
    stream.receive_stream.close()


class RawPeer:
    """The server's end of one connection."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def _more(self) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError("the client went away")
        self.buffer += bytes(data)
        return self.buffer

    async def request(self) -> tuple[str, str, dict[str, str], bytes]:
        """Method, target, fields (lower case) and body of the next request."""
        while b"\r\n\r\n" not in self.buffer:
            await self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(fields.get("content-length", "0"))
        while len(self.buffer) < size:
            await self._more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        method, target, _ = first.split(" ")
        return method, target, fields, body

    async def answer(self, status: int, body: bytes | str = b"", **fields: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        await self.stream.send_all(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{lines}\r\n".encode() + data)

    async def offer(self, *transports: str, token: str = "T", **members: Any) -> dict[str, str]:
        """Answer the negotiation that comes next; its fields."""
        _, target, fields, _ = await self.request()
        assert "/negotiate?" in target, target
        available = [{"transport": each, "transferFormats": ["Text", "Binary"]} for each in transports or OFFER[:1]]
        body = {"negotiateVersion": 1, "connectionId": "I", "connectionToken": token, "availableTransports": available}
        await self.answer(200, json.dumps(body | members))
        return fields | {"target": target}

    async def accept_websocket(self) -> dict[str, str]:
        """The 101 for the upgrade that comes next; its fields."""
        _, target, fields, _ = await self.request()
        accept = base64.b64encode(
            hashlib.sha1((fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        ).decode()
        await self.stream.send_all(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        return fields | {"target": target}

    async def send(self, text: str | bytes, opcode: int = 1) -> None:
        data = text.encode() if isinstance(text, str) else text
        head = (
            bytes((0x80 | opcode, len(data)))
            if len(data) < 126
            else bytes((0x80 | opcode, 126, *len(data).to_bytes(2)))
        )
        await self.stream.send_all(head + data)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame of the client, unmasked."""
        while True:
            data = self.buffer
            if len(data) >= 2:
                assert data[1] & 0x80, "a client masks"
                found = _parse_frame(bytes((data[0], data[1] & 0x7F)) + _without_key(data))
                if found is not None:
                    opcode, payload, end = found
                    start = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
                    key = data[start : start + 4]
                    self.buffer = data[end + 4 :]
                    return opcode, bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
            await self._more()

    async def messages(self) -> list[Any]:
        """The hub messages of the next data frame."""
        opcode, payload = await self.frame()
        assert opcode == 1, (opcode, payload)
        return [json.loads(each) for each in payload.decode().split("\x1e")[:-1]]

    async def handshake(self) -> Any:
        """Take the client's handshake, agree, and take its first ping."""
        (request,) = await self.messages()
        await self.send("{}\x1e")
        assert await self.messages() == [{"type": 6}]
        return request


def _without_key(data: bytes) -> bytes:
    start = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
    return data[2:start] + data[start + 4 :]


Script = Callable[[RawPeer], Awaitable[None]]


@asynccontextmanager
async def scripted(*scripts: Script, lockstep: bool = False) -> AsyncIterator[Dial]:
    """A dial whose connections are served by these scripts, one after the other; then nobody answers.

    Args:
        lockstep: what is sent waits until it is received; else nothing ever does.
    """
    pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    waiting = list(scripts)
    async with trio.open_nursery() as nursery:

        async def serve(script: Script, stream: trio.StapledStream) -> None:
            try:
                with suppress(EOFError, trio.BrokenResourceError):  # the client left in the middle of it
                    await script(RawPeer(stream))
            finally:
                cut(stream)

        async def dial(origin: object, context: object) -> ByteStream:
            await trio.lowlevel.checkpoint()
            if not waiting:
                raise ConnectionClosed(1006, "connection refused")
            ours, theirs = pair()
            nursery.start_soon(serve, waiting.pop(0), theirs)
            return WrappedByteStream(ours, read_size=65536)

        yield dial
        nursery.cancel_scope.cancel()


async def offer(peer: RawPeer) -> None:
    """A script: negotiate, and nothing more."""
    await peer.offer()


async def open_hub(peer: RawPeer) -> None:
    """The server's half of a connection."""
    await peer.accept_websocket()
    await peer.handshake()


async def silent(peer: RawPeer) -> None:
    """A server that says nothing."""
    await trio.sleep_forever()

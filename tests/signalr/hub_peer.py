"""Hubs under test, and a client at the other end that speaks raw HTTP and WebSocket frames."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import trio
import trio.testing

from engine.app import App
from engine.config import Config
from engine.signalr.endpoint import HubEndpoint
from engine.transport.background import Background, current
from engine.transport.connection import Connection, Surroundings
from engine.transport.exchange import RequestHead
from engine.transport.watchdog import Watchdog

JSON_HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class HubHost:
    """An app with hubs, and connections to it over memory streams."""

    def __init__(self, nursery: trio.Nursery, config: Config) -> None:
        self.app = App(config)
        self.endpoints: dict[str, HubEndpoint] = {}
        self.connections: list[Connection] = []
        self._nursery = nursery
        watchdog = Watchdog()
        nursery.start_soon(watchdog.run)
        self.background = Background(nursery, watchdog)
        current.set(self.background)
        self._surroundings = Surroundings(config, self.app.handle, watchdog)
        self._ids = count(1)

    def mount(self, hub_class: type, path: str = "/hub", **options: Any) -> HubEndpoint:
        self.app.hub(path, **options)(hub_class)
        head = RequestHead("GET", path, "", "http", "x", (), "1.1")
        endpoint, _ = self.app._router.resolve(head)
        assert isinstance(endpoint, HubEndpoint)
        self.endpoints[path] = endpoint
        return endpoint

    async def open_stream(self, *, lockstep: bool = False) -> trio.StapledStream:
        """Our end. `lockstep`: the server's writes wait until we read, as if the kernel's buffers were full."""
        ours, theirs = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
        connection = Connection(theirs, self._surroundings, next(self._ids))
        self.connections.append(connection)
        self._nursery.start_soon(connection.run)
        return ours

    async def request(self, text: str) -> str:
        """One HTTP request on a connection of its own; the whole response."""
        stream = await self.open_stream()
        await stream.send_all(text.encode())
        response = b""
        while not _complete(response, head_only=text.startswith("HEAD")):
            data = await stream.receive_some()
            if not data:
                break
            response += data
        await stream.aclose()
        return response.decode()

    async def negotiate(self, path: str = "/hub", query: str = "negotiateVersion=1") -> Any:
        response = await self.request(f"POST {path}/negotiate?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        return json.loads(response.split("\r\n\r\n", 1)[1])

    async def websocket(self, target: str = "/hub", **headers: str) -> HubClient:
        client = HubClient(await self.open_stream())
        await client.upgrade(target, headers)
        return client

    async def connect(self, target: str = "/hub", *, lockstep: bool = False, **headers: str) -> HubClient:
        """A WebSocket behind its handshake."""
        client = HubClient(await self.open_stream(lockstep=lockstep))
        await client.upgrade(target, headers)
        await client.send(JSON_HANDSHAKE)
        assert await client.record() == "{}"
        return client


class HubClient:
    """A WebSocket client that shows frames and hub messages as they are."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.close_code: int | None = None
        self.frames: list[tuple[int, bytes]] = []  # data frames that were read
        self._buffer = b""
        self._text = b""

    async def upgrade(self, target: str, headers: dict[str, str]) -> None:
        key = base64.b64encode(bytes(16)).decode()
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.stream.send_all(
            f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extra}\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            data = await self.stream.receive_some()
            assert data, self._buffer
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def send(self, payload: bytes | str, *, opcode: int = TEXT) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        await self.stream.send_all(client_frame(opcode, data))

    async def invoke(self, target: str, *arguments: Any, invocation_id: str | None = "7", kind: int = 1) -> None:
        message: dict[str, Any] = {"type": kind, "target": target, "arguments": list(arguments)}
        if invocation_id is not None:
            message["invocationId"] = invocation_id
        await self.send(json.dumps(message) + "\x1e")

    async def frame(self) -> tuple[int, bytes] | None:
        """The next frame; None at the end of the connection. A close frame is answered."""
        while (parsed := _parse_frame(self._buffer)) is None:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        opcode, payload, size = parsed
        self._buffer = self._buffer[size:]
        if opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
            try:
                await self.stream.send_all(client_frame(CLOSE, payload[:2]))
            except trio.BrokenResourceError:
                pass
        elif opcode in (TEXT, BINARY):
            self.frames.append((opcode, payload))
        return opcode, payload

    async def record(self) -> str | None:
        """The next hub message without its separator; None when there are no more."""
        while b"\x1e" not in self._text:
            frame = await self.frame()
            if frame is None or frame[0] == CLOSE:
                return None
            if frame[0] in (TEXT, BINARY):
                self._text += frame[1]
        record, self._text = self._text.split(b"\x1e", 1)
        return record.decode()

    async def message(self) -> Any:
        record = await self.record()
        assert record is not None, "the server closed the connection"
        return json.loads(record)

    async def call(self, target: str, *arguments: Any) -> Any:
        """Invoke and return the completion, behind which nothing waits."""
        await self.invoke(target, *arguments)
        message = await self.message()
        assert message["type"] == 3, message
        return message

    async def is_quiet(self) -> bool:
        """Nothing came although everything that can run has run."""
        received: list[tuple[int, bytes] | None] = []

        async def listen() -> None:
            received.append(await self.frame())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return not received and not self._text

    async def close(self) -> None:
        """The closing handshake from our side."""
        await self.send(b"\x03\xe8", opcode=CLOSE)
        while await self.frame() is not None:
            pass

    async def cut(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def hosting(
    hub_class: type | None = None, *, config: Config | None = None, **options: Any
) -> AsyncIterator[HubHost]:
    """A host with perhaps one hub at /hub."""
    async with trio.open_nursery() as nursery:
        host = HubHost(nursery, config or Config())
        if hub_class is not None:
            host.mount(hub_class, **options)
        yield host
        nursery.cancel_scope.cancel()


def client_frame(opcode: int, payload: bytes) -> bytes:
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + mask + masked


def _parse_frame(data: bytes) -> tuple[int, bytes, int] | None:
    if len(data) < 2:
        return None
    size, start = data[1], 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(data[2:10], "big"), 10
    if len(data) < start + size:
        return None
    return data[0] & 0x0F, data[start : start + size], start + size


def _complete(response: bytes, *, head_only: bool) -> bool:
    head, separator, body = response.partition(b"\r\n\r\n")
    if not separator:
        return False
    if head_only:
        return True
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return head.startswith(b"HTTP/1.1 101")

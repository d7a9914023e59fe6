"""A channel in memory: to a scripted HTTP/2 server, or to the engine's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import hpack
import trio
import trio.testing

from engine.config import ChannelConfig
from engine.demo.generated.greet_engine import GreeterStub
from engine.grpc import Channel
from engine.grpc.resolver import Address
from engine.server import Server
from tests.wire.http2_peer import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST,
    SETTINGS,
    WINDOW,
    block,
    frame,
    settings,
    split,
)

HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK = ((b"grpc-status", b"0"),)


def message(payload: bytes, *, flag: int = 0) -> bytes:
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def hello(text: str) -> bytes:
    """A framed HelloRequest or HelloReply."""
    encoded = text.encode()
    return message(b"\n" + bytes([len(encoded)]) + encoded if encoded else b"")


class ScriptedServer:
    """The server's end of one connection: reads whole frames, sends what a test says."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.frames: list[tuple[int, int, int, bytes]] = []
        self._buffer = b""
        self._preface = False
        self._decoder = hpack.Decoder()

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def _read(self) -> bool:
        data = await self.stream.receive_some(65536)
        self._buffer += data
        if not self._preface and len(self._buffer) >= len(PREFACE):
            assert self._buffer.startswith(PREFACE)
            self._buffer = self._buffer[len(PREFACE) :]
            self._preface = True
        if self._preface:
            end = 0
            while len(self._buffer) >= end + 9:
                length = int.from_bytes(self._buffer[end : end + 3], "big")
                if len(self._buffer) < end + 9 + length:
                    break
                end += 9 + length
            self.frames += split(self._buffer[:end])
            self._buffer = self._buffer[end:]
        return bool(data)

    async def next(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """The next frame of these kinds; others before it are skipped."""
        while True:
            while self.frames:
                found = self.frames.pop(0)
                if found[0] in kinds:
                    return found
            assert await self._read(), "the client closed the connection"

    async def request(self) -> tuple[int, dict[bytes, bytes]]:
        """The next request's stream and head."""
        _, _, stream_id, payload = await self.next(HEADERS)
        return stream_id, dict(self._decoder.decode(payload, raw=True))

    async def end(self) -> None:
        """Wait for the client to close."""
        while await self._read():
            pass

    async def answer(self, stream_id: int, *payloads: bytes, trailers: Iterable[tuple[bytes, bytes]] = OK) -> None:
        body = b"".join(payloads)
        frames = [frame(HEADERS, 4, stream_id, block(HEAD))]
        if body:
            frames.append(frame(DATA, 0, stream_id, body))
        await self.send(*frames, frame(HEADERS, 5, stream_id, block(trailers)))

    async def refuse(self, stream_id: int, status: int, *more: tuple[bytes, bytes]) -> None:
        """Trailers-Only."""
        fields = (*HEAD, (b"grpc-status", b"%d" % status), *more)
        await self.send(frame(HEADERS, 5, stream_id, block(fields)))

    async def reset(self, stream_id: int, code: int) -> None:
        await self.send(frame(RST, 0, stream_id, code.to_bytes(4, "big")))

    async def go_away(self, last: int, code: int = 0, debug: bytes = b"") -> None:
        await self.send(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug))


class Network:
    """Gives a scripted server for each connection that a channel makes."""

    def __init__(self) -> None:
        self._send, self.accepted = trio.open_memory_channel[ScriptedServer](100)
        self.settings: tuple[tuple[int, int], ...] | None = ()  # what each server begins with; None: nothing
        self.dialled: list[str] = []
        self.refused: set[str] = set()

    async def connect(self, address: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled.append(str(address))
        if str(address) in self.refused:
            raise OSError("refused by the test")
        ours, theirs = trio.testing.memory_stream_pair()
        if self.settings is not None:
            await theirs.send_all(settings(*self.settings))
        self._send.send_nowait(ScriptedServer(theirs))
        return ours

    async def accept(self) -> ScriptedServer:
        """The next connection, at the server's end."""
        return await self.accepted.receive()


def addresses(*hosts: str) -> Callable[[], Any]:
    async def resolve() -> list[Address]:
        await trio.lowlevel.checkpoint()
        return [Address(host, 1) for host in hosts]

    return resolve


@asynccontextmanager
async def scripted(**options: Any) -> AsyncIterator[tuple[GreeterStub, Network, Channel]]:
    network = Network()
    config = options.pop("config", None) or ChannelConfig(close_timeout=0.01)
    options.setdefault("seed", 1)
    async with Channel(
        "peer:1",
        connect=network.connect,
        config=config,
        resolver=options.pop("resolver", None) or addresses("peer"),
        **options,
    ) as channel:
        yield GreeterStub(channel), network, channel


@asynccontextmanager
async def served(server: Server, **options: Any) -> AsyncIterator[Channel]:
    """A channel to the engine's own server, in memory."""
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)

        async def connect(address: Address) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve_stream, theirs)
            return ours

        async with Channel("peer:1", connect=connect, resolver=addresses("peer"), seed=1, **options) as channel:
            yield channel
        server.stop()


class Outcomes:
    """How calls that run beside the test ended."""

    def __init__(self) -> None:
        self.results: dict[Any, Any] = defaultdict(lambda: "not ended")

    async def run(self, key: Any, function: Callable[[], Any]) -> None:
        try:
            self.results[key] = await function()
        except Exception as error:
            self.results[key] = error


__all__ = ["DATA", "GOAWAY", "HEADERS", "PING", "RST", "SETTINGS", "WINDOW"]

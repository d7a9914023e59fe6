"""Everything at once for a while: stock clients that talk, leave, and vanish, over cleartext and TLS.

Every answer is compared with what was asked. At the end nothing is left behind: no descriptor, no memory
that grows, no error in the log.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from websockets.asyncio.client import ClientConnection, connect

from engine.demo.generated import greet_pb2
from tests.interop.server_process import ServerProcess

SETTLE = 5.0  # seconds until what clients left behind must be gone
MAX_GROWTH = 64 * 1024 * 1024
RECORD_SEPARATOR = "\x1e"

Client = Callable[["Soak", random.Random, bool], Awaitable[None]]


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    server = ServerProcess("examples.conformance:app", "--tls-self-signed")
    yield server
    server.stop()


class Soak:
    """What the clients need to know, and what they did."""

    def __init__(self, server: ServerProcess, certificate: bytes) -> None:
        self.server = server
        self.done: Counter[str] = Counter()
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.credentials = grpc.ssl_channel_credentials(certificate)

    def websocket(self, path: str, *, tls: bool) -> connect:
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{self.server.port}{path}"
        return connect(url, ssl=self.tls if tls else None, max_size=None, proxy=None, ping_interval=None)

    def channel(self, *, tls: bool) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.server.port}"
        return grpc.aio.secure_channel(target, self.credentials) if tls else grpc.aio.insecure_channel(target)


def message(rng: random.Random) -> str | bytes:
    size = rng.choice((0, 1, 30, 125, 126, 2000, 70_000, 300_000))
    return rng.randbytes(size) if rng.random() < 0.5 else "é" * (size // 2)


async def leave(ws: ClientConnection, rng: random.Random) -> None:
    """In one of the ways that clients leave."""
    if rng.random() < 0.5:
        await ws.close()
    else:
        if rng.random() < 0.5:
            ws.transport.write(b"\x82\xfe")  # the beginning of a frame
        ws.transport.abort()


async def echo(soak: Soak, rng: random.Random, tls: bool) -> None:
    async with soak.websocket("/echo", tls=tls) as ws:
        for _ in range(rng.randrange(20)):
            sent = [message(rng) for _ in range(rng.choice((1, 1, 5, 20)))]
            await asyncio.gather(*(ws.send(each) for each in sent))
            for each in sent:
                assert await ws.recv() == each
            soak.done["echo"] += len(sent)
        await leave(ws, rng)


async def hub(soak: Soak, rng: random.Random, tls: bool) -> None:
    async with soak.websocket("/conformance", tls=tls) as ws:
        await ws.send('{"protocol":"json","version":1}' + RECORD_SEPARATOR)
        assert await ws.recv() == "{}" + RECORD_SEPARATOR
        for _ in range(rng.randrange(20)):
            asked = {str(number): f"text {rng.random()}" for number in range(rng.choice((1, 3, 10)))}
            for number, text in asked.items():
                call = {"type": 1, "invocationId": number, "target": "Echo", "arguments": [text]}
                await ws.send(json.dumps(call) + RECORD_SEPARATOR)
            answered: dict[str, Any] = {}
            while len(answered) < len(asked):
                for record in str(await ws.recv()).split(RECORD_SEPARATOR)[:-1]:
                    answer = json.loads(record)
                    if answer["type"] == 3:
                        answered[answer["invocationId"]] = answer["result"]
            assert answered == asked
            soak.done["hub"] += len(asked)
        await leave(ws, rng)


async def greet(soak: Soak, rng: random.Random, tls: bool) -> None:
    async with soak.channel(tls=tls) as channel:
        unary = channel.unary_unary(
            "/greet.Greeter/SayHello",
            request_serializer=greet_pb2.HelloRequest.SerializeToString,
            response_deserializer=greet_pb2.HelloReply.FromString,
        )
        chat = channel.stream_stream(
            "/greet.Greeter/Chat",
            request_serializer=greet_pb2.HelloRequest.SerializeToString,
            response_deserializer=greet_pb2.HelloReply.FromString,
        )
        for _ in range(rng.randrange(10)):
            names = [f"n{rng.random()}" * rng.choice((1, 1, 3000)) for _ in range(rng.choice((1, 10, 50)))]
            replies = await asyncio.gather(*(unary(greet_pb2.HelloRequest(name=name)) for name in names))
            assert [reply.message for reply in replies] == [f"Hello {name}" for name in names]
            call = chat()
            for name in names[:5]:
                await call.write(greet_pb2.HelloRequest(name=name))
                assert (await call.read()).message == f"Hello {name}"
            if rng.random() < 0.5:
                call.cancel()
            else:
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            soak.done["gRPC"] += len(names) + 1


async def fetch(soak: Soak, rng: random.Random, tls: bool) -> None:
    context = soak.tls if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", soak.server.port, ssl=context)
    try:
        for _ in range(rng.randrange(10)):
            size = rng.choice((0, 1, 1000, 100_000, 3_000_000))
            writer.write(b"GET /bytes/%d HTTP/1.1\r\nHost: soak\r\n\r\n" % size)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            if rng.random() < 0.2:
                break  # with the body half read
            assert await body_size(reader, head, size) == size
            soak.done["HTTP"] += 1
    finally:
        writer.transport.abort()


async def body_size(reader: asyncio.StreamReader, head: bytes, size: int) -> int:
    if b"transfer-encoding: chunked" not in head.lower():
        return len(await reader.readexactly(size))
    got = 0
    while length := int(await reader.readline(), 16):
        got += len(await reader.readexactly(length))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return got


CLIENTS: tuple[Client, ...] = (echo, hub, greet, fetch)


async def run(soak: Soak, seconds: float, seed: int) -> None:
    """A few of each kind, one after the other, until the time is over."""
    end = time.monotonic() + seconds

    async def repeat(client: Client, rng: random.Random) -> None:
        while time.monotonic() < end:
            async with asyncio.timeout(60):
                await client(soak, rng, rng.random() < 0.5)
            soak.done["clients"] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            for client in CLIENTS:
                group.create_task(repeat(client, random.Random(f"{seed} {client.__name__} {number}")))


def descriptors(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def resident(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) * 1024


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux' /proc")
@pytest.mark.parametrize("seconds", [6, pytest.param(180, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
def test_everything_at_once_leaves_nothing_behind(server: ServerProcess, seconds: float) -> None:
    certificate = ssl.get_server_certificate(("127.0.0.1", server.port)).encode()
    soak = Soak(server, certificate)
    asyncio.run(run(soak, 2, seed=1))  # what is allocated once
    before, memory = descriptors(server), resident(server)
    asyncio.run(run(soak, seconds, seed=2))
    assert all(soak.done[each] for each in ("echo", "hub", "gRPC", "HTTP")), soak.done
    give_up = time.monotonic() + SETTLE
    while descriptors(server) > before and time.monotonic() < give_up:
        time.sleep(0.1)
    assert descriptors(server) <= before
    assert resident(server) - memory < MAX_GROWTH

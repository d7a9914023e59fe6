"""Every protocol at once over a network that delays, cuts up, freezes and breaks connections, by a seed.

Whatever happens to a connection, each call ends: with its right result, or with an error that says that the
connection is to blame. The server itself never fails, and afterwards it is as it was.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from engine.demo.generated.greet_engine import GreeterStub, greet_pb2
from engine.errors import ConnectionClosed, HubError, RemoteProtocolError
from engine.grpc import RpcError, StatusCode
from engine.testing import Network, TestClient
from examples.conformance import app

if TYPE_CHECKING:
    from trio.testing import MockClock

SEEDS = range(8)
CALLS = 8  # of each kind
LOST = (ConnectionClosed, HubError, RemoteProtocolError)  # a response cut short is no HTTP


class Failures(logging.Handler):
    """What the server logged as its own failures."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


@pytest.fixture
def failures() -> AsyncIterator[Failures]:
    handler = Failures()
    logging.getLogger("engine").addHandler(handler)
    yield handler
    logging.getLogger("engine").removeHandler(handler)


async def download(client: TestClient, random: Random) -> None:
    size = random.randrange(100_000)
    response = await client.get(f"/bytes/{size}")
    assert (response.status, len(response.body)) == (200, size)


async def upload(client: TestClient, random: Random) -> None:
    body = random.randbytes(random.randrange(100_000))
    assert (await client.post("/echo", body=body)).body == body


async def echo(client: TestClient, random: Random) -> None:
    async with client.websocket("/echo", http2=random.random() < 0.5) as ws:
        for _ in range(5):
            message = random.randbytes(random.randrange(20_000))
            await ws.send(message)
            assert await ws.receive() == message


async def greet(client: TestClient, random: Random) -> None:
    name = "x" * random.randrange(5000)
    async with client.channel() as channel:
        try:
            reply = await GreeterStub(channel).say_hello(greet_pb2.HelloRequest(name=name), timeout=100)
        except RpcError as error:
            if error.code not in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
                raise
            raise ConnectionClosed(1006, str(error)) from None
        assert reply.message == f"Hello {name}"


async def invoke(client: TestClient, random: Random) -> None:
    transport = random.choice(["WebSockets", "ServerSentEvents", "LongPolling"])
    async with client.hub("/conformance", transports=[transport]) as hub:
        text = "y" * random.randrange(5000)
        assert await hub.invoke("Echo", text) == text


KINDS: tuple[Callable[[TestClient, Random], Awaitable[None]], ...] = (download, upload, echo, greet, invoke)


async def disturb(network: Network, random: Random) -> None:
    """Something happens to some connection, again and again."""
    while True:
        await trio.sleep(random.expovariate(6))
        if not network.links:
            continue
        link = random.choice(network.links)
        match random.randrange(3):
            case 0:
                link.cut()
            case 1:
                link.freeze()  # for ever: only a deadline or a ping will tell
            case 2:
                link.freeze()
                await trio.sleep(random.random())
                link.thaw()


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_call_ends_and_the_server_is_as_before(
    autojump_clock: MockClock, failures: Failures, seed: int
) -> None:
    random = Random(seed)
    network = Network(latency=0.01, jitter=0.03, fragment=True, buffer_size=random.choice([16_384, 65_536]), seed=seed)
    outcomes = {"done": 0, "lost": 0}

    async def repeat(kind: Callable[[TestClient, Random], Awaitable[None]], own: Random) -> None:
        for _ in range(CALLS):
            try:
                with trio.fail_after(600):
                    await kind(client, own)
                outcomes["done"] += 1
            except LOST:
                outcomes["lost"] += 1
            except trio.TooSlowError:
                # HTTP/1.1 has no pings: a client of a frozen connection learns of it from its own deadline.
                assert kind in (download, upload)
                outcomes["lost"] += 1

    async with TestClient(app, network=network) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disturb, network, Random(random.random()))
            async with trio.open_nursery() as calls:
                for kind in KINDS:
                    calls.start_soon(repeat, kind, Random(random.random()))
            nursery.cancel_scope.cancel()
        assert sum(outcomes.values()) == CALLS * len(KINDS)
        assert outcomes["done"]
        for link in list(network.links):
            link.cut()
        await trio.sleep(10)  # the client keeps no connection for so long
        for kind in KINDS:
            await kind(client, random)
        network.cut()
        await client.server.wait_until_idle()
    assert failures.records == []

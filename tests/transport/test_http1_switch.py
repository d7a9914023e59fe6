"""The HTTP/1 driver when a handler switches protocols: raw bytes both ways."""

import pytest
import trio
import trio.testing

from engine.config import Config
from tests.transport.http1_peer import connected

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture(params=["memory", "socket"])
def over(request):
    return request.param


async def raw_echo(exchange):
    assert exchange.head.protocol == "websocket"
    exchange.switch_protocol([(b"sec-websocket-accept", b"z")])
    exchange.flush()
    while data := await exchange.receive():
        await exchange.send(data)
    exchange.close()


async def test_a_switched_connection_carries_raw_bytes_both_ways(over):
    async with connected(raw_echo, over=over) as client:
        reply = await client.ask(UPGRADE)
        assert (reply.status, reply.headers["upgrade"], reply.headers["connection"]) == (101, "websocket", "Upgrade")
        for data in (b"one", b"\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
            await client.send(data)
            assert await client.exactly(len(data)) == data
        await client.stream.send_eof()
        assert await client.rest() == b""


async def test_bytes_behind_the_upgrade_request_are_not_lost(over):
    async with connected(raw_echo, over=over) as client:
        assert (await client.ask(UPGRADE + b"early")).status == 101
        assert await client.exactly(5) == b"early"


async def test_a_sink_gets_raw_bytes_as_they_come(over):
    async def attach(exchange):
        closed = trio.Event()

        def sink(data):
            if data:
                exchange.write(data.upper())
                exchange.flush()
            else:
                closed.set()

        exchange.switch_protocol()
        exchange.attach(sink)
        exchange.flush()
        await closed.wait()

    async with connected(attach, over=over) as client:
        assert (await client.ask(UPGRADE + b"early")).status == 101
        assert await client.exactly(5) == b"EARLY"
        for _ in range(3):
            await client.send(b"late")
            assert await client.exactly(4) == b"LATE"
        await client.stream.send_eof()
        assert await client.rest() == b""


async def test_a_switched_protocol_that_closes_ends_the_connection(over):
    async def say(exchange):
        exchange.switch_protocol()
        exchange.write(b"bye", end=True)
        exchange.write(b"more")

    async with connected(say, over=over) as client:
        assert (await client.ask(UPGRADE)).status == 101
        assert await client.rest() == b"bye"


async def test_raw_bytes_that_nobody_takes_stop_the_reading():
    taken = trio.Event()

    async def slow(exchange):
        exchange.switch_protocol()
        exchange.flush()
        await taken.wait()
        assert exchange.unread <= 1100
        total = 0
        while total < 20_000:
            total += len(await exchange.receive())
        exchange.write(b"done", end=True)

    config = Config().replace(http1__receive_buffer=1000, server__read_size=100)
    async with connected(slow, config) as client:
        assert (await client.ask(UPGRADE)).status == 101
        await client.send(b"x" * 20_000)
        await trio.testing.wait_all_tasks_blocked()
        taken.set()
        assert await client.rest() == b"done"


async def test_a_handshake_that_is_answered_plainly_keeps_the_connection(over):
    async def plain(exchange):
        assert await exchange.receive() == b""
        assert exchange.receive_nowait() == b""
        exchange.write_head(200, ((b"content-length", b"2"),))
        exchange.write(b"ok", end=True)
        await exchange.drain()

    async with connected(plain, over=over) as client:
        assert (await client.ask(UPGRADE)).status == 200
        assert (await client.ask(GET)).status == 200

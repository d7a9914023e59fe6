"""A client's connection over a memory stream, on a virtual clock: keep-alive, time-outs, back-pressure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import ConnectionClosed
from engine.transport.exchange import Peer, RequestHead
from engine.transport.stream import WrappedByteStream
from engine.transport.websocket_client import SwitchedConnection, masking_keys
from engine.websocket.connection import WebSocket
from tests.wire.websocket.client_frames import PONG, TEXT, server_frame

if TYPE_CHECKING:
    from trio.testing import MockClock

DEFAULTS = Config()
HEAD = RequestHead("GET", "/", "", "http", "x", (), "1.1", "websocket", b"/")
ZEROS = masking_keys(bytes)  # a mask of zeros changes nothing


@asynccontextmanager
async def connected(
    config: Config = DEFAULTS, trailing: bytes = b""
) -> AsyncIterator[tuple[WebSocket, trio.abc.Stream]]:
    """A client's WebSocket and the server's end of its stream."""
    near, far = trio.testing.memory_stream_pair()
    stream = WrappedByteStream(near, read_size=65536)
    connection = SwitchedConnection(stream, HEAD, Peer("memory", "memory", 0), config, trailing)
    ws = WebSocket(connection.exchange, masking_key=ZEROS)
    async with trio.open_nursery() as nursery:
        connection.start(nursery)
        ws.start()
        yield ws, far
        nursery.cancel_scope.cancel()


async def test_a_ping_that_is_not_answered_ends_the_connection(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    async with connected() as (ws, server):
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        assert trio.current_time() - began == pytest.approx(40)  # websocket.ping_interval and ping_timeout
        assert ws.closed is not None
        assert ws.closed.code == 1011
        assert (await server.receive_some())[:1] == b"\x89"


async def test_the_latency_is_the_time_to_the_pong(autojump_clock: MockClock) -> None:
    async with connected() as (ws, server):
        ping = await server.receive_some()
        await trio.sleep(0.25)
        await server.send_all(server_frame(PONG, ping[6:]))
        await trio.testing.wait_all_tasks_blocked()
        assert ws.latency == pytest.approx(0.25)


async def test_a_close_frame_that_does_not_come_is_waited_for_no_longer_than_that(autojump_clock: MockClock) -> None:
    async with connected() as (ws, server):
        began = trio.current_time()
        await ws.close(1000, "done")
        assert trio.current_time() - began == pytest.approx(5)  # websocket.close_timeout
        assert await server.receive_some() == b"\x88\x86\x00\x00\x00\x00\x03\xe8done"
        assert await server.receive_some() == b""
        assert ws.closed is not None
        assert not ws.closed.clean


async def test_a_server_that_sends_more_than_is_received_is_held_back(autojump_clock: MockClock) -> None:
    config = Config().replace(websocket__max_queue=4)
    async with connected(config, server_frame(TEXT, b"early") * 8) as (ws, server):
        await server.send_all(server_frame(TEXT, b"late"))
        await trio.sleep(1)
        got = [await ws.receive() for _ in range(9)]
        assert got == ["early"] * 8 + ["late"]


async def test_a_reset_ends_both_directions(autojump_clock: MockClock) -> None:
    async with connected() as (ws, server):
        ws._exchange.reset()
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")


async def test_a_clients_exchange_has_no_response() -> None:
    async with connected() as (ws, _):
        exchange = ws._exchange
        for call in (
            lambda: exchange.write_head(200),
            lambda: exchange.write_informational(103),
            lambda: exchange.write_trailers(()),
            exchange.switch_protocol,
            exchange.receive_nowait,
        ):
            with pytest.raises(AssertionError, match="no response"):
                call()
        with pytest.raises(AssertionError, match="no response"):
            await exchange.receive()


def test_keys_are_taken_from_the_entropy_in_order() -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(range(256)) * (size // 256)

    key = masking_keys(entropy)
    assert [key(), key()] == [b"\x00\x01\x02\x03", b"\x04\x05\x06\x07"]
    for _ in range(300):
        key()
    assert len(asked) == 2

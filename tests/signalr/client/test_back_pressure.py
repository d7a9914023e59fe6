"""What the user's code does not take, and servers that do not read: memory stays bounded, and nothing deadlocks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from engine import Hub, HubConnection
from engine.errors import ConnectionClosed, HubError, LimitExceeded
from engine.signalr.client.connection import HubConnectionState
from tests.signalr.client.client_peer import URL, RawPeer, connected, scripted


class FloodHub(Hub):
    produced = 0

    async def count(self, count: int) -> AsyncIterator[int]:
        FloodHub.produced = 0
        for number in range(count):
            FloodHub.produced = number
            yield number

    def add(self, a: int, b: int) -> int:
        return a + b

    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum([each async for each in numbers])


async def offer(peer: RawPeer) -> None:
    await peer.offer()


async def open_hub(peer: RawPeer) -> None:
    await peer.accept_websocket()
    await peer.handshake()


def items(first: int, count: int, text: str = "x" * 50) -> str:
    return "".join(
        json.dumps({"type": 2, "invocationId": "0", "item": [number, text]}) + "\x1e"
        for number in range(first, first + count)
    )


async def test_a_stream_that_is_read_slowly_makes_the_server_wait(autojump_clock):
    """Nothing is lost, however slow, and the server is never far ahead."""
    ahead = 0
    async with connected(FloodHub, buffer_size=20_000) as hub:
        async with hub.stream("Count", 3000) as numbers:
            taken = []
            async for number in numbers:
                taken.append(number)
                if number % 10 == 0:
                    await trio.sleep(1)  # 300 seconds in all: ten server time-outs
                ahead = max(ahead, FloodHub.produced - number)
        assert taken == list(range(3000))
        assert hub.state is HubConnectionState.CONNECTED


async def test_a_hundred_thousand_items_arrive_in_order():
    async with connected(FloodHub, buffer_size=50_000) as hub, hub.stream("Count", 100_000, item_type=int) as numbers:
        expected = 0
        async for number in numbers:
            assert number == expected
            expected += 1
    assert expected == 100_000


async def test_the_socket_is_not_read_while_too_much_waits(autojump_clock):
    sent = 0

    async def serve(peer: RawPeer) -> None:
        nonlocal sent
        await open_hub(peer)
        await peer.frame()
        while sent < 3000:
            await peer.send(items(sent, 10))
            sent += 10
        await trio.sleep_forever()

    async with (
        scripted(offer, serve, lockstep=True) as dial,
        HubConnection(URL, dial=dial, buffer_size=10_000) as hub,
        hub.stream("X") as numbers,
    ):
        assert (await anext(numbers))[0] == 0
        await trio.sleep(4)
        assert sent < 1000
        await trio.sleep(7)  # nobody read for too long
        with pytest.raises(LimitExceeded, match="raise buffer_size of the HubConnection"):
            await anext(numbers)


async def test_a_result_behind_a_stream_that_nobody_reads_costs_the_stream(autojump_clock):
    async with connected(FloodHub, buffer_size=2000) as hub, hub.stream("Count", 1000) as numbers:
        assert await anext(numbers) == 0
        assert await hub.invoke("Add", 1, 2) == 3
        with pytest.raises(LimitExceeded, match="nobody took"):
            async for _ in numbers:
                pass
        assert await hub.invoke("Add", 1, 2) == 3


async def test_of_two_streams_the_one_that_holds_most_is_given_up(autojump_clock):
    async with (
        connected(FloodHub, buffer_size=5000) as hub,
        hub.stream("Count", 1000) as abandoned,
        hub.stream("Count", 1000) as read,
    ):
        assert [number async for number in read] == list(range(1000))
        with pytest.raises(LimitExceeded, match="nobody took"):
            await anext(abandoned)


async def test_handlers_that_never_end_end_the_connection_and_not_the_memory(autojump_clock):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        for number in range(1000):
            await peer.send(
                json.dumps({"type": 1, "invocationId": f"s{number}", "target": "ask", "arguments": [1]}) + "\x1e"
            )

    async def forever(value: int) -> None:
        await trio.sleep_forever()

    async with scripted(offer, serve) as dial, HubConnection(URL, dial=dial, buffer_size=20_000) as hub:
        hub.on("Ask", forever)
        await hub.wait_state(HubConnectionState.DISCONNECTED)
        assert isinstance(hub.close_error, LimitExceeded)
        assert hub.close_error.name == "buffer_size"


async def test_pongs_wait_for_a_server_that_does_not_read_and_reading_goes_on(autojump_clock):
    """The server pings and reads nothing; what it sends is read all the same."""

    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()  # the invocation; then nothing any more
        for number in range(500):
            await peer.send(str(number), opcode=9)
        await peer.send('{"type":3,"invocationId":"0","result":"here"}\x1e')
        await trio.sleep_forever()

    async with scripted(offer, serve, lockstep=True) as dial, HubConnection(URL, dial=dial) as hub:
        assert await hub.invoke("X") == "here"


async def test_an_upload_that_ends_with_somebody_elses_closed_connection_is_an_error(caplog):
    async def from_elsewhere() -> AsyncIterator[int]:
        yield 1
        raise ConnectionClosed(1006, "the source is gone")

    async with connected(FloodHub) as hub:
        with pytest.raises(HubError, match="invoking 'Total'"):
            await hub.invoke("Total", from_elsewhere())
    assert "the source is gone" in caplog.text


async def test_stopping_does_not_wait_for_a_server_that_reads_nothing(autojump_clock):
    async def serve(peer: RawPeer) -> None:
        await open_hub(peer)
        await peer.frame()
        await peer.send('{"type":3,"invocationId":"0"}\x1e')
        await peer.frame()
        await trio.sleep_forever()

    async def much() -> AsyncIterator[Any]:
        while True:
            yield "x" * 10_000

    began = trio.current_time()
    async with scripted(offer, serve, lockstep=True) as dial, HubConnection(URL, dial=dial) as hub:
        await hub.invoke("Hello")
        await hub.send("Up", much())
        await trio.testing.wait_all_tasks_blocked()
        await hub.stop()
        assert trio.current_time() - began <= 11

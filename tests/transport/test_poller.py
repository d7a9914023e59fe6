"""The shared poller: fair, contained, cancellable."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from engine.errors import ConnectionClosed
from engine.transport.poller import FIRST_READ, Poller, next_read

pytestmark = pytest.mark.skipif(not Poller.available, reason="needs epoll: Linux")


@asynccontextmanager
async def polling(count: int = 1, busy_poll: float = 0.0) -> AsyncIterator[tuple[Poller, list[socket.socket], list]]:
    """A running poller, near ends to pump, far ends to write to."""
    pairs = [socket.socketpair() for _ in range(count)]
    for near, _ in pairs:
        near.setblocking(False)
    poller = Poller(busy_poll)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        yield poller, [near for near, _ in pairs], [far for _, far in pairs]
        nursery.cancel_scope.cancel()
    for pair in pairs:
        for each in pair:
            each.close()


@pytest.mark.parametrize("busy_poll", [0.0, 0.001])
async def test_every_socket_gets_its_own_bytes(busy_poll: float) -> None:
    async with polling(5, busy_poll) as (poller, near, far):
        got: list[list[bytes]] = [[] for _ in near]
        async with trio.open_nursery() as pumps:
            for index, sock in enumerate(near):
                pumps.start_soon(poller.pump, sock, lambda data, index=index: got[index].append(data) or True, 100)
            await trio.testing.wait_all_tasks_blocked()
            assert len(poller) == 5
            for index, sock in enumerate(far):
                sock.sendall(b"%d" % index)
            for sock in far:
                sock.close()
        assert got == [[b"%d" % index, b""] for index in range(5)]
        assert len(poller) == 0


async def test_what_a_sink_raises_is_raised_where_its_socket_is_pumped() -> None:
    def broken(data: bytes) -> bool:
        raise ValueError("a bug")

    async with polling(2) as (poller, near, far):
        got: list[bytes] = []
        far[0].sendall(b"x")
        far[1].sendall(b"y")
        with pytest.raises(ValueError, match="a bug"):
            await poller.pump(near[0], broken, 100)
        await poller.pump(near[1], lambda data: got.append(data), 100)  # type: ignore[arg-type, func-returns-value]  # None pauses
        assert got == [b"y"]


async def test_a_socket_that_always_has_bytes_gets_one_read_a_round() -> None:
    async with polling(2) as (poller, near, far):
        order: list[int] = []

        def sink(index: int, most: int) -> object:
            def take(data: bytes) -> bool:
                order.append(index)
                return order.count(index) < most

            return take

        far[0].sendall(bytes(50 * 16))
        far[1].sendall(bytes(3 * 16))
        async with trio.open_nursery() as pumps:
            pumps.start_soon(poller.pump, near[0], sink(0, 50), 16)
            pumps.start_soon(poller.pump, near[1], sink(1, 3), 16)
        assert order.index(1) <= 1
        assert [position for position, index in enumerate(order) if index == 1][-1] <= 6


async def test_cancelling_a_pump_loses_nothing_and_leaves_the_others() -> None:
    async with polling(2) as (poller, near, far):
        with trio.move_on_after(0) as scope:
            await poller.pump(near[0], lambda _: True, 100)
        assert scope.cancelled_caught
        assert len(poller) == 0
        far[0].sendall(b"kept")
        got: list[bytes] = []
        await poller.pump(near[0], lambda data: got.append(data), 100)  # type: ignore[arg-type, func-returns-value]  # None pauses
        assert got == [b"kept"]


async def test_discarding_a_socket_ends_its_pump() -> None:
    async with polling(2) as (poller, near, _far):
        async with trio.open_nursery() as pumps:

            async def pump() -> None:
                with pytest.raises(ConnectionClosed, match="our side"):
                    await poller.pump(near[0], lambda _: True, 100)

            pumps.start_soon(pump)
            await trio.testing.wait_all_tasks_blocked()
            poller.discard(near[0])
            poller.discard(near[0])
        poller.discard(near[1])  # never pumped


async def test_a_sink_may_end_another_socket_of_the_same_round() -> None:
    async with polling(2) as (poller, near, far):
        ended: list[int] = []

        async def pump(index: int) -> None:
            def take(data: bytes) -> bool:
                poller.discard(near[1 - index])
                return False

            try:
                await poller.pump(near[index], take, 100)
            except ConnectionClosed:
                ended.append(index)

        async with trio.open_nursery() as pumps:
            pumps.start_soon(pump, 0)
            pumps.start_soon(pump, 1)
            await trio.testing.wait_all_tasks_blocked()
            far[0].sendall(b"x")
            far[1].sendall(b"x")
        assert len(ended) == 1


def test_dear_bytes_come_in_small_bites_and_bulk_in_large_ones() -> None:
    assert next_read(FIRST_READ, 0.0001, 65536) == 2 * FIRST_READ
    assert next_read(65536, 0.0001, 65536) == 65536
    assert next_read(FIRST_READ, 0.01, 65536) == FIRST_READ
    assert next_read(FIRST_READ, 0.5, 65536) == FIRST_READ // 2
    assert next_read(2048, 0.5, 65536) == 2048

"""The shared poller: fair, contained, cancellable."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
import trio.testing

from engine.errors import ConnectionClosed
from engine.transport.mailbox import Mailbox
from engine.transport.poller import FIRST_READ, Poller, next_read

whose: ContextVar[str] = ContextVar("whose")

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
    assert next_read(FIRST_READ, 0.00001, 65536) == 2 * FIRST_READ
    assert next_read(65536, 0.00001, 65536) == 65536
    assert next_read(FIRST_READ, 0.00007, 65536) == FIRST_READ
    assert next_read(FIRST_READ, 0.0005, 65536) == FIRST_READ // 2
    assert next_read(2048, 0.0005, 65536) == 2048
    assert next_read(100, 0.0005, 100) == 100
    # What is moved at 2 ns a byte is bulk.
    assert next_read(FIRST_READ, 0.00004, 262144) == 2 * FIRST_READ
    assert next_read(65536, 0.00015, 262144) == 65536
    assert next_read(131072, 0.00025, 262144) == 65536


async def read_all(box: Mailbox[bytes], got: list[bytes | None]) -> None:
    while True:
        got.append(await box.get())
        if got[-1] is None:
            return


async def test_a_reader_that_waits_again_reads_all_sockets_itself() -> None:
    async with polling(2) as (poller, near, far), trio.open_nursery() as pumps:
        box: Mailbox[bytes] = Mailbox(poller)
        got: list[bytes | None] = []
        others: list[bytes] = []
        pumps.start_soon(read_all, box, got)
        pumps.start_soon(poller.pump, near[0], lambda data: box.put(data) or True, 100)
        pumps.start_soon(poller.pump, near[1], lambda data: others.append(data) or True, 100)
        await trio.testing.wait_all_tasks_blocked()
        while not box._leading:  # which of two tasks runs first is Trio's choice
            far[0].sendall(b"a")
            await trio.testing.wait_all_tasks_blocked()
        got.clear()
        far[1].sendall(b"for another")
        await trio.testing.wait_all_tasks_blocked()
        assert (got, others) == ([], [b"for another"])
        assert box._leading
        far[0].sendall(b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"b"]
        pumps.cancel_scope.cancel()


@pytest.fixture
async def led() -> AsyncIterator[tuple[Poller, Mailbox[bytes], list[bytes | None], trio.CancelScope, list]]:
    """A poller whose sockets are read by the reader of a mailbox; the reader's scope, and the far ends."""
    async with polling(2) as (poller, near, far), trio.open_nursery() as pumps:
        box: Mailbox[bytes] = Mailbox(poller)
        got: list[bytes | None] = []
        scope = trio.CancelScope()

        async def read() -> None:
            with scope:
                await read_all(box, got)

        pumps.start_soon(read)
        pumps.start_soon(poller.pump, near[0], lambda data: box.put(data) or True, 100)
        await trio.testing.wait_all_tasks_blocked()
        while not box._leading:
            far[0].sendall(b"a")
            await trio.testing.wait_all_tasks_blocked()
        got.clear()
        yield poller, box, got, scope, [near[1], far[1]]
        pumps.cancel_scope.cancel()


async def test_a_leader_is_woken_by_what_does_not_come_from_a_socket(led: tuple) -> None:
    _, box, got, _, _ = led
    box.put(b"by hand")
    await trio.testing.wait_all_tasks_blocked()
    assert got == [b"by hand"]
    box.end()
    await trio.testing.wait_all_tasks_blocked()
    assert got == [b"by hand", None]


async def test_the_poller_goes_on_when_its_leader_is_cancelled_or_leaves(led: tuple) -> None:
    poller, box, got, scope, (near, far) = led
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert not box._leading
    others: list[bytes] = []
    async with trio.open_nursery() as pumps:
        pumps.start_soon(poller.pump, near, lambda data: others.append(data) or True, 100)
        await trio.testing.wait_all_tasks_blocked()
        far.sendall(b"x")
        await trio.testing.wait_all_tasks_blocked()
        pumps.cancel_scope.cancel()
    assert others == [b"x"]
    assert got == []


async def test_a_mailbox_has_one_reader_also_where_that_leads(led: tuple) -> None:
    _, box, _, _, _ = led
    with pytest.raises(trio.BusyResourceError):
        await box.get()


async def test_what_a_leader_reads_for_others_runs_in_the_pollers_context(led: tuple) -> None:
    poller, box, _, _, (near, far) = led
    seen: list[str] = []
    whose.set("the test's")
    async with trio.open_nursery() as pumps:
        pumps.start_soon(poller.pump, near, lambda _: seen.append(whose.get("the poller's")) or True, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert box._leading
        far.sendall(b"x")
        await trio.testing.wait_all_tasks_blocked()
        pumps.cancel_scope.cancel()
    assert seen == ["the poller's"]


async def test_a_leader_outlives_the_poller() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    poller = Poller()
    box: Mailbox[bytes] = Mailbox(poller)
    got: list[bytes | None] = []
    running = trio.CancelScope()

    async def run() -> None:
        with running:
            await poller.run()

    async with trio.open_nursery() as pumps:
        pumps.start_soon(run)
        pumps.start_soon(poller.pump, near, lambda data: box.put(data) or True, 100)
        pumps.start_soon(read_all, box, got)
        await trio.testing.wait_all_tasks_blocked()
        while not box._leading:
            far.sendall(b"a")
            await trio.testing.wait_all_tasks_blocked()
        running.cancel()
        await trio.testing.wait_all_tasks_blocked()
        got.clear()
        far.sendall(b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"b"]
        assert not poller.free
        pumps.cancel_scope.cancel()
    near.close()
    far.close()

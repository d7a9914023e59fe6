"""Connections in memory: order, bounds, delays and accidents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from engine.errors import ConfigError
from engine.testing import MemoryStream, Network

if TYPE_CHECKING:
    from trio.testing import MockClock


async def receive_all(stream: MemoryStream) -> list[bytes]:
    return [bytes(each) async for each in stream]


async def test_a_connection_keeps_the_contract_of_trio() -> None:
    async def make() -> tuple[MemoryStream, MemoryStream]:
        return Network(buffer_size=1024).open()

    async def make_clogged() -> tuple[MemoryStream, MemoryStream]:
        near, far = await make()
        await near.send_all(bytes(1024))
        await far.send_all(bytes(1024))
        return near, far

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_a_sender_waits_for_a_slow_reader() -> None:
    near, far = Network(buffer_size=10).open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, b"x" * 25)
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some() == b"x" * 10
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some(4) == b"x" * 4
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some() == b"x" * 6
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some() == b"x" * 4


async def test_a_delay_is_the_clock_s(autojump_clock: MockClock) -> None:
    near, far = Network(latency=30, jitter=10, seed=1).open()
    for number in range(5):
        await near.send_all(b"%d" % number)
    await near.send_eof()
    arrived = []
    while data := await far.receive_some():
        arrived.append((data, trio.current_time()))
    assert b"".join(data for data, _ in arrived) == b"01234"
    times = [time for _, time in arrived]
    assert times == sorted(times)
    assert times[0] >= 30
    assert times[-1] <= 40


async def test_pieces_are_the_same_for_the_same_seed() -> None:
    async def pieces(seed: int) -> list[bytes]:
        near, far = Network(fragment=True, seed=seed).open()
        await near.send_all(bytes(range(200)))
        await near.send_eof()
        return await receive_all(far)

    first = await pieces(1)
    assert b"".join(first) == bytes(range(200))
    assert len(first) > 1
    assert await pieces(1) == first
    assert await pieces(2) != first


async def test_a_cut_reaches_both_ends_wherever_they_wait() -> None:
    network = Network(buffer_size=1)
    near, far = network.open()
    clogged, other = network.open()

    async def fails(function: object, *arguments: object) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await function(*arguments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, near.receive_some)
        nursery.start_soon(fails, far.receive_some)
        nursery.start_soon(fails, clogged.send_all, b"xyz")
        nursery.start_soon(fails, other.send_all, b"xyz")
        await trio.testing.wait_all_tasks_blocked()
        network.cut()
    assert network.links == []
    await fails(far.receive_some)


async def test_what_is_frozen_arrives_after_the_thaw() -> None:
    network = Network()
    near, far = network.open()
    network.freeze()
    await near.send_all(b"late")
    with trio.move_on_after(0.01) as scope:
        await far.receive_some()
    assert scope.cancelled_caught
    network.thaw()
    assert await far.receive_some() == b"late"


@pytest.mark.parametrize("bad", [{"latency": -1}, {"jitter": float("nan")}, {"buffer_size": 0}])
def test_numbers_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"network\."):
        Network(**bad)

"""Outbox: the one door, its order, its deadline, its high-water mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from engine.config import ServerConfig
from engine.errors import ConnectionClosed, LimitExceeded
from engine.transport.outbox import HIGH_WATER, Outbox
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog

if TYPE_CHECKING:
    from trio.testing import MockClock


class ScriptedStream(ByteStream):
    """Takes `room` bytes without waiting; `send_all` waits for `open`."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.wire = b""
        self.calls = 0
        self.open = trio.Event()
        self.broken = False

    async def receive_some(self) -> bytes:
        raise AssertionError("nothing reads here")

    async def pump(self, sink: object, max_bytes: int | None = None) -> None:
        raise AssertionError("nothing reads here")

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise ConnectionClosed(1006, "broken pipe")
        taken = min(self.room, len(data))
        self.room -= taken
        self.wire += bytes(data[:taken])
        self.calls += bool(taken)
        return taken

    async def send_all(self, data: bytes | memoryview) -> None:
        await self.open.wait()
        if self.broken:
            raise ConnectionClosed(1006, "broken pipe")
        self.wire += bytes(data)
        self.calls += 1

    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...
    def abort(self) -> None: ...


class Bench:
    def __init__(self, nursery: trio.Nursery, room: int, source: list[bytes] | None = None) -> None:
        self.failures: list[ConnectionClosed | LimitExceeded] = []
        self.stream = ScriptedStream(room)
        watchdog = Watchdog()
        nursery.start_soon(watchdog.run)
        rest = source if source is not None else []
        self.outbox = Outbox(
            self.stream,
            ServerConfig(write_timeout=30),
            watchdog,
            on_failure=self.failures.append,
            start_writer=lambda: nursery.start_soon(self.outbox.run_writer),
            source=lambda: rest.pop(0) if rest else b"",
        )


async def test_what_was_written_leaves_in_one_send_straight_from_the_caller(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, room=100)
    for word in (b"a", b"b", b"c"):
        bench.outbox.write(word)
    assert bench.outbox.queued == 3
    bench.outbox.flush()
    assert (bench.stream.wire, bench.stream.calls, bench.outbox.queued) == (b"abc", 1, 0)


async def test_what_the_transport_does_not_take_leaves_later_in_order(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, room=2)
    bench.outbox.write(b"abcd")
    bench.outbox.flush()
    bench.outbox.write(b"ef")
    bench.outbox.flush()
    await trio.testing.wait_all_tasks_blocked()
    bench.outbox.write(b"gh")
    bench.outbox.flush()
    assert bench.stream.wire == b"ab"
    assert bench.outbox.queued == 6
    bench.stream.open.set()
    await bench.outbox.drained()
    assert bench.stream.wire == b"abcdefgh"


async def test_flush_soon_joins_the_writes_of_all_tasks_that_are_runnable(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, room=100)

    async def write(word: bytes) -> None:
        bench.outbox.write(word)
        bench.outbox.flush_soon()

    bench.outbox.write(b"0")
    bench.outbox.flush_soon()
    await trio.testing.wait_all_tasks_blocked()
    calls = bench.stream.calls
    async with trio.open_nursery() as writers:
        for number in range(20):
            writers.start_soon(write, b"%d," % number)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.outbox.queued == 0
    assert bench.stream.calls == calls + 1


async def test_the_source_is_asked_only_when_the_queue_is_empty(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    source = [b"one", b"two"]
    bench = Bench(nursery, room=4, source=source)
    bench.outbox.flush()
    assert bench.stream.wire == b"onet"
    assert source == []
    source.append(b"three")
    bench.outbox.flush()
    assert source == [b"three"]
    bench.stream.open.set()
    await bench.outbox.drained()
    assert bench.stream.wire == b"onetwothree"


async def test_drain_waits_only_above_the_high_water_mark(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    bench = Bench(nursery, room=0)
    bench.outbox.write(bytes(60_000))
    with trio.fail_after(1):
        await bench.outbox.drain()
    bench.outbox.write(bytes(60_000))
    done = trio.Event()

    async def wait() -> None:
        await bench.outbox.drain()
        done.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    assert not done.is_set()
    bench.stream.open.set()
    await done.wait()


async def test_a_peer_that_takes_nothing_is_given_up_after_the_write_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, room=0)
    start = trio.current_time()
    bench.outbox.write(bytes(100_000))
    with pytest.raises(ConnectionClosed, match=r"server\.write_timeout"):
        await bench.outbox.drain()
    assert trio.current_time() == start + 30
    assert [type(each) for each in bench.failures] == [LimitExceeded]
    bench.outbox.write(b"more")
    assert bench.outbox.queued == 0


async def test_a_broken_transport_is_reported_once_and_everything_after_is_discarded(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, room=0)
    bench.stream.broken = True
    for _ in range(3):
        bench.outbox.write(b"x")
        bench.outbox.flush()
    assert len(bench.failures) == 1
    assert bench.outbox.failed
    with pytest.raises(ConnectionClosed, match="broken pipe"):
        await bench.outbox.drain()


async def test_cancelling_a_drain_leaves_the_queue_as_it_is(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    bench = Bench(nursery, room=0)
    bench.outbox.write(bytes(100_000))
    with trio.move_on_after(1) as scope:
        await bench.outbox.drain()
    assert scope.cancelled_caught
    bench.stream.open.set()
    await bench.outbox.drained()
    assert len(bench.stream.wire) == 100_000


async def test_nobody_waits_for_room_behind_the_last_write(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    bench = Bench(nursery, room=0)
    bench.outbox.write(bytes(HIGH_WATER + 1))
    with trio.move_on_after(1) as scope:
        await bench.outbox.drain()
    assert scope.cancelled_caught
    trio.lowlevel.current_trio_token().run_sync_soon(bench.outbox.release)
    await bench.outbox.drain()
    bench.stream.open.set()
    await bench.outbox.drained()
    assert len(bench.stream.wire) == HIGH_WATER + 1

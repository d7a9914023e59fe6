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
            source=None if source is None else lambda: rest.pop(0) if rest else b"",
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


async def test_send_goes_straight_out_and_the_writer_does_the_rest(nursery: trio.Nursery) -> None:
    bench = Bench(nursery, 5)
    assert bench.outbox.send(b"abc")
    assert (bench.stream.wire, bench.outbox.queued) == (b"abc", 0)
    assert bench.outbox.send(b"defgh")
    assert (bench.stream.wire, bench.outbox.queued) == (b"abcde", 3)
    assert bench.outbox.send(b"ijk")  # behind what waits
    bench.stream.open.set()
    await bench.outbox.drained()
    assert (bench.stream.wire, bench.outbox.bytes_sent) == (b"abcdefghijk", 11)


async def test_send_says_when_it_is_time_to_wait(nursery: trio.Nursery) -> None:
    bench = Bench(nursery, 10)
    assert not bench.outbox.send(bytes(HIGH_WATER + 11))
    assert bench.outbox.queued == HIGH_WATER + 1
    assert not bench.outbox.send_soon(b"x")


async def test_send_after_a_failure_is_discarded(nursery: trio.Nursery) -> None:
    bench = Bench(nursery, 10)
    bench.stream.broken = True
    assert bench.outbox.send(b"x")  # nothing to wait for: the handler learns of it by its scope
    assert [type(each) for each in bench.failures] == [ConnectionClosed]
    assert bench.outbox.send(b"x")
    assert bench.outbox.send_soon(b"x")
    assert (bench.stream.wire, bench.outbox.queued, len(bench.failures)) == (b"", 0, 1)


async def test_send_soon_leaves_with_what_is_written_in_the_same_tick(nursery: trio.Nursery) -> None:
    bench = Bench(nursery, 1000)
    for letter in (b"a", b"b", b"c"):
        assert bench.outbox.send_soon(letter)
    assert bench.stream.wire == b""
    await trio.testing.wait_all_tasks_blocked()
    assert (bench.stream.wire, bench.stream.calls) == (b"abc", 1)


@pytest.mark.parametrize("room", [0, 10, 70_000, 1 << 30])
async def test_small_chunks_are_joined_and_large_ones_leave_as_they_are(nursery: trio.Nursery, room: int) -> None:
    bench = Bench(nursery, room)
    bench.stream.open.set()
    chunks = [b"a", b"b", b"c" * 100_000, b"d", b"e" * 60_000, b"f" * 10_000]
    for chunk in chunks:
        bench.outbox.write(chunk)
    bench.outbox.flush()
    await bench.outbox.drained()
    assert bench.stream.wire == b"".join(chunks)
    assert bench.outbox.bytes_sent == len(bench.stream.wire)
    if room == 1 << 30:
        assert bench.stream.calls == 4  # a and b; c; d and e; f

"""When a client's reader waits for more answers, and when it must not."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.config import ChannelConfig
from engine.transport.http2_client import Http2ClientConnection
from engine.transport.moderation import LEAST_CALLS, LONGEST, SHARE, SHORTEST, WINDOW, ReadModeration
from engine.transport.watchdog import Watchdog
from tests.transport.test_http2_batches import REQUEST, RecordingStream, Silent
from tests.wire.http2_peer import headers, settings

CALLS = 100


def in_flight(took: float, calls: int = CALLS) -> ReadModeration:
    """So many calls are in flight, and one that took so many seconds has just ended."""
    moderation = ReadModeration()
    for stream_id in range(calls + 1):
        moderation.opened(stream_id, 10.0)
    moderation.ended(calls, 10.0 + took)
    return moderation


def test_the_wait_is_a_share_of_what_a_call_takes() -> None:
    assert in_flight(0.016).pause(CALLS) == pytest.approx(0.001)
    assert in_flight(0.016).pause(CALLS) <= 0.016 / SHARE * 1.001


def test_the_wait_is_bounded_however_long_calls_take() -> None:
    assert in_flight(30.0).pause(CALLS) == LONGEST


@pytest.mark.parametrize("took", [0.0001, SHORTEST * SHARE * 0.99])
def test_fast_calls_are_not_made_to_wait(took: float) -> None:
    assert in_flight(took).pause(CALLS) == 0


def test_few_calls_are_not_made_to_wait() -> None:
    assert in_flight(0.02, LEAST_CALLS - 1).pause(LEAST_CALLS - 1) == 0


def test_the_fastest_of_the_last_calls_decides() -> None:
    moderation = in_flight(1.0)
    moderation.opened(999, 10.0)
    moderation.ended(999, 10.001)
    for stream_id in range(1_000, 1_000 + WINDOW):
        assert moderation.pause(CALLS) == 0
        moderation.opened(stream_id, 20.0)
        moderation.ended(stream_id, 21.0)
    for stream_id in range(2_000, 2_000 + WINDOW):
        moderation.opened(stream_id, 20.0)
        moderation.ended(stream_id, 21.0)
    moderation.pause(CALLS)  # what all these ended counts for one read
    moderation.ended(5, 21.0)
    assert moderation.pause(CALLS - 1) == LONGEST  # the fast one is long ago


def test_a_read_that_brought_a_batch_is_not_waited_after() -> None:
    moderation = in_flight(0.02, 200)
    for stream_id in range(30):
        moderation.ended(stream_id, 10.02)
    assert moderation.pause(170) == 0


def test_an_open_stream_of_messages_forbids_waiting() -> None:
    assert in_flight(0.02).pause(CALLS + 1) == 0


def test_calls_that_ended_otherwise_are_forgotten() -> None:
    moderation = in_flight(0.02)
    for stream_id in range(CALLS):
        moderation.forget(stream_id)
    assert moderation.pause(0) == 0
    assert math.isfinite(moderation.pause(CALLS))


async def test_the_reader_waits_and_then_reads_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    watchdog, stream = Watchdog(), RecordingStream()
    nursery.start_soon(watchdog.run)
    connection = Http2ClientConnection(
        stream, config=ChannelConfig(), watchdog=watchdog, on_ready=lambda: None, on_unusable=lambda: None
    )
    nursery.start_soon(connection.run)
    await wait_all_tasks_blocked()
    stream.receive(settings((3, 1_000)))
    for _ in range(CALLS):
        connection.open(Silent(), REQUEST, reserved=False, single=True)
    connection.flush()
    await trio.sleep(0.016)
    answer = ((b":status", b"200"),)
    assert stream.receive(headers(1, answer)) is False  # the pump returns
    stream.stop_pumping()
    await trio.sleep(0.0009)
    assert stream.pumps == 1
    await trio.sleep(0.0002)
    assert stream.pumps == 2
    many = b"".join([headers(stream_id, answer) for stream_id in range(3, 3 + 2 * CALLS // 4, 2)])
    assert stream.receive(many) is True  # a good batch: read on at once

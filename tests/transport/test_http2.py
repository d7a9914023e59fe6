"""The HTTP/2 driver: exchanges on streams, their limits, and every deadline of a connection."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from engine.config import Bucket
from engine.errors import Http2Code, LocalProtocolError
from engine.transport.exchange import CancelReason, Exchange
from tests.transport.http2_connection import Hanging, bodies_of, body_of, connected
from tests.wire.http2_peer import (
    CONTINUATION,
    DATA,
    GET,
    GOAWAY,
    HEADERS,
    PING,
    POST,
    PREFACE,
    RST,
    WINDOW,
    block,
    data,
    frame,
    headers,
    reset,
    settings,
    window,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

END_STREAM = 1
MAX_ID = 2**31 - 1


async def ok(exchange: Exchange) -> None:
    exchange.write_head(200, ((b"content-length", b"2"),))
    exchange.write(b"ok", end=True)
    await exchange.drain()


async def echo(exchange: Exchange) -> None:
    body = b""
    while received := await exchange.receive():
        body += received
    exchange.write_head(200)
    exchange.write(body, end=True)
    await exchange.drain()


async def test_many_requests_share_a_connection(autojump_clock: MockClock) -> None:
    async with connected(echo) as connection:
        for stream_id in (1, 3, 5):
            await connection.send(headers(stream_id, POST, end=False), data(stream_id, b"%d" % stream_id, end=True))
        assert await bodies_of(connection, 3) == {1: b"1", 3: b"3", 5: b"5"}


async def test_a_head_request_gets_the_head_alone(autojump_clock: MockClock) -> None:
    async with connected(ok) as connection:
        await connection.send(headers(1, [(b":method", b"HEAD"), *GET[1:]]))
        _, flags, _, _ = await connection.until(HEADERS, 1)
        assert flags & END_STREAM


async def test_a_stream_over_the_limit_is_refused_and_may_be_repeated(autojump_clock: MockClock) -> None:
    hanging = Hanging()
    async with connected(hanging, http2__max_concurrent_streams=2) as connection:
        await connection.send(headers(1), headers(3), headers(5))
        assert (await connection.until(RST))[2:] == (5, struct.pack(">L", Http2Code.REFUSED_STREAM))
        assert hanging.running == 2


async def test_a_slot_is_free_when_its_handler_has_ended_not_when_its_stream_was_reset(
    autojump_clock: MockClock,
) -> None:
    cleaning_up = trio.Event()

    async def slow_to_die(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await cleaning_up.wait()

    async with connected(slow_to_die, http2__max_concurrent_streams=1) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(reset(1), headers(3))  # one handler more than streams may linger
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(reset(3), headers(5))
        assert (await connection.until(RST))[2] == 5
        cleaning_up.set()
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(headers(7), frame(PING, 0, 0, bytes(8)))
        assert (await connection.frame())[0] == PING  # type: ignore[index]  # and no RST_STREAM


async def test_a_stream_that_is_reset_in_the_same_read_starts_no_handler(autojump_clock: MockClock) -> None:
    hanging = Hanging()
    async with connected(hanging) as connection:
        await connection.send(headers(1), reset(1), headers(3))
        await trio.testing.wait_all_tasks_blocked()
        assert hanging.running == 1
        assert hanging.seen == []


async def test_a_reset_cancels_the_handler_with_its_reason(autojump_clock: MockClock) -> None:
    hanging = Hanging()
    async with connected(hanging) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(reset(1))
        await trio.testing.wait_all_tasks_blocked()
        assert hanging.seen == [CancelReason.PEER_RESET]


async def test_an_expired_deadline_resets_the_stream_with_cancel(autojump_clock: MockClock) -> None:
    async def late(exchange: Exchange) -> None:
        exchange.scope.deadline = trio.current_time() + 5
        await trio.sleep_forever()

    async with connected(late) as connection:
        await connection.send(headers(1))
        assert (await connection.until(RST, 1))[3] == struct.pack(">L", Http2Code.CANCEL)


async def test_an_endpoint_may_answer_after_its_deadline(autojump_clock: MockClock) -> None:
    async def late(exchange: Exchange) -> None:
        def answer(reason: CancelReason) -> None:
            assert reason is CancelReason.DEADLINE
            exchange.write_head(504, end=True)

        exchange.on_cancelled = answer
        exchange.scope.deadline = trio.current_time() + 5
        await trio.sleep_forever()

    async with connected(late) as connection:
        await connection.send(headers(1))
        _, flags, _, payload = await connection.until(HEADERS, 1)
        assert flags & END_STREAM
        assert payload.endswith(b"504")


async def test_a_handler_that_forgets_to_answer_resets_its_stream(autojump_clock: MockClock) -> None:
    async def silent(exchange: Exchange) -> None:
        await trio.lowlevel.checkpoint()

    async with connected(silent) as connection:
        await connection.send(headers(1))
        assert (await connection.until(RST, 1))[3] == struct.pack(">L", Http2Code.INTERNAL_ERROR)


async def test_an_answer_before_the_end_of_the_request_is_followed_by_no_error_a_little_later(
    autojump_clock: MockClock,
) -> None:
    async with connected(ok) as connection:
        await connection.send(headers(1, POST, end=False), data(1, b"unread"))
        assert await body_of(connection, 1) == b"ok"
        answered = trio.current_time()
        assert (await connection.until(RST, 1))[3] == struct.pack(">L", Http2Code.NO_ERROR)
        assert 0 < trio.current_time() - answered < 1


async def test_a_handler_that_does_not_read_stops_its_stream_alone(autojump_clock: MockClock) -> None:
    async def choose(exchange: Exchange) -> None:
        if exchange.head.header(b"x-read"):
            await echo(exchange)
        else:
            await trio.sleep_forever()

    async with connected(choose) as connection:
        size = 256 * 1024
        await connection.send(headers(1, POST, end=False))
        for _ in range(size // 16384):
            await connection.send(data(1, bytes(16384)))
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(headers(3, [*POST, (b"x-read", b"1")], end=False), data(3, b"through", end=True))
        seen = []
        while (found := await connection.frame()) is not None and found[0] != DATA:
            seen.append(found[0] == WINDOW and found[2])
        assert found is not None
        assert found[3] == b"through"
        assert 1 not in seen  # no credit for the stream that nobody reads


async def test_a_response_waits_for_the_peers_window_and_goes_on_with_it(autojump_clock: MockClock) -> None:
    sent: list[int] = []

    async def much(exchange: Exchange) -> None:
        exchange.write_head(200)
        for number in range(100):
            await exchange.send(bytes(10_000))
            sent.append(number)
        await exchange.send(b"", end=True)

    async with connected(much) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) * 10_000 <= 65_535 + 64 * 1024  # the window, and http2.send_buffer
        await connection.send(window(0, 2**30), window(1, 2**30))
        assert len(await body_of(connection, 1)) == 1_000_000


async def test_many_streams_that_stand_still_share_what_a_connection_may_queue(autojump_clock: MockClock) -> None:
    async def endless(exchange: Exchange) -> None:
        exchange.write_head(200)
        while exchange.head.path == "/" or exchange.bytes_sent < 1_000_000:
            await exchange.send(bytes(100))
        await exchange.send(b"", end=True)

    limit = 128 * 1024
    shut = PREFACE + settings((4, 0)) + settings(ack=True)
    async with connected(endless, greet=shut, http2__connection_send_buffer=limit) as connection:
        await connection.send(*[headers(stream_id) for stream_id in range(1, 199, 2)])
        await trio.testing.wait_all_tasks_blocked()
        queued = [connection.driver.core.queued(stream_id) for stream_id in range(1, 199, 2)]
        assert 0 < max(queued) <= 64 * 1024 + 100  # http2.send_buffer: for the first of them
        assert sum(queued) < 6 * limit  # limit * (1 + 1/2 + ... + 1/99): later ones may queue less; 50 times it without
        # One whose client reads is not stopped by them.
        await connection.send(
            headers(199, [*GET[:2], (b":path", b"/finite"), GET[3]]), window(0, 2**30), window(199, 2**30)
        )
        assert len(await body_of(connection, 199)) == 1_000_000


@pytest.mark.parametrize("how", ["reset", "deadline"])
async def test_a_writer_that_is_cancelled_waits_no_more(autojump_clock: MockClock, how: str) -> None:
    async def much(exchange: Exchange) -> None:
        exchange.write_head(200)
        if how == "deadline":
            exchange.scope.deadline = trio.current_time() + 1
        await exchange.send(bytes(1_000_000))

    async with connected(much) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        assert len(connection.driver.waiting) == 1
        if how == "reset":
            await connection.send(reset(1))
        await trio.sleep(2)
        assert not connection.driver.waiting
        assert not connection.driver.has_exchanges


async def test_several_tasks_may_wait_for_one_streams_window(autojump_clock: MockClock) -> None:
    async def much(exchange: Exchange) -> None:
        exchange.write_head(200)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(exchange.send, bytes(100_000))
        exchange.write(b"", end=True)

    async with connected(much) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(window(0, 2**30), window(1, 2**30))
        assert len(await body_of(connection, 1)) == 500_000


async def test_a_response_that_is_complete_leaves_when_the_window_opens_later(autojump_clock: MockClock) -> None:
    async def much(exchange: Exchange) -> None:
        exchange.write_head(200)
        exchange.write(bytes(100_000), end=True)

    async with connected(much) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        assert connection.driver.running == 0
        await connection.send(window(0, 50_000), window(1, 50_000))
        assert len(await body_of(connection, 1)) == 100_000


async def test_a_window_that_stays_shut_resets_the_stream(autojump_clock: MockClock) -> None:
    async def much(exchange: Exchange) -> None:
        exchange.write_head(200)
        await exchange.send(bytes(200_000), end=True)

    async with connected(much, greet=PREFACE + settings((4, 0)) + settings(ack=True)) as connection:
        await connection.send(headers(1))
        begin = trio.current_time()
        assert (await connection.until(RST, 1))[3] == struct.pack(">L", Http2Code.CANCEL)
        assert trio.current_time() - begin == 60  # http2.zero_window_timeout
        await connection.send(headers(3))
        await connection.until(HEADERS, 3)


async def test_the_rest_of_an_ended_handlers_response_keeps_its_slot_until_it_has_left(
    autojump_clock: MockClock,
) -> None:
    async def much(exchange: Exchange) -> None:
        exchange.write_head(200)
        exchange.write(bytes(1000), end=True)

    greet = PREFACE + settings((4, 0)) + settings(ack=True)
    async with connected(much, greet=greet, http2__max_concurrent_streams=2) as connection:
        await connection.send(headers(1), headers(3))
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(headers(5))
        assert (await connection.until(RST))[2] == 5
        await connection.send(window(1, 1000))
        assert len(await body_of(connection, 1)) == 1000
        await connection.send(headers(7))
        await connection.until(HEADERS, 7)
        assert (await connection.until(RST))[2] == 3  # after http2.zero_window_timeout


# -- the deadlines of a connection ------------------------------------------------


@pytest.mark.parametrize(
    ("greet", "name", "seconds"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", "http2.preface_timeout", 10),
        (PREFACE, "http2.preface_timeout", 10),
        (PREFACE + settings(), "http2.settings_ack_timeout", 10),
        (PREFACE + settings() + settings(ack=True), "max_idle", 120),
        (
            PREFACE + settings() + settings(ack=True) + frame(HEADERS, 1, 1, block(GET)),
            "http2.header_block_timeout",
            10,
        ),
    ],
)
async def test_a_peer_that_does_not_go_on_gets_goaway_after_the_time_that_it_names(
    greet: bytes, name: str, seconds: float, autojump_clock: MockClock
) -> None:
    async with connected(ok, greet=greet) as connection:
        begin = trio.current_time()
        assert (await connection.goaway())[2] == name.encode()
        assert trio.current_time() - begin == pytest.approx(seconds)
        await connection.over.wait()


async def test_a_header_block_that_is_completed_in_time_is_fine(autojump_clock: MockClock) -> None:
    async with connected(ok) as connection:
        whole = block(GET)
        await connection.send(frame(HEADERS, 1, 1, whole[:3]))
        await trio.sleep(9)
        await connection.send(frame(CONTINUATION, 4, 1, whole[3:]))
        assert await body_of(connection, 1) == b"ok"
        await trio.sleep(15)
        await connection.send(headers(3))
        assert await body_of(connection, 3) == b"ok"


async def test_a_connection_with_a_running_exchange_is_not_idle(autojump_clock: MockClock) -> None:
    hanging = Hanging()
    async with connected(hanging) as connection:
        await connection.send(headers(1))
        await trio.sleep(1000)
        assert hanging.running == 1
        await connection.send(reset(1))
        begin = trio.current_time()
        assert (await connection.goaway())[2] == b"max_idle"  # gRFC A9
        assert trio.current_time() - begin == pytest.approx(120)


# -- the end ----------------------------------------------------------------------


async def test_a_connection_error_cancels_the_handlers_and_says_why(autojump_clock: MockClock) -> None:
    hanging = Hanging()
    async with connected(hanging) as connection:
        await connection.send(headers(1), frame(DATA, 0, 0, b"x"))
        last, code, _ = await connection.goaway()
        assert (last, code) == (1, Http2Code.PROTOCOL_ERROR)
        await connection.over.wait()
        assert hanging.running == 0


async def test_a_drain_says_goodbye_twice_with_a_round_trip_between(autojump_clock: MockClock) -> None:
    release = trio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await ok(exchange)

    async with connected(wait) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        connection.driver.drain()
        connection.driver.drain()
        assert (await connection.goaway())[:2] == (MAX_ID, Http2Code.NO_ERROR)
        ping = (await connection.until(PING))[3]
        await connection.send(headers(3), frame(PING, 1, 0, ping))  # 3 was on its way: it is served
        assert (await connection.goaway())[:2] == (3, Http2Code.NO_ERROR)
        await connection.send(headers(5))
        assert (await connection.until(RST, 5))[3] == struct.pack(">L", Http2Code.REFUSED_STREAM)
        release.set()
        frames = await connection.rest()
        assert sorted(each[2] for each in frames if each[0] == DATA) == [1, 3]


async def test_a_peer_that_does_not_answer_the_drains_ping_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with connected(ok) as connection:
        await connection.send(headers(1))
        await body_of(connection, 1)
        begin = trio.current_time()
        connection.driver.drain()
        assert (await connection.goaway())[0] == MAX_ID
        assert (await connection.goaway())[0] == 1
        assert trio.current_time() - begin == 5  # http2.drain_ping_timeout
        await connection.over.wait()


async def test_stop_cancels_what_still_runs(autojump_clock: MockClock) -> None:
    hanging = Hanging()
    async with connected(hanging) as connection:
        await connection.send(headers(1))
        await trio.testing.wait_all_tasks_blocked()
        connection.driver.stop()
        await connection.over.wait()
        assert hanging.seen == [CancelReason.SHUTDOWN]


async def test_after_the_clients_goaway_its_streams_still_finish(autojump_clock: MockClock) -> None:
    async with connected(echo) as connection:
        await connection.send(headers(1, POST, end=False), frame(GOAWAY, 0, 0, bytes(8)))
        await connection.send(data(1, b"late", end=True))
        assert await body_of(connection, 1) == b"late"


async def test_replies_that_nobody_reads_stop_the_reading(autojump_clock: MockClock) -> None:
    pings = frame(PING, 0, 0, bytes(8)) * 1000
    patient = {"http2__pings": Bucket(10**9, 10**9), "grpc__max_ping_strikes": 10**9}
    async with connected(ok, lockstep=True, **patient) as connection:
        sent = 0
        with trio.move_on_after(10):
            while sent < 50:
                await connection.send(pings)
                sent += 1
        assert sent < 50
        assert connection.driver.core.control_backlog < 2 * 64 * 1024


async def test_calls_out_of_order_are_our_own_errors(autojump_clock: MockClock) -> None:
    errors: list[str] = []

    async def confused(exchange: Exchange) -> None:
        for call in (
            lambda: exchange.write(b"x"),
            lambda: exchange.write_trailers(()),
            lambda: exchange.write_head(200),
            lambda: exchange.write_head(200),
            lambda: exchange.write_informational(103),
        ):
            try:
                call()
            except LocalProtocolError as error:
                errors.append(str(error))
        exchange.write(b"", end=True)

    async with connected(confused) as connection:
        await connection.send(headers(1))
        await connection.until(HEADERS, 1)
    assert len(errors) == 4


async def test_a_sink_gets_the_body_as_it_comes_and_credit_waits_while_it_is_paused(
    autojump_clock: MockClock,
) -> None:
    got: list[bytes] = []
    exchanges: list[Exchange] = []

    async def raw(exchange: Exchange) -> None:
        exchanges.append(exchange)
        exchange.switch_protocol()
        exchange.attach(got.append)
        exchange.flush()
        await trio.sleep_forever()

    async with connected(raw) as connection:
        await connection.send(headers(1, POST, end=False), data(1, b"early"))
        await connection.until(HEADERS, 1)
        exchanges[0].pause_receiving()
        for _ in range(10):
            await connection.send(data(1, bytes(16384)))
        await trio.testing.wait_all_tasks_blocked()
        assert (got[0], len(b"".join(got))) == (b"early", 5 + 163840)
        exchanges[0].resume_receiving()
        assert (await connection.until(WINDOW, 1))[3] == struct.pack(">L", 163840 + 5)
        await connection.send(data(1, end=True))
        await trio.testing.wait_all_tasks_blocked()
        assert got[-1] == b""

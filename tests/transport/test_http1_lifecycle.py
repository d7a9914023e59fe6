"""How an HTTP/1 connection and its exchanges end: deadlines, lost peers, drain and stop."""

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import LimitExceeded
from engine.transport.exchange import CancelReason
from tests.transport.http1_peer import connected

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TEXT = ((b"content-length", b"2"),)
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def ok(exchange):
    exchange.write_head(200, TEXT)
    exchange.write(b"ok", end=True)
    await exchange.drain()


async def take_all(exchange):
    try:
        while await exchange.receive():
            pass
    except LimitExceeded:
        exchange.write_head(408, TEXT)
        exchange.write(b"no", end=True)
        await exchange.drain()
    else:
        await ok(exchange)


class Sleeper:
    """A handler that waits to be cancelled, and says why it was."""

    def __init__(self):
        self.started = trio.Event()
        self.reasons = []

    async def __call__(self, exchange):
        exchange.on_cancelled = self.reasons.append
        self.started.set()
        await trio.sleep_forever()


# -- deadlines ----------------------------------------------------------------


async def test_an_idle_connection_is_closed_silently(autojump_clock):
    async with connected(ok, Config().replace(http1__keep_alive_timeout=7)) as client:
        await client.ask(GET)
        before = trio.current_time()
        assert await client.rest() == b""
        assert trio.current_time() - before == pytest.approx(7)


async def test_a_head_has_a_deadline_that_its_bytes_do_not_move(autojump_clock):
    async with connected(ok, Config().replace(http1__head_timeout=10)) as client:
        before = trio.current_time()
        for byte in b"GET / HTTP":
            await client.send(bytes([byte]))
            await trio.sleep(0.9)
        assert (await client.reply()).status == 408
        assert trio.current_time() - before == pytest.approx(10)
        assert await client.rest() == b""


async def test_the_head_deadline_holds_for_every_request_of_a_connection(autojump_clock):
    async with connected(ok, Config().replace(http1__head_timeout=10)) as client:
        for _ in range(3):
            assert (await client.ask(GET)).status == 200
            await trio.sleep(30)
        before = trio.current_time()
        await client.send(b"GET")
        assert (await client.reply()).status == 408
        assert trio.current_time() - before == pytest.approx(10)


async def test_a_body_that_stalls_is_given_up(autojump_clock):
    async with connected(take_all) as client:
        await client.send(POST)
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")


async def test_a_body_that_is_fast_enough_is_not_given_up(autojump_clock):
    async with connected(take_all) as client:
        await client.send(POST)
        for _ in range(100):
            await trio.sleep(1)
            await client.send(b"x" * 1000)
        assert (await client.reply()).status == 200


async def test_an_endpoint_that_streams_may_wait_for_a_body_forever(autojump_clock):
    async def patient(exchange):
        exchange.min_body_rate = 0
        await take_all(exchange)

    async with connected(patient) as client:
        await client.send(POST)
        await trio.sleep(3600)
        await client.send(b"x" * 100_000)
        assert (await client.reply()).status == 200


async def test_a_handler_that_is_slow_to_receive_is_not_blamed_on_the_peer(autojump_clock):
    async def late(exchange):
        await trio.sleep(100)
        await take_all(exchange)

    async with connected(late) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, POST + b"x" * 100_000)
        assert (await client.reply()).status == 200


async def test_the_handlers_own_deadline_is_answered_503(autojump_clock):
    sleeper = Sleeper()

    async def hurry(exchange):
        exchange.scope.deadline = trio.current_time() + 3
        await sleeper(exchange)

    async with connected(hurry) as client:
        assert (await client.ask(GET)).status == 503
    assert sleeper.reasons == [CancelReason.DEADLINE]


async def test_what_on_cancelled_writes_is_the_answer(autojump_clock):
    async def hurry(exchange):
        def answer(reason):
            exchange.write_head(504, TEXT)
            exchange.write(b"no", end=True)

        exchange.on_cancelled = answer
        exchange.scope.deadline = trio.current_time() + 3
        await trio.sleep_forever()

    async with connected(hurry) as client:
        assert (await client.ask(GET)).status == 504
        assert (await client.ask(GET)).status == 504


async def test_a_peer_that_does_not_read_loses_the_connection(autojump_clock):
    reasons = []

    async def flood(exchange):
        exchange.on_cancelled = reasons.append
        await exchange.send_head(200)
        await exchange.send(b"x" * 100_000)
        await trio.sleep_forever()

    async with connected(flood, Config().replace(server__write_timeout=5), stalled=True) as client:
        before = trio.current_time()
        await client.send(GET)
        await client.over.wait()
        assert trio.current_time() - before == pytest.approx(5)


# -- a lost peer --------------------------------------------------------------


async def test_a_reset_connection_cancels_the_handler_at_once():
    sleeper = Sleeper()
    async with connected(sleeper, over="socket") as client:
        await client.send(GET)
        await sleeper.started.wait()
        client.stream.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0: close resets
        await client.stream.aclose()
        with trio.fail_after(5):
            await client.over.wait()
    assert sleeper.reasons == [CancelReason.CONNECTION_LOST]


async def test_an_end_behind_a_complete_request_cancels_the_handler_after_a_grace(autojump_clock):
    sleeper = Sleeper()
    async with connected(sleeper, Config().replace(http1__half_close_grace=2)) as client:
        await client.send(GET)
        await sleeper.started.wait()
        before = trio.current_time()
        await client.stream.send_eof()
        await client.over.wait()
        assert trio.current_time() - before == pytest.approx(2)
    assert sleeper.reasons == [CancelReason.CONNECTION_LOST]


async def test_the_grace_is_renewed_while_the_response_makes_progress(autojump_clock):
    async def slow(exchange):
        await exchange.send_head(200)
        for _ in range(10):
            await trio.sleep(0.2)
            await exchange.send(b"x")
        await exchange.send(b"", end=True)

    async with connected(slow) as client:
        await client.send(GET)
        await client.stream.send_eof()
        assert (await client.reply()).body == b"x" * 10


async def test_pipelined_requests_before_an_end_are_all_answered():
    async with connected(ok) as client:
        await client.send(GET * 3)
        await client.stream.send_eof()
        assert [(await client.reply()).status for _ in range(3)] == [200] * 3
        assert await client.rest() == b""


async def test_an_end_in_the_middle_of_a_body_is_400_and_cancels_the_handler():
    sleeper = Sleeper()
    async with connected(sleeper) as client:
        await client.send(POST)
        await sleeper.started.wait()
        await client.stream.send_eof()
        assert (await client.reply()).status == 400
        await client.over.wait()
    assert sleeper.reasons == [CancelReason.CONNECTION_LOST]


async def test_an_end_of_a_switched_protocol_cancels_after_a_grace(autojump_clock):
    sleeper = Sleeper()

    async def switch(exchange):
        exchange.switch_protocol()
        exchange.flush()
        await sleeper(exchange)

    async with connected(switch) as client:
        assert (await client.ask(UPGRADE)).status == 101
        await client.stream.send_eof()
        await client.over.wait()
    assert sleeper.reasons == [CancelReason.CONNECTION_LOST]


# -- drain and stop -----------------------------------------------------------


async def test_a_drain_closes_an_idle_connection_at_once():
    async with connected(ok) as client:
        await client.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        client.driver.drain()
        client.driver.drain()
        assert await client.rest() == b""
        await client.over.wait()


async def test_a_drain_lets_the_request_under_way_finish_and_closes():
    gate = trio.Event()
    told = []

    async def wait(exchange):
        exchange.on_draining = lambda: told.append(exchange.draining)
        await gate.wait()
        await ok(exchange)

    async with connected(wait) as client:
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        client.driver.drain()
        gate.set()
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.rest() == b""
    assert told == [True]


async def test_a_drain_answers_a_request_whose_head_has_begun():
    async with connected(ok) as client:
        await client.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked()
        client.driver.drain()
        reply = await client.ask(GET[10:])
        assert (reply.status, reply.headers["connection"]) == (200, "close")


async def test_a_stop_cancels_the_handler_and_says_so():
    sleeper = Sleeper()
    async with connected(sleeper) as client:
        await client.send(GET)
        await sleeper.started.wait()
        client.driver.stop()
        assert (await client.reply()).status == 503
        await client.over.wait()
    assert sleeper.reasons == [CancelReason.SHUTDOWN]


async def test_a_lingering_close_has_an_end(autojump_clock):
    async with connected(ok, Config().replace(server__close_timeout=3)) as client:
        before = trio.current_time()
        assert (await client.ask(b"BAD\r\n\r\n")).status == 400
        await client.over.wait()  # the client never ends its direction
        assert trio.current_time() - before == pytest.approx(3)

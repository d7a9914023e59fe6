"""The object that handlers hold: the queue, back-pressure, keep-alive, and every way to close."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engine.config import Config
from engine.errors import ConnectionClosed, LocalProtocolError
from engine.transport.exchange import CancelReason
from engine.transport.watchdog import Watchdog
from engine.websocket.connection import Closed, WebSocket
from tests.websocket.fake_exchange import FakeExchange
from tests.wire.websocket.client_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    server_frame,
    server_frames,
)


@pytest.fixture
async def watchdog(nursery: trio.Nursery) -> Watchdog:
    watchdog = Watchdog()
    nursery.start_soon(watchdog.run)
    return watchdog


def opened(watchdog: Watchdog | None = None, **settings: float) -> tuple[WebSocket, FakeExchange]:
    config = Config().replace(**{f"websocket__{name}": value for name, value in settings.items()})
    exchange = FakeExchange(config, watchdog)
    exchange.switch_protocol()
    ws = WebSocket(exchange)
    ws.start()
    return ws, exchange


async def all_of(ws: WebSocket) -> list[str | bytes]:
    return [message async for message in ws]


# -- messages -----------------------------------------------------------------


async def test_messages_arrive_in_order_and_iteration_ends_with_the_peers_close() -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"a") + frame(BINARY, b"b"))
    exchange.deliver(frame(TEXT, b"c", fin=False) + frame(CONTINUATION, b"d") + close_frame(1000, b"done"))
    assert exchange.take_sent() == b""
    assert await all_of(ws) == ["a", b"b", "cd"]
    assert ws.closed == Closed(1000, "done", clean=True)
    assert exchange.take_sent() == server_frame(CLOSE, b"\x03\xe8")
    assert exchange.closed


async def test_a_parked_receiver_is_woken(nursery: trio.Nursery) -> None:
    ws, exchange = opened()
    received: list[str | bytes] = []

    async def receive() -> None:
        received.append(await ws.receive())

    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    exchange.deliver(frame(TEXT, b"hello"))
    await trio.testing.wait_all_tasks_blocked()
    assert received == ["hello"]


async def test_two_tasks_cannot_receive_at_once(nursery: trio.Nursery) -> None:
    ws, _ = opened()
    nursery.start_soon(all_of, ws)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await ws.receive()
    ws.start_closing()


async def test_messages_are_sent_at_once_where_nothing_waits_and_together_where_more_will_be_answered() -> None:
    ws, exchange = opened()
    await ws.send("a")
    assert exchange.take_sent() == server_frame(TEXT, b"a")
    exchange.deliver(frame(TEXT, b"1") + frame(TEXT, b"2"))
    await ws.receive()
    await ws.send(b"first")
    assert (exchange.take_sent(), exchange.soon) == (b"", 1)
    await ws.receive()
    await ws.send(bytearray(b"second"))
    assert exchange.take_sent() == server_frame(BINARY, b"first") + server_frame(BINARY, b"second")


async def test_send_waits_while_the_peer_is_slow(nursery: trio.Nursery) -> None:
    ws, exchange = opened()
    exchange.blocked = True
    await ws.send(bytes(64 * 1024 - 4))
    with trio.testing.assert_checkpoints():
        with trio.move_on_after(0) as scope:
            await ws.send("x")
        assert scope.cancelled_caught
    exchange.unblock()
    await ws.send("y")
    assert [len(payload) for _, payload in server_frames(exchange.take_sent())] == [65532, 1, 1]


async def test_both_directions_are_checkpoints_and_let_other_tasks_run() -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"x") * 2)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.send("x")
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.receive()
    assert scope.cancelled_caught
    assert await ws.receive() == "x"
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(320):
            await ws.send("x")
        nursery.cancel_scope.cancel()
    assert turns >= 9


async def test_what_is_no_message_is_refused_and_the_connection_goes_on() -> None:
    ws, exchange = opened()
    with pytest.raises(TypeError):
        await ws.send(5)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError):
        await ws.send("\ud800")
    assert ws.closed is None
    assert exchange.take_sent() == b""


# -- back-pressure ------------------------------------------------------------


async def test_reading_pauses_at_max_queue_messages_and_goes_on_at_half() -> None:
    ws, exchange = opened(max_queue=4)
    exchange.deliver(frame(TEXT, b"x") * 3)
    assert not exchange.paused
    exchange.deliver(frame(TEXT, b"x") * 3)
    assert exchange.paused
    for _ in range(3):
        await ws.receive()
        assert exchange.paused
    await ws.receive()
    assert not exchange.paused


async def test_reading_pauses_at_max_queue_size_bytes_and_goes_on_at_half() -> None:
    ws, exchange = opened(max_queue_size=1000)
    exchange.deliver(frame(BINARY, bytes(400)) * 2)
    assert not exchange.paused
    exchange.deliver(frame(BINARY, bytes(400)))
    assert exchange.paused
    await ws.receive()
    assert exchange.paused
    await ws.receive()
    assert not exchange.paused


async def test_pings_are_answered_while_the_handler_is_busy() -> None:
    _, exchange = opened()
    exchange.deliver(frame(TEXT, b"x") + frame(PING, b"1"))
    assert exchange.take_sent() == server_frame(PONG, b"1")


async def test_pings_of_a_peer_that_reads_nothing_cost_bounded_memory() -> None:
    ws, exchange = opened()
    exchange.blocked = True
    for _ in range(10):
        exchange.deliver(frame(PING, b"x" * 125) * 1000)
    assert exchange.queued < 64 * 1024 + 64 * 127
    exchange.unblock()
    exchange.deliver(frame(PING, b"last"))
    assert server_frames(exchange.take_sent())[-1] == (PONG, b"last")
    assert ws.closed is None


# -- closing ------------------------------------------------------------------


async def test_close_waits_for_the_peers_half(nursery: trio.Nursery) -> None:
    ws, exchange = opened()
    nursery.start_soon(ws.close, 4000, "bye")
    await trio.testing.wait_all_tasks_blocked()
    assert exchange.take_sent() == server_frame(CLOSE, b"\x0f\xa0bye")
    assert ws.closed == Closed(4000, "bye", clean=False)
    assert not exchange.closed
    exchange.deliver(close_frame(4000))
    await ws.close()
    assert ws.closed == Closed(4000, "bye", clean=True)
    assert exchange.closed
    assert exchange.take_sent() == b""


@pytest.mark.parametrize("data", [close_frame(4000, b"bye"), b"", frame(3)])
async def test_a_handler_that_only_sends_can_wait_for_the_end(data: bytes, nursery: trio.Nursery) -> None:
    ws, exchange = opened()
    found: list[Closed] = []

    async def wait() -> None:
        found.append(await ws.wait_closed())

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    assert not found
    exchange.deliver(data)
    await trio.testing.wait_all_tasks_blocked()
    assert found == [ws.closed]


async def test_close_gives_the_peer_close_timeout_seconds(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    ws, exchange = opened(watchdog, close_timeout=5)
    started = trio.current_time()
    await ws.close()
    assert trio.current_time() - started == 5
    assert ws.closed == Closed(1000, "", clean=False)
    assert exchange.closed


async def test_close_reads_on_to_the_peers_half_although_the_queue_is_full() -> None:
    ws, exchange = opened(max_queue=1)
    exchange.deliver(frame(TEXT, b"1"))
    assert exchange.paused
    ws.start_closing()
    assert not exchange.paused
    exchange.deliver(frame(TEXT, b"late") * 5)
    assert not exchange.paused
    exchange.deliver(close_frame(1000))
    await ws.close()
    assert await all_of(ws) == ["1"]


async def test_nothing_can_be_sent_after_a_close_of_either_side() -> None:
    ours, _ = opened()
    ours.start_closing(4001, "ours")
    theirs, exchange = opened()
    exchange.deliver(close_frame(4002, b"theirs"))
    for ws, code, reason, clean in ((ours, 4001, "ours", False), (theirs, 4002, "theirs", True)):
        with pytest.raises(ConnectionClosed) as caught:
            await ws.send("x")
        assert (caught.value.code, caught.value.reason, caught.value.clean) == (code, reason, clean)
        with pytest.raises(ConnectionClosed):
            await ws.receive()


async def test_a_code_that_may_not_be_sent_leaves_the_connection_open() -> None:
    ws, exchange = opened()
    with pytest.raises(LocalProtocolError):
        await ws.close(1006)
    assert ws.closed is None
    assert exchange.take_sent() == b""


@pytest.mark.parametrize("data", [close_frame(1000), close_frame(1001), frame(CLOSE)])
async def test_iteration_ends_cleanly_with_1000_1001_and_no_code(data: bytes) -> None:
    ws, exchange = opened()
    exchange.deliver(data)
    assert await all_of(ws) == []


@pytest.mark.parametrize("code", [1002, 1011, 1012, 3000, 4999])
async def test_iteration_raises_with_other_codes_after_what_waits(code: int) -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"a") + close_frame(code, b"why"))
    assert await ws.receive() == "a"
    with pytest.raises(ConnectionClosed, match=f"{code} why"):
        await all_of(ws)


async def test_a_protocol_error_is_answered_and_the_exchange_closed_at_once() -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"a"))
    assert await ws.receive() == "a"
    exchange.deliver(frame(3))
    [(opcode, payload)] = server_frames(exchange.take_sent())
    assert (opcode, payload[:2]) == (CLOSE, b"\x03\xea")
    assert exchange.closed
    assert exchange.cancel_reason is None
    with pytest.raises(ConnectionClosed) as caught:
        await ws.receive()
    assert (caught.value.code, caught.value.clean) == (1002, False)
    exchange.deliver(frame(TEXT, b"more"))
    exchange.deliver(b"")


@pytest.mark.parametrize(("data", "code"), [(close_frame(1000), 1000), (frame(3), 1002)])
async def test_messages_that_came_before_a_close_or_an_error_can_be_answered(data: bytes, code: int) -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"a") + frame(TEXT, b"b") + data)
    for _ in range(2):
        await ws.send(await ws.receive())
    assert ws.closed is None
    with pytest.raises(ConnectionClosed):
        await ws.receive()
    *messages, (opcode, payload) = server_frames(exchange.take_sent())
    assert messages == [(TEXT, b"a"), (TEXT, b"b")]
    assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)
    assert exchange.closed


async def test_a_handler_that_does_not_look_delays_the_answer_by_close_timeout_at_most(
    watchdog: Watchdog, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    ws, exchange = opened(watchdog, close_timeout=5)
    exchange.deliver(frame(TEXT, b"a") + close_frame(4000))
    await until(start + 4.9)
    assert exchange.take_sent() == b""
    await until(start + 5)
    assert exchange.take_sent() == server_frame(CLOSE, b"\x0f\xa0")
    assert ws.closed == Closed(4000, "", clean=True)
    assert exchange.closed


async def test_closing_answers_a_close_that_waits_for_the_handler() -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"a") + close_frame(4000))
    await ws.close(1001)
    assert exchange.take_sent() == server_frame(CLOSE, b"\x0f\xa0")
    assert ws.closed == Closed(4000, "", clean=True)


async def test_a_peer_that_vanishes_cancels_the_scope() -> None:
    ws, exchange = opened()
    exchange.deliver(b"")
    assert exchange.cancel_reason is CancelReason.CONNECTION_LOST
    assert exchange.scope.cancel_called
    assert ws.closed is not None
    assert ws.closed.code == 1006
    assert exchange.closed


async def test_a_peer_that_vanishes_instead_of_answering_our_close_cancels_nothing() -> None:
    ws, exchange = opened()
    ws.start_closing()
    exchange.deliver(b"")
    assert exchange.cancel_reason is None
    await ws.close()
    assert ws.closed == Closed(1000, "", clean=False)


async def test_a_drain_closes_with_1001_and_ends_the_iteration() -> None:
    ws, exchange = opened()
    assert exchange.on_draining is not None
    exchange.on_draining()
    assert server_frames(exchange.take_sent())[0][1][:2] == b"\x03\xe9"
    assert await all_of(ws) == []
    assert not exchange.closed
    exchange.deliver(close_frame(1001))
    assert exchange.closed


# -- keep-alive ---------------------------------------------------------------


async def until(time: float) -> None:
    """Let everything that is due at `time` seconds of the test happen."""
    await trio.sleep_until(time)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_ping_is_sent_each_interval_and_its_pong_measures_the_latency(
    watchdog: Watchdog, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    ws, exchange = opened(watchdog, ping_interval=5, ping_timeout=20)
    assert ws.latency is None
    for i in range(1, 4):
        await until(start + 5 * i - 0.01)
        assert exchange.take_sent() == b""
        await until(start + 5 * i)
        [(opcode, payload)] = server_frames(exchange.take_sent())
        assert opcode == PING
        await until(start + 5 * i + i / 4)
        exchange.deliver(frame(PONG, payload))
        assert ws.latency == pytest.approx(i / 4)
    assert ws.closed is None


async def test_a_peer_that_answers_no_ping_is_given_up(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    ws, exchange = opened(watchdog, ping_interval=20, ping_timeout=10)
    await until(start + 29.9)
    assert ws.closed is None
    await until(start + 30)
    assert ws.closed == Closed(1011, "no answer to a keep-alive ping", clean=False)
    assert exchange.cancel_reason is CancelReason.CONNECTION_LOST
    assert exchange.closed
    assert [opcode for opcode, _ in server_frames(exchange.take_sent())] == [PING, CLOSE]


async def test_any_bytes_of_the_peer_show_that_it_lives(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    ws, exchange = opened(watchdog, ping_interval=20, ping_timeout=10)
    await until(start + 25)
    exchange.deliver(frame(BINARY, bytes(1000))[:10])
    await until(start + 45)
    assert ws.closed is None
    await until(start + 60)
    assert ws.closed is not None


async def test_a_peer_is_not_given_up_while_we_do_not_read_it_or_it_has_more_to_read(
    watchdog: Watchdog, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    paused, exchange = opened(watchdog, max_queue=1)
    exchange.deliver(frame(TEXT, b"x"))
    busy, slow = opened(watchdog)
    slow.blocked = True
    await busy.send("x")
    await until(start + 1000)
    assert paused.closed is None
    assert busy.closed is None


async def test_a_pong_of_the_peers_own_accord_means_nothing(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    ws, exchange = opened(watchdog)
    exchange.deliver(frame(PONG, b"hello") + frame(PONG, bytes(4)))
    assert ws.latency is None


async def test_timers_end_with_the_connection(watchdog: Watchdog, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    _, exchange = opened(watchdog)
    exchange.deliver(close_frame(1000))
    exchange.take_sent()
    await until(start + 1000)
    assert exchange.take_sent() == b""


# -- for a protocol on top ------------------------------------------------------


async def test_messages_can_be_handed_over_synchronously_a_read_at_a_time() -> None:
    exchange = FakeExchange()
    exchange.switch_protocol()
    batches: list[list[str | bytes]] = []
    ends: list[Closed] = []
    ws = WebSocket(exchange, on_messages=batches.append, on_closed=ends.append)
    ws.start()
    exchange.deliver(frame(TEXT, b"a") + frame(BINARY, b"b") + frame(PING, b"p"))
    exchange.deliver(frame(TEXT, b"c") + close_frame(1000))
    assert batches == [["a", b"b"], ["c"]]
    assert ends == [Closed(1000, "", clean=True)]
    assert [opcode for opcode, _ in server_frames(exchange.take_sent())] == [PONG, CLOSE]

"""Messages in pieces, frames, `try_send` and `broadcast`."""

import zlib
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engine import broadcast
from engine.config import Config
from engine.errors import ConnectionClosed, LocalProtocolError
from engine.websocket.connection import Closed, Frame, WebSocket
from engine.wire.websocket.deflate import Agreement
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


def opened(
    *, frames: bool = False, agreed: Agreement | None = None, **settings: float | str
) -> tuple[WebSocket, FakeExchange]:
    config = Config().replace(**{f"websocket__{name}": value for name, value in settings.items()})
    exchange = FakeExchange(config)
    exchange.switch_protocol()
    ws = WebSocket(exchange, frames=frames, agreed=agreed)
    ws.start()
    return ws, exchange


async def pieces(ws: WebSocket) -> list[str | bytes]:
    return [piece async for piece in ws.receive_stream()]


# -- receiving in pieces --------------------------------------------------------


async def test_pieces_arrive_before_the_message_is_complete(nursery: trio.Nursery) -> None:
    ws, exchange = opened()
    found: list[str | bytes] = []

    async def receive() -> None:
        nonlocal found
        async for piece in ws.receive_stream():
            found += [piece]  # at once, not when all are there
        found.append("end")

    exchange.deliver(frame(TEXT, b"a", fin=False))
    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    assert found == ["a"]
    exchange.deliver(frame(CONTINUATION, b"b", fin=False) + frame(PING))
    await trio.testing.wait_all_tasks_blocked()
    exchange.deliver(frame(CONTINUATION, b"c"))
    await trio.testing.wait_all_tasks_blocked()
    assert found == ["a", "b", "c", "end"]


async def test_whole_messages_and_pieces_can_be_received_in_turn() -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"whole"))
    assert await pieces(ws) == ["whole"]
    for part in (frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b", fin=False), frame(CONTINUATION, b"c")):
        exchange.deliver(part)
    assert await ws.receive() == "abc"
    exchange.deliver(frame(BINARY, b"x") + close_frame(1000))
    assert [message async for message in ws] == [b"x"]


async def test_the_rest_of_a_message_that_was_given_up_is_skipped() -> None:
    ws, exchange = opened()
    for receive in (ws.receive, lambda: pieces(ws)):
        exchange.deliver(frame(TEXT, b"a", fin=False))
        async for piece in ws.receive_stream():
            assert piece == "a"
            break
        exchange.deliver(frame(CONTINUATION, b"b", fin=False))
        exchange.deliver(frame(CONTINUATION, b"c") + frame(TEXT, b"next"))
        assert await receive() in ("next", ["next"])


async def test_cancelling_loses_no_piece(autojump_clock: MockClock) -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"0") + frame(TEXT, b"a", fin=False))
    assert await pieces(ws) == ["0"]
    with trio.move_on_after(1):
        await ws.receive()
    exchange.deliver(frame(CONTINUATION, b"b", fin=False))
    with trio.move_on_after(1):
        await ws.receive()
    exchange.deliver(frame(CONTINUATION, b"c"))
    assert await pieces(ws) == ["a", "b", "c"]


async def test_a_message_that_is_cut_short_raises() -> None:
    ws, exchange = opened()
    exchange.deliver(frame(TEXT, b"a", fin=False))
    stream = ws.receive_stream()
    assert await anext(stream) == "a"
    exchange.deliver(close_frame(1000))
    with pytest.raises(ConnectionClosed):
        await anext(stream)


async def test_pieces_of_a_large_message_wait_within_the_queue() -> None:
    ws, exchange = opened(max_queue_size=1000)
    exchange.deliver(frame(BINARY, b"x"))
    assert await pieces(ws) == [b"x"]
    exchange.deliver(frame(BINARY, bytes(5000))[:1500])
    assert exchange.paused
    stream = ws.receive_stream()
    assert len(await anext(stream)) == 1500 - 8
    assert not exchange.paused


# -- frames -----------------------------------------------------------------------


async def test_frames_are_received_and_sent_as_they_are() -> None:
    ws, exchange = opened(frames=True)
    exchange.deliver(frame(TEXT, b"\xff", fin=False) + frame(5, b"x", rsv=3) + frame(PING, b"p") + close_frame(1000))
    found = [each async for each in ws.frames()]
    assert found == [Frame(TEXT, b"\xff", fin=False), Frame(5, b"x", rsv=3), Frame(PING, b"p")]
    assert server_frames(exchange.take_sent()) == [(PONG, b"p"), (CLOSE, b"\x03\xe8")]


async def test_a_frame_is_sent_with_the_bits_that_it_was_given() -> None:
    ws, exchange = opened()
    await ws.send_frame(TEXT, b"a", fin=False)
    await ws.send_frame(3, b"b" * 200, rsv=5)
    assert exchange.take_sent() == b"\x01\x01a" + b"\xd3\x7e\x00\xc8" + b"b" * 200
    with pytest.raises(LocalProtocolError, match="close"):
        await ws.send_frame(CLOSE)


async def test_messages_and_frames_do_not_mix() -> None:
    ws, exchange = opened(frames=True)
    exchange.deliver(frame(TEXT, b"a"))
    with pytest.raises(LocalProtocolError, match=r"frames\(\)"):
        await ws.receive()
    with pytest.raises(LocalProtocolError, match=r"frames\(\)"):
        await pieces(ws)
    ws, _ = opened()
    with pytest.raises(LocalProtocolError, match="frames=True"):
        await anext(ws.frames())


# -- sending in fragments -----------------------------------------------------------


async def test_chunks_become_fragments_and_others_wait_for_the_last(nursery: trio.Nursery) -> None:
    ws, exchange = opened()
    go_on = trio.Event()

    async def chunks() -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()
        yield "b"

    nursery.start_soon(ws.send_stream, chunks())
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(ws.send, "late")
    exchange.deliver(frame(PING, b"p"))
    assert not ws.try_send("no")
    assert broadcast([ws], "later") == 1
    await trio.testing.wait_all_tasks_blocked()
    assert exchange.take_sent() == b"\x01\x01a" + server_frame(PONG, b"p")
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    exchange.flush()
    assert exchange.take_sent() == b"\x00\x01b\x80\x00" + server_frame(TEXT, b"later") + server_frame(TEXT, b"late")


async def test_any_iterable_is_sent_and_nothing_for_no_chunk() -> None:
    ws, exchange = opened()
    await ws.send_stream([])
    await ws.send_stream([b"ab", bytearray(b"c")])
    assert exchange.take_sent() == b"\x02\x02ab\x00\x01c\x80\x00"
    with pytest.raises(TypeError, match="use `send`"):
        await ws.send_stream("text")


async def test_a_message_that_cannot_be_finished_closes_with_1011() -> None:
    ws, exchange = opened()
    with pytest.raises(TypeError, match="text and bytes"):
        await ws.send_stream(["a", b"b"])
    assert exchange.take_sent()[3:7] == b"\x88\x19\x03\xf3"
    with pytest.raises(ConnectionClosed):
        await ws.send_stream(["x"])


async def test_a_message_that_is_streamed_over_a_close_ends_there(nursery: trio.Nursery) -> None:
    ws, exchange = opened()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        exchange.deliver(close_frame(1000))
        yield b"b"

    with pytest.raises(ConnectionClosed):
        await ws.send_stream(chunks())
    assert exchange.take_sent() == b"\x02\x01a" + server_frame(CLOSE, b"\x03\xe8")


# -- not waiting --------------------------------------------------------------------


async def test_try_send_stops_where_too_much_waits() -> None:
    ws, exchange = opened(max_unsent=100)
    exchange.blocked = True
    assert ws.try_send(bytes(1000))  # one message fits into an empty queue whatever its size
    assert not ws.try_send(b"x")
    exchange.unblock()
    assert ws.try_send("x")
    ws.start_closing()
    with pytest.raises(ConnectionClosed):
        ws.try_send("x")


def slow(policy: str) -> tuple[WebSocket, FakeExchange]:
    """A peer with 80,000 unsent bytes of 100,000."""
    ws, exchange = opened(max_unsent=100_000, slow_consumer=policy)
    exchange.blocked = True
    assert ws.try_send(bytes(79_990))
    assert exchange.queued == 80_000
    return ws, exchange


def letters(exchange: FakeExchange) -> str:
    """The first letters of all short messages that arrived."""
    frames = server_frames(exchange.take_sent())
    return "".join(chr(payload[0]) for opcode, payload in frames if opcode == TEXT)


async def test_a_broadcast_reaches_all_that_are_open() -> None:
    one, two, closed = opened(), opened(), opened()
    closed[0].start_closing()
    closed[1].take_sent()
    assert broadcast([one[0], two[0], closed[0]], "hi") == 2
    assert one[1].take_sent() == two[1].take_sent() == server_frame(TEXT, b"hi")
    assert closed[1].take_sent() == b""


@pytest.mark.parametrize(
    ("policy", "taken", "arrived", "dropped"), [("drop_oldest", 4, "cd", 2), ("drop_newest", 2, "ab", 2)]
)
async def test_a_slow_peer_loses_messages_by_policy(policy: str, taken: int, arrived: str, dropped: int) -> None:
    ws, exchange = slow(policy)
    assert sum(broadcast([ws], letter * 9000) for letter in "abcd") == taken
    assert ws.dropped == dropped
    exchange.unblock()
    assert letters(exchange) == arrived
    assert broadcast([ws], "e") == 1
    assert letters(exchange) == "e"


async def test_a_slow_peer_is_closed_with_1013_otherwise() -> None:
    ws, exchange = slow("close")
    assert [broadcast([ws], letter * 9000) for letter in "abc"] == [1, 1, 0]
    assert ws.closed == Closed(1013, "too slow for what is sent", clean=False)
    exchange.unblock()
    assert server_frames(exchange.take_sent())[-1][1][:2] == b"\x03\xf5"
    assert ws.dropped == 3


async def test_a_sender_waits_behind_what_was_broadcast(nursery: trio.Nursery) -> None:
    ws, exchange = slow("close")
    broadcast([ws], "b")
    nursery.start_soon(ws.send, "s")
    await trio.testing.wait_all_tasks_blocked()
    exchange.unblock()
    await trio.testing.wait_all_tasks_blocked()
    exchange.flush()
    assert letters(exchange) == "bs"


async def test_what_was_broadcast_before_closing_is_sent_before_it() -> None:
    ws, exchange = slow("close")
    broadcast([ws], "b")
    ws.start_closing()
    exchange.unblock()
    assert [opcode for opcode, _ in server_frames(exchange.take_sent())] == [BINARY, TEXT, CLOSE]


async def test_a_broadcast_to_both_ends_of_connections_is_masked_for_servers_only() -> None:
    exchange = FakeExchange(Config())
    exchange.switch_protocol()
    upstream = WebSocket(exchange, masking_key=lambda: b"\x01\x02\x03\x04")
    upstream.start()
    downstream, other = opened()
    for order in ([upstream, downstream], [downstream, upstream]):
        assert broadcast(order, "hi") == 2
        assert other.take_sent() == server_frame(TEXT, b"hi")
        assert exchange.take_sent() == frame(TEXT, b"hi", key=b"\x01\x02\x03\x04")


async def test_a_broadcast_is_compressed_once_and_fits_every_context() -> None:
    kinds = [Agreement(), Agreement(), Agreement(server_window_bits=9), None]
    peers = [opened(agreed=agreed, compression_threshold=1) for agreed in kinds]
    texts = ["hello hello", "hello hello", "hello hello"]
    streams = [zlib.decompressobj(-15) for _ in kinds]
    for turn, text in enumerate(texts):
        if turn == 1:
            assert broadcast([ws for ws, _ in peers], text) == 4
        else:
            for ws, _ in peers:
                await ws.send(text)
        sent = [exchange.take_sent() for _, exchange in peers]
        assert sent[3] == server_frame(TEXT, text.encode())
        for stream, data in zip(streams, sent[:3], strict=False):
            assert data[0] == 0xC1
            assert stream.decompress(data[2:] + b"\0\0\xff\xff") == text.encode()

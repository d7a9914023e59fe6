"""ByteStream over a socket and over any Trio stream: the same behaviour."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from engine.errors import ConnectionClosed
from engine.transport.poller import Poller
from engine.transport.stream import ByteStream, SocketByteStream, WrappedByteStream, format_address

READ_SIZE = 1024


class Pair:
    """A `ByteStream` and the other end of it."""

    def __init__(self, stream: ByteStream, far: trio.abc.Stream) -> None:
        self.stream = stream
        self.far = far


def socket_pair(poller: Poller | None = None) -> Pair:
    near, far = socket.socketpair()
    return Pair(
        SocketByteStream(near, read_size=READ_SIZE, poller=poller),
        trio.SocketStream(trio.socket.from_stdlib_socket(_nonblocking(far))),
    )


def _nonblocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


def memory_pair() -> Pair:
    near, far = trio.testing.memory_stream_pair()
    return Pair(WrappedByteStream(near, read_size=READ_SIZE), far)


@pytest.fixture(params=["socket", "polled socket", "memory"])
async def pair(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Pair:
    if request.param == "memory":
        return memory_pair()
    if request.param == "socket":
        return socket_pair()
    poller = Poller()
    nursery.start_soon(poller.run)
    return socket_pair(poller)


async def test_bytes_go_both_ways_and_the_end_is_empty(pair: Pair) -> None:
    await pair.far.send_all(b"hello")
    assert await pair.stream.receive_some() == b"hello"
    await pair.stream.send_all(b"world")
    assert await pair.far.receive_some(100) == b"world"
    await pair.far.aclose()
    assert await pair.stream.receive_some() == b""
    await pair.stream.aclose()


async def test_a_pump_stops_when_its_sink_says_so_and_goes_on_without_loss(pair: Pair) -> None:
    got: list[bytes] = []

    def sink(data: bytes) -> bool:
        got.append(data)
        return len(b"".join(got)) != 4

    await pair.far.send_all(b"abcd")
    await pair.stream.pump(sink)
    assert b"".join(got) == b"abcd"
    await pair.far.send_all(b"efg")
    await pair.far.aclose()
    await pair.stream.pump(sink)
    assert b"".join(got) == b"abcdefg"
    assert got[-1] == b""
    await pair.stream.aclose()


async def test_a_pump_reads_at_most_what_it_was_told(pair: Pair, nursery: trio.Nursery) -> None:
    sizes: list[int] = []
    nursery.start_soon(pair.far.send_all, bytes(100))
    seen = 0

    def sink(data: bytes) -> bool:
        nonlocal seen
        sizes.append(len(data))
        seen += len(data)
        return seen < 100

    await pair.stream.pump(sink, 16)
    assert max(sizes) == 16
    await pair.stream.aclose()
    await pair.far.aclose()


async def test_abort_ends_a_pump_that_waits(pair: Pair, nursery: trio.Nursery) -> None:
    ended = trio.Event()

    async def read() -> None:
        with pytest.raises(ConnectionClosed, match="our side"):
            await pair.stream.pump(lambda _: True)
        ended.set()

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    pair.stream.abort()
    await ended.wait()
    with pytest.raises(ConnectionClosed):
        await pair.stream.send_all(b"x")
    await pair.stream.aclose()
    await pair.far.aclose()


async def test_a_socket_takes_what_it_can_at_once_and_says_how_much() -> None:
    near, far = socket.socketpair()
    stream = SocketByteStream(near, read_size=READ_SIZE)
    sent = 0
    while taken := stream.send_nowait(bytes(65536)):
        sent += taken
    assert sent > 0
    assert stream.send_nowait(b"x") == 0
    far.close()
    with pytest.raises(ConnectionClosed, match="Broken pipe"):
        stream.send_nowait(b"x")
    await stream.aclose()


async def test_a_reset_is_a_lost_connection() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    stream = SocketByteStream(server, read_size=READ_SIZE)
    assert stream.peer_address == format_address(client.getsockname())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionClosed, match="reset"):
        await stream.receive_some()
    await stream.aclose()


async def test_end_of_file_reaches_the_other_end_while_reading_goes_on() -> None:
    pair = socket_pair()
    await pair.stream.send_eof()
    assert await pair.far.receive_some(10) == b""
    await pair.far.send_all(b"still here")
    assert await pair.stream.receive_some() == b"still here"
    await pair.stream.aclose()
    await pair.far.aclose()


def test_addresses_are_written_as_people_write_them() -> None:
    assert format_address(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert format_address(("::1", 80, 0, 0)) == "[::1]:80"
    assert format_address("") == "unix"
    assert format_address("/run/x.sock") == "/run/x.sock"

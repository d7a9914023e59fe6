"""How many messages leave in one write: the peer should be at work while the rest is made ready."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.testing import wait_all_tasks_blocked

from engine.config import ChannelConfig, Config
from engine.transport.exchange import Exchange, Peer
from engine.transport.http2 import Http2Driver
from engine.transport.http2_client import Http2ClientConnection, StreamLoss
from engine.transport.stream import ByteStream
from engine.transport.watchdog import Watchdog
from engine.wire.http2 import Fields
from engine.wire.http2_scheduler import FULL_BATCH
from tests.wire.http2_peer import HEADERS, PREFACE, headers, settings, split

REQUEST = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"peer"))


class RecordingStream(ByteStream):
    """Takes every write at once and remembers it; what a test gives to `receive` arrives."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.pumps = 0  # times that reading began
        self._sink: Callable[[bytes], bool] | None = None
        self._pumping = trio.CancelScope()

    def heads(self) -> list[int]:
        """HEADERS frames in each write that has any."""
        counts = [sum(kind == HEADERS for kind, *_ in split(write.removeprefix(PREFACE))) for write in self.writes]
        return [count for count in counts if count]

    def receive(self, data: bytes) -> bool:
        assert self._sink is not None
        return self._sink(data)

    def stop_pumping(self) -> None:
        """What the sink's False asks for."""
        self._pumping.cancel()

    async def pump(self, sink: Callable[[bytes], bool], max_bytes: int | None = None) -> None:
        self._sink = sink
        self.pumps += 1
        with trio.CancelScope() as self._pumping:
            await trio.sleep_forever()

    def send_nowait(self, data: bytes | memoryview) -> int:
        self.writes.append(bytes(data))
        return len(data)

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b""

    async def send_all(self, data: bytes | memoryview) -> None:
        raise AssertionError("every write is taken at once")

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        raise AssertionError("nothing breaks")


class Silent:
    """A stream of a client that waits."""

    def head_received(self, status: int, headers: Fields) -> None: ...
    def data_received(self, data: bytes, flow_length: int) -> None: ...
    def ended(self, trailers: Fields) -> None: ...
    def lost(self, loss: StreamLoss) -> None: ...
    def writable(self) -> None: ...


async def test_answers_leave_a_batch_at_a_time(nursery: trio.Nursery) -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.write_head(200, end=True)
        exchange.flush()

    watchdog, stream = Watchdog(), RecordingStream()
    nursery.start_soon(watchdog.run)
    driver = Http2Driver(stream, config=Config(), peer=Peer("client", "server", 1), handler=answer, watchdog=watchdog)
    nursery.start_soon(driver.run)
    await wait_all_tasks_blocked()
    stream.receive(PREFACE + settings() + settings(ack=True))
    stream.receive(b"".join([headers(1 + 2 * index) for index in range(2 * FULL_BATCH + 3)]))
    await wait_all_tasks_blocked()
    assert stream.heads()[:2] == [FULL_BATCH, FULL_BATCH]
    assert sum(stream.heads()) == 2 * FULL_BATCH + 3


async def test_requests_leave_a_batch_at_a_time(nursery: trio.Nursery) -> None:
    watchdog, stream = Watchdog(), RecordingStream()
    nursery.start_soon(watchdog.run)
    connection = Http2ClientConnection(
        stream, config=ChannelConfig(), watchdog=watchdog, on_ready=lambda: None, on_unusable=lambda: None
    )
    nursery.start_soon(connection.run)
    await wait_all_tasks_blocked()
    stream.receive(settings())

    async def ask() -> None:
        await trio.lowlevel.checkpoint()
        stream_id = connection.open(Silent(), REQUEST, reserved=False)
        assert stream_id is not None
        connection.send(stream_id, b"", end=True)
        connection.flush()

    connection.open(Silent(), REQUEST, reserved=False)
    connection.flush()  # alone: at once
    assert stream.heads() == [1]
    stream.writes.clear()
    for _ in range(2 * FULL_BATCH + 3):
        nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    assert stream.heads()[:2] == [FULL_BATCH, FULL_BATCH]
    assert sum(stream.heads()) == 2 * FULL_BATCH + 3

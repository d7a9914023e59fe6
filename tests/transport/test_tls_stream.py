"""TLS over a byte stream: whole messages whatever the transport takes, orderly ends, OpenSSL as the peer."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.config import ServerConfig
from engine.errors import ConnectionClosed
from engine.transport.poller import Poller
from engine.transport.stream import ByteStream, SocketByteStream, WrappedByteStream
from engine.transport.tls import TlsHandshakes
from engine.transport.tls_stream import TlsByteStream
from tests.transport.certificates import READ_SIZE, Files, agree


class Narrow(ByteStream):
    """Carries bytes into a list, and takes as few of them as it is told."""

    def __init__(self, takes: int = 1 << 30) -> None:
        self.takes = takes  # bytes that `send_nowait` has room for
        self.sent = bytearray()
        self.arrive, self._arriving = trio.open_memory_channel[bytes](100)
        self.hangs = False

    async def receive_some(self) -> bytes:
        return await self._arriving.receive()

    async def pump(self, sink, max_bytes=None) -> None:
        while sink(await self.receive_some()):
            pass

    def send_nowait(self, data) -> int:
        sent = min(self.takes, len(data))
        self.takes -= sent
        self.sent += data[:sent]
        return sent

    async def send_all(self, data) -> None:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        self.sent += data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        pass


class Peer:
    """OpenSSL as the client of a `Narrow` transport, in memory."""

    def __init__(self, transport: Narrow, context: ssl.SSLContext) -> None:
        self.transport = transport
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def take(self) -> None:
        self.incoming.write(bytes(self.transport.sent))
        self.transport.sent.clear()

    def give(self) -> None:
        if self.outgoing.pending:
            self.transport.arrive.send_nowait(self.outgoing.read())

    def read(self) -> bytes:
        """All that has arrived."""
        self.take()
        data = bytearray()
        while True:
            try:
                piece = self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                return bytes(data)
            if not piece:
                return bytes(data) + b"(close_notify)"
            data += piece

    def write(self, *messages: bytes) -> None:
        for message in messages:
            self.tls.write(message)
        self.give()


class Ends:
    """Our side, what carries it, and its peer, after the handshake."""

    def __init__(self, files: Files) -> None:
        self.transport = Narrow()
        self.peer = Peer(self.transport, files.client())
        context = TlsHandshakes(files.config, ServerConfig()).context
        self.stream = TlsByteStream(self.transport, context, server_side=True, config=ServerConfig(outbox_size=100))

    async def shake_hands(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stream.handshake)
            for _ in range(2):
                try:
                    self.peer.tls.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                self.peer.give()
                await trio.testing.wait_all_tasks_blocked()
                self.peer.take()
        assert self.peer.read() == b""


@pytest.fixture
async def ends(files: Files) -> Ends:
    ends = Ends(files)
    with trio.fail_after(5):
        await ends.shake_hands()
    return ends


# -- sending -------------------------------------------------------------------


async def test_what_is_taken_at_once_is_counted_at_once(ends: Ends) -> None:
    assert ends.stream.send_nowait(b"hello") == 5
    assert ends.stream.send_nowait(memoryview(b" world")) == 6
    assert ends.peer.read() == b"hello world"


async def test_what_the_transport_takes_in_part_is_presented_again_and_sent_once(ends: Ends) -> None:
    ends.transport.takes = 10
    message = random.randbytes(1000)
    assert ends.stream.send_nowait(message) == 0
    assert ends.stream.send_nowait(message) == 0
    assert ends.peer.read() == b""
    ends.transport.takes = 1 << 30
    assert ends.stream.send_nowait(message) == 1000
    assert ends.peer.read() == message


async def test_a_message_of_many_pieces_stops_where_the_transport_does(ends: Ends) -> None:
    message = random.randbytes(300_000)
    ends.transport.takes = 150_000
    sent = ends.stream.send_nowait(message)
    assert sent == 2 * 64 * 1024
    await ends.stream.send_all(memoryview(message)[sent:])
    assert ends.peer.read() == message


@pytest.mark.parametrize("seed", range(20))
async def test_any_mixture_of_sends_over_any_transport_arrives_whole(ends: Ends, seed: int) -> None:
    rng = random.Random(seed)
    expected = bytearray()
    for _ in range(30):
        ends.transport.takes = rng.choice((0, 1, 30, 1000, 70_000, 1 << 30))
        message = rng.randbytes(rng.choice((1, 5, 100, 16_384, 65_536, 65_537, 200_000)))
        rest = memoryview(message)[ends.stream.send_nowait(message) :]
        if rng.random() < 0.5:
            ends.transport.takes = rng.choice((0, 40, 1 << 30))
            rest = rest[ends.stream.send_nowait(rest) :] if rest else rest
        await ends.stream.send_all(rest)
        expected += message
    assert ends.peer.read() == expected


async def test_at_most_64_kib_are_encrypted_ahead_of_the_transport(ends: Ends) -> None:
    ends.transport.hangs = True
    ends.transport.takes = 0
    message = bytes(10_000_000)
    assert ends.stream.send_nowait(message) == 0
    assert len(ends.stream._unsent) < 66_000
    with trio.move_on_after(0.01):
        await ends.stream.send_all(message)
    assert not ends.stream._outgoing.pending


async def test_nothing_follows_a_send_that_was_cancelled_half_way(ends: Ends) -> None:
    ends.transport.hangs = True
    with trio.move_on_after(0.01):
        await ends.stream.send_all(b"who knows how much of this has left")
    ends.transport.hangs = False
    assert ends.stream.send_nowait(b"garbled") == 0
    await ends.stream.aclose()
    assert not ends.transport.sent


# -- reading -------------------------------------------------------------------


async def test_many_records_of_one_read_are_handed_over_together(ends: Ends) -> None:
    ends.peer.write(b"one", b"two", b"three")
    reads: list[bytes] = []

    def sink(data: bytes) -> bool:
        reads.append(data)
        return False

    await ends.stream.pump(sink)
    assert reads == [b"onetwothree"]


async def test_a_sink_that_pauses_gets_the_rest_at_the_next_pump(ends: Ends) -> None:
    message = random.randbytes(50_000)
    ends.peer.write(message)
    reads: list[bytes] = []

    def sink(data: bytes) -> bool:
        reads.append(data)
        return False

    while sum(map(len, reads)) < len(message):
        with trio.fail_after(1):
            await ends.stream.pump(sink, 10_000)
    assert b"".join(reads) == message
    assert max(map(len, reads)) <= 10_000


async def test_receive_some_and_the_end(ends: Ends) -> None:
    ends.peer.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        ends.peer.tls.unwrap()
    ends.peer.give()
    assert await ends.stream.receive_some() == b"last words"
    assert await ends.stream.receive_some() == b""
    assert await ends.stream.receive_some() == b""


async def test_an_end_without_close_notify_reads_as_an_end(ends: Ends) -> None:
    ends.peer.write(b"last words")
    ends.transport.arrive.send_nowait(b"")
    assert await ends.stream.receive_some() == b"last words"
    assert await ends.stream.receive_some() == b""


async def test_a_record_that_was_tampered_with_is_answered_by_an_alert(ends: Ends) -> None:
    ends.peer.write(b"first")
    ends.peer.tls.write(b"second")
    broken = bytearray(ends.peer.outgoing.read())
    broken[-1] ^= 1
    ends.transport.arrive.send_nowait(bytes(broken))
    assert await ends.stream.receive_some() == b"first"
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match=r"TLS: .*MAC"):
            await ends.stream.receive_some()
    with pytest.raises(ssl.SSLError) as told:
        ends.peer.read()
    assert told.value.reason == "SSLV3_ALERT_BAD_RECORD_MAC"


# -- the end -------------------------------------------------------------------


async def test_closing_says_close_notify_so_that_a_strict_client_sees_a_whole_body(ends: Ends) -> None:
    ends.stream.send_nowait(b"body")
    await ends.stream.aclose()
    assert ends.peer.read() == b"body(close_notify)"


async def test_the_end_of_our_direction_is_close_notify_too_and_said_once(ends: Ends) -> None:
    await ends.stream.send_eof()
    assert ends.peer.read() == b"(close_notify)"
    ends.peer.write(b"still talking")
    assert await ends.stream.receive_some() == b"still talking"
    await ends.stream.aclose()
    assert not ends.transport.sent


async def test_closing_does_not_wait_for_a_client_that_does_not_read(ends: Ends, autojump_clock) -> None:
    ends.transport.hangs = True
    started = trio.current_time()
    await ends.stream.aclose()
    assert trio.current_time() - started == pytest.approx(1.0)


async def test_whoever_sends_after_abort_is_told(ends: Ends) -> None:
    ends.stream.abort()
    assert ends.stream.send_nowait(b"late") == 0
    with pytest.raises(ConnectionClosed, match="closed on our side"):
        await ends.stream.send_all(b"late")


async def test_what_was_read_counts_although_its_answer_cannot_be_sent(ends: Ends, monkeypatch) -> None:
    ends.peer.write(b"last words")
    ends.stream._outgoing.write(b"an answer")

    def broken(_data: object) -> int:
        raise ConnectionClosed(1006, "Broken pipe")

    monkeypatch.setattr(ends.transport, "send_nowait", broken)
    assert await ends.stream.receive_some() == b"last words"
    with pytest.raises(ConnectionClosed, match="Broken pipe"):
        ends.stream.send_nowait(b"reply")


async def test_abort_says_nothing(ends: Ends) -> None:
    ends.stream.abort()
    await ends.stream.aclose()
    assert not ends.transport.sent


# -- with OpenSSL's own programs, and over sockets ------------------------------


@pytest.fixture(params=["shared epoll", "own wait"])
async def echo_port(request: pytest.FixtureRequest, handshakes: TlsHandshakes, nursery: trio.Nursery) -> int:
    """An echo server behind TLS on a real socket."""
    poller = None
    if request.param == "shared epoll":
        if not Poller.available:
            pytest.skip("epoll is Linux'")
        poller = Poller()
        nursery.start_soon(poller.run)

    async def serve(raw: trio.SocketStream) -> None:
        sock = socket.socket(fileno=raw.socket.detach())
        transport = SocketByteStream(sock, read_size=READ_SIZE, poller=poller)
        try:
            stream = (await handshakes.handshake(transport)).stream
        except ConnectionClosed:
            await transport.aclose()
            return
        arrived, arriving = trio.open_memory_channel[bytes](1000)

        def sink(data: bytes) -> bool:
            arrived.send_nowait(data)
            return bool(data)

        async with trio.open_nursery() as echoing:
            echoing.start_soon(stream.pump, sink)
            while data := await arriving.receive():
                rest = memoryview(data)[stream.send_nowait(data) :]
                if rest:
                    await stream.send_all(rest)
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return listeners[0].socket.getsockname()[1]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_blocking_openssl_client_is_served_and_sees_an_orderly_end(files, echo_port, version) -> None:
    context = files.client("http/1.1")
    context.maximum_version = context.minimum_version = version

    def talk() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", echo_port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as client,
        ):
            client.sendall(b"x" * 100_000)
            received = b""
            while len(received) < 100_000:
                received += client.recv(65536)
            client.unwrap()  # sends close_notify and demands the server's
            return received

    assert await trio.to_thread.run_sync(talk) == b"x" * 100_000


async def test_new_keys_that_the_peer_asks_for_are_used(files: Files, echo_port: int, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command: apt install openssl")
    process = await trio.lowlevel.open_process(
        [openssl, "s_client", "-connect", f"127.0.0.1:{echo_port}", "-tls1_3", "-quiet", "-no_ign_eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        with trio.fail_after(20):
            for line in (b"before\n", b"K\n", b"after\n"):  # K: new keys, for both directions
                await process.stdin.send_all(line)
                seen = b""
                while line not in (seen, b"K\n"):
                    seen += await process.stdout.receive_some()
                await trio.sleep(0.2)  # s_client takes a command only at the start of a read
        process.kill()
        await process.wait()


async def test_a_peer_that_asks_for_answers_and_reads_none_is_given_up(ends: Ends) -> None:
    ends.transport.takes = 0
    assert ends.stream.send_nowait(bytes(1000)) == 0  # does not count
    for answer in (90, 10):
        ends.stream._outgoing.write(bytes(answer))  # as OpenSSL would for KeyUpdates
        ends.peer.write(b"fine")
        assert await ends.stream.receive_some() == b"fine"
    ends.stream._outgoing.write(bytes(1))
    ends.peer.write(b"too much")
    with pytest.raises(ConnectionClosed, match=r"server\.outbox_size"):
        await ends.stream.receive_some()


async def test_plain_http_and_garbage_on_a_tls_socket_end_the_connection_and_no_other(files, echo_port) -> None:
    healthy = await trio.open_ssl_over_tcp_stream("localhost", echo_port, ssl_context=files.client())
    async with healthy:
        await healthy.send_all(b"1")
        assert await healthy.receive_some() == b"1"
        for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(500), b"\x16\x03\x01\xff\xff" + bytes(100)):
            async with await trio.open_tcp_stream("127.0.0.1", echo_port) as stream:
                await stream.send_all(data)
                await stream.send_eof()
                with trio.fail_after(5):
                    assert (await receive_or_reset(stream))[:1] in (b"", b"\x15")  # nothing, or a TLS alert
        await healthy.send_all(b"2")
        assert await healthy.receive_some() == b"2"


async def receive_or_reset(stream: trio.abc.Stream) -> bytes:
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""  # a reset, where bytes of ours were left unread


# -- under TLS of somebody else -------------------------------------------------


async def test_a_wrapped_tls_stream_of_trio_ends_without_close_notify_as_with_it(files, handshakes) -> None:
    result, client = await agree(handshakes, files.client())
    result.stream.send_nowait(b"last words")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(result.stream.send_all, b"last words")
        wrapped = WrappedByteStream(client, read_size=READ_SIZE)
        assert await wrapped.receive_some() == b"last words"
    await result.stream._transport.aclose()
    assert await wrapped.receive_some() == b""

"""Keep-alive, its policing, and the age of connections (gRFC A8 and A9), byte for byte on a virtual clock."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from engine import App, Config, Request, Response
from engine.demo.generated.greet_engine import GreeterBase, greet_pb2
from engine.errors import Http2Code
from engine.grpc import CallContext
from engine.server import Server
from engine.transport.http2_policies import KEEPALIVE_PING
from engine.wire.grpc.framing import frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, PING, GOAWAY = 0, 1, 3, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4

GRPC_HEAD = (
    b"\x83\x86"  # :method POST, :scheme http
    b"\x04\x17/greet.Greeter/SayHello"
    b"\x01\x01x"
    b"\x0f\x10\x10application/grpc"
)
PLAIN_HEAD = b"\x82\x86\x84\x01\x01x"  # GET /


def frame_of(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


class Client:
    """Frames as they are, in both directions."""

    def __init__(self, stream: trio.testing.MemoryReceiveStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))  # type: ignore[attr-defined]

    async def ping(self, number: int = 1) -> None:
        await self.send(frame_of(PING, 0, 0, struct.pack(">Q", number)))

    async def call(self, stream_id: int) -> None:
        message = b"".join(bytes(piece) for piece in frame(greet_pb2.HelloRequest(name="x").SerializeToString()))
        await self.send(
            frame_of(HEADERS, END_HEADERS, stream_id, GRPC_HEAD), frame_of(DATA, END_STREAM, stream_id, message)
        )

    async def next(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """The next frame of one of these kinds."""
        while True:
            while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
                more = await self.stream.receive_some(65536)
                assert more, "the server closed the connection"
                self.buffer += more
            size = int.from_bytes(self.buffer[:3], "big")
            kind, flags, stream_id = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
            payload, self.buffer = self.buffer[9 : 9 + size], self.buffer[9 + size :]
            if kind in kinds:
                return kind, flags, stream_id, payload

    async def goaway(self) -> tuple[int, int, bytes]:
        payload = (await self.next(GOAWAY))[3]
        last, code = struct.unpack(">II", payload[:8])
        return last, code, payload[8:]

    async def closed(self) -> None:
        """The server has nothing more to say."""
        while await self.stream.receive_some(65536):
            pass


class Greeter(GreeterBase):
    async def say_hello(self, request: greet_pb2.HelloRequest, context: CallContext) -> greet_pb2.HelloReply:
        await trio.sleep(10_000 if request.name == "slow" else 0)
        return greet_pb2.HelloReply(message="hello")


@asynccontextmanager
async def connected(**settings: object) -> AsyncIterator[Client]:
    app = App()
    app.add_service(Greeter())

    @app.route("/")
    async def index(request: Request) -> Response:
        return Response("plain")

    config = Config().replace(**{"server__port": 0, "http2__idle_timeout": 1e9, **settings})
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server: Server = Server(app, config)
        await nursery.start(server.run)
        nursery.start_soon(server.serve_stream, far)
        client = Client(near)  # type: ignore[arg-type]
        await client.send(PREFACE, frame_of(4, 0, 0), frame_of(4, ACK, 0))
        yield client
        server.stop()


TOO_MANY = (Http2Code.ENHANCE_YOUR_CALM, b"too_many_pings")


async def test_a_client_without_calls_has_two_strikes(autojump_clock) -> None:
    async with connected() as client:
        for number in range(3):  # the first one is good
            await client.ping(number)
            assert (await client.next(PING))[1] == ACK
        await client.ping()
        assert (await client.goaway())[1:] == TOO_MANY
        await client.closed()


async def test_without_calls_two_hours_must_lie_between_pings(autojump_clock) -> None:
    async with connected(http2__keepalive_time=math.inf) as client:
        for _ in range(5):
            await client.ping()
            assert (await client.next(PING))[1] == ACK
            await trio.sleep(7201)
        for _ in range(4):
            await trio.sleep(301)  # enough with calls only
            await client.ping()
        assert (await client.goaway())[1:] == TOO_MANY


async def test_a_running_call_makes_five_minutes_enough(autojump_clock) -> None:
    async with connected() as client:
        await client.send(frame_of(HEADERS, END_HEADERS, 1, GRPC_HEAD))
        for _ in range(10):
            await client.ping()
            assert (await client.next(PING))[1] == ACK
            await trio.sleep(301)
        for _ in range(4):
            await client.ping()
        assert (await client.goaway())[1:] == TOO_MANY


async def test_an_answer_wipes_the_strikes_away(autojump_clock) -> None:
    async with connected() as client:
        for stream_id in range(1, 21, 2):
            for _ in range(3):
                await client.ping()
                assert (await client.next(PING))[1] == ACK
            await client.call(stream_id)
            while not (await client.next(HEADERS))[1] & END_STREAM:
                pass
        for _ in range(4):
            await client.ping()
        assert (await client.goaway())[1:] == TOO_MANY


async def test_a_client_that_asked_for_a_page_may_ping_as_it_likes(autojump_clock) -> None:
    async with connected() as client:
        await client.send(frame_of(HEADERS, END_HEADERS | END_STREAM, 1, PLAIN_HEAD))
        await client.next(DATA)
        for _ in range(20):
            await client.ping()
            assert (await client.next(PING))[1] == ACK
            await trio.sleep(1)


async def test_the_policy_is_a_setting(autojump_clock) -> None:
    async with connected(grpc__min_ping_interval_without_calls=1.0, grpc__max_ping_strikes=0) as client:
        for _ in range(5):
            await client.ping()
            assert (await client.next(PING))[1] == ACK
            await trio.sleep(1)
        await client.ping()
        await client.ping()
        assert (await client.goaway())[1:] == TOO_MANY


async def test_a_silent_client_is_pinged_and_given_up(autojump_clock) -> None:
    async with connected(http2__keepalive_time=60.0, http2__keepalive_timeout=20.0) as client:
        started = trio.current_time()
        await client.send(frame_of(HEADERS, END_HEADERS, 1, GRPC_HEAD))
        for _ in range(3):
            assert await client.next(PING) == (PING, 0, 0, KEEPALIVE_PING)
            await client.send(frame_of(PING, ACK, 0, KEEPALIVE_PING))
        assert await client.next(PING) == (PING, 0, 0, KEEPALIVE_PING)
        assert trio.current_time() - started == pytest.approx(240, abs=0.1)
        await client.closed()
        assert trio.current_time() - started == pytest.approx(260, abs=0.1)


async def test_any_byte_of_the_client_puts_the_ping_off(autojump_clock) -> None:
    async with connected(http2__keepalive_time=60.0) as client:
        started = trio.current_time()
        for stream_id in (1, 3, 5, 7):
            await trio.sleep(50)
            await client.call(stream_id)
        await client.next(PING)
        assert trio.current_time() - started == pytest.approx(260, abs=0.1)


async def test_an_old_connection_is_drained_with_two_goaways(autojump_clock) -> None:
    async with connected(http2__max_connection_age=100.0) as client:
        started = trio.current_time()
        assert await client.goaway() == (2**31 - 1, Http2Code.NO_ERROR, b"max_age")
        assert 90 <= trio.current_time() - started <= 110.1
        await client.call(1)  # it was on its way: still served
        await client.send(frame_of(PING, ACK, 0, (await client.next(PING))[3]))
        assert await client.goaway() == (1, Http2Code.NO_ERROR, b"max_age")
        await client.closed()


async def test_the_grace_of_an_old_connection_ends_its_calls(autojump_clock) -> None:
    async with connected(http2__max_connection_age=100.0, http2__max_connection_age_grace=7.0) as client:
        await client.send(frame_of(HEADERS, END_HEADERS, 1, GRPC_HEAD))  # its message never comes
        await client.goaway()
        aged = trio.current_time()
        assert (await client.goaway())[0] == 1  # after http2.drain_ping_timeout
        _, flags, stream_id, _ = await client.next(HEADERS)
        assert (stream_id, flags & END_STREAM) == (1, END_STREAM)
        assert trio.current_time() - aged == pytest.approx(7, abs=0.1)
        await client.closed()


async def test_an_idle_connection_is_ended_in_the_words_of_grpc(autojump_clock) -> None:
    async with connected(http2__idle_timeout=30.0) as client:
        await client.call(1)
        assert await client.goaway() == (1, Http2Code.NO_ERROR, b"max_idle")
        await client.closed()

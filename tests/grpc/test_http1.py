"""gRPC-Web and Connect over HTTP/1.1 sockets: framing, keep-alive, lost clients and slow readers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import trio
import trio.testing

from engine.app import App
from engine.config import Config
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.grpc import CallContext, ServiceBase
from engine.server import Server
from engine.transport.exchange import CancelReason
from tests.grpc.calls import ADA, SAY, STREAM
from tests.grpc.test_compression import envelopes
from tests.grpc.test_web import framed

_LIMIT = 20.0  # seconds for a test: a hang becomes a failure that says where


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h11 = h11.Connection(h11.CLIENT)

    async def post(self, path: str, content_type: str, *body: bytes, chunked: bool = False, **fields: str) -> None:
        headers = [("host", "localhost"), ("content-type", content_type)]
        headers += [(name.replace("_", "-"), value) for name, value in fields.items()]
        length = sum(map(len, body))
        headers.append(("transfer-encoding", "chunked") if chunked else ("content-length", str(length)))
        data = self.h11.send(h11.Request(method="POST", target=path, headers=headers)) or b""
        for piece in body:
            data += self.h11.send(h11.Data(data=piece)) or b""
        await self.stream.send_all(data + (self.h11.send(h11.EndOfMessage()) or b""))

    async def event(self) -> h11.Event:
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event)
                return event
            self.h11.receive_data(await self.stream.receive_some(65536))

    async def response(self, *, last: bool = False) -> tuple[h11.Response, bytes]:
        head = await self.event()
        assert isinstance(head, h11.Response)
        body = b""
        while True:
            event = await self.event()
            if isinstance(event, h11.EndOfMessage):
                assert list(event.headers) == []  # trailers are what browsers cannot read
                if not last:
                    self.h11.start_next_cycle()
                return head, body
            assert isinstance(event, h11.Data)
            body += event.data


@asynccontextmanager
async def connected(service: ServiceBase, config: Config | None = None) -> AsyncIterator[Client]:
    app = App()
    app.add_service(service)
    server = Server(app, (config or Config()).replace(server__port=0))
    with trio.fail_after(_LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            host, _, port = server.addresses[0].rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                yield Client(stream)
            server.stop()


class Endless(GreeterBase):
    """Streams until something stops it."""

    def __init__(self, size: int, pause: float) -> None:
        self.size = size
        self.pause = pause
        self.sent = 0
        self.started = trio.Event()
        self.ended = trio.Event()
        self.reason: CancelReason | None = None

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        self.started.set()
        try:
            while True:
                yield HelloReply(message="x" * self.size)
                self.sent += self.size
                await trio.sleep(self.pause)
        finally:
            self.reason = context.cancelled
            self.ended.set()


async def test_calls_of_every_protocol_follow_each_other_on_one_connection() -> None:
    async with connected(Greeter()) as client:
        for chunked in (False, True):
            await client.post(SAY, "application/grpc-web+proto", framed(ADA)[:3], framed(ADA)[3:], chunked=chunked)
            head, body = await client.response()
            assert head.status_code == 200
            assert (b"transfer-encoding", b"chunked") in head.headers
            assert [flag for flag, _ in envelopes(body)] == [0, 0x80]
            await client.post(SAY, "application/json", b'{"name": "Ada"}', chunked=chunked)
            assert (await client.response())[1] == b'{"message":"Hello Ada"}'
            await client.post(SAY, "application/json", b"{", chunked=chunked)
            assert (await client.response())[0].status_code == 400
            await client.post(STREAM, "application/connect+json", framed(b"{}"), chunked=chunked)
            assert [flag for flag, _ in envelopes((await client.response())[1])] == [0] * 5 + [2]
            await client.post("/greet.Greeter/Nope", "application/grpc-web", b"", chunked=chunked)
            assert b"grpc-status: 12" in (await client.response())[1]


async def test_grpc_itself_is_sent_to_http2() -> None:
    async with connected(Greeter()) as client:
        await client.post(SAY, "application/grpc", framed(ADA))
        head, _ = await client.response()
        assert head.status_code == 426


async def test_each_message_of_a_stream_leaves_when_it_is_sent() -> None:
    service = Endless(10, pause=1000.0)
    async with connected(service) as client:
        await client.post(STREAM, "application/grpc-web", framed(b""))
        assert isinstance(await client.event(), h11.Response)
        event = await client.event()
        assert isinstance(event, h11.Data)
        assert envelopes(bytes(event.data))[0][0] == 0


async def test_a_client_that_goes_away_cancels_the_handler() -> None:
    service = Endless(10, pause=1000.0)
    async with connected(service) as client:
        await client.post(STREAM, "application/grpc-web", framed(b""))
        await service.started.wait()
        await client.event()
        await client.stream.aclose()
        await service.ended.wait()
        assert service.reason is CancelReason.CONNECTION_LOST


async def test_a_reader_that_stands_still_costs_bounded_memory() -> None:
    service = Endless(64 * 1024, pause=0)
    async with connected(service) as client:
        await client.post(STREAM, "application/grpc-web", framed(b""))
        await client.event()
        await trio.testing.wait_all_tasks_blocked(0.01)  # the sockets' buffers are full
        assert 0 < service.sent < 32 * 1024 * 1024
        assert not service.ended.is_set()


async def test_the_answer_to_an_upload_that_is_too_large_arrives_before_the_connection_ends() -> None:
    async with connected(Greeter(), Config().replace(grpc__max_receive_message_size=1000)) as client:
        await client.post(SAY, "application/proto", bytes(2_000_000))
        head, body = await client.response(last=True)
        assert head.status_code == 429
        assert b"grpc.max_receive_message_size" in body
        assert (b"connection", b"close") in head.headers  # nobody should send the next request on it

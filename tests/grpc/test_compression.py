"""Compression in calls: what the handler asks for, what the client accepts, and what it sent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.config import Config
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import LocalProtocolError, StatusCode
from engine.grpc import CallContext, GrpcEndpoint, RequestStream
from engine.wire.grpc.compression import compress, decompress
from engine.wire.grpc.framing import frame
from tests.grpc.calls import ADA, CHAT, COLLECT, OK, SAY, STREAM, call, saying
from tests.grpc.fake_exchange import FakeExchange

NAME = "x" * 1000
ACCEPTS = (b"grpc-accept-encoding", b"identity, deflate, gzip, zstd")


def compressed(payload: bytes, encoding: str = "gzip") -> bytes:
    return b"".join(frame(compress(encoding, payload), compressed=True))


def envelopes(body: bytes) -> list[tuple[int, bytes]]:
    """Flags and payloads."""
    found = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append((body[0], body[5 : 5 + size]))
        body = body[5 + size :]
    return found


def replying(encoding: str | None) -> GrpcEndpoint:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        context.set_compression(encoding)
        return HelloReply(message=NAME)

    return saying(handler)


# -- responses ------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_a_reply_is_compressed_where_the_handler_asks_and_the_client_accepts(encoding: str) -> None:
    exchange = await call(replying(encoding), SAY, ADA, headers=(ACCEPTS,))
    assert exchange.headers[b"grpc-encoding"] == encoding.encode()
    assert exchange.headers[b"grpc-accept-encoding"] == b"identity,gzip,deflate,zstd"
    ((flag, payload),) = envelopes(exchange.body)
    assert flag == 1
    assert len(payload) < 100
    message = decompress(encoding, payload, 10_000)
    assert isinstance(message, bytes)
    assert HelloReply.FromString(message).message == NAME
    assert exchange.grpc_status == OK


async def test_nothing_is_compressed_unless_the_handler_asks() -> None:
    exchange = await call(GrpcEndpoint([Greeter()]), SAY, ADA, headers=(ACCEPTS,))
    assert b"grpc-encoding" not in exchange.headers
    assert envelopes(exchange.body)[0][0] == 0


@pytest.mark.parametrize(
    "headers",
    [(), ((b"grpc-accept-encoding", b"identity,deflate"),), ((b"grpc-accept-encoding", b""),)],
)
async def test_nothing_is_compressed_for_a_client_that_does_not_accept_it(
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    answers = []

    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        answers.append(context.set_compression("gzip"))
        context.disable_next_message_compression()
        return HelloReply(message=NAME)

    # That the client itself sends gzip does not mean that it takes it.
    headers = (*headers, (b"grpc-encoding", b"gzip"))
    exchange = await call(saying(handler), SAY, ADA, headers=headers)
    assert answers == [False]
    assert b"grpc-encoding" not in exchange.headers
    assert envelopes(exchange.body) == [(0, HelloReply(message=NAME).SerializeToString())]


async def test_each_message_of_a_stream_can_be_left_uncompressed() -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            assert context.set_compression("gzip")
            yield HelloReply(message=NAME)
            context.disable_next_message_compression()
            yield HelloReply(message=NAME)
            yield HelloReply(message=NAME)
            yield HelloReply()  # no bytes at all: nothing to gain

    exchange = await call(GrpcEndpoint([Service()]), STREAM, b"", headers=(ACCEPTS,))
    assert [flag for flag, _ in envelopes(exchange.body)] == [1, 0, 1, 0]
    assert exchange.headers[b"grpc-encoding"] == b"gzip"
    assert exchange.grpc_status == OK


async def test_one_calls_compression_is_not_the_nexts() -> None:
    await call(replying("gzip"), SAY, ADA, headers=(ACCEPTS,))
    exchange = await call(replying(None), SAY, ADA, headers=(ACCEPTS,))
    assert b"grpc-encoding" not in exchange.headers
    assert envelopes(exchange.body)[0][0] == 0


async def test_compression_can_be_taken_back_before_the_head_and_not_changed_after_it() -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            assert context.set_compression("gzip")
            assert context.set_compression("identity")
            yield HelloReply(message=NAME)
            with pytest.raises(LocalProtocolError, match="first"):
                context.set_compression("gzip")

    exchange = await call(GrpcEndpoint([Service()]), STREAM, b"", headers=(ACCEPTS,))
    assert b"grpc-encoding" not in exchange.headers
    assert (exchange.error, exchange.grpc_status) == (None, OK)


async def test_an_encoding_that_there_is_not_is_the_handlers_mistake() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        with pytest.raises(LocalProtocolError, match=r"identity, gzip, deflate, zstd$"):
            context.set_compression("br")
        return HelloReply()

    assert (await call(saying(handler), SAY, ADA)).grpc_status == OK


# -- requests -------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("path", [SAY, COLLECT, STREAM, CHAT])
async def test_compressed_requests_are_decompressed(path: str, encoding: str) -> None:
    exchange = FakeExchange(path, ((b"grpc-encoding", encoding.encode()),))
    exchange.send_bytes(compressed(StreamHellosRequest(name="Ada", count=1).SerializeToString(), encoding))
    exchange.end_request()
    await exchange.run(GrpcEndpoint([Greeter()]))
    assert [HelloReply.FromString(message).message for message in exchange.messages] == ["Hello Ada"]


async def test_a_handler_can_tell_which_messages_came_compressed() -> None:
    class Service(GreeterBase):
        async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
            async for request in requests:
                yield HelloReply(message=f"{request.name} {context.request_compressed}")

    exchange = FakeExchange(CHAT, ((b"grpc-encoding", b"gzip"),))
    exchange.send_bytes(compressed(ADA))
    exchange.send_message(ADA)
    exchange.send_bytes(compressed(ADA))
    exchange.end_request()
    await exchange.run(GrpcEndpoint([Service()]))
    replies = [HelloReply.FromString(message).message for message in exchange.messages]
    assert replies == ["Ada True", "Ada False", "Ada True"]


@pytest.mark.parametrize("encoding", [b"identity", None])
async def test_the_flag_without_an_encoding_is_internal(encoding: bytes | None) -> None:
    headers = () if encoding is None else ((b"grpc-encoding", encoding),)
    exchange = FakeExchange(SAY, headers)
    exchange.send_bytes(compressed(ADA))
    exchange.end_request()
    assert (await exchange.run(GrpcEndpoint([Greeter()]))).grpc_status[0] == StatusCode.INTERNAL


@pytest.mark.parametrize("path", [SAY, COLLECT])
async def test_a_message_that_decompresses_to_over_the_limit_is_resource_exhausted(path: str) -> None:
    config = Config().replace(grpc__max_receive_message_size=1000)
    for size, code in ((900, StatusCode.OK), (1000, StatusCode.RESOURCE_EXHAUSTED)):
        exchange = FakeExchange(path, ((b"grpc-encoding", b"gzip"),), config=config)
        exchange.send_bytes(compressed(HelloRequest(name="x" * size).SerializeToString()))
        exchange.end_request()
        await exchange.run(GrpcEndpoint([Greeter()]))
        assert exchange.grpc_status[0] == code
        assert exchange.error is None

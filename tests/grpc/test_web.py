"""gRPC-Web calls: heads, bodies with trailers in them, and the text variant."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator

import pytest
import trio

from engine.config import Config
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import RpcError, StatusCode
from engine.grpc import CallContext, GrpcEndpoint
from engine.wire.grpc.compression import compress
from engine.wire.grpc.framing import frame
from tests.grpc.calls import ADA, COLLECT, SAY, STREAM, saying
from tests.grpc.fake_exchange import FakeExchange
from tests.grpc.test_compression import envelopes

WEB = b"application/grpc-web"
TEXT = b"application/grpc-web-text"

VERSIONS = pytest.mark.parametrize("http_version", ["1.1", "2"])


def framed(payload: bytes) -> bytes:
    return b"".join(frame(payload))


def untext(body: bytes) -> bytes:
    """Base64 in pieces that are padded each by itself."""
    return b"".join(base64.b64decode(piece, validate=True) for piece in re.findall(rb"[^=]+=*", body))


async def web_call(
    endpoint: GrpcEndpoint,
    path: str = SAY,
    body: bytes = framed(ADA),
    *,
    content_type: bytes = WEB,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    http_version: str = "1.1",
    config: Config | None = None,
) -> FakeExchange:
    base = ((b"content-type", content_type), (b"x-grpc-web", b"1"))
    exchange = FakeExchange(path, headers, base=base, http_version=http_version, config=config)
    for at in range(0, len(body), 7):
        exchange.send_bytes(body[at : at + 7])
    exchange.end_request()
    return await exchange.run(endpoint)


def parts(exchange: FakeExchange) -> tuple[list[str], list[tuple[bytes, bytes]]]:
    """The replies and the trailers of a response."""
    assert exchange.status == 200
    assert exchange.response_ended
    assert exchange.trailers == []
    body = untext(exchange.body) if b"-text" in exchange.headers[b"content-type"] else exchange.body
    *messages, (flag, block) = envelopes(body)
    assert flag == 0x80
    assert all(flag == 0 for flag, _ in messages)
    assert block.endswith(b"\r\n")
    fields = [tuple(line.split(b": ", 1)) for line in block[:-2].split(b"\r\n")]
    assert all(name == name.lower() for name, _ in fields)
    return [HelloReply.FromString(payload).message for _, payload in messages], fields  # type: ignore[return-value]


@pytest.fixture
def greeter() -> GrpcEndpoint:
    return GrpcEndpoint([Greeter()])


@VERSIONS
@pytest.mark.parametrize("content_type", [WEB, b"application/grpc-web+proto", b"Application/gRPC-Web; charset=utf-8"])
async def test_a_unary_call_byte_for_byte(greeter: GrpcEndpoint, http_version: str, content_type: bytes) -> None:
    exchange = await web_call(greeter, content_type=content_type, http_version=http_version)
    assert exchange.headers[b"content-type"] == content_type.lower().partition(b";")[0]
    assert b"access-control-allow-origin" not in exchange.headers
    assert exchange.body == b"\0\0\0\0\x0b\n\x09Hello Ada" + b"\x80\0\0\0\x10grpc-status: 0\r\n"
    assert len(exchange.flushed) == 1


@VERSIONS
async def test_the_text_variant_is_base64_both_ways(greeter: GrpcEndpoint, http_version: str) -> None:
    request = base64.b64encode(framed(ADA)[:4]) + base64.b64encode(framed(ADA)[4:])
    assert request.count(b"=") > 1
    exchange = await web_call(greeter, body=request, content_type=TEXT, http_version=http_version)
    assert exchange.headers[b"content-type"] == TEXT
    assert parts(exchange) == (["Hello Ada"], [(b"grpc-status", b"0")])


async def test_accept_chooses_the_variant_of_the_response(greeter: GrpcEndpoint) -> None:
    exchange = await web_call(greeter, headers=((b"accept", b"application/grpc-web-text"),))
    assert exchange.headers[b"content-type"] == TEXT
    assert parts(exchange)[0] == ["Hello Ada"]
    body = base64.b64encode(framed(ADA))
    exchange = await web_call(greeter, body=body, content_type=TEXT, headers=((b"accept", WEB),))
    assert exchange.headers[b"content-type"] == WEB
    assert parts(exchange)[0] == ["Hello Ada"]


@pytest.mark.parametrize("content_type", [WEB, TEXT])
async def test_each_message_of_a_server_stream_is_a_piece_of_its_own(
    greeter: GrpcEndpoint, content_type: bytes
) -> None:
    body = framed(StreamHellosRequest(name="Ada", count=3).SerializeToString())
    body = base64.b64encode(body) if content_type is TEXT else body
    exchange = await web_call(greeter, STREAM, body, content_type=content_type)
    assert parts(exchange) == (["Hello Ada"] * 3, [(b"grpc-status", b"0")])


async def test_a_client_stream_is_read_to_its_end(greeter: GrpcEndpoint) -> None:
    exchange = await web_call(greeter, COLLECT, framed(ADA) * 2)
    assert parts(exchange)[0] == ["Hello Ada and Ada"]


async def test_metadata_and_details_are_encoded_once() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert list(context.metadata)[1:] == [("x-a", "1"), ("x-bin", b"\1")]
        await context.send_initial_metadata({"x-initial-bin": b"\xab"})
        context.set_trailing_metadata([("x-trailing-bin", b"\xab\xcd\xef"), ("X-Trailing", "t")])
        raise RpcError(StatusCode.NOT_FOUND, "no ☺\n", b"\x08\x05")

    headers = ((b"accept", b"*/*"), (b"x-a", b"1"), (b"x-bin", b"AQ"))
    exchange = await web_call(saying(handler), headers=headers)
    assert exchange.headers[b"x-initial-bin"] == b"qw"
    assert parts(exchange) == (
        [],
        [
            (b"grpc-status", b"5"),
            (b"grpc-message", b"no %E2%98%BA%0A"),
            (b"grpc-status-details-bin", b"CAU"),
            (b"x-trailing-bin", b"q83v"),
            (b"x-trailing", b"t"),
        ],
    )


@pytest.mark.parametrize("content_type", [WEB, TEXT])
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/greet.Greeter/Nope", (), StatusCode.UNIMPLEMENTED),
        ("/nope", (), StatusCode.UNIMPLEMENTED),
        (SAY, ((b"grpc-timeout", b"1x"),), StatusCode.INTERNAL),
        (SAY, ((b"grpc-timeout", b"0S"),), StatusCode.DEADLINE_EXCEEDED),
        (SAY, ((b"grpc-encoding", b"br"),), StatusCode.UNIMPLEMENTED),
        (SAY, ((b"x", b"v" * 20_000),), StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_refusals_come_in_the_body(
    greeter: GrpcEndpoint,
    path: str,
    headers: tuple[tuple[bytes, bytes], ...],
    status: StatusCode,
    content_type: bytes,
) -> None:
    exchange = await web_call(greeter, path, b"", content_type=content_type, headers=headers)
    messages, trailers = parts(exchange)
    assert messages == []
    assert trailers[0] == (b"grpc-status", b"%d" % status)
    assert exchange.headers[b"grpc-accept-encoding"] == b"identity,gzip,deflate,zstd"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (WEB, b"\x80\0\0\0\0", StatusCode.INTERNAL),  # trailers are the server's
        (WEB, b"\x01\0\0\0\0", StatusCode.INTERNAL),
        (WEB, b"\0\0\0\0\5ab", StatusCode.INTERNAL),
        (WEB, b"\0\0\x40\0\1", StatusCode.RESOURCE_EXHAUSTED),
        (TEXT, b"AAAAAA", StatusCode.INTERNAL),
        (TEXT, b"!!!!", StatusCode.INTERNAL),
        (TEXT, framed(ADA), StatusCode.INTERNAL),
        (TEXT, base64.b64encode(framed(ADA) * 2), StatusCode.UNIMPLEMENTED),
        (WEB, b"", StatusCode.UNIMPLEMENTED),
    ],
)
async def test_broken_bodies_end_the_call_with_their_status(
    greeter: GrpcEndpoint, content_type: bytes, body: bytes, status: StatusCode
) -> None:
    exchange = await web_call(greeter, body=body, content_type=content_type)
    assert parts(exchange)[1][0] == (b"grpc-status", b"%d" % status)
    assert exchange.error is None


async def test_an_unexpected_error_is_unknown_without_its_text() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        raise ValueError("secret")

    exchange = await web_call(saying(handler), content_type=TEXT, body=base64.b64encode(framed(ADA)))
    assert isinstance(exchange.error, ValueError)
    assert parts(exchange) == ([], [(b"grpc-status", b"2")])


async def test_messages_are_compressed_by_the_same_rules() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert context.request_compressed
        assert context.set_compression("gzip")
        return HelloReply(message="x" * 1000)

    body = b"".join(frame(compress("gzip", ADA), compressed=True))
    headers = ((b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip"))
    exchange = await web_call(saying(handler), body=body, headers=headers)
    (flag, payload), (last, _) = envelopes(exchange.body)
    assert (flag, last) == (1, 0x80)
    assert len(payload) < 100
    assert exchange.headers[b"grpc-encoding"] == b"gzip"


async def test_the_deadline_is_told_in_the_body(autojump_clock: object) -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            yield HelloReply(message="one")
            await trio.sleep_forever()

    endpoint = GrpcEndpoint([Service()])
    exchange = await web_call(endpoint, STREAM, framed(b""), headers=((b"grpc-timeout", b"1S"),))
    messages, trailers = parts(exchange)
    assert messages == ["one"]
    assert trailers[0] == (b"grpc-status", b"4")

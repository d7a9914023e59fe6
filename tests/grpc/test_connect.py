"""Connect calls: unary as plain HTTP in JSON and binary, GET, streams in envelopes, and the refusals."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import trio
from google.protobuf import any_pb2, wrappers_pb2

from engine.config import Config
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import LocalProtocolError, RpcError, StatusCode
from engine.grpc import CallContext, GrpcEndpoint, RequestStream, ServiceSpec
from engine.transport.exchange import RequestHead
from engine.wire.grpc.compression import compress, decompress
from engine.wire.grpc.framing import frame
from tests.grpc.calls import ADA, CHAT, COLLECT, SAY, STREAM, saying
from tests.grpc.fake_exchange import FakeExchange
from tests.grpc.test_compression import envelopes

Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
PROTO = b"application/proto"
STREAM_JSON = b"application/connect+json"
STREAM_PROTO = b"application/connect+proto"
FORM = b"application/x-www-form-urlencoded"

VERSIONS = pytest.mark.parametrize("http_version", ["1.1", "2"])


class Pure(Greeter):
    """A greeter whose SayHello may be cached."""

    __service__: ClassVar[ServiceSpec] = dataclasses.replace(
        GreeterBase.__service__,
        methods=tuple(
            dataclasses.replace(method, no_side_effects=method.name in ("say_hello", "stream_hellos"))
            for method in GreeterBase.__service__.methods
        ),
    )


async def connect_call(
    endpoint: GrpcEndpoint,
    body: bytes = b'{"name": "Ada"}',
    path: str = SAY,
    *,
    content_type: bytes = JSON,
    headers: Headers = (),
    http_version: str = "1.1",
    config: Config | None = None,
) -> FakeExchange:
    base = ((b"content-type", content_type),)
    exchange = FakeExchange(path, headers, base=base, http_version=http_version, config=config)
    for at in range(0, len(body), 5):
        exchange.send_bytes(body[at : at + 5])
    exchange.end_request()
    return await exchange.run(endpoint)


async def get_call(endpoint: GrpcEndpoint, query: str, path: str = SAY, headers: Headers = ()) -> FakeExchange:
    exchange = FakeExchange(path, headers, base=(), method="GET", http_version="1.1")
    exchange.head = RequestHead("GET", path, query, "http", "test", headers, "1.1", None, path.encode())
    exchange.end_request()
    return await exchange.run(endpoint)


def error_of(exchange: FakeExchange) -> tuple[int, str]:
    """HTTP status and code of a unary error."""
    assert exchange.response_ended
    assert exchange.headers[b"content-type"] == JSON
    assert int(exchange.headers[b"content-length"]) == len(exchange.body)
    return exchange.status, json.loads(exchange.body)["code"]


def stream_of(exchange: FakeExchange) -> tuple[list[bytes], dict[str, Any]]:
    """Messages and end of a streaming response."""
    assert (exchange.status, exchange.response_ended) == (200, True)
    *messages, (flag, end) = envelopes(exchange.body)
    assert flag == 2
    return [payload for _, payload in messages], json.loads(end)


def framed(payload: bytes) -> bytes:
    return b"".join(frame(payload))


@pytest.fixture
def greeter() -> GrpcEndpoint:
    return GrpcEndpoint([Greeter()])


# -- unary ----------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("headers", [(), ((b"connect-protocol-version", b"1"),)])
async def test_a_unary_call_in_json_is_plain_http(greeter: GrpcEndpoint, http_version: str, headers: Headers) -> None:
    exchange = await connect_call(greeter, http_version=http_version, headers=headers)
    assert exchange.status == 200
    assert exchange.body == b'{"message":"Hello Ada"}'
    assert exchange.headers[b"content-type"] == JSON
    assert exchange.headers[b"content-length"] == b"23"
    assert exchange.headers[b"accept-encoding"] == b"identity,gzip,zstd"
    assert b"grpc-status" not in exchange.headers
    assert exchange.trailers == []
    assert exchange.response_ended
    assert len(exchange.flushed) == 1


@VERSIONS
async def test_a_unary_call_in_binary_has_bare_messages(greeter: GrpcEndpoint, http_version: str) -> None:
    exchange = await connect_call(greeter, ADA, content_type=PROTO, http_version=http_version)
    assert exchange.headers[b"content-type"] == PROTO
    assert HelloReply.FromString(exchange.body).message == "Hello Ada"


async def test_empty_messages_have_empty_bodies_in_binary() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert request == HelloRequest()
        return HelloReply()

    exchange = await connect_call(saying(handler), b"", content_type=PROTO)
    assert (exchange.status, exchange.headers[b"content-length"], exchange.body) == (200, b"0", b"")
    exchange = await connect_call(saying(handler), b"{}")
    assert exchange.body == b"{}"


async def test_json_names_are_in_either_case_and_unknown_ones_are_ignored(greeter: GrpcEndpoint) -> None:
    body = '{"name": "Ада", "nobodyKnows": [1]}'.encode()
    assert (await connect_call(greeter, body)).body == '{"message":"Hello Ада"}'.encode()
    for name in ("intervalMs", "interval_ms"):
        request = framed(b'{"name": "x", "count": 1, "%s": 1}' % name.encode())
        exchange = await connect_call(greeter, request, STREAM, content_type=STREAM_JSON)
        assert stream_of(exchange) == ([b'{"message":"Hello x"}'], {})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"name": 1}', b'{"name": "x"} x', b"[" * 100_000, b'"x"', b"\xef\xbb\xbf{}"],
)
async def test_what_is_no_json_of_the_type_is_an_invalid_argument(greeter: GrpcEndpoint, body: bytes) -> None:
    exchange = await connect_call(greeter, body)
    assert error_of(exchange) == (400, "invalid_argument")
    assert exchange.error is None


async def test_what_does_not_parse_in_binary_is_an_invalid_argument_too(greeter: GrpcEndpoint) -> None:
    assert error_of(await connect_call(greeter, b"\xff", content_type=PROTO)) == (400, "invalid_argument")


async def test_metadata_is_in_the_head_and_what_trails_has_a_prefix() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert list(context.metadata) == [("x-a", "1"), ("x-bin", b"\1")]
        await context.send_initial_metadata({"x-initial": "i"})
        with pytest.raises(LocalProtocolError, match="once"):
            await context.send_initial_metadata({"x-initial": "i"})
        context.set_trailing_metadata({"x-trailing-bin": b"\xab"})
        return HelloReply()

    headers = ((b"connect-protocol-version", b"1"), (b"connect-timeout-ms", b"5000"), (b"x-a", b"1"), (b"x-bin", b"AQ"))
    exchange = await connect_call(saying(handler), b"{}", headers=headers)
    assert exchange.error is None
    assert exchange.headers[b"x-initial"] == b"i"
    assert exchange.headers[b"trailer-x-trailing-bin"] == b"qw"


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (StatusCode.CANCELLED, 499, "canceled"),
        (StatusCode.UNKNOWN, 500, "unknown"),
        (StatusCode.INVALID_ARGUMENT, 400, "invalid_argument"),
        (StatusCode.DEADLINE_EXCEEDED, 504, "deadline_exceeded"),
        (StatusCode.NOT_FOUND, 404, "not_found"),
        (StatusCode.ALREADY_EXISTS, 409, "already_exists"),
        (StatusCode.PERMISSION_DENIED, 403, "permission_denied"),
        (StatusCode.RESOURCE_EXHAUSTED, 429, "resource_exhausted"),
        (StatusCode.FAILED_PRECONDITION, 400, "failed_precondition"),
        (StatusCode.ABORTED, 409, "aborted"),
        (StatusCode.OUT_OF_RANGE, 400, "out_of_range"),
        (StatusCode.UNIMPLEMENTED, 501, "unimplemented"),
        (StatusCode.INTERNAL, 500, "internal"),
        (StatusCode.UNAVAILABLE, 503, "unavailable"),
        (StatusCode.DATA_LOSS, 500, "data_loss"),
        (StatusCode.UNAUTHENTICATED, 401, "unauthenticated"),
    ],
)
async def test_each_code_has_its_http_status(code: StatusCode, status: int, name: str) -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        context.abort(code, "why")

    exchange = await connect_call(saying(handler), content_type=JSON)
    assert error_of(exchange) == (status, name)
    assert json.loads(exchange.body)["message"] == "why"


async def test_an_error_carries_details_and_metadata_in_json_whatever_the_request_was() -> None:
    detail = any_pb2.Any()
    detail.Pack(wrappers_pb2.StringValue(value="x"))
    packed = detail.SerializeToString()

    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        await context.send_initial_metadata({"x-initial": "i"})
        details = b"\x08\x05\x1a" + bytes([len(packed)]) + packed
        raise RpcError(StatusCode.NOT_FOUND, "no ☺", details, [("x-trailing", "t")])

    exchange = await connect_call(saying(handler), ADA, content_type=PROTO)
    assert error_of(exchange) == (404, "not_found")
    assert json.loads(exchange.body) == {
        "code": "not_found",
        "message": "no ☺",
        "details": [{"type": "google.protobuf.StringValue", "value": "CgF4"}],
    }
    assert exchange.headers[b"x-initial"] == b"i"
    assert exchange.headers[b"trailer-x-trailing"] == b"t"


async def test_an_unexpected_error_is_unknown_without_its_text() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        raise ValueError("secret")

    exchange = await connect_call(saying(handler))
    assert isinstance(exchange.error, ValueError)
    assert exchange.body == b'{"code":"unknown"}'
    assert error_of(exchange) == (500, "unknown")


async def test_the_timeout_ends_the_handler(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert context.time_remaining() == 2.5
        await trio.sleep_forever()
        raise AssertionError

    exchange = await connect_call(saying(handler), headers=((b"connect-timeout-ms", b"2500"),))
    assert error_of(exchange) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (((b"connect-timeout-ms", b"0"),), (504, "deadline_exceeded")),
        (((b"connect-timeout-ms", b"1s"),), (400, "invalid_argument")),
        (((b"connect-timeout-ms", b"12345678901"),), (400, "invalid_argument")),
        (((b"connect-protocol-version", b"2"),), (400, "invalid_argument")),
        (((b"content-encoding", b"br"),), (501, "unimplemented")),
        (((b"content-encoding", b"deflate"),), (501, "unimplemented")),
        (((b"content-encoding", b"gzip"),), (400, "invalid_argument")),  # it is not
        (((b"x-bin", b"%"),), (500, "internal")),
        (((b"x", b"v" * 20_000),), (429, "resource_exhausted")),
    ],
)
async def test_broken_fields_end_the_call(greeter: GrpcEndpoint, headers: Headers, expected: tuple[int, str]) -> None:
    exchange = await connect_call(greeter, headers=headers)
    assert error_of(exchange) == expected
    if expected[0] == 501:
        assert exchange.headers[b"accept-encoding"] == b"identity,gzip,zstd"


async def test_bodies_are_gzipped_where_both_want_it() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert context.request_compressed
        assert not context.set_compression("deflate")
        assert context.set_compression("gzip")
        return HelloReply(message="x" * 1000)

    headers = ((b"content-encoding", b"gzip"), (b"accept-encoding", b"br, gzip;q=0.5"))
    exchange = await connect_call(saying(handler), compress("gzip", ADA), content_type=PROTO, headers=headers)
    assert exchange.headers[b"content-encoding"] == b"gzip"
    assert exchange.headers[b"content-length"] == b"%d" % len(exchange.body)
    message = decompress("gzip", exchange.body, 10_000)
    assert isinstance(message, bytes)
    assert HelloReply.FromString(message).message == "x" * 1000


async def test_an_empty_body_is_never_inflated(greeter: GrpcEndpoint) -> None:
    exchange = await connect_call(greeter, b"", content_type=PROTO, headers=((b"content-encoding", b"gzip"),))
    assert HelloReply.FromString(exchange.body).message == "Hello "


async def test_an_empty_reply_is_never_compressed() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert context.set_compression("gzip")
        return HelloReply()

    accepts = ((b"accept-encoding", b"gzip"),)
    exchange = await connect_call(saying(handler), ADA, content_type=PROTO, headers=accepts)
    assert (exchange.status, exchange.body) == (200, b"")
    assert b"content-encoding" not in exchange.headers


async def test_a_body_over_the_limit_is_refused_compressed_or_not(greeter: GrpcEndpoint) -> None:
    config = Config().replace(grpc__max_receive_message_size=100)
    large = HelloRequest(name="x" * 200).SerializeToString()
    exchange = await connect_call(greeter, large, content_type=PROTO, config=config)
    assert error_of(exchange) == (429, "resource_exhausted")
    gzip = ((b"content-encoding", b"gzip"),)
    exchange = await connect_call(greeter, compress("gzip", large), content_type=PROTO, headers=gzip, config=config)
    assert error_of(exchange) == (429, "resource_exhausted")


async def test_a_large_reply_is_one_body_with_its_length() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        context.set_trailing_metadata({"x": "1"})
        return HelloReply(message="x" * 200_000)

    exchange = await connect_call(saying(handler), ADA, content_type=PROTO)
    assert exchange.headers[b"content-length"] == b"%d" % len(exchange.body)
    assert exchange.headers[b"trailer-x"] == b"1"
    assert exchange.response_ended


# -- what plain curl sends --------------------------------------------------------


async def test_a_form_from_no_browser_is_taken_for_json(greeter: GrpcEndpoint) -> None:
    headers = ((b"user-agent", b"curl/8.5.0"), (b"accept", b"*/*"))
    exchange = await connect_call(greeter, content_type=FORM, headers=headers)
    assert exchange.body == b'{"message":"Hello Ada"}'
    assert exchange.headers[b"content-type"] == JSON


@pytest.mark.parametrize("mark", [b"origin", b"referer", b"cookie", b"sec-fetch-site"])
async def test_a_form_from_a_browser_is_not(greeter: GrpcEndpoint, mark: bytes) -> None:
    assert (await connect_call(greeter, content_type=FORM, headers=((mark, b"x"),))).status == 415


async def test_a_form_is_never_a_stream(greeter: GrpcEndpoint) -> None:
    assert (await connect_call(greeter, path=STREAM, content_type=FORM)).status == 415


# -- GET ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "connect=v1&encoding=json&message=%7B%22name%22%3A%22Ada%22%7D",
        "message=%7B%22name%22:%22Ada%22%7D&encoding=json",
        "connect=v1&encoding=json&base64=1&message=" + base64.urlsafe_b64encode(b'{"name":"Ada"}').decode().rstrip("="),
        "encoding=json&compression=gzip&base64=1&message="
        + base64.urlsafe_b64encode(compress("gzip", b'{"name":"Ada"}')).decode(),
    ],
)
async def test_a_method_without_side_effects_answers_get(query: str) -> None:
    exchange = await get_call(GrpcEndpoint([Pure()]), query)
    assert (exchange.status, exchange.body) == (200, b'{"message":"Hello Ada"}')


async def test_get_in_binary_is_answered_in_binary() -> None:
    query = f"encoding=proto&base64=1&message={base64.urlsafe_b64encode(ADA).decode()}"
    exchange = await get_call(GrpcEndpoint([Pure()]), query)
    assert exchange.headers[b"content-type"] == PROTO
    assert HelloReply.FromString(exchange.body).message == "Hello Ada"


@pytest.mark.parametrize("query", ["", "message=x", "encoding=xml&message=x", "connect=v1&encoding=&message=x"])
async def test_a_get_in_an_unknown_codec_is_415_with_what_is_accepted(query: str) -> None:
    exchange = await get_call(GrpcEndpoint([Pure()]), query)
    assert exchange.status == 415
    assert b"application/json, application/proto" in exchange.headers[b"accept-post"]


@pytest.mark.parametrize("query", ["encoding=json", "encoding=json&message=x", "encoding=json&message={}&connect=v2"])
async def test_a_get_that_carries_no_request_is_an_invalid_argument(query: str) -> None:
    assert error_of(await get_call(GrpcEndpoint([Pure()]), query)) == (400, "invalid_argument")


async def test_a_get_with_an_unknown_compression_is_unimplemented() -> None:
    query = "encoding=json&message=x&compression=br"
    assert error_of(await get_call(GrpcEndpoint([Pure()]), query)) == (501, "unimplemented")


async def test_other_methods_do_not_answer_get(greeter: GrpcEndpoint) -> None:
    query = "connect=v1&encoding=json&message=%7B%7D"
    exchange = await get_call(greeter, query)
    assert (exchange.status, exchange.headers[b"allow"]) == (405, b"POST")
    exchange = await get_call(GrpcEndpoint([Pure()]), query, STREAM)  # a stream, though without side effects
    assert (exchange.status, exchange.headers[b"allow"]) == (405, b"POST")
    put = await FakeExchange(SAY, method="PUT", http_version="1.1").run(GrpcEndpoint([Pure()]))
    assert (put.status, put.headers[b"allow"]) == (405, b"GET, POST")


# -- streams --------------------------------------------------------------------


@VERSIONS
async def test_a_server_stream_is_envelopes_and_an_end(greeter: GrpcEndpoint, http_version: str) -> None:
    body = framed(b'{"name": "Ada", "count": 2}')
    exchange = await connect_call(greeter, body, STREAM, content_type=STREAM_JSON, http_version=http_version)
    reply = b'{"message":"Hello Ada"}'
    assert exchange.body == framed(reply) * 2 + b"\2\0\0\0\2{}"
    assert exchange.headers[b"content-type"] == STREAM_JSON
    assert exchange.headers[b"connect-accept-encoding"] == b"identity,gzip,zstd"


async def test_client_and_bidirectional_streams_work_in_binary(greeter: GrpcEndpoint) -> None:
    for path, expected in ((COLLECT, ["Hello Ada and Ada"]), (CHAT, ["Hello Ada"] * 2)):
        exchange = await connect_call(greeter, framed(ADA) * 2, path, content_type=STREAM_PROTO)
        messages, end = stream_of(exchange)
        assert [HelloReply.FromString(message).message for message in messages] == expected
        assert end == {}


async def test_an_error_in_a_stream_comes_in_its_end_with_status_200() -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            await context.send_initial_metadata({"x-initial": "i"})
            context.set_trailing_metadata([("x-t", "1"), ("x-t", "2")])
            yield HelloReply(message="one")
            context.abort(StatusCode.ABORTED, "why")

    exchange = await connect_call(GrpcEndpoint([Service()]), framed(b""), STREAM, content_type=STREAM_PROTO)
    messages, end = stream_of(exchange)
    assert len(messages) == 1
    assert end == {"error": {"code": "aborted", "message": "why"}, "metadata": {"x-t": ["1", "2"]}}
    assert exchange.headers[b"x-initial"] == b"i"


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", (), "unimplemented"),
        (framed(b"{}") * 2, (), "unimplemented"),
        (framed(b"{"), (), "invalid_argument"),
        (b"\1\0\0\0\0", (), "internal"),
        (b"\2\0\0\0\2{}", (), "internal"),  # the end is the server's to send
        (b"\0\0\0\0\5ab", (), "internal"),
        (b"\0\0\x40\0\1", (), "resource_exhausted"),
        (framed(b"{}"), ((b"connect-content-encoding", b"br"),), "unimplemented"),
        (framed(b"{}"), ((b"connect-timeout-ms", b"x"),), "invalid_argument"),
    ],
)
async def test_broken_streams_end_with_their_code(
    greeter: GrpcEndpoint, body: bytes, headers: Headers, code: str
) -> None:
    exchange = await connect_call(greeter, body, STREAM, content_type=STREAM_JSON, headers=headers)
    messages, end = stream_of(exchange)
    assert (messages, end["error"]["code"]) == ([], code)
    assert exchange.error is None


async def test_messages_of_a_stream_are_gzipped_where_both_want_it() -> None:
    class Service(GreeterBase):
        async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
            assert context.set_compression("gzip")
            async for request in requests:
                yield HelloReply(message=request.name * 100)

    body = b"".join(frame(compress("gzip", ADA), compressed=True)) + framed(ADA)
    headers = ((b"connect-content-encoding", b"gzip"), (b"connect-accept-encoding", b"gzip"))
    exchange = await connect_call(GrpcEndpoint([Service()]), body, CHAT, content_type=STREAM_PROTO, headers=headers)
    assert [flag for flag, _ in envelopes(exchange.body)] == [1, 1, 2]
    assert exchange.headers[b"connect-content-encoding"] == b"gzip"


# -- refusals -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type", "accepted"),
    [
        (SAY, STREAM_JSON, b"application/proto"),
        (SAY, b"application/xml", b"application/proto"),
        (SAY, b"application/json; charset=latin-1", b"application/proto"),
        (STREAM, JSON, STREAM_PROTO),
        (STREAM, b"application/connect+xml", STREAM_PROTO),
    ],
)
async def test_an_unknown_codec_is_415_with_what_is_accepted(
    greeter: GrpcEndpoint, path: str, content_type: bytes, accepted: bytes
) -> None:
    exchange = await connect_call(greeter, path=path, content_type=content_type)
    assert exchange.status == 415
    assert exchange.headers[b"accept-post"].split(b", ")[-1] == accepted
    assert exchange.response_ended


async def test_an_unknown_method_is_unimplemented(greeter: GrpcEndpoint) -> None:
    exchange = await connect_call(greeter, path="/greet.Greeter/Nope")
    assert error_of(exchange) == (501, "unimplemented")
    exchange = await connect_call(greeter, b"", "/greet.Greeter/Nope", content_type=STREAM_JSON)
    assert stream_of(exchange)[1]["error"]["code"] == "unimplemented"

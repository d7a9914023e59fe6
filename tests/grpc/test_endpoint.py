"""The call machine against an exchange in memory: refusals, the four kinds, and how calls end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import (
    ConfigError,
    StatusCode,
)
from engine.grpc import CallContext, GrpcEndpoint, RequestStream, ServiceBase
from tests.grpc.calls import ADA, BOB, CHAT, COLLECT, OK, SAY, STREAM, call, saying, texts
from tests.grpc.fake_exchange import FakeExchange


@pytest.fixture
def greeter() -> GrpcEndpoint:
    return GrpcEndpoint([Greeter()])


# -- the four kinds -------------------------------------------------------------


async def test_a_unary_call_leaves_in_one_flush(greeter: GrpcEndpoint) -> None:
    exchange = await call(greeter, SAY, ADA)
    assert exchange.status == 200
    assert exchange.headers == {b"content-type": b"application/grpc"}
    assert texts(exchange) == ["Hello Ada"]
    assert exchange.trailers == [(b"grpc-status", b"0")]
    assert len(exchange.flushed) == 1


async def test_a_unary_request_may_arrive_in_any_pieces_and_end_late(greeter: GrpcEndpoint) -> None:
    exchange = FakeExchange(SAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, greeter)
        for byte in b"\x00\x00\x00\x00" + bytes([len(ADA)]) + ADA:
            await trio.testing.wait_all_tasks_blocked()
            exchange.send_bytes(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()
        assert exchange.status == 0
        exchange.end_request()
    assert texts(exchange) == ["Hello Ada"]


async def test_a_server_stream_sends_what_the_generator_yields(greeter: GrpcEndpoint) -> None:
    exchange = await call(greeter, STREAM, StreamHellosRequest(name="Ada", count=3).SerializeToString())
    assert texts(exchange) == ["Hello Ada"] * 3
    assert exchange.grpc_status == OK


async def test_a_client_stream_is_read_to_its_end(greeter: GrpcEndpoint) -> None:
    assert texts(await call(greeter, COLLECT, ADA, BOB, ADA)) == ["Hello Ada, Bob and Ada"]
    assert texts(await call(greeter, COLLECT, ADA)) == ["Hello Ada"]
    assert texts(await call(greeter, COLLECT)) == ["Hello nobody"]


async def test_a_bidirectional_call_answers_each_message_before_the_next_comes(greeter: GrpcEndpoint) -> None:
    exchange = FakeExchange(CHAT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, greeter)
        for count, message in enumerate((ADA, BOB, ADA), 1):
            exchange.send_message(message)
            await trio.testing.wait_all_tasks_blocked()
            assert len(texts(exchange)) == count
            assert exchange.flushed[-1] == len(exchange.body)
        assert not exchange.response_ended
        exchange.end_request()
    assert texts(exchange) == ["Hello Ada", "Hello Bob", "Hello Ada"]
    assert exchange.grpc_status == OK


async def test_a_stream_without_messages_has_a_head_and_trailers(greeter: GrpcEndpoint) -> None:
    exchange = await call(greeter, CHAT)
    assert (exchange.status, exchange.body, exchange.trailers) == (200, b"", [(b"grpc-status", b"0")])


async def test_a_streaming_handler_may_be_a_coroutine_that_sends() -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> None:
            await context.send(HelloReply(message="one"))
            await context.send(HelloReply(message="two"))

        def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
            return Doubled(requests)

    class Doubled:
        """An async iterator that is no generator."""

        def __init__(self, requests: RequestStream[HelloRequest]) -> None:
            self.requests = requests

        def __aiter__(self) -> Doubled:
            return self

        async def __anext__(self) -> HelloReply:
            return HelloReply(message=(await anext(self.requests)).name * 2)

    endpoint = GrpcEndpoint([Service()])
    assert texts(await call(endpoint, STREAM, b"")) == ["one", "two"]
    assert texts(await call(endpoint, CHAT, ADA, BOB)) == ["AdaAda", "BobBob"]


async def test_an_early_answer_leaves_the_rest_of_the_request_unread() -> None:
    class Service(GreeterBase):
        async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
            return HelloReply(message=(await anext(requests)).name)

    exchange = FakeExchange(COLLECT)
    exchange.send_message(ADA)
    await exchange.run(GrpcEndpoint([Service()]))
    assert texts(exchange) == ["Ada"]
    assert exchange.response_ended
    assert exchange.reset_code is None  # RST_STREAM(NO_ERROR) is the driver's


async def test_bodies_of_calls_have_no_total_limit_and_no_minimum_rate(greeter: GrpcEndpoint) -> None:
    exchange = await call(greeter, SAY, ADA)
    assert exchange.max_body == float("inf")
    assert exchange.min_body_rate == 0


# -- refusals -------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/grpc",
        b"application/grpc+proto",
        b"application/grpc+other",
        b"application/grpc;charset=utf-8",
        b"application/grpc ; charset=utf-8",
        b"Application/gRPC",
    ],
)
async def test_the_grpc_content_types_are_served(greeter: GrpcEndpoint, content_type: bytes) -> None:
    exchange = FakeExchange(SAY, base=((b"content-type", content_type),))
    exchange.send_message(ADA)
    exchange.end_request()
    assert (await exchange.run(greeter)).grpc_status == OK


@pytest.mark.parametrize(
    "content_type",
    [b"", b"application/grpcfoo", b"application/grpc-webber", b"application/connect+json", b"text/plain"],
)
async def test_other_content_types_are_answered_415(greeter: GrpcEndpoint, content_type: bytes) -> None:
    base = ((b"content-type", content_type),) if content_type else ()
    exchange = await FakeExchange(SAY, base=base).run(greeter)
    assert exchange.status == 415
    assert exchange.headers[b"accept-post"].split(b", ")[-2:] == [b"application/json", b"application/proto"]
    assert exchange.grpc_status[0] == StatusCode.INTERNAL
    assert exchange.response_ended


async def test_other_methods_are_answered_405_and_http_1_1_with_426(greeter: GrpcEndpoint) -> None:
    get = await FakeExchange(SAY, method="GET").run(greeter)
    assert (get.status, get.headers[b"allow"], get.grpc_status[0]) == (405, b"POST", StatusCode.INTERNAL)
    old = await FakeExchange(SAY, http_version="1.1").run(greeter)
    assert (old.status, old.headers[b"upgrade"], old.grpc_status[0]) == (426, b"h2c", StatusCode.INTERNAL)
    assert old.headers[b"connection"] == b"upgrade"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/greet.Greeter/Nope", "unknown method Nope for service greet.Greeter"),
        ("/greet.greeter/SayHello", "unknown service greet.greeter"),
        ("/greet.Greeter/sayhello", "unknown method sayhello for service greet.Greeter"),
        ("/nope", "unknown service "),
        ("/", "unknown service "),
    ],
)
async def test_unknown_paths_are_unimplemented_in_trailers_only(greeter: GrpcEndpoint, path: str, message: str) -> None:
    exchange = await call(greeter, path, ADA)
    assert exchange.status == 200
    assert exchange.headers[b"content-type"] == b"application/grpc"
    assert exchange.grpc_status == (StatusCode.UNIMPLEMENTED, message.removesuffix(" ") + "%20" * message.endswith(" "))
    assert (exchange.body, exchange.trailers) == (b"", [])


async def test_a_method_that_nobody_wrote_is_unimplemented() -> None:
    class Half(GreeterBase):
        pass

    for path in (SAY, STREAM, COLLECT, CHAT):
        exchange = await call(GrpcEndpoint([Half()]), path, b"")
        assert exchange.grpc_status[0] == StatusCode.UNIMPLEMENTED
        assert exchange.error is None


@pytest.mark.parametrize("path", [SAY, STREAM])
async def test_none_or_two_messages_where_one_belongs_are_unimplemented(greeter: GrpcEndpoint, path: str) -> None:
    assert (await call(greeter, path)).grpc_status[0] == StatusCode.UNIMPLEMENTED
    assert (await call(greeter, path, ADA, ADA)).grpc_status[0] == StatusCode.UNIMPLEMENTED


async def test_a_second_message_is_refused_before_the_request_ends(greeter: GrpcEndpoint) -> None:
    exchange = FakeExchange(SAY)
    exchange.send_message(ADA)
    exchange.send_message(ADA)
    assert (await exchange.run(greeter)).grpc_status[0] == StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", [SAY, STREAM, COLLECT, CHAT])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x01\x00\x00\x00\x00", StatusCode.INTERNAL),
        (b"\x02\x00\x00\x00\x00", StatusCode.INTERNAL),
        (b"\x00\x00\x00\x00\x05ab", StatusCode.INTERNAL),
        (b"\x00\x00", StatusCode.INTERNAL),
        (b"\x00\x00\x00\x00\x01\xff", StatusCode.INTERNAL),
        (b"\x00\x00\x40\x00\x01", StatusCode.RESOURCE_EXHAUSTED),
        (b"\x00\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_broken_messages_end_the_call_with_their_status(
    greeter: GrpcEndpoint, path: str, body: bytes, code: StatusCode
) -> None:
    exchange = FakeExchange(path)
    exchange.send_bytes(body)
    exchange.end_request()
    await exchange.run(greeter)
    assert exchange.grpc_status[0] == code
    assert exchange.error is None


@pytest.mark.parametrize("encoding", [b"br", b"x-unknown", b""])
async def test_other_encodings_are_unimplemented_and_ours_are_listed(greeter: GrpcEndpoint, encoding: bytes) -> None:
    exchange = await call(greeter, SAY, ADA, headers=((b"grpc-encoding", encoding),))
    assert exchange.grpc_status[0] == StatusCode.UNIMPLEMENTED
    assert exchange.headers[b"grpc-accept-encoding"] == b"identity,gzip,deflate,zstd"
    assert (exchange.body, exchange.trailers) == (b"", [])


async def test_identity_is_an_encoding(greeter: GrpcEndpoint) -> None:
    assert (await call(greeter, SAY, ADA, headers=((b"grpc-encoding", b"identity"),))).grpc_status == OK


async def test_broken_binary_metadata_is_internal_and_no_handler_runs() -> None:
    async def never(request: HelloRequest, context: CallContext) -> HelloReply:
        raise AssertionError("the handler ran")

    exchange = await call(saying(never), SAY, ADA, headers=((b"x-bin", b"%"),))
    assert exchange.grpc_status[0] == StatusCode.INTERNAL
    assert exchange.error is None


async def test_metadata_over_the_limit_is_resource_exhausted(greeter: GrpcEndpoint) -> None:
    limit = Config().grpc.max_metadata_size
    fits = limit - sum(len(name) + len(value) + 32 for name, value in FakeExchange().head.headers) - 33
    assert (await call(greeter, SAY, ADA, headers=((b"x", b"v" * fits),))).grpc_status == OK
    exchange = await call(greeter, SAY, ADA, headers=((b"x", b"v" * (fits + 1)),))
    assert exchange.grpc_status[0] == StatusCode.RESOURCE_EXHAUSTED
    assert "grpc.max_metadata_size" in exchange.grpc_status[1]


# -- building -------------------------------------------------------------------


def test_only_instances_of_services_can_be_added_and_each_once() -> None:
    endpoint = GrpcEndpoint([Greeter()])
    assert [service.name for service in endpoint.services] == ["greet.Greeter"]
    with pytest.raises(ConfigError, match="added before"):
        endpoint.add(Greeter())
    with pytest.raises(ConfigError, match="not the class"):
        endpoint.add(Greeter)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="generated"):
        endpoint.add(ServiceBase())
    with pytest.raises(ConfigError, match="generated"):
        endpoint.add(object())  # type: ignore[arg-type]

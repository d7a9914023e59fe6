"""Metadata, status, deadlines and cancellation of calls, against an exchange in memory."""

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
    ConnectionClosed,
    Http2Code,
    LimitExceeded,
    LimitKind,
    LocalProtocolError,
    StatusCode,
)
from engine.grpc import CallContext, GrpcEndpoint, RequestStream, RpcError
from engine.transport.exchange import CancelReason
from tests.grpc.calls import ADA, CHAT, COLLECT, OK, SAY, STREAM, call, saying, texts
from tests.grpc.fake_exchange import FakeExchange


@pytest.fixture
def greeter() -> GrpcEndpoint:
    return GrpcEndpoint([Greeter()])


# -- metadata and status --------------------------------------------------------


async def test_metadata_travels_both_ways() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        assert list(context.metadata) == [("x-a", "1"), ("x-bin", b"\x01"), ("x-bin", b"\x02"), ("x-a", "2")]
        assert context.peer.address == "127.0.0.1:50000"
        assert context.method.path == SAY
        await context.send_initial_metadata({"x-initial": "i"})
        context.set_trailing_metadata([("x-trailing-bin", b"\xab\xab\xab"), ("x-trailing", "t")])
        return HelloReply()

    headers = ((b"x-a", b"1"), (b"x-bin", b"AQ==, Ag"), (b"x-a", b"2"))
    exchange = await call(saying(handler), SAY, ADA, headers=headers)
    assert exchange.headers == {b"content-type": b"application/grpc", b"x-initial": b"i"}
    assert exchange.trailers == [(b"grpc-status", b"0"), (b"x-trailing-bin", b"q6ur"), (b"x-trailing", b"t")]


async def test_initial_metadata_leaves_before_any_message() -> None:
    class Service(GreeterBase):
        async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
            await context.send_initial_metadata({"x-initial": "i"})
            async for request in requests:
                yield HelloReply(message=request.name)

    exchange = FakeExchange(CHAT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, GrpcEndpoint([Service()]))
        await trio.testing.wait_all_tasks_blocked()
        assert exchange.headers[b"x-initial"] == b"i"
        assert exchange.flushed == [0]
        exchange.end_request()


async def test_initial_metadata_is_sent_once() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        await context.send_initial_metadata()
        with pytest.raises(LocalProtocolError, match="sent before"):
            await context.send_initial_metadata()
        return HelloReply()

    assert (await call(saying(handler), SAY, ADA)).grpc_status == OK


async def test_send_is_for_streams() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        with pytest.raises(LocalProtocolError, match="return it"):
            await context.send(HelloReply())
        return HelloReply()

    assert (await call(saying(handler), SAY, ADA)).grpc_status == OK


async def test_abort_ends_the_call_with_status_details_and_trailers() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        context.set_trailing_metadata({"x": "1"})
        raise RpcError(StatusCode.NOT_FOUND, "no ☺", b"\x08\x05", [("y", "2")])

    exchange = await call(saying(handler), SAY, ADA)
    assert exchange.response_ended
    assert exchange.headers == {
        b"content-type": b"application/grpc",
        b"grpc-status": b"5",
        b"grpc-message": b"no %E2%98%BA",
        b"grpc-status-details-bin": b"CAU",
        b"x": b"1",
        b"y": b"2",
    }
    assert exchange.error is None


async def test_abort_after_a_message_comes_in_trailers() -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            yield HelloReply(message="first")
            context.abort(StatusCode.ABORTED, "enough")

    exchange = await call(GrpcEndpoint([Service()]), STREAM, b"")
    assert texts(exchange) == ["first"]
    assert exchange.trailers == [(b"grpc-status", b"10"), (b"grpc-message", b"enough")]


async def test_abort_inside_of_a_nursery_keeps_its_status() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        async def task() -> None:
            context.abort(StatusCode.ABORTED, "from a task")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            nursery.start_soon(trio.sleep_forever)
        return HelloReply()

    assert (await call(saying(handler), SAY, ADA)).grpc_status == (StatusCode.ABORTED, "from a task")


@pytest.mark.parametrize("detailed", [False, True])
async def test_an_unexpected_error_is_unknown_and_its_text_stays_here(detailed: bool) -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        raise ValueError("secret")

    exchange = FakeExchange(SAY, config=Config(detailed_errors=detailed))
    exchange.send_message(ADA)
    exchange.end_request()
    await exchange.run(saying(handler))
    assert isinstance(exchange.error, ValueError)
    assert exchange.grpc_status == (StatusCode.UNKNOWN, "ValueError: secret" if detailed else "")


async def test_an_unexpected_error_after_a_message_comes_in_trailers() -> None:
    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            yield HelloReply(message="first")
            raise ValueError("secret")

    exchange = await call(GrpcEndpoint([Service()]), STREAM, b"")
    assert texts(exchange) == ["first"]
    assert exchange.trailers == [(b"grpc-status", b"2")]


async def test_a_handler_that_returns_something_else_is_our_error_not_the_clients() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        return None  # type: ignore[return-value]

    exchange = await call(saying(handler), SAY, ADA)
    assert isinstance(exchange.error, TypeError)
    assert exchange.grpc_status == (StatusCode.UNKNOWN, "")


async def test_limits_that_a_handler_hits_are_told(greeter: GrpcEndpoint) -> None:
    exchange = FakeExchange(SAY)
    greeter.fail(exchange, LimitExceeded("some.limit", 1, 2, kind=LimitKind.MESSAGE_SIZE))
    assert exchange.grpc_status[0] == StatusCode.RESOURCE_EXHAUSTED
    assert "some.limit" in exchange.grpc_status[1]


async def test_status_ok_in_an_error_is_no_success() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        with pytest.raises(LocalProtocolError):
            context.abort(StatusCode.OK)
        raise RpcError(StatusCode.OK, "odd")

    assert (await call(saying(handler), SAY, ADA)).grpc_status == (StatusCode.UNKNOWN, "odd")


# -- deadlines and cancellation -------------------------------------------------


async def test_the_deadline_is_the_scope_of_the_exchange(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[float | None] = []

    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        seen.extend([context.deadline, context.time_remaining(), trio.current_effective_deadline()])
        return HelloReply()

    start = trio.current_time()
    assert (await call(saying(handler), SAY, ADA, headers=((b"grpc-timeout", b"1500m"),))).grpc_status == OK
    assert seen == [start + 1.5, 1.5, start + 1.5]
    seen.clear()
    await call(saying(handler), SAY, ADA)
    assert seen == [None, None, float("inf")]


@pytest.mark.parametrize("path", [SAY, STREAM, COLLECT, CHAT])
async def test_an_expired_deadline_cancels_the_handler_and_is_told(
    autojump_clock: trio.testing.MockClock, path: str
) -> None:
    cancelled: list[str] = []

    async def hang(context: CallContext) -> None:
        context.set_trailing_metadata({"x": "1"})
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(context.method.name)

    class Service(GreeterBase):
        async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
            await hang(context)
            return HelloReply()

        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            yield HelloReply(message="first")
            await hang(context)

        async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
            await hang(context)
            return HelloReply()

        async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> None:
            await hang(context)

    start = trio.current_time()
    exchange = await call(GrpcEndpoint([Service()]), path, b"", headers=((b"grpc-timeout", b"2S"),))
    assert trio.current_time() == start + 2
    assert len(cancelled) == 1
    assert exchange.grpc_status[0] == StatusCode.DEADLINE_EXCEEDED
    assert texts(exchange) == (["first"] if path == STREAM else [])
    assert (b"x", b"1") in (exchange.trailers or list(exchange.headers.items()))
    assert exchange.reset_code is Http2Code.NO_ERROR


async def test_the_deadline_also_ends_the_wait_for_the_request(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange(SAY, ((b"grpc-timeout", b"1S"),))
    assert (await exchange.run(GrpcEndpoint([Greeter()]))).grpc_status[0] == StatusCode.DEADLINE_EXCEEDED


async def test_the_deadline_guards_a_large_reply_until_it_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        return HelloReply(message="x" * 1_000_000)

    exchange = FakeExchange(SAY, ((b"grpc-timeout", b"1S"),))
    exchange.room = 65_535
    exchange.send_message(ADA)
    exchange.end_request()
    await exchange.run(saying(handler))
    assert exchange.grpc_status[0] == StatusCode.DEADLINE_EXCEEDED


async def test_a_stopping_server_says_unavailable(autojump_clock: trio.testing.MockClock) -> None:
    exchange = FakeExchange(CHAT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, GrpcEndpoint([Greeter()]))
        await trio.testing.wait_all_tasks_blocked()
        exchange.cancel(CancelReason.SHUTDOWN)
    assert exchange.grpc_status[0] == StatusCode.UNAVAILABLE


@pytest.mark.parametrize("value", [b"0S", b"00000000n"])
async def test_an_elapsed_deadline_starts_no_handler(value: bytes) -> None:
    async def never(request: HelloRequest, context: CallContext) -> HelloReply:
        raise AssertionError("the handler ran")

    exchange = await call(saying(never), SAY, ADA, headers=((b"grpc-timeout", value),))
    assert exchange.grpc_status[0] == StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("value", [b"", b"1", b"123456789n", b"1x", b"+1S", "\u0661S".encode()])
async def test_a_malformed_timeout_is_internal(greeter: GrpcEndpoint, value: bytes) -> None:
    exchange = await call(greeter, SAY, ADA, headers=((b"grpc-timeout", value),))
    assert exchange.grpc_status[0] == StatusCode.INTERNAL
    assert exchange.grpc_status[1].startswith("malformed grpc-timeout")


@pytest.mark.parametrize("reason", [CancelReason.PEER_RESET, CancelReason.CONNECTION_LOST])
@pytest.mark.parametrize("shielded", [False, True])
async def test_an_aborted_upload_never_looks_complete(reason: CancelReason, shielded: bool) -> None:
    ends: list[str] = []
    seen: list[CancelReason | None] = []

    class Service(GreeterBase):
        async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
            try:
                with trio.CancelScope(shield=shielded):
                    async for request in requests:
                        ends.append(request.name)  # noqa: PERF401  # names before the error must be kept
                    ends.append("clean end")
            finally:
                seen.append(context.cancelled)
            return HelloReply()

    exchange = FakeExchange(COLLECT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, GrpcEndpoint([Service()]))
        exchange.send_message(ADA)
        await trio.testing.wait_all_tasks_blocked()
        exchange.abort_request(reason)
    assert ends == ["Ada"]
    assert seen == [reason]
    assert exchange.error is None
    assert (exchange.status, exchange.body, exchange.trailers) == (0, b"", [])


async def test_a_truncated_upload_raises_each_time_it_is_read() -> None:
    errors: list[StatusCode] = []

    class Service(GreeterBase):
        async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
            for _ in range(3):
                try:
                    await anext(requests)
                except RpcError as error:
                    errors.append(error.code)
            return HelloReply()

    exchange = FakeExchange(COLLECT)
    exchange.send_message(ADA)
    exchange.send_bytes(b"\x00\x00\x00\x00\x05ab")
    exchange.end_request()
    await exchange.run(GrpcEndpoint([Service()]))
    assert errors == [StatusCode.INTERNAL, StatusCode.INTERNAL]


async def test_a_reset_of_a_call_whose_handler_has_a_nursery_is_no_error() -> None:
    class Service(GreeterBase):
        async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> None:
            async def read() -> None:
                async for _ in requests:
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(trio.sleep_forever)

    exchange = FakeExchange(CHAT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, GrpcEndpoint([Service()]))
        await trio.testing.wait_all_tasks_blocked()
        exchange.abort_request()
    assert exchange.error is None


async def test_a_connection_of_the_handlers_own_that_closes_is_an_error() -> None:
    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        raise ConnectionClosed(1006, "elsewhere")

    exchange = await call(saying(handler), SAY, ADA)
    assert isinstance(exchange.error, ConnectionClosed)
    assert exchange.grpc_status == (StatusCode.CANCELLED, "")


async def test_a_generator_is_closed_when_its_call_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    closed: list[bool] = []

    class Service(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            try:
                while True:
                    yield HelloReply(message="x" * 10_000)
            finally:
                closed.append(True)

    exchange = FakeExchange(STREAM, ((b"grpc-timeout", b"1S"),))
    exchange.room = 0  # the client grants no window
    exchange.send_message(b"")
    exchange.end_request()
    await exchange.run(GrpcEndpoint([Service()]))
    assert closed == [True]
    assert len(exchange.body) < 2 * Config().http2.send_buffer
    assert exchange.grpc_status[0] == StatusCode.DEADLINE_EXCEEDED

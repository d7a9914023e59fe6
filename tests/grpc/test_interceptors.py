"""Interceptors around all four kinds of calls, and the limits of single methods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from engine import App
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.demo.greeter import Greeter
from engine.errors import ConfigError, StatusCode
from engine.grpc import CallContext, GrpcEndpoint, MethodOptions, RequestStream, ServerInterceptor
from tests.grpc.calls import ADA, BOB, CHAT, COLLECT, OK, SAY, STREAM, call, texts
from tests.grpc.fake_exchange import FakeExchange

THREE = StreamHellosRequest(name="Ada", count=3).SerializeToString()


class Shout(ServerInterceptor):
    """Changes what passes in every direction."""

    async def intercept_unary(self, request: Any, context: CallContext, proceed: Any) -> Any:
        reply = await proceed(request if isinstance(request, HelloRequest) else louder(request), context)
        reply.message = reply.message.upper()
        return reply

    async def intercept_stream(self, request: Any, context: CallContext, proceed: Any) -> AsyncIterator[Any]:
        async for reply in proceed(request, context):
            reply.message = reply.message.upper()
            yield reply


async def louder(requests: AsyncIterator[HelloRequest]) -> AsyncIterator[HelloRequest]:
    async for request in requests:
        request.name += "!"
        yield request


class Note(ServerInterceptor):
    """Notes who was called, before and after."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def intercept_unary(self, request: Any, context: CallContext, proceed: Any) -> Any:
        self.notes.append(f"{self.name} {context.method.name}")
        try:
            return await proceed(request, context)
        finally:
            self.notes.append(f"{self.name} done")


class Guard(ServerInterceptor):
    """Lets nobody in."""

    async def intercept_unary(self, request: Any, context: CallContext, proceed: Any) -> Any:
        context.abort(StatusCode.UNAUTHENTICATED, "no token")

    def intercept_stream(self, request: Any, context: CallContext, proceed: Any) -> AsyncIterator[Any]:
        context.abort(StatusCode.UNAUTHENTICATED, "no token")


def endpoint(service: GreeterBase, **options: Any) -> GrpcEndpoint:
    made = GrpcEndpoint()
    made.add(service, **options)
    return made


async def test_interceptors_see_and_change_all_four_kinds() -> None:
    served = endpoint(Greeter(), interceptors=[Shout()])
    assert texts(await call(served, SAY, ADA)) == ["HELLO ADA"]
    assert texts(await call(served, COLLECT, ADA, BOB)) == ["HELLO ADA! AND BOB!"]
    assert texts(await call(served, STREAM, THREE)) == ["HELLO ADA"] * 3
    assert texts(await call(served, CHAT, ADA, BOB)) == ["HELLO ADA", "HELLO BOB"]


async def test_the_first_interceptor_is_the_outermost() -> None:
    notes: list[str] = []
    served = endpoint(Greeter(), interceptors=[Note("a", notes), Note("b", notes)])
    await call(served, SAY, ADA)
    assert notes == ["a say_hello", "b say_hello", "b done", "a done"]


@pytest.mark.parametrize("path", [SAY, STREAM, COLLECT, CHAT])
async def test_an_interceptor_may_refuse_a_call(path: str) -> None:
    exchange = await call(endpoint(Greeter(), interceptors=[Guard()]), path, ADA)
    assert exchange.grpc_status == (StatusCode.UNAUTHENTICATED, "no token")
    assert exchange.messages == []


async def test_a_handler_that_sends_by_itself_runs_inside_of_interceptors() -> None:
    class Sending(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> None:
            await context.send(HelloReply(message="sent"))

        def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
            return Replies()

    class Replies(AsyncIterator[HelloReply]):
        left = 2

        async def __anext__(self) -> HelloReply:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return HelloReply(message="given")

    served = endpoint(Sending(), interceptors=[Shout()], options=MethodOptions(max_concurrent_calls=1))
    assert texts(await call(served, STREAM, THREE)) == ["sent"]
    assert texts(await call(served, CHAT)) == ["GIVEN", "GIVEN"]


class Slow(Greeter):
    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        await trio.sleep(60)
        return await super().say_hello(request, context)

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        await trio.sleep(60)
        yield HelloReply(message="late")


@pytest.mark.parametrize(("limit", "sent", "after"), [(5, b"9S", 5), (5, b"2S", 2), (5, None, 5)])
async def test_the_earlier_of_two_deadlines_counts(autojump_clock, limit: float, sent: bytes | None, after: float):
    headers = ((b"grpc-timeout", sent),) if sent else ()
    started = trio.current_time()
    exchange = await call(endpoint(Slow(), options=MethodOptions(timeout=limit)), SAY, ADA, headers=headers)
    assert exchange.grpc_status[0] == StatusCode.DEADLINE_EXCEEDED
    assert trio.current_time() - started == pytest.approx(after)


async def test_a_method_may_have_a_message_limit_of_its_own() -> None:
    limits = {"say_hello": MethodOptions(max_receive_message_size=len(ADA))}
    served = endpoint(Greeter(), method_options=limits)
    assert (await call(served, SAY, ADA)).grpc_status == OK
    longer = HelloRequest(name="Adam").SerializeToString()
    assert (await call(served, SAY, longer)).grpc_status[0] == StatusCode.RESOURCE_EXHAUSTED
    assert (await call(served, COLLECT, longer)).grpc_status == OK


@pytest.mark.parametrize(("path", "message"), [(SAY, ADA), (STREAM, THREE)])
async def test_one_call_more_than_allowed_is_refused_until_another_has_ended(autojump_clock, path, message) -> None:
    served = endpoint(Slow(), options=MethodOptions(max_concurrent_calls=2))
    ended: list[FakeExchange] = []

    async def one() -> None:
        ended.append(await call(served, path, message))

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        codes = sorted(exchange.grpc_status[0] for exchange in ended)
        assert codes == [0, 0, StatusCode.RESOURCE_EXHAUSTED]
        ended.clear()


@pytest.mark.parametrize("options", [MethodOptions(), MethodOptions(max_concurrent_calls=1)])
async def test_a_handler_is_closed_with_its_call_while_a_reply_waits(autojump_clock, options: MethodOptions) -> None:
    closed: list[str] = []

    class Waiting(GreeterBase):
        async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
            try:
                yield HelloReply(message="x" * 200_000)
            finally:
                closed.append("handler")

    exchange = FakeExchange(STREAM, ((b"grpc-timeout", b"5S"),))
    exchange.room = 0
    exchange.send_message(THREE)
    exchange.end_request()
    await exchange.run(endpoint(Waiting(), interceptors=[Shout(), Shout()], options=options))
    assert closed == ["handler"]


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"MethodOptions\.timeout"):
        MethodOptions(timeout=0)
    with pytest.raises(ConfigError, match=r"no such handler; it has say_hello, "):
        App().add_service(Greeter(), method_options={"SayHello": MethodOptions(timeout=1)})

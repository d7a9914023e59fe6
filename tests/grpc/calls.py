"""What the tests of calls share: the greeter's paths and messages, and one call from start to end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.grpc import CallContext, GrpcEndpoint
from tests.grpc.fake_exchange import FakeExchange

ADA = HelloRequest(name="Ada").SerializeToString()
BOB = HelloRequest(name="Bob").SerializeToString()
OK = (0, "")

SAY, STREAM, COLLECT, CHAT = (f"/greet.Greeter/{name}" for name in ("SayHello", "StreamHellos", "CollectNames", "Chat"))


def texts(exchange: FakeExchange) -> list[str]:
    return [HelloReply.FromString(message).message for message in exchange.messages]


async def call(
    endpoint: GrpcEndpoint, path: str = SAY, *messages: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> FakeExchange:
    exchange = FakeExchange(path, headers)
    for message in messages:
        exchange.send_message(message)
    exchange.end_request()
    return await exchange.run(endpoint)


def saying(handler: Callable[[HelloRequest, CallContext], Awaitable[HelloReply]]) -> GrpcEndpoint:
    """An endpoint whose SayHello is this function."""

    class Service(GreeterBase):
        async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
            return await handler(request, context)

    return GrpcEndpoint([Service()])

"""The demo's gRPC service: one method of each kind (protos/greet.proto)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.grpc import CallContext, RequestStream, StatusCode

_DEFAULT_COUNT = 5
_MAX_COUNT = 1000
_MAX_NAMES = 1000


def _greet(name: str) -> HelloReply:
    return HelloReply(message=f"Hello {name}")


class Greeter(GreeterBase):
    """Says hello in every way that gRPC has."""

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        return _greet(request.name)

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        count = request.count or _DEFAULT_COUNT
        if not 0 < count <= _MAX_COUNT:
            context.abort(StatusCode.INVALID_ARGUMENT, f"count must be 1 to {_MAX_COUNT}")
        for index in range(count):
            if index and request.interval_ms > 0:
                await trio.sleep(request.interval_ms / 1000)
            yield _greet(request.name)

    async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
        names: list[str] = []
        async for request in requests:
            names.append(request.name)
            if len(names) > _MAX_NAMES:
                context.abort(StatusCode.INVALID_ARGUMENT, f"send at most {_MAX_NAMES} names")
        if not names:
            return _greet("nobody")
        *others, last = names
        return _greet(f"{', '.join(others)} and {last}" if others else last)

    async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> AsyncIterator[HelloReply]:
        async for request in requests:
            yield _greet(request.name)

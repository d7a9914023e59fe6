"""Services that compress by what their caller names in `x-compression`, and in a stream every other message."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine import App
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.grpc import CallContext
from examples.conformance.generated.interop_test_engine import TestServiceBase
from examples.conformance.generated.interop_test_pb2 import Payload, SimpleRequest, SimpleResponse


class Greeter(GreeterBase):
    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        context.set_compression(context.metadata.text("x-compression"))
        return HelloReply(message=f"{context.request_compressed} {request.name}")

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        context.set_compression(context.metadata.text("x-compression"))
        for index in range(request.count):
            if index % 2:
                context.disable_next_message_compression()
            yield HelloReply(message=request.name)


class TestService(TestServiceBase):
    async def unary_call(self, request: SimpleRequest, context: CallContext) -> SimpleResponse:
        context.set_compression(context.metadata.text("x-compression"))
        payload = Payload(body=bytes(request.response_size))
        return SimpleResponse(payload=payload, username=f"{context.request_compressed} {len(request.payload.body)}")


app = App()
app.add_service(Greeter())
app.add_service(TestService())

"""A greeter that compresses what its caller names in `x-compression`, and in a stream every other message."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine import App
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.grpc import CallContext


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


app = App()
app.add_service(Greeter())

"""A gRPC service with one method of each kind, on protos/greet.proto.

python -m engine serve examples.greeter:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from engine import App, CallContext
from engine.demo.generated.greet_engine import GreeterBase
from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest, StreamHellosRequest
from engine.errors import StatusCode
from engine.grpc import RequestStream


class Greeter(GreeterBase):
    """Method names are those of the .proto file in snake case; every handler is cancelled with its call."""

    async def say_hello(self, request: HelloRequest, context: CallContext) -> HelloReply:
        """One request, one reply. Metadata goes both ways, and `abort` ends the call with a status."""
        if not request.name:
            context.abort(StatusCode.INVALID_ARGUMENT, "whom shall I greet?")
        context.set_trailing_metadata({"x-greeted-bin": request.name.encode()})  # "-bin": any bytes; else ASCII
        return HelloReply(message=f"Hello {request.name}")

    async def stream_hellos(self, request: StreamHellosRequest, context: CallContext) -> AsyncIterator[HelloReply]:
        """One request, many replies: an async generator. It waits while the client reads slowly."""
        for index in range(request.count):
            yield HelloReply(message=f"Hello {request.name}, {index + 1}")
            await trio.sleep(request.interval_ms / 1000)

    async def collect_names(self, requests: RequestStream[HelloRequest], context: CallContext) -> HelloReply:
        """Many requests, one reply. An upload that breaks off cancels this; it never looks complete."""
        names = [request.name async for request in requests]
        return HelloReply(message=f"Hello {' and '.join(names)}")

    async def chat(self, requests: RequestStream[HelloRequest], context: CallContext) -> None:
        """Both ways at once, here by two tasks: replies may also be sent instead of yielded."""
        async with trio.open_nursery() as nursery:
            await context.send(HelloReply(message="Who is there?"))
            async for request in requests:
                nursery.start_soon(context.send, HelloReply(message=f"Hello {request.name}"))


app = App()
app.add_service(Greeter())
app.add_reflection()  # grpcurl and the like need no .proto files

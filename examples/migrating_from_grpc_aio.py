"""A servicer that was written for grpc.aio, with the code that grpcio's compiler generated, unchanged.

    python -m engine serve examples.migrating_from_grpc_aio:app

What changes: the server that it is added to, and asyncio's sleeps, locks and tasks, which become Trio's.
Servicers of the synchronous API (plain functions) are taken too, and run in threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import trio

from engine import App

from .stock import greet_pb2, greet_pb2_grpc


class Greeter(greet_pb2_grpc.GreeterServicer):  # type: ignore[misc]  # the generated class has no types
    """Method names, context and iterators are those of grpc.aio."""

    async def SayHello(
        self, request: greet_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greet_pb2.HelloReply:
        if not request.name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "whom shall I greet?")
        metadata = dict(context.invocation_metadata() or ())
        context.set_trailing_metadata((("x-language", metadata.get("x-language", "en")),))
        return greet_pb2.HelloReply(message=f"Hello {request.name}")

    async def StreamHellos(
        self, request: greet_pb2.StreamHellosRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[greet_pb2.HelloReply]:
        for index in range(request.count):
            await trio.sleep(request.interval_ms / 1000)  # was: asyncio.sleep
            yield greet_pb2.HelloReply(message=f"Hello {request.name}, {index + 1}")

    async def CollectNames(
        self, request_iterator: AsyncIterator[greet_pb2.HelloRequest], context: grpc.aio.ServicerContext
    ) -> greet_pb2.HelloReply:
        names = [request.name async for request in request_iterator]
        return greet_pb2.HelloReply(message=f"Hello {' and '.join(names)}")

    async def Chat(
        self, request_iterator: AsyncIterator[greet_pb2.HelloRequest], context: grpc.aio.ServicerContext
    ) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(greet_pb2.HelloReply(message=f"Hello {request.name}"))


app = App()
greet_pb2_grpc.add_GreeterServicer_to_server(Greeter(), app)  # was: grpc.aio.server()

"""greet.Greeter/SayHello and benchmark.Streams on grpcio's asyncio server. Prints its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from greet_messages import HelloReply, HelloRequest
from stream_messages import Chunk, FloodRequest


async def say_hello(request: Any, context: Any) -> Any:
    return HelloReply(message=f"Hello {request.name}")


async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
    chunk = Chunk(data=bytes(request.size))
    for _ in range(request.count):
        yield chunk


async def echo(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for request in requests:
        yield request


async def main() -> None:
    server = grpc.aio.server()
    hello = grpc.unary_unary_rpc_method_handler(
        say_hello, request_deserializer=HelloRequest.FromString, response_serializer=HelloReply.SerializeToString
    )
    streams = {
        "Flood": grpc.unary_stream_rpc_method_handler(
            flood, request_deserializer=FloodRequest.FromString, response_serializer=Chunk.SerializeToString
        ),
        "Echo": grpc.stream_stream_rpc_method_handler(
            echo, request_deserializer=Chunk.FromString, response_serializer=Chunk.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("greet.Greeter", {"SayHello": hello}),
            grpc.method_handlers_generic_handler("benchmark.Streams", streams),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())

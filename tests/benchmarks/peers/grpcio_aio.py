"""greet.Greeter/SayHello on grpcio's asyncio server. Prints its port."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from greet_messages import HelloReply, HelloRequest


async def say_hello(request: Any, context: Any) -> Any:
    return HelloReply(message=f"Hello {request.name}")


async def main() -> None:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        say_hello, request_deserializer=HelloRequest.FromString, response_serializer=HelloReply.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greet.Greeter", {"SayHello": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())

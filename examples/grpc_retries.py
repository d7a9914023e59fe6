"""A gRPC client that repeats what a tired server refuses.

    python -m engine serve                 # another terminal: the demo greeter
    python -m examples.grpc_retries localhost:8000

The policy is a service config, the same JSON that every official client reads.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from engine import Channel
from engine.demo.generated.greet_engine import GreeterStub
from engine.demo.generated.greet_pb2 import HelloRequest, StreamHellosRequest
from engine.grpc import CallDetails, ClientInterceptor, Reply, RpcError

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "greet.Greeter"}],
            "timeout": "5s",
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
    # After too many failures in a row nothing is retried, so that a sick server can recover.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


class Timing(ClientInterceptor):
    """Prints how long each call took, its retries included."""

    async def intercept_unary(self, details: CallDetails, request: Any, proceed: Any) -> Reply[Any]:
        began = trio.current_time()
        try:
            reply: Reply[Any] = await proceed(details, request)
        finally:
            print(f"{details.method.path} took {trio.current_time() - began:.3f} s")
        return reply


async def greet(channel: Channel) -> None:
    stub = GreeterStub(channel)
    try:
        with trio.move_on_after(10):  # the deadline of every call inside
            reply = await stub.say_hello(HelloRequest(name="Ada"), metadata=[("x-example", "retries")])
            print(reply.message)
            async with stub.stream_hellos(StreamHellosRequest(name="Ada", count=3)) as stream:
                async for each in stream:
                    print(each.message)
    except RpcError as error:
        print(f"failed with {error}")
        for cause in error.causes:  # one for each attempt: where, and what ended it
            print(f"  {cause}")


async def main(target: str) -> None:
    async with Channel(target, service_config=SERVICE_CONFIG, interceptors=(Timing(),)) as channel:
        await greet(channel)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "localhost:8000")

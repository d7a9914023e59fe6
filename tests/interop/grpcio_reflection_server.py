"""The greeter on a stock grpcio server, with grpcio's own health and reflection services unless `bare` is given.

Prints its port.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from examples.stock import greet_pb2, greet_pb2_grpc


class Greeter(greet_pb2_grpc.GreeterServicer):
    """Stock generated code."""

    def SayHello(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("x-got", dict(context.invocation_metadata()).get("x-a", "")),))
        if request.name == "nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "there is nobody")
        return greet_pb2.HelloReply(message=f"Hello {request.name}")

    def StreamHellos(self, request: Any, context: Any) -> Iterator[Any]:
        for _ in range(request.count):
            yield greet_pb2.HelloReply(message=f"Hello {request.name}")

    def CollectNames(self, requests: Any, context: Any) -> Any:
        return greet_pb2.HelloReply(message=" ".join(request.name for request in requests))

    def Chat(self, requests: Any, context: Any) -> Iterator[Any]:
        for request in requests:
            yield greet_pb2.HelloReply(message=request.name)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    greet_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    if sys.argv[1:] != ["bare"]:
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        names = ("greet.Greeter", health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()

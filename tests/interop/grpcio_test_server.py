"""grpc.testing.TestService on a stock grpcio server: `python -m tests.interop.grpcio_test_server sync|aio`.

Prints its port. Official semantics (grpc/grpc doc/interop-test-descriptions.md) as far as clients look.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from examples.conformance.generated import interop_test_pb2 as pb

INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
SERVICE = "grpc.testing.TestService"


def echoed(context: Any, key: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in context.invocation_metadata() if name == key)


def chunk(size: int) -> pb.StreamingOutputCallResponse:
    return pb.StreamingOutputCallResponse(payload=pb.Payload(body=bytes(size)))


def handlers(unary: Any, output: Any, collect: Any, duplex: Any, empty: Any) -> Any:
    kinds = {
        "EmptyCall": (grpc.unary_unary_rpc_method_handler, empty, pb.Empty, pb.Empty),
        "UnaryCall": (grpc.unary_unary_rpc_method_handler, unary, pb.SimpleRequest, pb.SimpleResponse),
        "StreamingOutputCall": (
            grpc.unary_stream_rpc_method_handler,
            output,
            pb.StreamingOutputCallRequest,
            pb.StreamingOutputCallResponse,
        ),
        "StreamingInputCall": (
            grpc.stream_unary_rpc_method_handler,
            collect,
            pb.StreamingInputCallRequest,
            pb.StreamingInputCallResponse,
        ),
        "FullDuplexCall": (
            grpc.stream_stream_rpc_method_handler,
            duplex,
            pb.StreamingOutputCallRequest,
            pb.StreamingOutputCallResponse,
        ),
    }
    made = {
        name: make(handler, request_deserializer=request.FromString, response_serializer=reply.SerializeToString)
        for name, (make, handler, request, reply) in kinds.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, made)


# -- threads ---------------------------------------------------------------------


def empty_call(request: Any, context: Any) -> Any:
    return pb.Empty()


def unary_call(request: Any, context: Any) -> Any:
    context.send_initial_metadata(echoed(context, INITIAL))
    context.set_trailing_metadata(echoed(context, TRAILING))
    if request.HasField("response_compressed") and request.response_compressed.value:
        context.set_compression(grpc.Compression.Gzip)
    if request.response_status.code:
        context.abort(grpc.StatusCode.UNKNOWN, request.response_status.message)
    return pb.SimpleResponse(payload=pb.Payload(body=bytes(request.response_size)))


def streaming_output(request: Any, context: Any) -> Any:
    if request.response_parameters and request.response_parameters[0].compressed.value:
        context.set_compression(grpc.Compression.Gzip)
    for wanted in request.response_parameters:
        yield chunk(wanted.size)


def streaming_input(requests: Any, context: Any) -> Any:
    return pb.StreamingInputCallResponse(aggregated_payload_size=sum(len(each.payload.body) for each in requests))


def full_duplex(requests: Any, context: Any) -> Any:
    context.send_initial_metadata(echoed(context, INITIAL))
    context.set_trailing_metadata(echoed(context, TRAILING))
    for request in requests:
        if request.response_status.code:
            context.abort(grpc.StatusCode.UNKNOWN, request.response_status.message)
        for wanted in request.response_parameters:
            time.sleep(wanted.interval_us / 1e6)
            yield chunk(wanted.size)


def serve_with_threads() -> None:
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handlers(unary_call, streaming_output, streaming_input, full_duplex, empty_call),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


# -- asyncio ---------------------------------------------------------------------


async def aio_empty_call(request: Any, context: Any) -> Any:
    return pb.Empty()


async def aio_unary_call(request: Any, context: Any) -> Any:
    if request.HasField("response_compressed") and request.response_compressed.value:
        context.set_compression(grpc.Compression.Gzip)
    await context.send_initial_metadata(echoed(context, INITIAL))
    context.set_trailing_metadata(echoed(context, TRAILING))
    if request.response_status.code:
        await context.abort(grpc.StatusCode.UNKNOWN, request.response_status.message)
    return pb.SimpleResponse(payload=pb.Payload(body=bytes(request.response_size)))


async def aio_streaming_output(request: Any, context: Any) -> Any:
    for wanted in request.response_parameters:
        yield chunk(wanted.size)


async def aio_streaming_input(requests: Any, context: Any) -> Any:
    total = 0
    async for request in requests:
        total += len(request.payload.body)
    return pb.StreamingInputCallResponse(aggregated_payload_size=total)


async def aio_full_duplex(requests: Any, context: Any) -> Any:
    await context.send_initial_metadata(echoed(context, INITIAL))
    context.set_trailing_metadata(echoed(context, TRAILING))
    async for request in requests:
        if request.response_status.code:
            await context.abort(grpc.StatusCode.UNKNOWN, request.response_status.message)
        for wanted in request.response_parameters:
            await asyncio.sleep(wanted.interval_us / 1e6)
            yield chunk(wanted.size)


async def serve_with_asyncio() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (handlers(aio_unary_call, aio_streaming_output, aio_streaming_input, aio_full_duplex, aio_empty_call),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "aio":
        asyncio.run(serve_with_asyncio())
    else:
        serve_with_threads()

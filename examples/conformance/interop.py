"""grpc.testing.TestService, with the semantics of grpc/grpc doc/interop-test-descriptions.md."""

from __future__ import annotations

import time

import trio

from engine import CallContext
from engine.errors import StatusCode
from engine.grpc import RequestStream

from .generated.interop_test_engine import TestServiceBase
from .generated.interop_test_engine import interop_test_pb2 as pb

ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
MAX_PAYLOAD = 256 * 1024 * 1024

Output = pb.StreamingOutputCallRequest
Response = pb.StreamingOutputCallResponse


async def echo_metadata(context: CallContext) -> None:
    """Before anything else: the initial metadata leaves at once."""
    context.set_trailing_metadata([(ECHO_TRAILING, each) for each in context.metadata.get_all(ECHO_TRAILING)])
    initial = [(ECHO_INITIAL, each) for each in context.metadata.get_all(ECHO_INITIAL)]
    if initial:
        await context.send_initial_metadata(initial)


def obey(request: pb.SimpleRequest | Output, context: CallContext) -> None:
    """End the call where the request asks for it, or for what there is not."""
    status = request.response_status
    if status.code:
        known = status.code in StatusCode.__members__.values()
        context.abort(StatusCode(status.code) if known else StatusCode.UNKNOWN, status.message)
    if request.response_type != pb.COMPRESSABLE:
        context.abort(StatusCode.INVALID_ARGUMENT, f"unknown response_type {request.response_type}")


def expect_compressed(request: pb.SimpleRequest | pb.StreamingInputCallRequest, context: CallContext) -> None:
    if request.expect_compressed.value and not context.request_compressed:
        context.abort(StatusCode.INVALID_ARGUMENT, "the message is not compressed, and expect_compressed says it is")


def payload(size: int, context: CallContext) -> pb.Payload:
    if not 0 <= size <= MAX_PAYLOAD:
        context.abort(StatusCode.INVALID_ARGUMENT, f"size must be 0 to {MAX_PAYLOAD}")
    return pb.Payload(body=bytes(size))


async def send_outputs(request: Output, context: CallContext) -> None:
    obey(request, context)
    for parameters in request.response_parameters:
        if parameters.interval_us > 0:
            await trio.sleep(parameters.interval_us / 1_000_000)
        if not parameters.compressed.value:
            context.disable_next_message_compression()
        await context.send(Response(payload=payload(parameters.size, context)))


class TestService(TestServiceBase):
    """UnimplementedCall is left out on purpose."""

    async def empty_call(self, request: pb.Empty, context: CallContext) -> pb.Empty:
        await echo_metadata(context)
        return pb.Empty()

    async def unary_call(self, request: pb.SimpleRequest, context: CallContext) -> pb.SimpleResponse:
        if request.response_compressed.value:
            context.set_compression("gzip")
        await echo_metadata(context)
        expect_compressed(request, context)
        obey(request, context)
        return pb.SimpleResponse(payload=payload(request.response_size, context))

    async def cacheable_unary_call(self, request: pb.SimpleRequest, context: CallContext) -> pb.SimpleResponse:
        await context.send_initial_metadata({"cache-control": "max-age=60, public"})
        return pb.SimpleResponse(payload=pb.Payload(body=str(time.time_ns()).encode()))

    async def streaming_output_call(self, request: Output, context: CallContext) -> None:
        if any(each.compressed.value for each in request.response_parameters):
            context.set_compression("gzip")
        await echo_metadata(context)
        await send_outputs(request, context)

    async def streaming_input_call(
        self, requests: RequestStream[pb.StreamingInputCallRequest], context: CallContext
    ) -> pb.StreamingInputCallResponse:
        total = 0
        async for request in requests:
            expect_compressed(request, context)
            total += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    async def full_duplex_call(self, requests: RequestStream[Output], context: CallContext) -> None:
        context.set_compression("gzip")  # any later message may ask for it, and the head leaves first
        await echo_metadata(context)
        async for request in requests:
            await send_outputs(request, context)

    async def half_duplex_call(self, requests: RequestStream[Output], context: CallContext) -> None:
        context.set_compression("gzip")
        for request in [each async for each in requests]:
            await send_outputs(request, context)

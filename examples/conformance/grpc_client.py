"""The client of the official gRPC interop tests, on `engine.Channel`.

    python -m examples.conformance.grpc_client --server_host=127.0.0.1 --server_port=N --test_case=large_unary

The cases and what they assert: grpc/grpc doc/interop-test-descriptions.md and
doc/http2-interop-test-descriptions.md. `probe_unary` and `probe_stream` print what came as one line of JSON.
Exits with 0 on success and 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import trio

from engine import Channel
from engine.config import ClientTlsConfig
from engine.grpc import Metadata, RpcError, StatusCode
from examples.conformance.generated import interop_test_pb2 as pb
from examples.conformance.generated.interop_test_engine import TestServiceStub, UnimplementedServiceStub

LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
PING_PONG = ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904))
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
METADATA: tuple[tuple[str, str | bytes], ...] = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
STATUS_TEXT = "test status message"
SPECIAL_TEXT = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
LIMIT = 60.0  # seconds for a case
SOAK_ITERATIONS = 10
TIMEOUT = 10.0  # seconds for a call whose server may never answer

Case = Callable[[TestServiceStub, Channel, float | None], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function  # type: ignore[attr-defined]  # all cases are functions
    return function


def check(condition: object, what: object) -> None:
    if not condition:
        raise AssertionError(str(what))


def payload(size: int) -> pb.Payload:
    return pb.Payload(body=bytes(size))


def wanted(*sizes: int) -> list[pb.ResponseParameters]:
    return [pb.ResponseParameters(size=size) for size in sizes]


def expect(error: RpcError, code: StatusCode, message: str | None = None) -> None:
    check(error.code is code, f"{error}, not {code.name}")
    check(message is None or error.message == message, repr(error.message))


async def large(stub: TestServiceStub, **options: Any) -> None:
    request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
    reply = await stub.unary_call(request, **options)
    check(reply.payload.body == bytes(LARGE_RESPONSE), len(reply.payload.body))


@case
async def empty_unary(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    check(await stub.empty_call(pb.Empty()) == pb.Empty(), "not empty")


@case
async def large_unary(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    await large(stub)


@case
async def client_streaming(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    async with stub.streaming_input_call() as stream:
        for _, size in PING_PONG:
            await stream.send(pb.StreamingInputCallRequest(payload=payload(size)))
        reply = await stream.reply()
    check(reply.aggregated_payload_size == 74922, reply)


@case
async def server_streaming(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    sizes = [size for size, _ in PING_PONG]
    async with stub.streaming_output_call(pb.StreamingOutputCallRequest(response_parameters=wanted(*sizes))) as stream:
        got = [len(reply.payload.body) async for reply in stream]
    check(got == sizes, got)


@case
async def ping_pong(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    async with stub.full_duplex_call() as stream:
        for size, body in PING_PONG:
            request = pb.StreamingOutputCallRequest(response_parameters=wanted(size), payload=payload(body))
            await stream.send(request)
            reply = await stream.receive()
            check(reply is not None and len(reply.payload.body) == size, reply)
        await stream.done_writing()
        check(await stream.receive() is None, "more than four responses")


@case
async def empty_stream(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    async with stub.full_duplex_call() as stream:
        await stream.done_writing()
        check(await stream.receive() is None, "a response")


@case
async def client_compressed_unary(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
    request.expect_compressed.value = True
    try:
        await stub.unary_call(request)
    except RpcError as error:
        expect(error, StatusCode.INVALID_ARGUMENT)
    else:
        raise AssertionError("the server does not look at the compressed flag")
    check(len((await stub.unary_call(request, compression="gzip")).payload.body) == LARGE_RESPONSE, "size")
    request.expect_compressed.value = False
    check(len((await stub.unary_call(request)).payload.body) == LARGE_RESPONSE, "size")


@case
async def server_compressed_unary(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    for compressed in (True, False):
        request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
        request.response_compressed.value = compressed
        check(len((await stub.unary_call(request)).payload.body) == LARGE_RESPONSE, "size")


@case
async def client_compressed_streaming(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    first = pb.StreamingInputCallRequest(payload=payload(27182), expect_compressed=pb.BoolValue(value=True))
    try:
        async with stub.streaming_input_call() as stream:
            await stream.send(first)
            await stream.reply()
    except RpcError as error:
        expect(error, StatusCode.INVALID_ARGUMENT)
    else:
        raise AssertionError("the server does not look at the compressed flag")
    async with stub.streaming_input_call(compression="gzip") as stream:
        await stream.send(first)
        await stream.send(pb.StreamingInputCallRequest(payload=payload(45904)), compress=False)
        reply = await stream.reply()
    check(reply.aggregated_payload_size == 73086, reply)


@case
async def server_compressed_streaming(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    request = pb.StreamingOutputCallRequest(response_parameters=wanted(31415, 92653))
    request.response_parameters[0].compressed.value = True
    request.response_parameters[1].compressed.value = False
    async with stub.streaming_output_call(request) as stream:
        got = [len(reply.payload.body) async for reply in stream]
    check(got == [31415, 92653], got)


def check_metadata(initial: Metadata, trailing: Metadata) -> None:
    check(initial.get_all(INITIAL) == [METADATA[0][1]], initial)
    check(trailing.get_all(TRAILING) == [METADATA[1][1]], trailing)


@case
async def custom_metadata(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
    reply = await stub.unary_call.with_call(request, metadata=METADATA)
    check_metadata(reply.initial_metadata, reply.trailing_metadata)
    async with stub.full_duplex_call(metadata=METADATA) as stream:
        await stream.send(
            pb.StreamingOutputCallRequest(response_parameters=wanted(LARGE_RESPONSE), payload=payload(LARGE_REQUEST))
        )
        await stream.done_writing()
        check(len([each async for each in stream]) == 1, "one response was due")
        check_metadata(await stream.initial_metadata(), stream.trailing_metadata)


@case
async def status_code_and_message(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    status = pb.EchoStatus(code=StatusCode.UNKNOWN, message=STATUS_TEXT)
    try:
        await stub.unary_call(pb.SimpleRequest(response_status=status))
    except RpcError as error:
        expect(error, StatusCode.UNKNOWN, STATUS_TEXT)
    else:
        raise AssertionError("unary: no error")
    try:
        async with stub.full_duplex_call() as stream:
            await stream.send(pb.StreamingOutputCallRequest(response_status=status))
            await stream.done_writing()
            check(await stream.receive() is not None, "stream: no error")
    except RpcError as error:
        expect(error, StatusCode.UNKNOWN, STATUS_TEXT)


@case
async def special_status_message(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    status = pb.EchoStatus(code=StatusCode.UNKNOWN, message=SPECIAL_TEXT)
    try:
        await stub.unary_call(pb.SimpleRequest(response_status=status))
    except RpcError as error:
        expect(error, StatusCode.UNKNOWN, SPECIAL_TEXT)
    else:
        raise AssertionError("no error")


@case
async def unimplemented_method(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    try:
        await stub.unimplemented_call(pb.Empty())
    except RpcError as error:
        expect(error, StatusCode.UNIMPLEMENTED)
    else:
        raise AssertionError("no error")


@case
async def unimplemented_service(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    try:
        await UnimplementedServiceStub(channel).unimplemented_call(pb.Empty())
    except RpcError as error:
        expect(error, StatusCode.UNIMPLEMENTED)
    else:
        raise AssertionError("no error")


@case
async def cancel_after_begin(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    async with stub.streaming_input_call() as stream:
        stream.cancel()
        try:
            await stream.reply()
        except RpcError as error:
            expect(error, StatusCode.CANCELLED)
        else:
            raise AssertionError("no error")


@case
async def cancel_after_first_response(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    async with stub.full_duplex_call() as stream:
        size, body = PING_PONG[0]
        await stream.send(pb.StreamingOutputCallRequest(response_parameters=wanted(size), payload=payload(body)))
        check(await stream.receive() is not None, "no response")
        stream.cancel()
        try:
            await stream.receive()
        except RpcError as error:
            expect(error, StatusCode.CANCELLED)
        else:
            raise AssertionError("no error")


@case
async def timeout_on_sleeping_server(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    try:
        async with stub.full_duplex_call(timeout=0.001) as stream:
            await stream.send(pb.StreamingOutputCallRequest(payload=payload(27182)))
            await stream.receive()
    except RpcError as error:
        expect(error, StatusCode.DEADLINE_EXCEEDED)
    else:
        raise AssertionError("no error")


@case
async def rpc_soak(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    for _ in range(SOAK_ITERATIONS):
        await large(stub, timeout=limit)


@case
async def concurrent_large_unary(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    await side_by_side(stub, 1000)


# -- HTTP/2 ------------------------------------------------------------------------


async def side_by_side(stub: TestServiceStub, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(large, stub)


@case
async def goaway(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    await large(stub)
    await trio.sleep(1)
    await large(stub)


async def must_fail(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    try:
        await large(stub)
    except RpcError:
        return
    raise AssertionError("no error")


@case
async def max_streams(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    await large(stub)
    await side_by_side(stub, 10)


CASES |= dict.fromkeys(("rst_after_header", "rst_during_data", "rst_after_data"), must_fail)
CASES |= dict.fromkeys(("ping", "data_frame_padding", "no_df_padding_sanity_test"), large_unary)


# -- probes ------------------------------------------------------------------------


def pairs(metadata: Iterable[tuple[str, str | bytes]]) -> list[list[str]]:
    return [[key, value if isinstance(value, str) else value.hex()] for key, value in metadata]


@case
async def probe_unary(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    found: dict[str, Any] = {"code": "OK", "details": "", "size": 0}
    try:
        reply = await stub.unary_call.with_call(pb.SimpleRequest(response_size=10), timeout=limit)
        found["size"] = len(reply.message.payload.body)
        found |= {"initial": pairs(reply.initial_metadata), "trailing": pairs(reply.trailing_metadata)}
    except RpcError as error:
        found |= {"code": error.code.name, "details": error.message}
        found |= {"initial": pairs(error.initial_metadata), "trailing": pairs(error.trailers)}
    print(json.dumps(found))


@case
async def probe_stream(stub: TestServiceStub, channel: Channel, limit: float | None) -> None:
    sizes: list[int] = []
    found: dict[str, Any] = {"code": "OK", "details": "", "sizes": sizes}
    request = pb.StreamingOutputCallRequest(response_parameters=wanted(10, 10, 10))
    try:
        async with stub.streaming_output_call(request, timeout=limit) as stream:
            async for reply in stream:
                sizes.append(len(reply.payload.body))  # noqa: PERF401  # what came before an error counts
    except RpcError as error:
        found |= {"code": error.code.name, "details": error.message}
    print(json.dumps(found))


async def run(name: str, target: str, limit: float | None, **options: Any) -> None:
    with trio.fail_after(LIMIT + (limit or 0)):
        async with Channel(target, **options) as channel:
            await CASES[name](TestServiceStub(channel), channel, limit)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.conformance.grpc_client")
    parser.add_argument("--server_host", default="127.0.0.1")
    parser.add_argument("--server_port", type=int, required=True)
    parser.add_argument("--server_host_override", help="the name in :authority and in the certificate")
    parser.add_argument("--test_case", choices=sorted(CASES), required=True)
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for one call")
    parser.add_argument("--use_tls", choices=("true", "false"), default="false")
    parser.add_argument("--ca_file", help="PEM of the authorities to trust, instead of the system's")
    options = parser.parse_args()
    host = f"[{options.server_host}]" if ":" in options.server_host else options.server_host
    channel: dict[str, Any] = {"authority": options.server_host_override}
    if options.use_tls == "true":
        channel["tls"] = ClientTlsConfig(ca_file=options.ca_file)
    target = f"{host}:{options.server_port}"
    try:
        trio.run(partial(run, options.test_case, target, options.timeout, **channel))
    except Exception as error:  # whatever it is, the case has failed
        print(f"{options.test_case}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

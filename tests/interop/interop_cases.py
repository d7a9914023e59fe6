"""The official interop cases, as a client of grpcio's own stubs plays them.

Owns: one function a case, named as grpc/grpc doc/interop-test-descriptions.md names it; each takes a stub
and the messages' module, and asserts what the description asserts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

LIMIT = 30  # seconds for one call
LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
REQUEST_SIZES, RESPONSE_SIZES = (27_182, 8, 1_828, 45_904), (31_415, 9, 2_653, 58_979)
ECHO_INITIAL, ECHO_TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
METADATA = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab"))
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
GZIP, PLAIN = grpc.Compression.Gzip, grpc.Compression.NoCompression

Case = Callable[[Any, Any], None]
CASES: dict[str, Case] = {}


def case(play: Case) -> Case:
    CASES[play.__name__] = play
    return play


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call succeeded")


def large(pb: Any, **fields: Any) -> Any:
    return pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=pb.Payload(body=bytes(LARGE_REQUEST)), **fields)


def outputs(pb: Any, *sizes: int, request: int = 0, **fields: Any) -> Any:
    parameters = [pb.ResponseParameters(size=size) for size in sizes]
    return pb.StreamingOutputCallRequest(
        response_parameters=parameters, payload=pb.Payload(body=bytes(request)), **fields
    )


def sizes(replies: Any) -> list[int]:
    return [len(each.payload.body) for each in replies]


@case
def empty_unary(stub: Any, pb: Any) -> None:
    assert stub.EmptyCall(pb.Empty(), timeout=LIMIT).SerializeToString() == b""


@case
def large_unary(stub: Any, pb: Any) -> None:
    reply = stub.UnaryCall(large(pb), timeout=LIMIT)
    assert reply.payload.body == bytes(LARGE_RESPONSE)


@case
def cacheable_unary(stub: Any, pb: Any) -> None:
    reply, call = stub.CacheableUnaryCall.with_call(pb.SimpleRequest(), timeout=LIMIT)
    assert ("cache-control", "max-age=60, public") in [tuple(each) for each in call.initial_metadata()]
    assert abs(int(reply.payload.body) - time.time_ns()) < 60 * 10**9


@case
def client_compressed_unary(stub: Any, pb: Any) -> None:
    compressed, plain = (large(pb, expect_compressed=pb.BoolValue(value=value)) for value in (True, False))
    assert code_of(lambda: stub.UnaryCall(compressed, timeout=LIMIT, compression=PLAIN))[0].name == "INVALID_ARGUMENT"
    for request, compression in ((compressed, GZIP), (plain, PLAIN)):
        assert len(stub.UnaryCall(request, timeout=LIMIT, compression=compression).payload.body) == LARGE_RESPONSE


@case
def server_compressed_unary(stub: Any, pb: Any) -> None:
    for value in (True, False):
        request = large(pb, response_compressed=pb.BoolValue(value=value))
        assert len(stub.UnaryCall(request, timeout=LIMIT).payload.body) == LARGE_RESPONSE


@case
def client_streaming(stub: Any, pb: Any) -> None:
    requests = [pb.StreamingInputCallRequest(payload=pb.Payload(body=bytes(size))) for size in REQUEST_SIZES]
    assert stub.StreamingInputCall(iter(requests), timeout=LIMIT).aggregated_payload_size == 74_922


@case
def client_compressed_streaming(stub: Any, pb: Any) -> None:
    def request(size: int) -> Any:
        expect = pb.BoolValue(value=True)
        return pb.StreamingInputCallRequest(payload=pb.Payload(body=bytes(size)), expect_compressed=expect)

    probe = code_of(lambda: stub.StreamingInputCall(iter([request(27_182)]), timeout=LIMIT, compression=PLAIN))
    assert probe[0].name == "INVALID_ARGUMENT"
    total = stub.StreamingInputCall(iter([request(27_182), request(45_904)]), timeout=LIMIT, compression=GZIP)
    assert total.aggregated_payload_size == 73_086


@case
def server_streaming(stub: Any, pb: Any) -> None:
    assert sizes(stub.StreamingOutputCall(outputs(pb, *RESPONSE_SIZES), timeout=LIMIT)) == list(RESPONSE_SIZES)


@case
def server_compressed_streaming(stub: Any, pb: Any) -> None:
    request = outputs(pb, 31_415, 92_653)
    request.response_parameters[0].compressed.value = True
    request.response_parameters[1].compressed.value = False
    assert sizes(stub.StreamingOutputCall(request, timeout=LIMIT)) == [31_415, 92_653]


@case
def ping_pong(stub: Any, pb: Any) -> None:
    turn = threading.Semaphore(1)

    def requests() -> Iterator[Any]:
        for request, response in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
            assert turn.acquire(timeout=LIMIT)
            yield outputs(pb, response, request=request)

    received = []
    for reply in stub.FullDuplexCall(requests(), timeout=LIMIT):
        received.append(len(reply.payload.body))
        turn.release()
    assert received == list(RESPONSE_SIZES)


@case
def half_duplex(stub: Any, pb: Any) -> None:
    requests = [outputs(pb, size) for size in RESPONSE_SIZES]
    assert sizes(stub.HalfDuplexCall(iter(requests), timeout=LIMIT)) == list(RESPONSE_SIZES)


@case
def empty_stream(stub: Any, pb: Any) -> None:
    assert list(stub.FullDuplexCall(iter(()), timeout=LIMIT)) == []


@case
def custom_metadata(stub: Any, pb: Any) -> None:
    _, unary = stub.UnaryCall.with_call(large(pb), metadata=METADATA, timeout=LIMIT)
    duplex = stub.FullDuplexCall(iter([outputs(pb, LARGE_RESPONSE)]), metadata=METADATA, timeout=LIMIT)
    assert sizes(duplex) == [LARGE_RESPONSE]
    for call in (unary, duplex):
        assert METADATA[0] in [tuple(each) for each in call.initial_metadata()]
        assert METADATA[1] in [tuple(each) for each in call.trailing_metadata()]


@case
def status_code_and_message(stub: Any, pb: Any) -> None:
    status = pb.EchoStatus(code=2, message="test status message")
    expected = (grpc.StatusCode.UNKNOWN, "test status message")
    assert code_of(lambda: stub.UnaryCall(pb.SimpleRequest(response_status=status), timeout=LIMIT)) == expected
    request = outputs(pb, response_status=status)
    assert code_of(lambda: list(stub.FullDuplexCall(iter([request]), timeout=LIMIT))) == expected


@case
def special_status_message(stub: Any, pb: Any) -> None:
    request = pb.SimpleRequest(response_status=pb.EchoStatus(code=2, message=SPECIAL))
    assert code_of(lambda: stub.UnaryCall(request, timeout=LIMIT)) == (grpc.StatusCode.UNKNOWN, SPECIAL)


@case
def unimplemented_method(stub: Any, pb: Any) -> None:
    assert code_of(lambda: stub.UnimplementedCall(pb.Empty(), timeout=LIMIT))[0].name == "UNIMPLEMENTED"


@case
def cancel_after_begin(stub: Any, pb: Any) -> None:
    never = threading.Event()
    call = stub.StreamingInputCall.future(iter(never.wait, True), timeout=LIMIT)
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    never.set()


@case
def cancel_after_first_response(stub: Any, pb: Any) -> None:
    done = threading.Event()

    def requests() -> Iterator[Any]:
        yield outputs(pb, RESPONSE_SIZES[0], request=REQUEST_SIZES[0])
        done.wait(LIMIT)

    call = stub.FullDuplexCall(requests(), timeout=LIMIT)
    assert len(next(call).payload.body) == RESPONSE_SIZES[0]
    call.cancel()
    done.set()
    assert code_of(lambda: next(call))[0] is grpc.StatusCode.CANCELLED


@case
def timeout_on_sleeping_server(stub: Any, pb: Any) -> None:
    request = outputs(pb, 31_415)
    request.response_parameters[0].interval_us = 10_000_000
    code = code_of(lambda: list(stub.FullDuplexCall(iter([request]), timeout=0.05)))[0]
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


@case
def concurrent_large_unary(stub: Any, pb: Any) -> None:
    calls = [stub.UnaryCall.future(large(pb), timeout=LIMIT) for _ in range(1000)]
    assert {len(call.result().payload.body) for call in calls} == {LARGE_RESPONSE}


@case
def rpc_soak(stub: Any, pb: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: large_unary(stub, pb), range(40)))) == 40

"""google.rpc.Status in grpc-status-details-bin: packed, read, and in agreement with grpc-status."""

from __future__ import annotations

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from engine.demo.generated.greet_pb2 import HelloReply, HelloRequest
from engine.errors import LocalProtocolError, RpcError, StatusCode
from engine.grpc import CallContext, rich_error, rich_status
from tests.grpc.calls import ADA, SAY, call, saying

VIOLATION = error_details_pb2.BadRequest(
    field_violations=[error_details_pb2.BadRequest.FieldViolation(field="name", description="is empty")]
)


def test_an_error_carries_messages_as_googles_own_code_reads_them() -> None:
    wrapped = any_pb2.Any()
    wrapped.Pack(HelloRequest(name="x"))
    error = rich_error(StatusCode.INVALID_ARGUMENT, "bad", VIOLATION, wrapped)
    assert (error.code, error.message) == (StatusCode.INVALID_ARGUMENT, "bad")
    status = status_pb2.Status.FromString(error.details)
    assert (status.code, status.message) == (3, "bad")
    found = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(found)
    assert found == VIOLATION
    assert status.details[1] == wrapped


def test_what_an_error_carries_is_read_by_type() -> None:
    status = rich_status(rich_error(StatusCode.ABORTED, "m", VIOLATION, HelloRequest(name="x"), HelloRequest(name="y")))
    assert status is not None
    assert (status.code, status.message, len(status.details)) == (10, "m", 3)
    assert [each.name for each in status.unpack(HelloRequest)] == ["x", "y"]
    assert list(status.unpack(error_details_pb2.BadRequest)) == [VIOLATION]
    assert list(status.unpack(HelloReply)) == []


@pytest.mark.parametrize("details", [None, b"\xff\xff", b"\x1a\x01\xff"])
def test_absent_or_broken_details_are_none(details: bytes | None) -> None:
    assert rich_status(RpcError(StatusCode.ABORTED, "m", details)) is None


def test_a_broken_detail_is_left_out() -> None:
    broken = any_pb2.Any(type_url="type.googleapis.com/greet.HelloRequest", value=b"\xff")
    status = rich_status(rich_error(StatusCode.ABORTED, "m", broken, HelloRequest(name="y")))
    assert status is not None
    assert [each.name for each in status.unpack(HelloRequest)] == ["y"]


def test_an_error_cannot_be_ok() -> None:
    with pytest.raises(LocalProtocolError, match="other than OK"):
        rich_error(StatusCode.OK, "fine")


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (rich_error(StatusCode.ABORTED, "m").details, "details have the code 10, the error has 9"),
        (b"\xff\xff", "no serialised google.rpc.Status"),
    ],
)
async def test_details_must_agree_with_the_status(details: bytes, said: str) -> None:
    seen: list[str] = []

    async def handler(request: HelloRequest, context: CallContext) -> HelloReply:
        with pytest.raises(LocalProtocolError) as caught:
            context.abort(StatusCode.FAILED_PRECONDITION, "m", details=details)
        seen.append(str(caught.value))
        right = rich_error(StatusCode.FAILED_PRECONDITION, "m", VIOLATION)
        context.abort(right.code, right.message, details=right.details)

    exchange = await call(saying(handler), SAY, ADA)
    assert exchange.grpc_status == (StatusCode.FAILED_PRECONDITION, "m")
    assert said in seen[0]

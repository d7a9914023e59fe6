"""Rich errors: `google.rpc.Status` in the trailer `grpc-status-details-bin`.

Owns: packing messages into an `RpcError` and reading them from one. The messages themselves
(google.rpc.BadRequest, RetryInfo, ErrorInfo ...) come from the package googleapis-common-protos, or are
any of yours. Spec: google/rpc/status.proto; grpc.io/docs/guides/error, "Richer error model".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from engine.errors import LocalProtocolError, RpcError, StatusCode
from engine.grpc.generated.engine import rich_status_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["RichStatus", "check_code", "rich_error", "rich_status"]

M = TypeVar("M", bound="Message")


@dataclass(frozen=True, slots=True)
class RichStatus:
    """A `google.rpc.Status`, read."""

    code: int  # of a StatusCode, as sent
    message: str
    details: tuple[any_pb2.Any, ...]

    def unpack(self, kind: type[M]) -> Iterator[M]:
        """The details of one message type, in order; broken ones are left out."""
        name = kind.DESCRIPTOR.full_name
        for detail in self.details:
            if detail.type_url.rpartition("/")[2] == name:
                try:
                    yield kind.FromString(detail.value)
                except DecodeError:
                    continue


def rich_error(code: StatusCode, message: str, *details: Message) -> RpcError:
    """An error to raise, with any messages for the client to act upon.

    Args:
        details: each is packed into a google.protobuf.Any, unless it is one.

    Raises:
        LocalProtocolError: the code is OK.
    """
    if code is StatusCode.OK:
        raise LocalProtocolError("an error needs a status other than OK; return from the handler instead")
    packed: list[bytes] = []
    for detail in details:
        if detail.DESCRIPTOR.full_name == "google.protobuf.Any":
            packed.append(detail.SerializeToString())
        else:
            wrapped = any_pb2.Any(
                type_url=f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", value=detail.SerializeToString()
            )
            packed.append(wrapped.SerializeToString())
    status = rich_status_pb2.RichStatus(code=int(code), message=message, details=packed)
    return RpcError(code, message, status.SerializeToString())


def rich_status(error: RpcError | bytes) -> RichStatus | None:
    """What an error, or the value of `grpc-status-details-bin`, carries; None where it is absent or broken."""
    data = error.details if isinstance(error, RpcError) else error
    if data is None:
        return None
    try:
        status = rich_status_pb2.RichStatus.FromString(data)
        return RichStatus(status.code, status.message, tuple(any_pb2.Any.FromString(each) for each in status.details))
    except DecodeError:
        return None


def check_code(code: StatusCode, details: bytes) -> None:
    """The status in `grpc-status-details-bin` must have the code of `grpc-status`.

    Raises:
        LocalProtocolError: it has another one, or is no google.rpc.Status.
    """
    status = rich_status(details)
    if status is None:
        raise LocalProtocolError("details are no serialised google.rpc.Status; make them with grpc.rich_error")
    if status.code != int(code):
        raise LocalProtocolError(
            f"details have the code {status.code}, the error has {int(code)} ({code.name}); give both the same"
        )

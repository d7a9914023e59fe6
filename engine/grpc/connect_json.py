"""Messages in Connect's two serialisations, from bytes and back.

Owns the mapping of protobuf messages to JSON as Connect uses it. Unknown fields are ignored, as by Connect's
own servers: a newer client must not fail. Spec: protobuf.dev/programming-guides/json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from engine.errors import RpcError, StatusCode
from engine.wire.grpc import connect

if TYPE_CHECKING:
    from google.protobuf.message import Message

M = TypeVar("M")

_WHITESPACE = " \t\r\n"  # of RFC 8259


def speaks_json(message_type: Any) -> bool:
    """Whether messages of this type can be JSON: those of protobuf can."""
    return hasattr(message_type, "DESCRIPTOR")


def decode_json(message_type: type[Message]) -> Callable[[bytes], Message]:
    """A function that reads a message from JSON.

    It raises `RpcError` INVALID_ARGUMENT for what is not one.
    """

    # Timestamp, Value and the like have forms of their own; json_format takes "" and [] for any other message too.
    special = message_type.DESCRIPTOR.full_name.startswith("google.protobuf.")

    def decode(data: bytes) -> Message:
        try:
            text = data.decode("utf-8")
            if not special and text.lstrip(_WHITESPACE)[:1] != "{":
                raise ValueError("a message is an object")
            return json_format.Parse(text, message_type(), ignore_unknown_fields=True)
        except (json_format.Error, ValueError, RecursionError) as error:
            reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"the request does not parse as JSON: {reason}") from error

    return decode


def encode_json(message: Message) -> bytes:
    """A message as JSON, with names in camel case and without fields that have their default."""
    return connect.encode_json(json_format.MessageToDict(message))


def decode_proto(decode: Callable[[bytes], M]) -> Callable[[bytes], M]:
    """`decode`, but a message that does not parse is INVALID_ARGUMENT, as in Connect's own servers."""

    def checked(data: bytes) -> M:
        try:
            return decode(data)
        except DecodeError as error:
            message = "the request does not parse as the message type of this method"
            raise RpcError(StatusCode.INVALID_ARGUMENT, message) from error

    return checked

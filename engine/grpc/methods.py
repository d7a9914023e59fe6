"""Methods and services as their .proto files have them: paths, kinds and types.

Owns: the descriptions that generated code holds, and what a method is once something runs it. Never runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["BoundMethod", "MethodKind", "MethodSpec", "ServiceSpec"]


class MethodKind(Enum):
    """Which sides of a call are streams."""

    UNARY = "unary"
    SERVER_STREAMING = "server streaming"
    CLIENT_STREAMING = "client streaming"
    BIDIRECTIONAL = "bidirectional"

    @property
    def request_streaming(self) -> bool:
        return self in (MethodKind.CLIENT_STREAMING, MethodKind.BIDIRECTIONAL)

    @property
    def response_streaming(self) -> bool:
        return self in (MethodKind.SERVER_STREAMING, MethodKind.BIDIRECTIONAL)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method, as its .proto file has it."""

    path: str  # "/greet.Greeter/SayHello"
    kind: MethodKind
    request_type: type[Message]
    response_type: type[Message]
    name: str  # of the handler: "say_hello"
    no_side_effects: bool = False  # option idempotency_level = NO_SIDE_EFFECTS


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service."""

    name: str  # "greet.Greeter"
    methods: tuple[MethodSpec, ...]
    file: str = ""  # the .proto file, as the descriptor pool knows it: "greet.proto"


@dataclass(frozen=True, slots=True)
class BoundMethod:
    """A method and what runs it."""

    spec: MethodSpec
    handler: Callable[..., Any]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    request_streaming: bool  # of `spec.kind`: read at every call
    response_streaming: bool
    timeout: float | None = None  # seconds; see MethodOptions
    max_receive_message_size: int | None = None  # bytes; None: grpc.max_receive_message_size

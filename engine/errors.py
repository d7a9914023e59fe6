"""The whole exception tree, and the one table that maps it to what each protocol answers.

Every message ends with what to change. `answer_for` is the only place that decides which HTTP
status, HTTP/2 error code, WebSocket close code, gRPC status or hub error text an exception
becomes; the drivers and endpoints only ask it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

__all__ = [
    "Answer",
    "CallCause",
    "ConfigError",
    "ConnectionClosed",
    "EngineError",
    "HTTPError",
    "HandshakeRejected",
    "Http2Code",
    "HubError",
    "LimitExceeded",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "RpcError",
    "StartupError",
    "StatusCode",
    "answer_for",
]


class StatusCode(IntEnum):
    """The gRPC status codes (grpc/grpc doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Http2Code(IntEnum):
    """The HTTP/2 error codes (RFC 9113 section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class LimitKind(StrEnum):
    """What a limit guards, which decides how exceeding it is answered."""

    MESSAGE_SIZE = "message_size"  # 413 · 1009 · RESOURCE_EXHAUSTED
    HEAD_SIZE = "head_size"  # 431
    TARGET_SIZE = "target_size"  # 414
    RATE = "rate"  # 429 · ENHANCE_YOUR_CALM · 1008
    CAPACITY = "capacity"  # 503 · REFUSED_STREAM · 1013
    TIMEOUT = "timeout"  # 408 · CANCEL · 1008


class EngineError(Exception):
    """The root of all that the engine raises."""


class ConfigError(EngineError):
    """A setting that cannot be used; the command line exits with 2.

    Attributes:
        key: the setting's full name, such as `server.port`.
        value: what was given.
        hint: what to give instead.
    """

    def __init__(self, key: str, value: object, hint: str) -> None:
        given = "" if value is None else f" = {value!r}"
        super().__init__(f"{key}{given}: {hint}")
        self.key = key
        self.value = value
        self.hint = hint


class StartupError(EngineError):
    """The server could not start (bind, import, TLS, lifespan); the command line exits with 3."""


class ProtocolError(EngineError):
    """Bytes or calls that the protocol forbids."""


class LocalProtocolError(ProtocolError):
    """We, or the user's code, did what the protocol forbids at this point: a bug to mend."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol.

    Attributes:
        http_status: what an HTTP/1.1 request of this kind is answered with.
        http2_code: the HTTP/2 error code of the RST_STREAM or GOAWAY that answers it.
        websocket_code: the close code that answers it.
    """

    def __init__(
        self,
        message: str,
        *,
        http_status: int = 400,
        http2_code: Http2Code = Http2Code.PROTOCOL_ERROR,
        websocket_code: int = 1002,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.http2_code = http2_code
        self.websocket_code = websocket_code


def _quantity(name: str, value: float) -> str:
    """A limit's value as people read it: `4 MiB` or `4194305 bytes` for a setting in bytes, `2048` for a count."""
    number = f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
    if not name.endswith(("_size", "_block", "_list")):
        return number
    for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if value >= size and value % size == 0:
            return f"{value / size:.0f} {unit}"
    return f"{number} bytes"


class LimitExceeded(EngineError):
    """A named limit of `engine.config` was hit.

    Attributes:
        name: the setting, such as `websocket.max_message_size`.
        limit: its value.
        observed: what was seen, or None where it is not known.
        kind: what the limit guards.

    Args:
        what: was too much, instead of the kind.
        hint: what to change, where that is not a setting of the server.
    """

    def __init__(
        self,
        name: str,
        limit: float,
        observed: float | None = None,
        *,
        kind: LimitKind,
        what: str = "",
        hint: str = "",
    ) -> None:
        subject = what or kind.value.replace("_", " ")
        seen = "" if observed is None else f" of {_quantity(name, observed)}"
        super().__init__(
            f"{subject}{seen} exceeds {name} ({_quantity(name, limit)}); "
            + (hint or f"send less, or raise {name} on the server")
        )
        self.name = name
        self.limit = limit
        self.observed = observed
        self.kind = kind


class ConnectionClosed(EngineError):
    """The connection ended.

    Attributes:
        code: the WebSocket close code, 1006 where none arrived.
        reason: the peer's text, or why we closed.
        clean: True after a complete close handshake.
    """

    def __init__(self, code: int = 1006, reason: str = "", *, clean: bool = False) -> None:
        how = "closed" if clean else "lost"
        super().__init__(f"connection {how}: {code}" + (f" {reason}" if reason else ""))
        self.code = code
        self.reason = reason
        self.clean = clean


class HandshakeRejected(EngineError):
    """Client side: the server answered the WebSocket handshake with something other than a switch.

    Attributes:
        status: the HTTP status.
        headers: the response's fields, names in lower case.
        body: the first bytes of the body.
    """

    def __init__(
        self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", *, message: str = ""
    ) -> None:
        super().__init__(
            message or f"the server answered the handshake with {status}; check the URL, the path and credentials"
        )
        self.status = status
        self.headers = tuple(headers)
        self.body = body


class HTTPError(EngineError):
    """Raise it in a handler to answer with this status and text.

    Attributes:
        status: 400 to 599.
        message: the body, plain text.
        headers: further response fields.
    """

    def __init__(self, status: int, message: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message or f"HTTP {status}")
        self.status = status
        self.message = message
        self.headers = tuple(headers)


@dataclass(frozen=True, slots=True)
class CallCause:
    """Client side: how one attempt of a gRPC call came to its end."""

    address: str  # "127.0.0.1:50051"; empty where no connection was there
    attempt: int  # from 1
    ended_by: str  # "RST_STREAM REFUSED_STREAM", "trailers", "connection lost: ..."

    def __str__(self) -> str:
        return f"attempt {self.attempt} at {self.address or 'no address'}: {self.ended_by}"


class RpcError(EngineError):
    """Raise it in a gRPC handler to end the call with this status; a client's call raises it.

    Attributes:
        code: the gRPC status.
        message: `grpc-message`, any text.
        details: a serialised `google.rpc.Status`, or None.
        trailers: further trailing metadata.
        initial_metadata: client side: what the server sent before its first message.
        causes: client side: how each attempt of the call ended, the last one last.
    """

    initial_metadata: Sequence[tuple[str, str | bytes]] = ()
    causes: tuple[CallCause, ...] = ()

    def __init__(
        self,
        code: StatusCode,
        message: str = "",
        details: bytes | None = None,
        trailers: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        super().__init__(f"{code.name}: {message}" if message else code.name)
        self.code = code
        self.message = message
        self.details = details
        self.trailers = tuple(trailers)


class HubError(EngineError):
    """Raise it in a hub method: its text reaches the client (ASP.NET Core's HubException)."""

    @property
    def message(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one exception becomes on each protocol."""

    http_status: int
    http2_code: Http2Code
    websocket_code: int
    grpc_code: StatusCode
    hub_text: str | None  # None: the fixed text of the hub protocol, nothing of ours
    public: bool  # True: the exception's message may be shown to the peer


_BY_LIMIT: dict[LimitKind, tuple[int, Http2Code, int, StatusCode]] = {
    LimitKind.MESSAGE_SIZE: (413, Http2Code.CANCEL, 1009, StatusCode.RESOURCE_EXHAUSTED),
    LimitKind.HEAD_SIZE: (431, Http2Code.PROTOCOL_ERROR, 1009, StatusCode.RESOURCE_EXHAUSTED),
    LimitKind.TARGET_SIZE: (414, Http2Code.PROTOCOL_ERROR, 1009, StatusCode.RESOURCE_EXHAUSTED),
    LimitKind.RATE: (429, Http2Code.ENHANCE_YOUR_CALM, 1008, StatusCode.RESOURCE_EXHAUSTED),
    LimitKind.CAPACITY: (503, Http2Code.REFUSED_STREAM, 1013, StatusCode.UNAVAILABLE),
    LimitKind.TIMEOUT: (408, Http2Code.CANCEL, 1008, StatusCode.DEADLINE_EXCEEDED),
}

# Nearest gRPC status of an HTTP status (grpc/grpc doc/http-grpc-status-mapping.md, and the
# statuses that only a handler can choose), and back (the table of the Connect protocol).
_GRPC_OF_HTTP: dict[int, StatusCode] = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    431: StatusCode.INTERNAL,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}
_HTTP_OF_GRPC: dict[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}


def answer_for(error: BaseException) -> Answer:
    """The one mapping from an exception to what each protocol answers.

    | exception | HTTP | HTTP/2 | WebSocket | gRPC | hub text | shown |
    | --- | --- | --- | --- | --- | --- | --- |
    | LimitExceeded | by its kind | by its kind | by its kind | by its kind | fixed | yes |
    | RemoteProtocolError | its own | its own | its own | INTERNAL | fixed | yes |
    | HTTPError | its status | INTERNAL_ERROR from 500, else CANCEL | 1011 from 500, else 1008 | nearest | fixed | yes |
    | RpcError | nearest | INTERNAL_ERROR | 1011 | its code | fixed | yes |
    | HubError | 500 | INTERNAL_ERROR | 1011 | UNKNOWN | its text | yes |
    | ConnectionClosed | 499 | CANCEL | its code | CANCELLED | fixed | no |
    | anything else | 500 | INTERNAL_ERROR | 1011 | UNKNOWN | fixed | no |
    """
    match error:
        case LimitExceeded(kind=kind):
            status, http2_code, close_code, grpc_code = _BY_LIMIT[kind]
            return Answer(status, http2_code, close_code, grpc_code, None, public=True)
        case RemoteProtocolError():
            return Answer(
                error.http_status, error.http2_code, error.websocket_code, StatusCode.INTERNAL, None, public=True
            )
        case HTTPError(status=status):
            ours = status >= 500
            return Answer(
                status,
                Http2Code.INTERNAL_ERROR if ours else Http2Code.CANCEL,
                1011 if ours else 1008,
                _GRPC_OF_HTTP.get(status, StatusCode.UNKNOWN),
                None,
                public=True,
            )
        case RpcError(code=code):
            return Answer(_HTTP_OF_GRPC[code], Http2Code.INTERNAL_ERROR, 1011, code, None, public=True)
        case HubError():
            return Answer(500, Http2Code.INTERNAL_ERROR, 1011, StatusCode.UNKNOWN, str(error), public=True)
        case ConnectionClosed(code=close_code):
            return Answer(499, Http2Code.CANCEL, close_code, StatusCode.CANCELLED, None, public=False)
        case _:
            return Answer(500, Http2Code.INTERNAL_ERROR, 1011, StatusCode.UNKNOWN, None, public=False)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as fields for a structured log record."""
    return {"error": type(error).__name__, "message": str(error)}

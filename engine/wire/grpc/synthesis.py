"""The status of a call whose server gave none.

Owns the two tables from which a client makes a status of what it got instead: an HTTP status (grpc/grpc
doc/http-grpc-status-mapping.md) or an HTTP/2 error code (doc/PROTOCOL-HTTP2.md, "Errors").
"""

from __future__ import annotations

from engine.errors import Http2Code, StatusCode

_OF_HTTP = {
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

_OF_RESET = {
    Http2Code.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    Http2Code.CANCEL: StatusCode.CANCELLED,
    Http2Code.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    Http2Code.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


def of_http(status: int) -> StatusCode:
    """For a response without `grpc-status`."""
    return _OF_HTTP.get(status, StatusCode.UNKNOWN)


def of_reset(code: int) -> StatusCode:
    """For a stream that ended with RST_STREAM; a CANCEL after the deadline is the caller's to see."""
    return _OF_RESET.get(code, StatusCode.INTERNAL)  # type: ignore[call-overload, no-any-return]  # an IntEnum's ints

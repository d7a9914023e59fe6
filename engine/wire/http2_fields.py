"""Which field lists are well-formed HTTP messages (RFC 9113 sections 8.1 to 8.5, RFC 8441).

Owns: validation of decoded field lists. h2's own validation is off: it answers a malformed request
with the end of the connection, where RFC 9113 8.1.1 asks for a stream error, and looks at each
byte in a Python loop. Here a list is judged once, with compiled patterns; the header memo keeps the
verdict beside the list.

Messages of gRPC are judged as its own implementations judge them, where those differ from RFC 9113: a value
with spaces around it is taken (C-core sends metadata and `grpc-message` as a program gave them; grpc/grpc
doc/PROTOCOL-HTTP2.md, "ASCII-Value"), and a host that differs from `:authority` is not looked at (gRFC A41).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import RemoteProtocolError

Fields = tuple[tuple[bytes, bytes], ...]

# RFC 9113 8.2.1: a name is a lower-case token (RFC 9110 5.1), without a colon.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
# "A field value MUST NOT contain the zero value, line feed, or carriage return at any position" and
# "MUST NOT start or end with an ASCII whitespace character".
_BAD_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z").search
_WORSE_VALUE = re.compile(rb"[\x00\r\n]").search
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*").fullmatch
_BAD_IN_TARGET = re.compile(rb"[\x00-\x20\x7f]").search
# RFC 9113 8.3.1: `:authority` MUST NOT include the deprecated userinfo.
_BAD_IN_AUTHORITY = re.compile(rb"[\x00-\x20\x7f@/?#\\]").search
_DIGITS = re.compile(rb"[0-9]{1,19}").fullmatch
_STATUS = re.compile(rb"[1-9][0-9]{2}").fullmatch

# RFC 9113 8.2.2: "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific
# header fields"; one that does is malformed.
CONNECTION_SPECIFIC = frozenset([b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"])
_REQUEST_PSEUDO = frozenset([b":method", b":scheme", b":authority", b":path", b":protocol"])


class _DistinctFields(tuple[tuple[bytes, bytes], ...]):
    """A tuple of which even the empty one is an object of its own, so that identity means the head."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class RequestFields:
    """A request's field list, judged and taken apart."""

    fields: Fields
    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    protocol: bytes | None
    headers: Fields
    content_length: int | None


def speaks_grpc(fields: Fields) -> bool:
    """The fields are of a message of gRPC: a head that says so, or trailers with a status."""
    for name, value in fields:
        if name == b"content-type":
            return value[:16].lower() == b"application/grpc" and value[16:17] in (b"", b"+", b";", b" ")
        if name == b"grpc-status":
            return True
    return False


def malformed(reason: str) -> RemoteProtocolError:
    """RFC 9113 8.1.1: malformed messages are stream errors of type PROTOCOL_ERROR."""
    return RemoteProtocolError(f"malformed message: {reason}; send what RFC 9113 section 8 allows")


def request_fields(fields: Fields, *, extended_connect: bool) -> RequestFields:
    """Judge the field list of a request.

    Raises:
        RemoteProtocolError: the request is malformed; the error belongs to its stream alone.
    """
    pseudo: dict[bytes, bytes] = {}
    start = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in _REQUEST_PSEUDO:
            raise malformed(f"{name[:32]!r} is no pseudo-header field of a request")
        if name in pseudo:
            raise malformed(f"{name.decode()} occurs twice")
        pseudo[name] = value
        start += 1
    headers, content_length, host = _regular(fields[start:])
    method = pseudo.get(b":method", b"")
    if not _TOKEN(method):
        raise malformed(":method is missing or no token")
    authority = pseudo.get(b":authority")
    if authority is None:
        authority = host or b""
    elif host is not None and host.lower() != authority.lower() and not speaks_grpc(headers):
        raise malformed("host differs from :authority")
    if authority and _BAD_IN_AUTHORITY(authority):
        raise malformed(":authority or host holds characters that it must not")
    protocol = pseudo.get(b":protocol")
    scheme = pseudo.get(b":scheme")
    path = pseudo.get(b":path")
    if method == b"CONNECT":
        _check_connect(protocol, scheme, path, authority, extended_connect=extended_connect)
    elif protocol is not None:
        raise malformed(":protocol without CONNECT")
    if method != b"CONNECT" or protocol is not None:
        if scheme is None or not _SCHEME(scheme):
            raise malformed(":scheme is missing or no scheme")
        if path is None or not (path[:1] == b"/" or (path == b"*" and method == b"OPTIONS")):
            raise malformed(":path is missing or does not begin with a slash")
        if _BAD_IN_TARGET(path):
            raise malformed(":path holds control characters or spaces")
    return RequestFields(fields, method, scheme or b"", authority, path or b"", protocol, headers, content_length)


def _check_connect(
    protocol: bytes | None, scheme: bytes | None, path: bytes | None, authority: bytes, *, extended_connect: bool
) -> None:
    """RFC 9113 8.5, RFC 8441 section 4."""
    if not authority:
        raise malformed("CONNECT without :authority")
    if protocol is None:
        if scheme is not None or path is not None:
            raise malformed("CONNECT with :scheme or :path")
    elif not extended_connect:
        raise malformed(":protocol, which SETTINGS_ENABLE_CONNECT_PROTOCOL has not offered")
    elif not _TOKEN(protocol):
        raise malformed(":protocol is no token")


def response_fields(fields: Fields) -> tuple[int, Fields, int | None]:
    """Judge the field list of a response: its status, regular fields and content-length.

    Raises:
        RemoteProtocolError: the response is malformed.
    """
    if not fields or fields[0][0] != b":status" or not _STATUS(fields[0][1]):
        raise malformed(":status is missing or no status code")
    headers, content_length, _ = _regular(fields[1:])
    return int(fields[0][1]), headers, content_length


def trailer_fields(fields: Fields) -> Fields:
    """Judge a trailer section: RFC 9113 8.1, "Trailers MUST NOT include pseudo-header fields".

    Raises:
        RemoteProtocolError: the trailers are malformed.
    """
    return _regular(fields)[0]


def _regular(fields: Fields) -> tuple[Fields, int | None, bytes | None]:
    """Check the regular fields; return them with cookies joined, content-length and host."""
    content_length: int | None = None
    host: bytes | None = None
    cookies = 0
    for name, value in fields:
        if not _NAME(name):
            raise malformed(f"the field name {name[:32]!r} is no lower-case token, or comes too late")
        if _BAD_VALUE(value) and (_WORSE_VALUE(value) or not speaks_grpc(fields)):
            raise malformed(f"the value of {name.decode()[:32]} holds bytes that it must not")
        if name in CONNECTION_SPECIFIC:
            raise malformed(f"{name.decode()} belongs to HTTP/1.1")
        if name == b"te":
            if value.lower() != b"trailers":
                raise malformed("te other than trailers")
        elif name == b"content-length":
            if not _DIGITS(value):
                raise malformed("content-length is no number")
            if content_length is not None and content_length != int(value):
                raise malformed("content-length occurs twice")
            content_length = int(value)
        elif name == b"host":
            if host is not None:
                raise malformed("host occurs twice")
            host = value
        elif name == b"cookie":
            cookies += 1
    if cookies > 1:
        fields = _join_cookies(fields)
    return (fields or _DistinctFields()), content_length, host


def _join_cookies(fields: Fields) -> Fields:
    """RFC 9113 8.2.3: several cookie fields "MUST be concatenated ... using the two-octet delimiter"."""
    cookie = b"; ".join([value for name, value in fields if name == b"cookie"])
    return (*(field for field in fields if field[0] != b"cookie"), (b"cookie", cookie))

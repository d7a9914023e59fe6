"""The Connect protocol: content-types, error JSON, the time-out, GET queries and bare bodies.

Owns what Connect says differently from gRPC. Its streams use gRPC's framing, with one more flag.
Spec: connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from engine.errors import LimitExceeded, LimitKind, RpcError, StatusCode
from engine.wire.grpc.compression import decompress
from engine.wire.grpc.framing import MessageParser, frame
from engine.wire.grpc.varint import length_delimited

Fields = Sequence[tuple[bytes, bytes]]

END_STREAM = 2  # "EndStreamResponse": bit 1 of the flag byte of the last envelope

# "Timeout-Milliseconds → positive integer as ASCII string of at most 10 digits"
_TIMEOUT = re.compile(rb"[0-9]{1,10}")
_CONTENT_TYPE = re.compile(rb"application/(connect\+)?(proto|json)[ \t]*(;.*)?", re.IGNORECASE)

NAMES = {code: "canceled" if code is StatusCode.CANCELLED else code.name.lower() for code in StatusCode}
"""The codes as Connect spells them: gRPC's names in lower case, "canceled" with one l."""


@dataclass(frozen=True, slots=True)
class ContentType:
    """What a request's content-type says."""

    streaming: bool
    json: bool


def parse_content_type(value: bytes) -> ContentType | None:
    """None: not Connect's. JSON may say `charset=utf-8`, which is what it always is."""
    match = _CONTENT_TYPE.fullmatch(value.strip())
    if match is None:
        return None
    charset = re.search(rb"charset\s*=\s*\"?([^\s\";]+)", match[3] or b"", re.IGNORECASE)
    if charset is not None and charset[1].lower() not in (b"utf-8", b"utf8"):
        return None
    return ContentType(match[1] is not None, match[2].lower() == b"json")


def decode_timeout(value: bytes) -> float | None:
    """Seconds of `connect-timeout-ms`; None for a malformed value."""
    return int(value) / 1000 if _TIMEOUT.fullmatch(value) else None


# -- errors ---------------------------------------------------------------------


def error_object(code: StatusCode, message: str = "", details: bytes | None = None) -> dict[str, Any]:
    """An error as JSON has it.

    Args:
        details: a serialised `google.rpc.Status`; what it holds beside its details is not sent again.
    """
    error: dict[str, Any] = {"code": NAMES[code]}
    if message:
        error["message"] = message
    listed = [] if details is None else _details(details)
    if listed:
        error["details"] = listed
    return error


def encode_json(value: Any) -> bytes:
    """JSON in UTF-8; what that cannot express (a lone surrogate) becomes a question mark."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def end_stream(error: dict[str, Any] | None, metadata: Fields) -> bytes:
    """The payload of the last envelope of a stream."""
    end: dict[str, Any] = {}
    if error is not None:
        end["error"] = error
    values: dict[str, list[str]] = {}
    for name, value in metadata:
        values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    if values:
        end["metadata"] = values
    return encode_json(end)


def end_envelope(payload: bytes) -> bytes:
    """The last envelope of a stream, flag included."""
    envelope = bytearray(b"".join(frame(payload)))
    envelope[0] = END_STREAM
    return bytes(envelope)


def _details(status: bytes) -> list[dict[str, str]]:
    """The `Any` messages of a `google.rpc.Status`, as JSON has them; those that do not parse are left out.

    Read by hand: field 3 of Status is `repeated Any details`, fields 1 and 2 of Any its URL and its bytes.
    """
    listed: list[dict[str, str]] = []
    for number, detail in length_delimited(status):
        if number != 3:
            continue
        parts = dict(length_delimited(detail))
        name = parts.get(1, b"").decode("utf-8", "replace").rpartition("/")[2]
        if name:
            value = binascii.b2a_base64(parts.get(2, b""), newline=False).rstrip(b"=").decode("ascii")
            listed.append({"type": name, "value": value})
    return listed


# -- GET ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """A unary request by GET, for methods without side effects."""

    message: bytes
    compression: str  # of `message`


def query_is_json(query: str) -> bool | None:
    """What `encoding` says of the request in a URL; None: neither json nor proto, the content-types of a GET."""
    return _GET_ENCODINGS.get(_query_values(query).get(b"encoding", b""))


_GET_ENCODINGS = {b"json": True, b"proto": False}


def parse_query(query: str) -> Query | RpcError:
    """The request in a URL: `connect=v1&encoding=json&message=…[&base64=1][&compression=gzip]`.

    An error is returned, not raised: INVALID_ARGUMENT, as Connect's own servers have it. Unknown
    parameters are ignored, and of repeated ones the first counts.
    """
    values = _query_values(query)
    if values.get(b"connect", b"v1") != b"v1":
        return _invalid("the query parameter connect must be v1")
    message = values.get(b"message")
    if message is None:
        return _invalid("the query parameter message is missing")
    if values.get(b"base64") == b"1":
        decoded = _decode_base64(message)
        if decoded is None:
            return _invalid("the query parameter message is not base64 (RFC 4648 section 5)")
        message = decoded
    return Query(message, values.get(b"compression", b"").decode("latin-1") or "identity")


def _query_values(query: str) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for item in query.split("&"):
        name, _, value = item.partition("=")
        values.setdefault(unquote_to_bytes(name), unquote_to_bytes(value.replace("+", " ")))
    return values


def _decode_base64(value: bytes) -> bytes | None:
    """Base64 with the alphabet for URLs, or the usual one; padded or not."""
    # "+" had become a space, where a client left it as it was.
    value = value.replace(b" ", b"+").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error:
        return None


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


# -- bare bodies ----------------------------------------------------------------


class BodyParser(MessageParser):
    """The only message of a unary request: all of the body, without a prefix."""

    __slots__ = ("_body", "_size", "_taken")

    def __init__(self, max_size: int, encoding: str | None = None) -> None:
        super().__init__(max_size, encoding)
        self._body: list[bytes] = []
        self._size = 0
        self._taken = False

    @property
    def ended(self) -> bool:
        """The message was taken."""
        return self._taken and self.failure is None

    @property
    def has_message(self) -> bool:
        """`next_message` would give it, or fail to decompress it."""
        return self._eof and not self._taken and self.failure is None

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the body."""
        if self.failure is not None or self._eof:
            return
        self._size += len(data)
        if self._size > self.max_size:
            name, what = "grpc.max_receive_message_size", "a message"
            limit = LimitExceeded(name, self.max_size, self._size, kind=LimitKind.MESSAGE_SIZE, what=what)
            self._fail(StatusCode.RESOURCE_EXHAUSTED, str(limit))
            self._body = []
        elif data:
            self._body.append(data)

    def next_message(self) -> bytes | None:
        """The message, once the body is complete."""
        if not self.has_message:
            return None
        self._taken = True
        body, self._body = b"".join(self._body), []
        self.compressed = self._encoding is not None
        if self._encoding is None:
            return body
        message = decompress(self._encoding, body, self.max_size)
        if isinstance(message, RpcError):
            broken = message.code is StatusCode.INTERNAL  # which Connect's own servers blame on the request
            self._fail(StatusCode.INVALID_ARGUMENT if broken else message.code, message.message)
            return None
        return message

    def parse_single(self, body: bytes) -> bytes | None:
        """The body itself, where it is plain and within the limit."""
        plain = self._encoding is None and not self._eof and len(body) <= self.max_size
        return body if plain else None

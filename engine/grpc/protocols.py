"""Which protocol a request speaks, and the refusals of what speaks none: one table by content-type.

| request | codec |
| --- | --- |
| POST `application/grpc`, HTTP/2 | gRPC |
| POST `application/grpc-web`, `application/grpc-web-text` | gRPC-Web |
| POST `application/json`, `application/proto`, to a unary method | Connect, unary |
| GET, to a unary method without side effects | Connect, unary |
| POST `application/connect+json`, `application/connect+proto`, to a method that streams | Connect, streaming |
| POST `application/x-www-form-urlencoded`, to a unary method, not from a browser | Connect, unary JSON |
| OPTIONS that is a CORS preflight | answered here |

The row before the last is what `curl -d '{"name": "x"}' URL` sends. A page on any origin may make a browser
send that type, and unlike JSON's it needs no preflight; so a request that bears a mark of a browser
(`origin`, `referer`, `cookie`, `sec-fetch-site`) is refused, and only programs have the convenience.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import StatusCode
from engine.grpc import cors
from engine.grpc.codec import GRPC, Codec
from engine.grpc.connect import ConnectStreamCodec, ConnectUnaryCodec
from engine.grpc.connect_json import speaks_json
from engine.grpc.methods import MethodKind
from engine.grpc.web import WebCodec
from engine.transport.date import http_date
from engine.wire.grpc import connect, web
from engine.wire.grpc import status as wire_status

if TYPE_CHECKING:
    from engine.grpc.methods import MethodSpec
    from engine.transport.exchange import Exchange, Fields, RequestHead

_REFUSAL_SIZE = 1024  # bytes of grpc-message in a refusal; the texts are ours and short

_FORM = b"application/x-www-form-urlencoded"
_BROWSER_MARKS = (b"origin", b"referer", b"cookie", b"sec-fetch-site")

_GRPC_TYPES = "application/grpc, application/grpc+proto"
_WEB_TYPES = (
    "application/grpc-web, application/grpc-web+proto, application/grpc-web-text, application/grpc-web-text+proto"
)
_UNARY_TYPES = "application/json, application/proto"
_STREAM_TYPES = "application/connect+json, application/connect+proto"


def choose(exchange: Exchange, spec: MethodSpec | None) -> Codec | None:
    """The codec for a request to this method (None: an unknown one); None: the request is answered."""
    head = exchange.head
    codec = codec_of(head, spec)
    if codec is None:
        _refuse_request(exchange, spec)
    elif codec is GRPC and head.http_version != "2":
        upgrade = ((b"upgrade", b"h2c"), (b"connection", b"upgrade"))  # RFC 9110 7.8: both or none
        _refuse(exchange, 426, "gRPC needs HTTP/2; gRPC-Web and Connect do not", upgrade)
        return None
    return codec


def codec_of(head: RequestHead, spec: MethodSpec | None) -> Codec | None:
    """The codec that the request asks for, or None where it is a request of none of the protocols."""
    if head.method == "GET":
        return _codec_of_get(head, spec)
    if head.method != "POST":
        return None
    value = head.header(b"content-type") or b""
    if GRPC.accepts(value):
        return GRPC
    if web.is_text(value) is not None:
        return WebCodec(head)
    content_type = connect.parse_content_type(value)
    if content_type is None:
        if not _is_plain_curl(head, value):
            return None
        content_type = connect.ContentType(streaming=False, json=True)
    if spec is not None:
        if content_type.streaming is (spec.kind is MethodKind.UNARY):
            return None
        if content_type.json and not speaks_json(spec.request_type):
            return None
    return (ConnectStreamCodec if content_type.streaming else ConnectUnaryCodec)(json=content_type.json)


def _codec_of_get(head: RequestHead, spec: MethodSpec | None) -> Codec | None:
    if spec is None or not _answers_get(spec):
        return None
    json = connect.query_is_json(head.query)
    if json is None or (json and not speaks_json(spec.request_type)):
        return None
    return ConnectUnaryCodec(json=json)


def _answers_get(spec: MethodSpec) -> bool:
    return spec.no_side_effects and spec.kind is MethodKind.UNARY


def _is_plain_curl(head: RequestHead, content_type: bytes) -> bool:
    if content_type.strip().lower() != _FORM:
        return False
    return all(head.header(mark) is None for mark in _BROWSER_MARKS)


# -- refusals -------------------------------------------------------------------


def _refuse_request(exchange: Exchange, spec: MethodSpec | None) -> None:
    head = exchange.head
    methods = (b"GET", b"POST") if spec is not None and _answers_get(spec) else (b"POST",)
    if cors.is_preflight(head) and exchange.config.grpc.cors_origins:
        cors.answer_preflight(exchange, methods)
    elif head.method not in ("POST", "GET") or (head.method == "GET" and b"GET" not in methods):
        allowed = b", ".join(methods)
        message = f"this method needs {allowed.decode('ascii').replace(', ', ' or ')}, not {head.method}"
        _refuse(exchange, 405, message, ((b"allow", allowed),))
    else:
        accepted = _accepted_types(spec)
        message = f"use one of the content-types {accepted}"
        _refuse(exchange, 415, message, ((b"accept-post", accepted.encode("ascii")),))


def _accepted_types(spec: MethodSpec | None) -> str:
    connects = _UNARY_TYPES if spec is None or spec.kind is MethodKind.UNARY else _STREAM_TYPES
    return ", ".join((_GRPC_TYPES, _WEB_TYPES, connects))


def _refuse(exchange: Exchange, http_status: int, message: str, headers: Fields = ()) -> None:
    """Answer what is no call in HTTP, with a status for those who look for one (as ASP.NET Core does).

    A client of gRPC gets it without a body, as the official servers send it: the fields are its trailers.
    """
    status = wire_status.trailers(StatusCode.INTERNAL, message, max_message_size=_REFUSAL_SIZE)
    fields = ((b"date", http_date()), *headers, *cors.fields(exchange), *status)
    if (exchange.head.header(b"content-type") or b"").startswith(b"application/grpc"):
        exchange.write_head(http_status, fields, end=True)
    else:
        text = f"{message}\n".encode()
        about = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text)))
        exchange.write_head(http_status, (*about, *fields))
        exchange.write(text, end=True)
    exchange.flush()

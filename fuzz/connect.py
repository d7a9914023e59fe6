"""Connect: fields, queries, error details and JSON from a peer never raise anything but the answer to it.

The first byte of an input chooses the type of message, the rest is everything else in turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf import any_pb2, api_pb2, descriptor_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2

from engine.errors import RpcError, StatusCode
from engine.grpc.connect_json import decode_json, encode_json
from engine.wire.grpc.connect import (
    BodyParser,
    decode_timeout,
    end_envelope,
    end_stream,
    error_object,
    parse_content_type,
    parse_query,
    query_is_json,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

MAX_SIZE = 3000

TYPES: tuple[type[Message], ...] = (
    struct_pb2.Struct,
    timestamp_pb2.Timestamp,
    any_pb2.Any,
    field_mask_pb2.FieldMask,
    wrappers_pb2.BytesValue,
    api_pb2.Api,
    descriptor_pb2.FileDescriptorProto,
    struct_pb2.Value,
)

SEEDS: list[bytes] = [
    b'\x00{"a": [1, null, {"b": "c"}], "d": 1e400}',
    b'\x01"2020-01-01T00:00:00.5Z"',
    b'\x02{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}',
    b'\x03"a.b,cD"',
    b'\x04"AQID-_8="',
    b'\x05{"name": "x", "methods": [{"name": "y", "requestStreaming": true}], "syntax": "SYNTAX_PROTO3"}',
    b'\x06{"name": "x", "messageType": [{"field": [{"number": 1, "type": "TYPE_INT32"}]}], "publicDependency": [1]}',
    b"\x07" + b"[" * 3000,
    b"\x07" + b"1" * 3000,
    b"\x07" + b'{"a":' * 300 + b"1" + b"}" * 300,
    b"\x00connect=v1&encoding=json&message=%7B%7D&base64=1&compression=gzip",
    b"\x00application/connect+json; charset=utf-8",
    b"\x00" + b"\x08\x05\x12\x01x\x1a\x10\x0a\x0atype/a.b.C\x12\x02xy",
]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    body = data[1:]
    text = body.decode("latin-1")
    _check_json(TYPES[data[0] % len(TYPES)] if data else TYPES[0], body)

    timeout = decode_timeout(body)
    assert (timeout is not None) is (1 <= len(body) <= 10 and not body.strip(b"0123456789"))
    assert timeout is None or 0 <= timeout < 1e7
    parse_content_type(body)
    query = parse_query(text)
    if isinstance(query, RpcError):
        assert query.code is StatusCode.INVALID_ARGUMENT
    elif query_is_json(text):
        _check_json(struct_pb2.Value, query.message)

    error = error_object(StatusCode.NOT_FOUND, text, body)
    payload = end_stream(error, [(b"x-a", body), (b"x-a", body)])
    assert json.loads(payload)["error"] == error
    assert end_envelope(payload) == b"\2" + len(payload).to_bytes(4, "big") + payload

    _check_body(body)


def _check_json(kind: type[Message], body: bytes) -> None:
    refusal = None
    message = kind()
    try:
        message = decode_json(kind)(body)
    except RpcError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code is StatusCode.INVALID_ARGUMENT
        return
    try:
        again = encode_json(message)
    except Exception:
        return  # what a handler sends is its own affair
    json.loads(again)


def _check_body(body: bytes) -> None:
    for encoding in (None, "gzip"):
        parser = BodyParser(MAX_SIZE, encoding)
        for at in range(0, len(body), 7):
            parser.receive_data(body[at : at + 7])
            assert parser.next_message() is None
            assert sum(map(len, parser._body)) <= MAX_SIZE
        parser.receive_eof()
        message = parser.next_message()
        assert (message is None) is (parser.failure is not None)
        assert parser.ended is (parser.failure is None)
        if encoding is None:
            assert message == (body if len(body) <= MAX_SIZE else None)

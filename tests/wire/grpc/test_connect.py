"""Connect on the wire: content-types, time-outs, errors as JSON, GET queries and bare bodies."""

from __future__ import annotations

import json

import pytest
from google.protobuf import any_pb2, wrappers_pb2

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.compression import compress
from engine.wire.grpc.connect import (
    NAMES,
    BodyParser,
    ContentType,
    Query,
    decode_timeout,
    encode_json,
    end_envelope,
    end_stream,
    error_object,
    parse_content_type,
    parse_query,
    query_is_json,
)
from engine.wire.grpc.varint import length_delimited


def delimited(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/json", ContentType(streaming=False, json=True)),
        (b"application/json; charset=UTF-8", ContentType(streaming=False, json=True)),
        (b'Application/JSON;charset="utf-8"', ContentType(streaming=False, json=True)),
        (b"application/proto", ContentType(streaming=False, json=False)),
        (b"application/connect+proto", ContentType(streaming=True, json=False)),
        (b"application/connect+json", ContentType(streaming=True, json=True)),
        (b"application/json; charset=utf-16", None),
        (b"application/jsonp", None),
        (b"application/connect+xml", None),
        (b"application/connect", None),
        (b"text/json", None),
        (b"", None),
    ],
)
def test_the_content_types_are_told_apart(value: bytes, expected: ContentType | None) -> None:
    assert parse_content_type(value) == expected


def test_codes_have_grpcs_names_in_lower_case_but_for_one() -> None:
    assert NAMES[StatusCode.CANCELLED] == "canceled"
    assert NAMES[StatusCode.DEADLINE_EXCEEDED] == "deadline_exceeded"
    assert NAMES[StatusCode.UNAUTHENTICATED] == "unauthenticated"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"0", 0), (b"1", 0.001), (b"250", 0.25), (b"9999999999", 9999999.999)],
)
def test_timeouts_are_milliseconds(value: bytes, seconds: float) -> None:
    assert decode_timeout(value) == seconds


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.5", b" 1", b"1_0", b"12345678901", "\u0661".encode(), b"1S"])
def test_malformed_timeouts_are_none(value: bytes) -> None:
    assert decode_timeout(value) is None


def test_an_error_has_its_code_and_what_else_there_is() -> None:
    assert error_object(StatusCode.NOT_FOUND) == {"code": "not_found"}
    assert error_object(StatusCode.ABORTED, "why ☺") == {"code": "aborted", "message": "why ☺"}


def test_details_are_taken_out_of_a_status_message() -> None:
    detail = any_pb2.Any()
    detail.Pack(wrappers_pb2.StringValue(value="x"))
    status = b"\x08\x05" + delimited(2, b"text") + delimited(3, detail.SerializeToString()) * 2
    listed = {"type": "google.protobuf.StringValue", "value": "CgF4"}  # base64 without padding
    assert error_object(StatusCode.NOT_FOUND, "", status)["details"] == [listed, listed]


@pytest.mark.parametrize("status", [b"", b"\xff", b"\x1a\x7f", b"\x1a\x02\x0a\x00", b"\x08" + b"\xff" * 11, b"\x07"])
def test_details_that_do_not_parse_are_left_out(status: bytes) -> None:
    assert "details" not in error_object(StatusCode.NOT_FOUND, "", status)


def test_fields_of_other_kinds_are_skipped() -> None:
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + delimited(4, b"here")
    assert list(length_delimited(message)) == [(4, b"here")]


def test_the_end_of_a_stream_is_an_envelope_with_flag_two() -> None:
    assert end_envelope(end_stream(None, ())) == b"\x02\0\0\0\x02{}"
    payload = end_stream({"code": "internal"}, [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-bin", b"AQI")])
    assert json.loads(payload) == {"error": {"code": "internal"}, "metadata": {"x-a": ["1", "2"], "x-bin": ["AQI"]}}
    assert encode_json("☺\ud800") == b'"\xe2\x98\xba?"'


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("connect=v1&encoding=json&message=%7B%22name%22%3A%22x%22%7D", Query(b'{"name":"x"}', "identity")),
        ("message=%0A%01x&encoding=proto", Query(b"\n\x01x", "identity")),
        ("message=CgF4&encoding=proto&base64=1", Query(b"\n\x01x", "identity")),
        ("message=-_-_&encoding=proto&base64=1", Query(b"\xfb\xff\xbf", "identity")),
        ("message=_w&encoding=proto&base64=1&other=1", Query(b"\xff", "identity")),
        ("message=_w==&encoding=proto&base64=1", Query(b"\xff", "identity")),
        ("message=x&encoding=proto&compression=gzip", Query(b"x", "gzip")),
        ("message=&encoding=proto", Query(b"", "identity")),
        ("message={%22a%22:+1}&encoding=json", Query(b'{"a": 1}', "identity")),
    ],
)
def test_a_query_carries_a_request(query: str, expected: Query) -> None:
    assert parse_query(query) == expected


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "message"),
        ("encoding=json", "message"),
        ("encoding=json&message=x&connect=v2", "connect"),
        ("encoding=proto&message=A&base64=1", "base64"),
        ("encoding=proto&message=%00%01&base64=1", "base64"),
    ],
)
def test_a_query_that_carries_none_says_what_is_wrong(query: str, names: str) -> None:
    error = parse_query(query)
    assert isinstance(error, RpcError)
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert names in error.message


def test_a_query_names_its_codec() -> None:
    assert query_is_json("message=x&encoding=json") is True
    assert query_is_json("encoding=pro%74o&encoding=json") is False
    assert query_is_json("encoding=xml") is None
    assert query_is_json("message=x") is None


def test_a_bare_body_is_the_message_once_it_is_complete() -> None:
    parser = BodyParser(10)
    for piece in (b"01234", b"", b"56789"):
        parser.receive_data(piece)
        assert parser.next_message() is None
        assert not parser.ended
    parser.receive_eof()
    assert parser.has_message
    assert parser.next_message() == b"0123456789"
    assert parser.next_message() is None
    assert parser.ended
    assert BodyParser(10).parse_single(b"0123456789") == b"0123456789"
    assert BodyParser(10).parse_single(b"0123456789a") is None


def test_a_bare_body_over_the_limit_is_refused_as_it_arrives() -> None:
    parser = BodyParser(10)
    parser.receive_data(b"01234567890")
    assert parser.failure is not None
    assert parser.failure.code is StatusCode.RESOURCE_EXHAUSTED
    parser.receive_eof()
    assert parser.next_message() is None
    assert not parser.ended


def test_a_bare_body_is_inflated_unless_it_is_empty() -> None:
    for body, message in ((compress("gzip", b"x" * 10), b"x" * 10), (b"", b"")):
        parser = BodyParser(100, "gzip")
        assert parser.parse_single(body) is None
        parser.receive_data(body)
        parser.receive_eof()
        assert parser.next_message() == message
        assert parser.compressed


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"junk", StatusCode.INVALID_ARGUMENT), (compress("gzip", bytes(101)), StatusCode.RESOURCE_EXHAUSTED)],
)
def test_a_bare_body_that_does_not_inflate_is_the_clients_error(body: bytes, code: StatusCode) -> None:
    parser = BodyParser(100, "gzip")
    parser.receive_data(body)
    parser.receive_eof()
    assert parser.next_message() is None
    assert parser.failure is not None
    assert parser.failure.code is code

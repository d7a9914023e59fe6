"""gRPC-Web on the wire: content-types, trailer frames and base64 in pieces."""

from __future__ import annotations

import base64
import itertools

import pytest

from engine.errors import StatusCode
from engine.wire.grpc.web import (
    TextParser,
    answers_text,
    decode_text,
    encode_text,
    is_text,
    response_type,
    trailer_frame,
)


def framed(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpc-web-text", True),
        (b"Application/gRPC-Web-Text+Proto; charset=utf-8", True),
        (b"application/grpc-web ;x", False),
        (b"application/grpc", None),
        (b"application/grpc-webber", None),
        (b"application/grpc-web-texts", None),
        (b"text/plain", None),
        (b"", None),
    ],
)
def test_the_content_types_are_told_apart(content_type: bytes, text: bool | None) -> None:
    assert is_text(content_type) is text


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [
        (b"application/grpc-web", None, b"application/grpc-web"),
        (b"application/grpc-web+proto", b"*/*", b"application/grpc-web+proto"),
        (b"application/grpc-web-text", None, b"application/grpc-web-text"),
        (b"application/grpc-web+proto", b"application/grpc-web-text", b"application/grpc-web-text+proto"),
        (b"application/grpc-web-text+proto", b"application/grpc-web+proto", b"application/grpc-web+proto"),
        (b"application/grpc-web-text", b"text/html, */*", b"application/grpc-web-text"),
    ],
)
def test_the_response_is_as_accept_says_else_as_the_request(
    content_type: bytes, accept: bytes | None, expected: bytes
) -> None:
    assert response_type(content_type, text=answers_text(content_type, accept)) == expected


def test_trailers_are_lines_in_a_frame_with_the_highest_bit_set() -> None:
    block = b"grpc-status: 0\r\nx-bin: AQI\r\n"
    assert trailer_frame([(b"grpc-status", b"0"), (b"x-bin", b"AQI")]) == b"\x80\0\0\0" + bytes([len(block)]) + block


def test_base64_may_be_padded_in_any_of_its_pieces() -> None:
    assert decode_text(b"AAAAAAA=AAAA") == (bytes(8), True)
    assert decode_text(encode_text(b"a") + encode_text(b"bc") + encode_text(b"def")) == (b"abcdef", True)
    assert decode_text(b"") == (b"", True)


@pytest.mark.parametrize("bad", [b"A===", b"====", b"A\nAA", b"-_-_", b"AA=A", b"AAA\xff"])
def test_the_groups_before_a_broken_one_count(bad: bytes) -> None:
    assert decode_text(b"AQIDBA==" + bad) == (b"\1\2\3\4", False)


def test_messages_are_the_same_at_every_pair_of_cuts_and_in_every_way_to_pad() -> None:
    whole = framed(b"a") + framed(b"") + framed(b"hello")
    for split in range(len(whole) + 1):
        text = base64.b64encode(whole[:split]) + base64.b64encode(whole[split:])
        for first, second in itertools.combinations_with_replacement(range(len(text) + 1), 2):
            parser, messages = TextParser(1000), []
            for piece in (text[:first], text[first:second], text[second:]):
                parser.receive_data(piece)
                messages += iter(parser.next_message, None)
            parser.receive_eof()
            assert messages == [b"a", b"", b"hello"]
            assert parser.ended


@pytest.mark.parametrize("body", [b"AAAAAAE", b"AAAAAAFh!!!!", b"AAAAAAFh====", b"A"])
def test_text_that_is_broken_or_cut_is_internal_after_what_came_before(body: bytes) -> None:
    parser = TextParser(1000)
    parser.receive_data(base64.b64encode(framed(b"abcd")) + body)
    parser.receive_eof()
    assert parser.next_message() == b"abcd"
    assert not parser.ended
    while parser.next_message() is not None:
        pass
    assert parser.failure is not None
    assert parser.failure.code is StatusCode.INTERNAL
    parser.receive_data(b"AAAA")
    assert parser.next_message() is None


def test_the_limit_is_that_of_the_decoded_message() -> None:
    parser = TextParser(5)
    parser.receive_data(base64.b64encode(framed(b"12345")) + base64.b64encode(framed(b"123456")))
    assert parser.next_message() == b"12345"
    assert parser.next_message() is None
    assert parser.failure is not None
    assert parser.failure.code is StatusCode.RESOURCE_EXHAUSTED

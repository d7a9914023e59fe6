from __future__ import annotations

import itertools
import tracemalloc

import pytest

from engine.errors import LocalProtocolError, StatusCode
from engine.wire.grpc.framing import MessageParser, frame, parse_single, prefix

LIMIT = 4 * 1024 * 1024


def drain(parser: MessageParser) -> list[bytes]:
    return list(iter(parser.next_message, None))


def test_a_message_is_a_flag_a_big_endian_length_and_the_payload() -> None:
    assert b"".join(frame(b"hello")) == b"\x00\x00\x00\x00\x05hello"
    assert prefix(0x01020304) == b"\x00\x01\x02\x03\x04"
    assert prefix(1, compressed=True) == b"\x01\x00\x00\x00\x01"


def test_a_large_payload_is_framed_without_a_copy() -> None:
    payload = bytes(100_000)
    head, body = frame(payload)
    assert head == b"\x00\x00\x01\x86\xa0"
    assert body is payload


def test_a_length_beyond_32_bits_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError, match="stream it"):
        prefix(2**32)


def test_messages_are_the_same_at_every_pair_of_cuts() -> None:
    body = b"".join(piece for message in (b"", b"a", b"hello world") for piece in frame(message))
    for first, second in itertools.combinations_with_replacement(range(len(body) + 1), 2):
        parser, messages = MessageParser(LIMIT), []
        for piece in (body[:first], body[first:second], body[second:]):
            parser.receive_data(piece)
            messages += drain(parser)
        parser.receive_eof()
        assert messages == [b"", b"a", b"hello world"]
        assert parser.ended


def test_messages_that_nobody_took_wait() -> None:
    parser = MessageParser(LIMIT)
    for _ in range(3):
        parser.receive_data(b"\x00\x00\x00\x00\x02hi")
    parser.receive_eof()
    assert not parser.ended
    assert parser.has_message
    assert drain(parser) == [b"hi", b"hi", b"hi"]
    assert parser.ended
    assert not parser.has_message


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    parser = MessageParser(10)
    parser.receive_data(b"\x00\x00\x00\x00\x0a" + b"x" * 10)
    assert drain(parser) == [b"x" * 10]


def test_a_message_over_the_limit_is_refused_by_its_prefix() -> None:
    parser = MessageParser(10)
    parser.receive_data(b"\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x0b")
    assert drain(parser) == [b"a"]
    assert parser.failure is not None
    assert parser.failure.code is StatusCode.RESOURCE_EXHAUSTED
    assert "grpc.max_receive_message_size" in parser.failure.message
    parser.receive_data(b"x" * 11)
    assert drain(parser) == []
    assert not parser.ended


@pytest.mark.parametrize("flag", [1, 2, 3, 0x80, 0xFF])
def test_a_flag_other_than_0_is_internal_where_no_encoding_was_agreed(flag: int) -> None:
    parser = MessageParser(LIMIT)
    parser.receive_data(bytes([flag]) + b"\x00\x00\x00\x00")
    assert drain(parser) == []
    assert parser.failure is not None
    assert parser.failure.code is StatusCode.INTERNAL


@pytest.mark.parametrize("body", [b"\x00", b"\x00\x00\x00\x00", b"\x00\x00\x00\x00\x05", b"\x00\x00\x00\x00\x05hell"])
@pytest.mark.parametrize("before", [b"", b"\x00\x00\x00\x00\x01a"])
def test_an_end_inside_a_message_is_no_clean_end(before: bytes, body: bytes) -> None:
    parser = MessageParser(LIMIT)
    parser.receive_data(before + body)
    parser.receive_eof()
    assert drain(parser) == ([b"a"] if before else [])
    assert parser.failure is not None
    assert parser.failure.code is StatusCode.INTERNAL
    assert not parser.ended


def test_a_message_sent_in_tiny_pieces_costs_no_multiple_of_its_size() -> None:
    size = 200_000
    parser = MessageParser(size)
    parser.receive_data(prefix(size))
    assert parser.next_message() is None
    tracemalloc.start()
    try:
        for index in range(size // 2 - 1):
            parser.receive_data(b"%02d" % (index % 100))
            assert parser.next_message() is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * size


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x00", b"\x00\x00\x00\x00\x02a", b"\x00\x00\x00\x00\x00\x00"],
)
def test_the_fast_path_leaves_all_but_one_whole_message_to_the_parser(body: bytes) -> None:
    assert parse_single(body, LIMIT) is None


def test_the_fast_path_takes_one_whole_message() -> None:
    assert parse_single(b"\x00\x00\x00\x00\x02hi", 2) == b"hi"
    assert parse_single(b"\x00\x00\x00\x00\x00", 2) == b""
    assert parse_single(b"\x00\x00\x00\x00\x03hi!", 2) is None

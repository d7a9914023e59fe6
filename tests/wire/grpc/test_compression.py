"""Compressed messages: what inflates, what does not, and how much memory that may cost."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.compression import CONNECT_ENCODINGS, ENCODINGS, accepts, deflate, inflate, known, listed
from engine.wire.grpc.framing import MessageParser

LIMIT = 4 * 1024 * 1024
HELLO = b"hello " * 20


def framed(payload: bytes, flag: int = 1) -> bytes:
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def test_gzip_and_deflate_are_what_other_programs_take_them_for() -> None:
    assert gzip.decompress(deflate("gzip", HELLO)) == HELLO
    assert zlib.decompress(deflate("deflate", HELLO)) == HELLO
    assert inflate("gzip", gzip.compress(HELLO), LIMIT) == HELLO
    assert inflate("deflate", zlib.compress(HELLO), LIMIT) == HELLO
    assert deflate("gzip", HELLO)[4:8] == bytes(4)  # no time in it: the same bytes every time


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_nothing_inflates_to_nothing(encoding: str) -> None:
    assert inflate(encoding, b"", LIMIT) == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("harm", ["cut", "more", "garbage", "flipped", "twice"])
def test_what_is_not_one_whole_stream_is_internal(encoding: str, harm: str) -> None:
    whole = deflate(encoding, HELLO)
    data = {
        "cut": whole[:-1],
        "more": whole + b"\0",
        "garbage": b"not compressed at all",
        "flipped": whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
        "twice": whole + whole,
    }[harm]
    error = inflate(encoding, data, LIMIT)
    assert isinstance(error, RpcError)
    assert error.code is StatusCode.INTERNAL
    assert encoding in error.message


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_limit_is_that_of_the_inflated_message_to_the_byte(encoding: str) -> None:
    assert inflate(encoding, deflate(encoding, bytes(LIMIT)), LIMIT) == bytes(LIMIT)
    error = inflate(encoding, deflate(encoding, bytes(LIMIT + 1)), LIMIT)
    assert isinstance(error, RpcError)
    assert error.code is StatusCode.RESOURCE_EXHAUSTED
    assert "grpc.max_receive_message_size" in error.message


def test_a_bomb_costs_no_more_memory_than_the_limit() -> None:
    bomb = deflate("gzip", bytes(200 * 1024 * 1024))
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        assert isinstance(inflate("gzip", bomb, 64 * 1024), RpcError)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_the_parser_inflates_messages_whose_flag_says_so_and_no_others() -> None:
    parser = MessageParser(LIMIT, "gzip")
    for piece in (framed(deflate("gzip", HELLO)), framed(b"plain", 0), framed(b"")):
        parser.receive_data(piece)
    parser.receive_eof()
    assert parser.has_message
    taken = [(message, parser.compressed) for message in iter(parser.next_message, None)]
    assert taken == [(HELLO, True), (b"plain", False), (b"", True)]
    assert parser.ended


def test_a_compressed_message_may_arrive_in_any_pieces() -> None:
    body = framed(deflate("gzip", bytes(range(256)) * 20)) + framed(b"x", 0)
    for size in (1, 2, 5, 7, 1024):
        parser, messages = MessageParser(LIMIT, "gzip"), []
        for at in range(0, len(body), size):
            parser.receive_data(body[at : at + size])
            messages += iter(parser.next_message, None)
        assert messages == [bytes(range(256)) * 20, b"x"]


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        (None, framed(b""), StatusCode.INTERNAL),  # the flag without an encoding
        ("gzip", framed(b"", 2), StatusCode.INTERNAL),
        ("gzip", framed(b"", 0x81), StatusCode.INTERNAL),
        ("gzip", framed(b"junk"), StatusCode.INTERNAL),
        ("gzip", b"\x01\x00\x00\x04\x01", StatusCode.RESOURCE_EXHAUSTED),  # compressed, and too large as it is
        ("gzip", framed(deflate("gzip", bytes(1025))), StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_the_parser_fails_as_the_specification_says(encoding: str | None, body: bytes, code: StatusCode) -> None:
    parser = MessageParser(1024, encoding)
    parser.receive_data(framed(b"good", 0) + body)
    assert parser.next_message() == b"good"
    assert parser.next_message() is None
    assert parser.failure is not None
    assert parser.failure.code is code
    assert not parser.has_message


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (b"gzip", True),
        (b"identity, deflate, gzip", True),
        (b"identity,GZIP", True),
        (b"br, gzip;q=0.5", True),
        (b"gzip; q=1.0", True),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000", False),
        (b"identity,deflate", False),
        (b"x-gzip", False),
        (b"*", False),
        (b"", False),
        (None, False),
    ],
)
def test_what_a_client_accepts_is_read_from_its_list(value: bytes | None, accepted: bool) -> None:
    assert accepts(value, "gzip") is accepted


def test_encodings_are_named_in_lower_case_and_listed_with_commas() -> None:
    assert known(b" GZIP", ENCODINGS) == "gzip"
    assert known(b"deflate", CONNECT_ENCODINGS) is None
    assert known(b"", ENCODINGS) is None
    assert known(b"\xff", ENCODINGS) is None
    assert listed(ENCODINGS) == b"identity,gzip,deflate"

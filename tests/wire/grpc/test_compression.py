"""Compressed messages: what inflates, what does not, and how much memory that may cost."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tracemalloc
import zlib

import pytest

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.compression import CONNECT_ENCODINGS, ENCODINGS, accepts, compress, decompress, known, listed
from engine.wire.grpc.framing import MessageParser

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 4 * 1024 * 1024
HELLO = b"hello " * 20


def framed(payload: bytes, flag: int = 1) -> bytes:
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def test_compressed_messages_are_what_other_programs_take_them_for() -> None:
    assert gzip.decompress(compress("gzip", HELLO)) == HELLO
    assert zlib.decompress(compress("deflate", HELLO)) == HELLO
    assert decompress("gzip", gzip.compress(HELLO), LIMIT) == HELLO
    assert decompress("deflate", zlib.compress(HELLO), LIMIT) == HELLO
    assert zstd.decompress(compress("zstd", HELLO)) == HELLO
    assert decompress("zstd", zstd.compress(HELLO), LIMIT) == HELLO
    assert compress("gzip", HELLO)[4:8] == bytes(4)  # no time in it: the same bytes every time


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_nothing_inflates_to_nothing(encoding: str) -> None:
    assert decompress(encoding, b"", LIMIT) == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("harm", ["cut", "more", "garbage", "flipped", "twice"])
def test_what_is_not_one_whole_stream_is_internal(encoding: str, harm: str) -> None:
    whole = compress(encoding, HELLO)
    data = {
        "cut": whole[:-1],
        "more": whole + b"\0",
        "garbage": b"not compressed at all",
        "flipped": whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
        "twice": whole + whole,
    }[harm]
    error = decompress(encoding, data, LIMIT)
    assert isinstance(error, RpcError)
    assert error.code is StatusCode.INTERNAL
    assert encoding in error.message


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_the_limit_is_that_of_the_inflated_message_to_the_byte(encoding: str) -> None:
    assert decompress(encoding, compress(encoding, bytes(LIMIT)), LIMIT) == bytes(LIMIT)
    error = decompress(encoding, compress(encoding, bytes(LIMIT + 1)), LIMIT)
    assert isinstance(error, RpcError)
    assert error.code is StatusCode.RESOURCE_EXHAUSTED
    assert "grpc.max_receive_message_size" in error.message


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_costs_no_more_memory_than_the_limit(encoding: str) -> None:
    bomb = compress(encoding, bytes(200 * 1024 * 1024))
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        assert isinstance(decompress(encoding, bomb, 64 * 1024), RpcError)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_may_not_claim_a_window_of_more_than_8_mib() -> None:
    parameters = zstd.CompressionParameter
    for window_log, message in ((23, bytes(range(256))), (24, None)):
        # Without its size in the head the frame needs its whole window.
        options = {parameters.window_log: window_log, parameters.content_size_flag: 0}
        compressor = zstd.ZstdCompressor(options=options)
        frame = compressor.compress(bytes(range(256))) + compressor.flush()
        found = decompress("zstd", frame, LIMIT)
        if message is None:
            assert isinstance(found, RpcError)
            assert found.code is StatusCode.INTERNAL
        else:
            assert found == message


def test_the_parser_inflates_messages_whose_flag_says_so_and_no_others() -> None:
    parser = MessageParser(LIMIT, "gzip")
    for piece in (framed(compress("gzip", HELLO)), framed(b"plain", 0), framed(b"")):
        parser.receive_data(piece)
    parser.receive_eof()
    assert parser.has_message
    taken = [(message, parser.compressed) for message in iter(parser.next_message, None)]
    assert taken == [(HELLO, True), (b"plain", False), (b"", True)]
    assert parser.ended


def test_a_compressed_message_may_arrive_in_any_pieces() -> None:
    body = framed(compress("gzip", bytes(range(256)) * 20)) + framed(b"x", 0)
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
        ("gzip", framed(compress("gzip", bytes(1025))), StatusCode.RESOURCE_EXHAUSTED),
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
    assert listed(ENCODINGS) == b"identity,gzip,deflate,zstd"


def test_without_its_library_zstd_is_unknown_and_the_advice_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules.update({'compression': None, 'backports': None})  # as if they were not installed\n"
        "from engine.wire.grpc.compression import CONNECT_ENCODINGS, ENCODINGS, advice\n"
        "print(ENCODINGS, CONNECT_ENCODINGS, advice(), sep='\\n')\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        "('identity', 'gzip', 'deflate')",
        "('identity', 'gzip')",
        "use one of identity, gzip, deflate; zstd comes with pip install 'engine[zstd]'",
    ]

"""Inflation: a peer's bytes never raise and never cost more than the limit, and what we deflate comes back.

The first byte of an input chooses the encoding and the message's flag, the rest is the compressed message.
"""

from __future__ import annotations

import tracemalloc

from engine.errors import RpcError, StatusCode
from engine.wire.grpc.compression import ENCODINGS, compress, decompress
from engine.wire.grpc.framing import MessageParser

MAX_SIZE = 20_000
_CODINGS = ENCODINGS[1:]  # the first is none
_SLACK = 200_000  # bytes: zlib's window and its output buffer, which grows by doubling

SEEDS: list[bytes] = [
    bytes([index % (3 * len(_CODINGS))]) + compress(_CODINGS[index % len(_CODINGS)], message)
    for index, message in enumerate(
        (b"", b"", b"hello", b"hello", bytes(MAX_SIZE), bytes(MAX_SIZE), bytes(MAX_SIZE + 1), bytes(10_000_000))
    )
]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    encoding = _CODINGS[data[0] % len(_CODINGS)] if data else "gzip"
    body = data[1:]
    tracemalloc.start()
    try:
        message = decompress(encoding, body, MAX_SIZE)
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_SIZE + _SLACK + len(body), "inflation is not bounded"
    finally:
        tracemalloc.stop()
    if isinstance(message, RpcError):
        assert message.code in (StatusCode.INTERNAL, StatusCode.RESOURCE_EXHAUSTED)
    else:
        assert len(message) <= MAX_SIZE
    whole = compress(encoding, body)
    assert decompress(encoding, whole, len(body)) == body
    assert decompress(encoding, b"", 0) == b""
    for broken in (whole[:-1], whole + b"\0"):
        refused = decompress(encoding, broken, len(body))
        assert isinstance(refused, RpcError), "what is cut, or has bytes behind it, was taken"
        assert refused.code is StatusCode.INTERNAL

    flag = data[0] // len(_CODINGS) if data else 1  # 0 to 85; 1 is the only other one that means something
    parser = MessageParser(MAX_SIZE, encoding)
    parser.receive_data(bytes([flag]) + len(body).to_bytes(4, "big") + body)
    taken = parser.next_message()
    if flag > 1 or len(body) > MAX_SIZE or (flag and isinstance(message, RpcError)):
        assert taken is None
        assert parser.failure is not None
        assert flag <= 1 or parser.failure.code is StatusCode.INTERNAL
    else:
        assert taken == (message if flag else body)
        assert parser.compressed is bool(flag)

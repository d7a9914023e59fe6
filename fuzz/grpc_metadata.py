"""gRPC metadata and status: nothing that a peer sends raises, and what we send is read back the same.

An input is a field: the name up to the first colon, the value after it.
"""

from __future__ import annotations

import re

from engine.errors import LocalProtocolError, RpcError, StatusCode
from engine.wire.grpc import metadata, status

LIMIT = 64

SEEDS: list[bytes] = [
    b"x-id:1",
    b"x-id-bin:AQI=, Aw==, BAUG",
    b"x-id-bin:AQI",
    b"x-id-bin:A",
    b"x-id-bin:,,",
    b"x-id-bin:%%%",
    b"x-latin: \xe9\xff\t ",
    b"grpc-message:%E2%98%BA %zz %f",
    b"grpc-message:" + "☺".encode() * 30,
    b"grpc-status:7",
    b" : \x00 ",
]

_LEGAL_VALUE = re.compile(rb"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    name, _, value = data.partition(b":")
    name = name.lower()  # the HTTP/2 core refuses others
    _check_metadata(name, value)
    _check_message(value)
    assert isinstance(status.decode_status(value), StatusCode)


def _check_metadata(name: bytes, value: bytes) -> None:
    decoded = metadata.decode([(name, value), (name, value)])
    if isinstance(decoded, RpcError):
        assert name.endswith(b"-bin")
        assert decoded.code is StatusCode.INTERNAL
        return
    assert len(decoded) % 2 == 0, "one of two equal fields was dropped"
    try:
        encoded = metadata.encode(decoded)
    except LocalProtocolError:
        return  # legal to receive, not to send
    for _, wire_value in encoded:
        assert _LEGAL_VALUE.fullmatch(wire_value), wire_value
    assert metadata.size(encoded) >= 32 * len(encoded)
    assert metadata.decode(encoded) == decoded, "metadata did not survive its own encoding"


def _check_message(value: bytes) -> None:
    text = status.decode_message(value)
    whole = status.encode_message(text, 1 << 20)
    assert _LEGAL_VALUE.fullmatch(whole), whole
    assert status.decode_message(whole) == text
    cut = status.encode_message(text, LIMIT)
    assert len(cut) <= LIMIT
    assert _LEGAL_VALUE.fullmatch(cut), cut
    assert text.startswith(status.decode_message(cut)), "cut inside a character or an escape"

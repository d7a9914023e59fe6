"""gRPC metadata and status: nothing that a peer sends raises, and what we send is read back the same.

An input is a field: the name up to the first colon, the value after it.
"""

from __future__ import annotations

import base64
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
    b"grpc-message:%2541%25zz",
    b"grpc-message:" + "☺".encode() * 30,
    b"grpc-status:7",
    b" : \x00 ",
]

_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_MESSAGE = re.compile(rb"(?:[^%]|%[0-9A-F]{2})*", re.DOTALL)
_LEGAL_VALUE = re.compile(rb"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    name, _, value = data.partition(b":")
    name = name.lower()  # the HTTP/2 core refuses others
    _check_metadata(name, value)
    _check_message(value)
    assert isinstance(status.decode_status(value), StatusCode)


def _binary_values(value: bytes) -> list[bytes] | None:
    """RFC 4648 section 4, padded or not, several between commas."""
    values: list[bytes] = []
    for piece in value.split(b","):
        text = piece.strip(b" \t")
        padded = text + b"=" * (-len(text) % 4) if b"=" not in text else text
        if not _BASE64.fullmatch(padded):
            return None
        values.append(base64.b64decode(padded))
    return values


def _check_metadata(name: bytes, value: bytes) -> None:
    decoded = metadata.decode([(name, value), (name, value)])
    if name.endswith(b"-bin") and name[:1] != b":":
        expected = _binary_values(value)
        assert isinstance(decoded, RpcError) is (expected is None), f"{value!r} is judged wrong"
        assert expected is None or [each for _, each in decoded] == expected * 2
    if isinstance(decoded, RpcError):
        assert name.endswith(b"-bin")
        assert decoded.code is StatusCode.INTERNAL
        return
    assert len(decoded) % 2 == 0, "one of two equal fields was dropped"
    try:
        encoded = metadata.encode(decoded)
    except LocalProtocolError:
        return  # legal to receive, not to send
    for wire_name, wire_value in encoded:
        assert _LEGAL_VALUE.fullmatch(wire_value), wire_value
        assert not wire_name.endswith(b"-bin") or b"=" not in wire_value, "padding is not sent"
    assert metadata.size(encoded) >= 32 * len(encoded)
    assert metadata.decode(encoded) == decoded, "metadata did not survive its own encoding"


def _check_message(value: bytes) -> None:
    text = status.decode_message(value)
    whole = status.encode_message(text, 1 << 20)
    assert _LEGAL_VALUE.fullmatch(whole), whole
    assert _MESSAGE.fullmatch(whole), whole
    assert status.decode_message(whole) == text
    cut = status.encode_message(text, LIMIT)
    assert len(cut) <= LIMIT
    assert _LEGAL_VALUE.fullmatch(cut), cut
    assert text.startswith(status.decode_message(cut)), "cut inside a character or an escape"

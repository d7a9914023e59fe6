"""The length-delimited fields of a serialised message, read without its type.

For the few places that look into a message whose generated code need not be there. Never raises for
what the bytes are. Spec: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_FIXED = {1: 8, 5: 4}  # wire types of fixed size, bytes
_VARINT, _LENGTH_DELIMITED = 0, 2
_MAX_VARINT = 10  # bytes


def length_delimited(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Field numbers and values, in order, up to the first byte that makes no sense."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if at < 0:
            return
        if kind == _LENGTH_DELIMITED:
            size, at = _varint(data, at)
            if at < 0 or at + size > len(data):
                return
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _varint(data, at)
            if at < 0:
                return
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The value and where it ends; -1: it does not."""
    value = 0
    for shift in range(_MAX_VARINT):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if not byte & 0x80:
            return value, at
    return 0, -1

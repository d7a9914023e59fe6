"""The remembering HPACK decoder against plain hpack: the same lists for the same blocks, whatever was
remembered before, and an error where hpack has one; and hpack decodes what we encode.

The input is blocks, each behind a byte of length.
"""

from __future__ import annotations

import hpack

from engine.config import Http2Config
from engine.errors import LimitExceeded, LocalProtocolError
from engine.wire.hpack_memo import HARD_LIST_FACTOR, CompressionError, FieldBlock, MemoDecoder, encode_fields

_CONFIG = Http2Config(max_header_list=512)


def _blocks(*blocks: bytes) -> bytes:
    return b"".join(bytes([len(block)]) + block for block in blocks)


_ENCODER = hpack.Encoder()
_FIELDS = [(":method", "POST"), (":path", "/a/B"), ("x-long", "y" * 30), ("grpc-timeout", "1S")]

SEEDS: list[bytes] = [
    _blocks(b"\x82\x86\x84", b"\x82\x86\x84"),
    _blocks(*[_ENCODER.encode(_FIELDS) for _ in range(3)]),
    _blocks(b"\x40\x01a\x01b", b"\xbe", b"\x40\x01a\x01c", b"\xbe", b"\xbf"),
    _blocks(b"\x20\x3f\xe1\x1f\x82", b"\x20", b"\x82\x20"),
    _blocks(b"\x00\x01a\x81\x8f", b"\x10\x01a\x01b", b"\x0f\x2f\x01c", b"\x7f\x00\x01d"),
    _blocks(b"\xff\x80\x80\x80\x80\x01", b"\x80", b"\xff"),
    _blocks(b"\x40\x01a\x7f\x21" + b"x" * 160, b"\xbe" * 5),
]


def _split(data: bytes) -> list[bytes]:
    blocks = []
    position = 0
    while position < len(data):
        end = position + 1 + data[position]
        blocks.append(data[position + 1 : end])
        position = end
    return blocks


def _size_updates(block: bytes) -> int:
    """Size updates at the start of a block: hpack takes any number, we take two."""
    count = position = 0
    while position < len(block) and block[position] & 0xE0 == 0x20:
        count += 1
        if block[position] & 0x1F == 0x1F:
            position += 1
            while position < len(block) and block[position] & 0x80:
                position += 1
        position += 1
    return count


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    ours = MemoDecoder(_CONFIG)
    theirs = hpack.Decoder(_CONFIG.max_header_list * HARD_LIST_FACTOR)
    for block in _split(data):
        for _ in range(2):  # the second time from memory, where the block allows it
            expected: list[tuple[bytes, ...]] | None = None
            error = ""
            try:
                expected = [tuple(field) for field in theirs.decode(block, raw=True)]
            except (hpack.HPACKError, IndexError) as caught:
                error = repr(caught)
            decoded: FieldBlock | None = None
            refusal = ""
            try:
                decoded = ours.decode_block(block)
            except (CompressionError, LimitExceeded) as caught:
                refusal = repr(caught)
            if decoded is None:
                assert expected is None or _size_updates(block) > 2, f"hpack decodes what we refuse: {refusal}"
                return
            assert expected is not None, f"we decode what hpack refuses: {error}"
            assert list(decoded.fields) == expected, f"hpack: {expected!r}\nours: {decoded.fields!r}"
            assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries, "the tables differ"
            assert decoded.size == sum(32 + len(name) + len(value) for name, value in decoded.fields), "a wrong size"
        _check_encoding([(name, value) for name, value in decoded.fields])


def _check_encoding(fields: list[tuple[bytes, bytes]]) -> None:
    try:
        encoded = encode_fields(fields)
    except LocalProtocolError:
        return
    decoder = hpack.Decoder()
    again = [tuple(field) for field in decoder.decode(encoded, raw=True)]
    sendable = [(name.lower(), value) for name, value in fields]
    assert [field for field in sendable if field in again] == again, f"encoded {fields!r}, decoded {again!r}"
    assert not decoder.header_table.dynamic_entries, "the encoder used the dynamic table"

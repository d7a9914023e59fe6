"""The frame guard for arbitrary bytes: it raises nothing but its two refusals, hands out the same
frames however the bytes were cut, keeps no more than a frame and a header block, and what it hands
out keeps every rule that it promises to the core.
"""

from __future__ import annotations

import struct

from engine.config import Bucket, Http2Config
from engine.errors import LimitExceeded, RemoteProtocolError
from engine.wire import frame_guard
from engine.wire.frame_guard import PREFACE, FrameGuard
from engine.wire.http2_budgets import Budgets

_CONFIG = Http2Config(
    glitches=Bucket(3, 1), pings=Bucket(3, 1), settings=Bucket(3, 1), max_header_block=64, max_settings_entries=3
)


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


_OPEN = PREFACE + frame(4)

SEEDS: list[bytes] = [
    _OPEN,
    _OPEN + frame(4, 0, 0, struct.pack(">HLHL", 1, 2**32 - 1, 0xABC, 1)) + frame(4, 1),
    _OPEN + frame(1, 5, 1, b"\x82\x86\x84") + frame(0, 1, 1, b"hello"),
    _OPEN + frame(1, 0x2D, 1, b"\x01" + bytes(5) + b"\x82\0") + frame(0, 9, 1, b"\x02hi\0\0"),
    _OPEN + frame(1, 1, 1, b"\x82") + frame(9, 0, 1, b"\x86") + frame(9, 4, 1, b"\x84"),
    _OPEN + frame(2, 0, 3, bytes(5)) + frame(3, 0, 1, bytes(4)) + frame(6, 0, 0, bytes(8)),
    _OPEN + frame(7, 0, 0, bytes(8)) + frame(8, 0, 0, b"\0\0\0\1") + frame(0x10, 0, 0, b"x") + frame(0xFA),
    _OPEN + frame(0, 0, 1) * 12,
    _OPEN + frame(6, 0, 0, bytes(8)) * 5,
    _OPEN + b"\xff\xff\xff" + bytes(6),
    b"GET / HTTP/1.1\r\n\r\n",
]


def _trace(pieces: list[bytes]) -> tuple[list[frame_guard.Frame], str]:
    """The frames of the pieces, and how it ended."""
    guard = FrameGuard(_CONFIG, Budgets(_CONFIG))
    frames: list[frame_guard.Frame] = []
    try:
        for piece in pieces:
            guard.feed(piece)
            while (found := guard.next_frame(0.0)) is not None:
                _check(found)
                frames.append(found)
    except (RemoteProtocolError, LimitExceeded) as error:
        return frames, f"{type(error).__name__}: {error}"
    assert guard.header_block_open in (True, False)
    return frames, "incomplete" if guard.incomplete else "complete"


def _check(found: frame_guard.Frame) -> None:
    kind, flags, stream_id, payload, length = found
    assert kind in (0, 1, 3, 4, 6, 7, 8), f"frame type {kind} reached the core"
    assert 0 <= stream_id < 2**31, "a reserved bit in the stream id"
    assert len(payload) <= max(_CONFIG.max_frame_size, _CONFIG.max_header_block), "a payload over the limits"
    assert (length >= len(payload)) if kind == 0 else length == 0, "a wrong flow-controlled length"
    if kind in (0, 1, 3):
        assert stream_id, "a stream's frame on stream 0"
    elif kind != 8:
        assert not stream_id, "a connection's frame on a stream"
    if kind == 4 and not flags & 1:
        entries = dict(struct.iter_unpack(">HL", payload))
        assert set(entries) <= {1, 2, 3, 4, 5, 6, 8}, "an unknown setting reached the core"
        assert entries.get(1, 0) <= _CONFIG.header_table_size, "a header table that is too large"
    if kind == 1:
        assert len(payload) <= _CONFIG.max_header_block, "a header block over its limit"


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    whole = _trace([data])
    bytewise = _trace([data[index : index + 1] for index in range(len(data))])
    assert whole == bytewise, f"whole: {whole!r}\nbyte by byte: {bytewise!r}"
    size = 1 + sum(data) % 29
    pieces = _trace([data[index : index + size] for index in range(0, len(data), size)])
    assert whole == pieces, f"whole: {whole!r}\nin pieces of {size}: {pieces!r}"

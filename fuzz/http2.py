"""The HTTP/2 core for arbitrary bytes after an honest beginning: it never raises, gives the same events
and answers however the bytes were cut, keeps its streams and windows in order, sends nothing but whole
frames within the peer's windows, and is silent after a failure.

Each request is answered as soon as it arrives, so that the send side takes part.
"""

from __future__ import annotations

import struct

import hpack

from engine.config import Bucket, Http2Config
from engine.wire.http2 import ConnectionFailed, DataReceived, Http2Core, RequestReceived, RequestRefused
from fuzz.frame_guard import PREFACE, frame

_CONFIG = Http2Config(
    glitches=Bucket(5, 0),
    pings=Bucket(5, 0),
    settings=Bucket(5, 0),
    resets=Bucket(5, 0),
    max_header_list=1024,
    max_fields=12,
)
_OPEN = PREFACE + frame(4) + frame(4, 1)
_FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
_BLOCK = hpack.Encoder().encode(_FIELDS)
_LENGTH = hpack.Encoder().encode([*_FIELDS, ("content-length", "5")])
_UPPER = hpack.Encoder().encode([*_FIELDS, ("Upper", "x")])
_MANY = hpack.Encoder().encode([*_FIELDS, *[("x", "y", True)] * 12])

SEEDS: list[bytes] = [
    frame(1, 4, 1, _BLOCK) + frame(0, 0, 1, b"hello") + frame(1, 5, 1, b"\x00\x01t\x01v"),
    frame(1, 5, 1, _BLOCK) + frame(1, 5, 3, b"\x83\x86\x84\xbe") + frame(8, 0, 1, b"\0\0\1\0"),
    frame(1, 4, 1, _LENGTH) + frame(0, 9, 1, b"\x03hello\0\0\0") + frame(3, 0, 1, bytes(4)),
    frame(1, 4, 1, _BLOCK) + frame(3, 0, 1, bytes(4)) + frame(0, 0, 1, b"late") + frame(1, 4, 3, _UPPER),
    frame(1, 1, 1, _MANY[:9]) + frame(9, 4, 1, _MANY[9:]) + frame(6, 0, 0, bytes(8)) + frame(7, 0, 0, bytes(8)),
    frame(4, 0, 0, struct.pack(">HLHL", 4, 1, 1, 0)) + frame(1, 5, 1, _BLOCK) + frame(8, 0, 1, b"\0\0\0\1") * 4,
    frame(1, 5, 1, _BLOCK) + frame(8, 0, 1, b"\x7f\xff\xff\xff") + frame(8, 0, 0, bytes(4)),
    frame(0, 0, 1, b"idle"),
    frame(1, 5, 1, b"\xff\xff\xff"),
]


def _trace(pieces: list[bytes]) -> tuple[list[str], bytes]:
    """Events and answers of the pieces."""
    core = Http2Core(_CONFIG, enable_connect_protocol=True)
    core.initiate()
    core.receive_data(_OPEN, 0.0)
    while core.next_event() is not None:
        pass
    core.data_to_send()
    trace: list[str] = []
    failed = False
    for piece in pieces:
        core.receive_data(piece, 0.0)
        while (event := core.next_event()) is not None:
            assert not failed, f"{event!r} after the failure"
            trace.append(repr(event))
            if isinstance(event, RequestReceived | RequestRefused):
                core.send_headers(event.stream_id, ((b":status", b"200"), (b"x", b"y")))
                core.send_data(event.stream_id, bytes(70_000))
                core.send_trailers(event.stream_id, ((b"t", b"v"),))
            elif isinstance(event, DataReceived):
                core.consumed(event.stream_id, event.flow_length)
            elif isinstance(event, ConnectionFailed):
                failed = True
                assert core.failure is event.error, "the failure is another than the event's"
                assert core.open_streams == 0, "streams left after the failure"
    wire = b""
    while more := core.data_to_send():
        wire += more
    _check_wire(wire)
    assert core.control_backlog == 0, "replies left behind"
    return trace, wire


def _check_wire(wire: bytes) -> None:
    """Whole frames, heads before bodies, no body beyond the connection's window but for updates."""
    heads: set[int] = set()
    ended: set[int] = set()
    while wire:
        high, low, kind, flags, stream_id = struct.unpack_from(">HBBBL", wire)
        length = high << 8 | low
        assert len(wire) >= 9 + length, "half a frame was sent"
        assert length <= 16_384, "a frame that is too large"
        wire = wire[9 + length :]
        if kind in (0, 1):
            assert stream_id not in ended, "a frame after the end of its stream"
            if kind == 1:
                heads.add(stream_id)
            assert stream_id in heads, "DATA before HEADERS"
            if flags & 1:
                ended.add(stream_id)
        elif kind == 3:
            ended.add(stream_id)


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    whole = _trace([data])
    bytewise = _trace([data[index : index + 1] for index in range(len(data))])
    assert whole == bytewise, f"whole: {whole!r}\nbyte by byte: {bytewise!r}"
    size = 1 + sum(data) % 29
    pieces = _trace([data[index : index + size] for index in range(0, len(data), size)])
    assert whole == pieces, f"whole: {whole!r}\nin pieces of {size}: {pieces!r}"

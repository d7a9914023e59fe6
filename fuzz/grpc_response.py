"""A client's call: whatever bytes a server sends, it ends exactly once, with the same status however they are cut.

The first byte of an input chooses the kind of response, the second the cuts; the rest is what the server sends,
from its SETTINGS to the end of the connection.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterable
from typing import Any

import hpack
import trio

from engine.config import ChannelConfig
from engine.errors import Http2Code, StatusCode
from engine.grpc.attempt import Attempt
from engine.transport.http2_client import LossKind, StreamLoss
from engine.wire.http2 import DataReceived, Http2Core, ResponseReceived, StreamReset, TrailersReceived

MAX_SIZE = 1000
_CONFIG = ChannelConfig(max_metadata_size=2000)
_REQUEST = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"), (b":authority", b"a"))
_HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK = ((b"grpc-status", b"0"),)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def _headers(fields: Iterable[tuple[bytes, bytes]], *, end: bool = False) -> bytes:
    return _frame(1, 4 | end, 1, hpack.Encoder().encode([(name, value, True) for name, value in fields]))


def _message(payload: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


_SETTINGS = _frame(4, 0, 0, b"")

SEEDS: list[bytes] = [
    bytes([kind, step]) + _SETTINGS + frames
    for kind, step, frames in (
        (0, 1, _headers(_HEAD) + _frame(0, 0, 1, _message(b"hello")) + _headers(_OK, end=True)),
        (1, 3, _headers(_HEAD) + _frame(0, 0, 1, _message(b"a") + _message(b"b")) + _headers(_OK, end=True)),
        (0, 200, _headers((*_HEAD, (b"grpc-status", b"9"), (b"grpc-message", b"a%20%zz")), end=True)),
        (1, 7, _headers(((b":status", b"103"),)) + _headers(_HEAD) + _frame(3, 0, 1, b"\0\0\0\x08")),
        (0, 50, _headers(((b":status", b"503"), _HEAD[1])) + _headers(((b"grpc-status", b"5"),), end=True)),
        (0, 9, _headers(((b":status", b"404"), (b"content-type", b"text/html"))) + _frame(0, 1, 1, b"<html>")),
        (
            1,
            20,
            _headers((*_HEAD, (b"grpc-encoding", b"gzip"), (b"x-bin", b"AQI,Aw")))
            + _frame(0, 0, 1, _message(gzip.compress(b"hello"), 1))
            + _frame(0, 8, 1, b"\x02" + _message(b"x") + b"\0\0")
            + _headers((*_OK, (b"x", b"y")), end=True),
        ),
        (0, 5, _headers(_HEAD) + _frame(0, 1, 1, _message(bytes(MAX_SIZE + 1)))),
        (1, 4, _frame(7, 0, 0, bytes(8) + b"bye") + _frame(6, 0, 0, b"12345678")),
    )
]


class _Connection:
    """What an attempt needs of its connection."""

    peer_address = "peer:1"

    def __init__(self, core: Http2Core) -> None:
        self._core = core
        self.resets = 0

    def open(self, handler: Attempt, fields: Any, *, reserved: bool, single: bool) -> int:
        stream_id = self._core.next_stream_id()
        self._core.send_headers(stream_id, fields)
        self._core.send_data(stream_id, _message(b"request"), end_stream=True)
        return stream_id

    def consumed(self, stream_id: int, flow_length: int) -> None:
        self._core.consumed(stream_id, flow_length)

    def reset(self, stream_id: int, code: Http2Code) -> None:
        self.resets += 1
        self._core.reset_stream(stream_id, code)


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    trio.run(_run, data)


async def _run(data: bytes) -> None:
    await trio.lowlevel.checkpoint()
    single = bool(data[:1]) and data[0] % 2 == 0
    step = data[1] + 1 if len(data) > 1 else 1
    wire = data[2:]
    whole, cut = _respond(wire, len(wire) or 1, single=single), _respond(wire, step, single=single)
    assert whole == cut, f"the end depends on how the bytes were cut: {whole} and {cut}"


def _respond(wire: bytes, step: int, *, single: bool) -> tuple[StatusCode, list[bytes]]:
    core = Http2Core(_CONFIG.http2, client=True)
    core.initiate()
    connection: Any = _Connection(core)
    attempt = Attempt(connection, _CONFIG, number=1, single=single, max_size=MAX_SIZE, deadline=math.inf)
    assert attempt.open(_REQUEST, reserved=False)
    core.data_to_send()
    messages: list[bytes] = []
    gone = False
    for start in range(0, len(wire), step):
        core.receive_data(wire[start : start + step], 0.0)
        while (event := core.next_event()) is not None:
            if not (gone or connection.resets):
                gone = _apply(attempt, event)
        core.data_to_send()
        _take(attempt, messages)
    if not (gone or connection.resets):
        attempt.lost(StreamLoss(LossKind.CONNECTION, "connection lost"))
    _take(attempt, messages)
    assert attempt.finished, "a call that never ends"
    assert connection.resets <= 1
    assert all(len(each) <= MAX_SIZE for each in messages)
    if attempt.code is StatusCode.OK:
        assert (b"grpc-status", b"0") in attempt.trailers, "OK that the server did not say"
        if single:
            assert attempt.payload is not None
            messages.append(attempt.payload)
    error = attempt.error((attempt.cause,))
    assert error.code is attempt.code
    assert str(error)
    assert str(error.causes[0])
    return attempt.code, messages


def _apply(attempt: Attempt, event: object) -> bool:
    """As a connection does; True: the stream is over."""
    if isinstance(event, ResponseReceived):
        if event.status >= 200:
            attempt.head_received(event.status, event.headers)
    elif isinstance(event, DataReceived):
        attempt.data_received(event.data, event.flow_length)
    elif isinstance(event, TrailersReceived):
        attempt.ended(event.headers)
        return True
    elif isinstance(event, StreamReset):
        attempt.lost(StreamLoss(LossKind.RESET, "RST_STREAM", event.code))
        return True
    if getattr(event, "end_stream", False) and not attempt.finished:
        attempt.ended(())
        return True
    return False


def _take(attempt: Attempt, messages: list[bytes]) -> None:
    while (payload := attempt.take()) is not None:
        messages.append(payload)

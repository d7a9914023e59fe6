"""Hand-built HTTP/2 frames, and a server core with the talk before the first request behind it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import hpack

from engine.config import Http2Config
from engine.wire.http2 import ConnectionFailed, Http2Core

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
POST = [(b":method", b"POST"), *GET[1:]]
OK = ((b":status", b"200"),)


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A field block without indexing: it may be sent at any time."""
    encoder = hpack.Encoder()
    return encoder.encode([(name, value, True) for name, value in fields])


def headers(stream_id: int, fields: Iterable[tuple[bytes, bytes]] = GET, *, end: bool = True) -> bytes:
    return frame(HEADERS, 4 | end, stream_id, block(fields))


def data(stream_id: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    return frame(DATA, int(end), stream_id, payload)


def settings(*entries: tuple[int, int], ack: bool = False) -> bytes:
    return frame(SETTINGS, int(ack), 0, b"".join(struct.pack(">HL", *entry) for entry in entries))


def window(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW, 0, stream_id, struct.pack(">L", increment))


def reset(stream_id: int, code: int = 8) -> bytes:
    return frame(RST, 0, stream_id, struct.pack(">L", code))


def split(wire: bytes) -> list[tuple[int, int, int, bytes]]:
    """The frames of what was sent: type, flags, stream id, payload."""
    frames = []
    while wire:
        high, low, kind, flags, stream_id = struct.unpack_from(">HBBBL", wire)
        length = high << 8 | low
        frames.append((kind, flags, stream_id, wire[9 : 9 + length]))
        assert len(wire) >= 9 + length
        wire = wire[9 + length :]
    return frames


def events(core: Http2Core) -> list[Any]:
    found = []
    while (event := core.next_event()) is not None:
        found.append(event)
    return found


def server(**options: Any) -> Http2Core:
    """A server core that has exchanged SETTINGS; its output so far is thrown away."""
    connect = options.pop("enable_connect_protocol", False)
    core = Http2Core(Http2Config(**options), enable_connect_protocol=connect)
    core.initiate()
    core.receive_data(PREFACE + settings() + settings(ack=True), 0.0)
    events(core)
    core.data_to_send()
    return core


def receive(core: Http2Core, *frames: bytes, now: float = 0.0) -> list[Any]:
    core.receive_data(b"".join(frames), now)
    return events(core)


def sent(core: Http2Core) -> list[tuple[int, int, int, bytes]]:
    """All that the core sends now."""
    wire = b""
    while piece := core.data_to_send():
        wire += piece
    return split(wire)


def goaway(core: Http2Core) -> tuple[int, int, bytes]:
    """Last stream id, code and text of the GOAWAY that must be the last that the core sends."""
    kind, _, _, payload = sent(core)[-1]
    assert kind == GOAWAY
    return (*struct.unpack_from(">LL", payload), payload[8:])


def resets(core: Http2Core) -> list[tuple[int, int]]:
    """Stream ids and codes of the RST_STREAM frames that the core sends now."""
    return [(sid, struct.unpack(">L", payload)[0]) for kind, _, sid, payload in sent(core) if kind == RST]


def failure(found: list[Any]) -> Exception:
    """The error of the connection failure that must be the last event."""
    assert isinstance(found[-1], ConnectionFailed), found
    return found[-1].error

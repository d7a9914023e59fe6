"""Microseconds for one gRPC unary exchange through the HTTP/2 core, beside plain h2 in the same run.

    python -m tests.benchmarks.wire_http2 [EXCHANGES]

An exchange is what a server does for it without I/O: request HEADERS and DATA in, the bytes consumed,
response HEADERS, 20 bytes of DATA and trailers out. The client's bytes are made beforehand.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived as H2DataReceived
from h2.events import StreamEnded as H2StreamEnded

from engine.config import Http2Config
from engine.wire.http2 import DataReceived, Http2Core

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000000000040100000000")
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/greet.Greeter/SayHello"),
    (":authority", "127.0.0.1:8000"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-python/1.71.0 grpc-c/46.0.0 (linux; chttp2)"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
]
HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS = ((b"grpc-status", b"0"),)
MESSAGE = b"\0\0\0\0\x0f" + b"Hello, world!!!"


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def client_bytes(exchanges: int, together: int) -> list[bytes]:
    """What the client sends, `together` requests a read."""
    encoder = hpack.Encoder()
    reads = []
    for first in range(0, exchanges, together):
        parts = []
        for index in range(first, first + together):
            stream_id = 2 * index + 1
            parts.append(frame(1, 4, stream_id, encoder.encode(REQUEST)) + frame(0, 1, stream_id, MESSAGE))
        parts.append(frame(8, 0, 0, struct.pack(">L", 2000 * together)))
        reads.append(b"".join(parts))
    return reads


def run_core(reads: list[bytes]) -> None:
    core = Http2Core(Http2Config())
    core.initiate()
    core.receive_data(PREFACE, 0.0)
    for read in reads:
        core.receive_data(read, 0.0)
        event = core.next_event()
        while event is not None:
            if type(event) is DataReceived:
                core.consumed(event.stream_id, event.flow_length)
                if event.end_stream:
                    core.send_headers(event.stream_id, HEAD)
                    core.send_data(event.stream_id, MESSAGE)
                    core.send_trailers(event.stream_id, TRAILERS)
            event = core.next_event()
        assert core.data_to_send()
    assert core.failure is None


def run_h2(reads: list[bytes]) -> None:
    core = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    core.initiate_connection()
    core.receive_data(PREFACE)
    for read in reads:
        for event in core.receive_data(read):
            if isinstance(event, H2DataReceived):
                core.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, H2StreamEnded):
                core.send_headers(event.stream_id, HEAD)
                core.send_data(event.stream_id, MESSAGE)
                core.send_headers(event.stream_id, TRAILERS, end_stream=True)
        assert core.data_to_send()


def measure(run: Callable[[list[bytes]], None], reads: list[bytes], exchanges: int) -> float:
    """The best of three, in microseconds an exchange."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        run(reads)
        best = min(best, time.process_time() - start)
    return best / exchanges * 1e6


def main() -> None:
    exchanges = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    print(f"{'exchanges a read':>16}  {'engine µs':>9}  {'h2 µs':>9}  ratio")
    for together in (1, 25):
        reads = client_bytes(exchanges, together)
        ours = measure(run_core, reads, exchanges)
        plain = measure(run_h2, reads, exchanges)
        print(f"{together:>16}  {ours:>9.1f}  {plain:>9.1f}  {plain / ours:.1f}")


if __name__ == "__main__":
    main()

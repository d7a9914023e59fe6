"""Each known attack on HTTP/2 servers, as bytes, and the answer that ends it.

The rows follow the public list of attacks since 2016; numbers are the defaults of `Http2Config`.
"""

from __future__ import annotations

import itertools
import struct
import tracemalloc

import hpack
import pytest

from engine.config import Bucket
from engine.errors import Http2Code, LimitExceeded
from engine.wire.http2 import DataReceived, RequestReceived
from tests.wire.http2_peer import (
    CONTINUATION,
    DATA,
    GET,
    GOAWAY,
    HEADERS,
    OK,
    PING,
    POST,
    PRIORITY,
    block,
    data,
    events,
    failure,
    frame,
    goaway,
    headers,
    receive,
    reset,
    sent,
    server,
    settings,
    window,
)

ODD = range(1, 2**31, 2)


def attack(core, frames, *, limit=100_000, now=lambda step: 0.0):
    """Send frames, reading the answers, until the core gives the connection up; how many it took."""
    for step, wire in enumerate(itertools.islice(frames, limit)):
        core.receive_data(wire, now(step))
        if core.failure is not None:
            return step
        events(core)
        core.data_to_send()
    return limit


def assert_calmed(core, name, reason):
    error = failure(events(core))
    assert isinstance(error, LimitExceeded)
    assert error.name == name
    assert goaway(core)[1:] == (Http2Code.ENHANCE_YOUR_CALM, reason)


def test_rapid_reset():
    core = server()
    took = attack(core, (headers(sid, end=False) + reset(sid) for sid in ODD))
    assert took == 200
    assert_calmed(core, "http2.resets", b"too_many_resets")


def test_rapid_reset_at_a_bearable_rate_is_not_an_attack():
    core = server()
    took = attack(core, (headers(sid) + reset(sid) for sid in ODD), limit=2000, now=lambda step: step / 50)
    assert took == 2000


def test_a_client_may_cancel_all_of_its_calls_at_once():
    core = server(max_concurrent_streams=1000)
    assert attack(core, (headers(sid) for sid in ODD), limit=1000) == 1000
    assert attack(core, (reset(sid) for sid in ODD), limit=1000) == 1000


def test_resets_of_streams_that_were_open_for_a_while_are_no_rapid_reset():
    core = server(resets=Bucket(1, 0))
    for wave in range(10):
        streams = range(1 + 200 * wave, 201 + 200 * wave, 2)
        attack(core, map(headers, streams), now=lambda step, wave=wave: float(wave))
        attack(core, map(reset, streams), now=lambda step, wave=wave: wave + 1.0)
    assert core.failure is None
    took = attack(core, (headers(sid) + reset(sid) for sid in ODD[1000:]), now=lambda step: 20.0)
    assert took == 100  # http2.max_concurrent_streams, were it more than the bucket's


def test_resets_of_answered_requests_are_not_counted():
    core = server()
    for sid in range(1, 1001, 2):
        receive(core, headers(sid))
        core.send_headers(sid, OK)
        core.data_to_send()
        receive(core, reset(sid))
    assert core.failure is None


@pytest.mark.parametrize(
    "provoke",
    [
        lambda sid: headers(sid, POST, end=False) + window(sid, 0),
        lambda sid: headers(sid, POST, end=False) + window(sid, 2**31 - 1),
        lambda sid: headers(sid) + data(sid, b"x"),
        lambda sid: headers(sid) + headers(sid, [(b"x", b"y")]),
        lambda sid: headers(sid, [*POST, (b"content-length", b"1")], end=False) + data(sid, b"xy"),
        lambda sid: frame(HEADERS, 0x25, sid, struct.pack(">LB", sid, 0) + block(GET)),
        lambda sid: headers(sid, [*GET, (b"X", b"y")]),
    ],
)
def test_made_you_reset(provoke):
    core = server()
    took = attack(core, (provoke(sid) for sid in ODD))
    assert took == 200
    assert_calmed(core, "http2.resets", b"too_many_resets")


def test_streams_that_are_refused_for_ever():
    core = server()
    for sid in ODD:
        receive(core, headers(sid, end=False))
        core.refuse(sid)
        core.data_to_send()
        if core.failure is not None:
            break
    assert sid == 401
    assert isinstance(core.failure, LimitExceeded)


@pytest.mark.parametrize(
    ("frames", "name", "reason"),
    [
        ([frame(CONTINUATION, 0, 1, b"x")] * 9, "http2.max_continuations", b"too_many_continuations"),
        ([frame(CONTINUATION, 0, 1, b"")], "http2.max_continuations", b"too_many_continuations"),
        ([frame(CONTINUATION, 0, 1, bytes(16_384))] * 4, "http2.max_header_block", b"header_block_too_large"),
    ],
)
def test_continuation_flood(frames, name, reason):
    core = server()
    attack(core, [frame(HEADERS, 0, 1, b"\x82"), *frames])
    assert_calmed(core, name, reason)


def test_hpack_bomb():
    core = server()
    encoder = hpack.Encoder()
    bomb = encoder.encode([*GET, (b"x", b"y" * 4000)])
    receive(core, frame(HEADERS, 5, 1, bomb))
    core.receive_data(frame(HEADERS, 5, 3, b"\xbe" * 16_000), 0.0)
    assert_calmed(core, "http2.max_header_list", b"header_list_too_large")


def test_a_block_of_size_updates_is_a_compression_error():
    core = server()
    failure(receive(core, frame(HEADERS, 5, 1, b"\x20" * 10_000)))
    assert goaway(core)[1] == Http2Code.COMPRESSION_ERROR


def test_the_peer_cannot_make_us_keep_a_large_or_toggling_encoder_table():
    core = server(settings=Bucket(1e6, 0))
    for _ in range(2000):
        receive(core, settings((1, 0)) + settings((1, 2**32 - 1)))
    receive(core, headers(1))
    core.send_headers(1, (*OK, (b"x", b"y")), end_stream=True)
    assert len(next(payload for kind, _, _, payload in sent(core) if kind == HEADERS)) < 12


def test_settings_flood():
    core = server()
    assert attack(core, itertools.repeat(settings())) < 25
    assert_calmed(core, "http2.settings", b"too_many_settings")


def test_unknown_settings_leave_no_trace():
    core = server(settings=Bucket(1e6, 0))
    wire = b"".join(settings(*[(0x1000 + i, 1) for i in range(at, at + 32)]) for at in range(0, 32_000, 32))
    tracemalloc.start()
    receive(core, wire)
    sent(core)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000


def test_settings_acknowledgements_that_nobody_asked_for():
    core = server()
    assert attack(core, itertools.repeat(settings(ack=True))) == 200
    assert_calmed(core, "http2.glitches", b"too_many_glitches")


def test_ping_flood():
    core = server()
    assert attack(core, itertools.repeat(frame(PING, 0, 0, bytes(8)))) == 50
    assert_calmed(core, "http2.pings", b"too_many_pings")


def test_pings_around_calls_are_no_flood():
    core = server()
    for sid in range(1, 2001, 2):
        receive(core, headers(sid), frame(PING, 0, 0, bytes(8)))
        core.send_headers(sid, OK, end_stream=True)
        core.data_to_send()
    assert core.failure is None


def test_replies_that_nobody_reads_are_visible_and_bounded_by_their_buckets():
    core = server()
    while core.failure is None:
        core.receive_data(frame(PING, 0, 0, bytes(8)) * 5 + settings(), 0.0)
        assert core.control_backlog < 64 * 1024
    assert core.control_backlog > 0


def test_ping_acknowledgements_that_nobody_asked_for():
    core = server()
    assert attack(core, itertools.repeat(frame(PING, 1, 0, bytes(8)))) == 200
    assert_calmed(core, "http2.glitches", b"too_many_glitches")


@pytest.mark.parametrize("wire", [window(1, 1), reset(1)])
def test_frames_for_a_closed_stream(wire):
    core = server(max_window_updates=10_000)
    receive(core, headers(1))
    core.send_headers(1, OK)
    core.send_data(1, b"x", end_stream=True)
    core.data_to_send()
    assert attack(core, itertools.repeat(wire)) == 212
    assert_calmed(core, "http2.glitches", b"too_many_glitches")


def test_data_for_a_closed_stream():
    core = server()
    receive(core, headers(1))
    core.send_headers(1, OK, end_stream=True)
    core.data_to_send()
    assert attack(core, itertools.repeat(data(1, b"x"))) == 3201
    assert_calmed(core, "http2.glitches", b"too_many_glitches")


def test_headers_for_a_stream_that_was_reset():
    core = server()
    receive(core, headers(1, end=False), reset(1))
    assert attack(core, itertools.repeat(headers(1))) == 3200
    assert_calmed(core, "http2.glitches", b"too_many_glitches")


@pytest.mark.parametrize("wire", [data(1), frame(DATA, 8, 1, b"\xff" + bytes(255))])
def test_empty_frames_flood(wire):
    core = server()
    receive(core, headers(1, POST, end=False))
    assert attack(core, itertools.repeat(wire)) == 10
    assert_calmed(core, "http2.max_empty_data", b"too_many_empty_data")


def test_small_data_that_nobody_consumes():
    core = server()
    receive(core, headers(1, POST, end=False))
    took = attack(core, itertools.repeat(data(1, b"x")))
    assert took == 4 * 4 * 1024 * 1024 // 256
    assert_calmed(core, "http2.max_unread", b"too_much_unread_data")


def test_small_data_that_is_consumed_is_a_stream_like_any_other():
    core = server()
    receive(core, headers(1, POST, end=False))
    for _ in range(20_000):
        for event in receive(core, data(1, b"x" * 10) * 5):
            core.consumed(1, event.flow_length)
    assert core.failure is None


def test_one_byte_windows():
    """The peer grants a byte at a time: each costs a frame of ten, and it must not go on for ever."""
    core = server()
    receive(core, settings((4, 1)), headers(1))
    core.send_headers(1, OK)
    core.send_data(1, bytes(100_000))
    core.data_to_send()
    assert attack(core, itertools.repeat(window(1, 1))) < 250
    assert core.failure is not None


def test_window_update_flood():
    core = server()
    assert attack(core, itertools.repeat(window(0, 1))) == 5
    assert_calmed(core, "http2.max_window_updates", b"too_many_window_updates")


@pytest.mark.parametrize(
    ("wire", "free"),
    [
        (frame(PRIORITY, 0, 3, bytes(5)), 300),
        (frame(0x10, 0, 0, bytes(4) + b"u=1"), 300),
        (frame(0xEE, 0, 0, b"grease"), 250),
        (frame(GOAWAY, 0, 0, bytes(8)), 202),
    ],
)
def test_frames_that_do_nothing(wire, free):
    core = server()
    assert attack(core, itertools.repeat(wire)) == free
    assert_calmed(core, "http2.glitches", b"too_many_glitches")


def test_a_connection_that_is_all_overhead():
    core = server(glitches=Bucket(1e9, 0))
    assert attack(core, itertools.repeat(frame(0xEE, 0, 0, bytes(16_384)))) == 8 * 1024 * 1024 // (16_384 + 9)
    assert_calmed(core, "http2.max_overhead", b"too_much_overhead")


def test_data_without_a_reader_stops_at_the_cap_and_a_window():
    """max_unread and one connection window is all that a peer who keeps to its credit can make us hold."""
    core = server()
    credit = {0: 1024 * 1024}
    held = 0
    for sid in range(1, 200, 2):
        receive(core, headers(sid, POST, end=False))
        credit[sid] = 256 * 1024
    progress = True
    while progress:
        progress = False
        for sid in range(1, 200, 2):
            size = min(credit[0], credit[sid], 16_384)
            if size:
                (event,) = receive(core, data(sid, bytes(size)))
                held += len(event.data)
                credit[0] -= size
                credit[sid] -= size
                progress = True
            for kind, _, stream, payload in sent(core):
                if kind == 8:
                    credit[stream] += struct.unpack(">L", payload)[0]
    assert core.failure is None
    assert held <= 5 * 1024 * 1024 + 512 * 1024
    # Once the handlers read, credit flows again.
    for sid in range(1, 200, 2):
        core.consumed(sid, 256 * 1024)
    assert [stream for kind, _, stream, _ in sent(core) if kind == 8 and stream == 0] == [0]


def test_blocked_streams_that_are_reset_leave_nothing_behind():
    core = server(resets=Bucket(1e9, 0))
    receive(core, headers(1))
    core.send_headers(1, OK)
    core.send_data(1, bytes(70_000))  # uses the connection's window up
    sent(core)
    assert core.blocked
    tracemalloc.start()
    for sid in range(3, 20_003, 2):
        receive(core, headers(sid))
        core.send_headers(sid, OK)
        core.send_data(sid, bytes(1000))
        core.data_to_send()
        receive(core, reset(sid))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000
    assert core.open_streams == 1


def test_a_stream_reset_in_its_own_read_is_seen_as_such():
    core = server()
    found = receive(core, headers(1), reset(1), headers(3, POST, end=False), data(3, b"x"))
    assert [type(event).__name__ for event in found] == [
        RequestReceived.__name__,
        "StreamReset",
        RequestReceived.__name__,
        DataReceived.__name__,
    ]

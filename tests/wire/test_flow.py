"""Receive credit of a connection."""

from __future__ import annotations

import pytest

from engine.config import Http2Config
from engine.errors import Http2Code, LimitExceeded, RemoteProtocolError
from engine.wire.flow import ConnectionCredit
from tests.wire.http2_peer import POST, WINDOW, data, failure, frame, goaway, headers, receive, sent, server

HALF = 512 * 1024


def test_credit_is_due_at_half_a_window():
    credit = ConnectionCredit(Http2Config())
    credit.arrived(HALF - 1)
    assert credit.due() == 0
    credit.arrived(1)
    assert credit.due() == HALF
    assert credit.due() == 0
    assert credit.window == 2 * HALF


def test_an_overrun_is_a_flow_control_error():
    credit = ConnectionCredit(Http2Config())
    credit.arrived(2 * HALF)
    with pytest.raises(RemoteProtocolError) as caught:
        credit.arrived(1)
    assert caught.value.http2_code is Http2Code.FLOW_CONTROL_ERROR


def test_credit_is_withheld_while_too_much_is_unread():
    credit = ConnectionCredit(Http2Config(max_unread=1000))
    credit.arrived(HALF)
    credit.hold(1, 1001)
    assert credit.due() == 0
    assert credit.consumed(1, 1) == 1
    assert credit.due() == HALF


def test_a_small_frame_costs_its_overhead_until_it_is_consumed():
    credit = ConnectionCredit(Http2Config())
    for _ in range(4):
        credit.hold(1, 64)
    assert credit.unread == 4 * 256
    assert credit.consumed(1, 128) == 128
    assert credit.unread == 2 * 256
    assert credit.consumed(1, 500) == 128
    assert credit.unread == 0
    assert credit.consumed(1, 1) == 0


def test_small_frames_without_end_are_a_flood():
    credit = ConnectionCredit(Http2Config(max_unread=1024))
    for _ in range(16):
        credit.hold(1, 1)
    with pytest.raises(LimitExceeded) as caught:
        credit.hold(1, 1)
    assert caught.value.name == "http2.max_unread"


def test_what_a_reset_stream_held_is_forgotten():
    credit = ConnectionCredit(Http2Config())
    credit.hold(1, 1000)
    credit.forget(1)
    credit.forget(3)
    assert credit.unread == 0
    assert credit.consumed(1, 1000) == 0


def updates(core):
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in sent(core) if kind == WINDOW]


def test_stream_credit_goes_back_on_consumption_and_connection_credit_on_arrival():
    core = server()
    receive(core, headers(1, POST, end=False), headers(3, POST, end=False), headers(5, POST, end=False))
    for stream_id, frames in ((1, 15), (3, 16), (5, 1)):
        receive(core, *[data(stream_id, bytes(16_384))] * frames)
    assert updates(core) == [(0, HALF)]
    core.consumed(1, 131_071)
    assert updates(core) == []
    core.consumed(1, 1)
    assert updates(core) == [(1, 131_072)]
    assert receive(core, data(5, b"not starved"))


def test_a_complete_stream_gets_no_more_credit():
    core = server()
    receive(core, headers(1, POST, end=False), *[data(1, bytes(16_384))] * 15, data(1, bytes(16_384), end=True))
    core.consumed(1, 262_144)
    assert updates(core) == []


def test_padding_is_credited_with_what_it_padded():
    core = server()
    receive(core, headers(1, POST, end=False))
    (event,) = receive(core, frame(0, 8, 1, b"\x0a" + b"x" * 5 + bytes(10)))
    assert (event.data, event.flow_length) == (b"xxxxx", 16)


def test_a_stream_that_overruns_its_window_ends_the_connection():
    core = server(connection_window=1024 * 1024)
    failure(receive(core, headers(1, POST, end=False), *[data(1, bytes(16_384))] * 17))
    assert goaway(core)[1] == Http2Code.FLOW_CONTROL_ERROR

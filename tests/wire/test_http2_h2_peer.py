"""The core against h2 as the client: an independent reading of the same RFC."""

from __future__ import annotations

import h2.events
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from engine.config import Http2Config
from engine.wire.http2 import DataReceived, Http2Core, RequestReceived, StreamReset, TrailersReceived
from tests.wire.http2_peer import events


class Talk:
    """An h2 client and our server, joined."""

    def __init__(self):
        self.core = Http2Core(Http2Config(), enable_connect_protocol=True)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.core.initiate()
        self.client.initiate_connection()
        self.client_events = []
        self.core_events = []

    def pump(self):
        moved = True
        while moved:
            moved = False
            if wire := self.client.data_to_send():
                self.core.receive_data(wire, 0.0)
                self.core_events += events(self.core)
                moved = True
            if wire := self.core.data_to_send():
                self.client_events += self.client.receive_data(wire)
                moved = True

    def request(self, stream_id, method="POST", end=False, extra=()):
        fields = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a"), *extra]
        self.client.send_headers(stream_id, fields, end_stream=end)
        self.pump()

    def take(self, kind):
        return [event for event in self.client_events if isinstance(event, kind)]


@pytest.fixture
def talk():
    talk = Talk()
    talk.pump()
    return talk


def test_settings_are_exchanged(talk):
    remote = talk.client.remote_settings
    assert remote.max_concurrent_streams == 100
    assert remote.initial_window_size == 262_144
    assert remote.enable_connect_protocol == 1
    assert talk.client.outbound_flow_control_window == 1_048_576
    assert talk.core.settings_acknowledged


def test_a_call_with_trailers_on_both_sides(talk):
    talk.request(1, extra=[("x", "y")])
    talk.client.send_data(1, b"hello", pad_length=7)
    talk.client.send_headers(1, [("t", "1")], end_stream=True)
    talk.pump()
    request, body, trailers = talk.core_events[-3:]
    assert isinstance(request, RequestReceived)
    assert body == DataReceived(1, b"hello", 13, False)
    assert trailers == TrailersReceived(1, ((b"t", b"1"),))
    talk.core.send_headers(1, ((b":status", b"200"), (b"content-type", b"application/grpc")))
    talk.core.send_data(1, b"world")
    talk.core.send_trailers(1, ((b"grpc-status", b"0"),))
    talk.pump()
    (head,) = talk.take(h2.events.ResponseReceived)
    assert head.headers == [(b":status", b"200"), (b"content-type", b"application/grpc")]
    assert [event.data for event in talk.take(h2.events.DataReceived)] == [b"world"]
    assert talk.take(h2.events.TrailersReceived)[0].headers == [(b"grpc-status", b"0")]
    assert talk.take(h2.events.StreamEnded)


def test_a_body_of_megabytes_in_each_direction(talk):
    body = bytes(range(256)) * 8192
    talk.request(1)
    sent = 0
    received = b""
    talk.core.send_headers(1, ((b":status", b"200"),))
    while sent < len(body):
        room = min(talk.client.local_flow_control_window(1), 16_384, len(body) - sent)
        assert room > 0
        talk.client.send_data(1, body[sent : sent + room])
        sent += room
        talk.pump()
        for event in talk.core_events:
            if isinstance(event, DataReceived):
                received += event.data
                talk.core.consumed(1, event.flow_length)
        talk.core_events.clear()
        talk.pump()
    assert received == body
    talk.core.send_data(1, body, end_stream=True)
    echoed = b""
    for _ in range(1000):
        talk.pump()
        for event in talk.take(h2.events.DataReceived):
            echoed += event.data
            talk.client.acknowledge_received_data(event.flow_controlled_length, 1)
        talk.client_events = [e for e in talk.client_events if isinstance(e, h2.events.StreamEnded)]
        if talk.client_events:
            break
    assert echoed == body
    assert talk.core.failure is None


def test_hundreds_of_calls_leave_nothing_behind(talk):
    for stream_id in range(1, 1001, 2):
        talk.request(stream_id, "GET", end=True)
        talk.core.send_headers(stream_id, ((b":status", b"200"), (b"x", b"%d" % stream_id)))
        talk.core.send_data(stream_id, b"ok", end_stream=True)
        talk.pump()
    assert len(talk.take(h2.events.StreamEnded)) == 500
    assert talk.core.open_streams == 0


def test_resets_go_both_ways(talk):
    talk.request(1)
    talk.client.reset_stream(1, 8)
    talk.pump()
    assert talk.core_events[-1] == StreamReset(1, 8, by_peer=True)
    talk.request(3)
    talk.core.reset_stream(3, 2)
    talk.pump()
    (reset,) = talk.take(h2.events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (3, 2)


def test_an_early_answer_reaches_the_client_before_the_reset(talk):
    talk.request(1)
    talk.core.send_headers(1, ((b":status", b"413"),))
    talk.core.send_data(1, b"too large", end_stream=True)
    talk.core.finish_early(1)
    talk.pump()
    kinds = [type(event) for event in talk.client_events[-4:]]
    assert kinds == [
        h2.events.ResponseReceived,
        h2.events.DataReceived,
        h2.events.StreamEnded,
        h2.events.StreamReset,
    ]


def test_extended_connect(talk):
    fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/echo"),
        (":authority", "a"),
    ]
    talk.client.send_headers(1, fields)
    talk.pump()
    assert talk.core_events[-1].protocol == b"websocket"


def test_a_graceful_end_is_understood(talk):
    talk.request(1)
    talk.core.go_away(2**31 - 1, 0)
    talk.pump()
    (terminated,) = talk.take(h2.events.ConnectionTerminated)
    assert terminated.last_stream_id == 2**31 - 1

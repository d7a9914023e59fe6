"""The HTTP/2 core as a client of the HTTP/2 core as a server."""

from __future__ import annotations

import struct

from engine.config import Http2Config
from engine.errors import Http2Code
from engine.wire.http2 import (
    DataReceived,
    Http2Core,
    PeerSettingsChanged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamReset,
    TrailersReceived,
)
from tests.wire.http2_peer import (
    GET,
    OK,
    POST,
    block,
    events,
    failure,
    frame,
)

END = 1
END_HEADERS = 4


def pump(*cores):
    moved = True
    while moved:
        moved = False
        for source, target in (cores, cores[::-1]):
            if wire := source.data_to_send():
                target.receive_data(wire, 0.0)
                moved = True


def pair(**options):
    ours, theirs = Http2Core(Http2Config(**options)), Http2Core(Http2Config(**options), client=True)
    ours.initiate()
    theirs.initiate()
    pump(ours, theirs)
    assert {type(event) for event in events(ours) + events(theirs)} == {PeerSettingsChanged, SettingsAcknowledged}
    return ours, theirs


def test_our_client_talks_to_our_server():
    ours, client = pair()
    stream_id = client.next_stream_id()
    client.send_headers(stream_id, POST)
    client.send_data(stream_id, b"ping")
    client.send_trailers(stream_id, ((b"t", b"1"),))
    pump(ours, client)
    request, body, trailers = events(ours)
    assert (request.method, body.data, trailers.headers) == (b"POST", b"ping", ((b"t", b"1"),))
    ours.send_headers(stream_id, ((b":status", b"103"),))
    ours.send_headers(stream_id, (*OK, (b"x", b"y")))
    ours.send_data(stream_id, b"pong")
    ours.send_trailers(stream_id, ((b"grpc-status", b"0"),))
    pump(ours, client)
    assert events(client) == [
        ResponseReceived(stream_id, 103, (), False),
        ResponseReceived(stream_id, 200, ((b"x", b"y"),), False),
        DataReceived(stream_id, b"pong", 4, False),
        TrailersReceived(stream_id, ((b"grpc-status", b"0"),)),
    ]
    assert client.next_stream_id() == stream_id + 2
    assert ours.open_streams == client.open_streams == 0


def test_a_head_response_may_have_a_content_length_and_no_body():
    ours, client = pair()
    client.send_headers(1, [(b":method", b"HEAD"), *GET[1:]], end_stream=True)
    client.send_headers(3, GET, end_stream=True)
    pump(ours, client)
    for stream_id in (1, 3):
        ours.send_headers(stream_id, (*OK, (b"content-length", b"5")), end_stream=True)
    pump(ours, client)
    assert [type(event) for event in events(client)] == [ResponseReceived, StreamReset]


def test_a_request_that_never_left_is_given_up_silently():
    ours, client = pair()
    client.send_headers(1, GET, end_stream=True)
    client.reset_stream(1, Http2Code.CANCEL)
    client.send_headers(3, GET, end_stream=True)
    pump(ours, client)
    assert [event.stream_id for event in events(ours)] == [3]
    client.reset_stream(3, Http2Code.CANCEL)
    pump(ours, client)
    assert events(ours) == [StreamReset(3, 8, by_peer=True)]


def test_a_server_may_not_push():
    _, client = pair()
    client.receive_data(frame(5, 4, 1, struct.pack(">L", 2) + block(GET)), 0.0)
    failure(events(client))


def test_megabytes_pass_in_both_directions_under_flow_control():
    ours, client = pair()
    body = bytes(range(256)) * 12_000
    client.send_headers(1, POST)
    client.send_data(1, body, end_stream=True)
    received = {ours: b"", client: b""}
    for _ in range(400):
        pump(ours, client)
        for core in (ours, client):
            for event in events(core):
                if isinstance(event, RequestReceived):
                    core.send_headers(1, OK)
                elif isinstance(event, DataReceived):
                    received[core] += event.data
                    core.consumed(1, event.flow_length)
                    if core is ours:
                        core.send_data(1, event.data, end_stream=event.end_stream)
        if client.open_streams == 0:
            break
    assert received[ours] == received[client] == body
    assert ours.failure is client.failure is None

"""The HTTP/2 core: requests, stream states, errors and their scope, credit, the end."""

from __future__ import annotations

import struct

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Bucket, Http2Config
from engine.errors import Http2Code, LocalProtocolError
from engine.wire.http2 import (
    ConnectionFailed,
    DataReceived,
    GoAwayReceived,
    Http2Core,
    PeerSettingsChanged,
    PingAcknowledged,
    RequestReceived,
    RequestRefused,
    SettingsAcknowledged,
    StreamReset,
    TrailersReceived,
)
from tests.wire.http2_peer import (
    CONTINUATION,
    DATA,
    GET,
    GOAWAY,
    HEADERS,
    OK,
    PING,
    POST,
    PREFACE,
    RST,
    SETTINGS,
    WINDOW,
    block,
    data,
    events,
    failure,
    frame,
    goaway,
    headers,
    receive,
    reset,
    resets,
    sent,
    server,
    settings,
    split,
    window,
)

END = 1
END_HEADERS = 4


# -- the beginning --------------------------------------------------------------


def test_a_server_begins_with_its_settings_and_a_larger_connection_window():
    core = Http2Core(Http2Config(), enable_connect_protocol=True)
    core.initiate()
    (kind, _, _, payload), update = split(core.data_to_send())
    assert kind == SETTINGS
    assert dict(struct.iter_unpack(">HL", payload)) == {
        1: 4096, 3: 100, 4: 262_144, 5: 16_384, 6: 32_768, 8: 1, 9: 1
    }  # fmt: skip
    assert update == (WINDOW, 0, 0, struct.pack(">L", 1_048_576 - 65_535))


def test_extended_connect_is_not_offered_unless_asked_for():
    core = Http2Core(Http2Config())
    core.initiate()
    assert 8 not in dict(struct.iter_unpack(">HL", split(core.data_to_send())[0][3]))


def test_a_client_begins_with_the_preface_and_switches_push_off():
    core = Http2Core(Http2Config(), client=True)
    core.initiate()
    wire = core.data_to_send()
    assert wire.startswith(PREFACE)
    entries = dict(struct.iter_unpack(">HL", split(wire[24:])[0][3]))
    assert entries[2] == 0
    assert not {3, 8} & set(entries)


def test_the_progress_of_the_preface_can_be_seen():
    core = Http2Core(Http2Config())
    core.initiate()
    assert receive(core, PREFACE) == []
    assert not core.preface_complete
    assert receive(core, settings()) == [PeerSettingsChanged()]
    assert core.preface_complete
    assert not core.settings_acknowledged
    assert receive(core, settings(ack=True)) == [SettingsAcknowledged()]
    assert core.settings_acknowledged


# -- requests ---------------------------------------------------------------------


def test_a_request_with_body_and_trailers_arrives():
    core = server()
    head, body, trailers = receive(
        core, headers(1, POST, end=False), data(1, b"hi"), headers(1, [(b"x", b"y")], end=True)
    )
    assert (head.method, head.path, head.end_stream) == (b"POST", b"/", False)
    assert body == DataReceived(1, b"hi", 2, False)
    assert trailers == TrailersReceived(1, ((b"x", b"y"),))
    assert core.last_peer_stream_id == 1
    assert core.open_streams == 1


def test_the_head_of_a_repeated_block_is_the_same_object():
    core = server()
    first, second, other = receive(core, headers(1), headers(3), headers(5, POST))
    assert first.head is second.head
    assert first.headers is second.headers
    assert other.headers is not first.headers


def test_an_answer_is_head_body_and_trailers_in_one_piece():
    core = server()
    receive(core, headers(1))
    core.send_headers(1, OK)
    core.send_data(1, b"a")
    core.send_data(1, b"b")
    core.send_trailers(1, ((b"grpc-status", b"0"),))
    (_, f1, _, _), (_, f2, _, body), (k3, f3, _, trailers) = split(core.data_to_send())
    assert (f1, f2, body, k3, f3) == (END_HEADERS, 0, b"ab", HEADERS, END | END_HEADERS)
    assert hpack.Decoder().decode(trailers, raw=True) == [(b"grpc-status", b"0")]
    assert core.open_streams == 0
    assert core.data_to_send() == b""


@pytest.mark.parametrize("how", ["head", "data", "empty"])
def test_the_end_travels_with_the_last_frame(how):
    core = server()
    receive(core, headers(1))
    core.send_headers(1, OK, end_stream=how == "head")
    if how == "data":
        core.send_data(1, b"x", end_stream=True)
    elif how == "empty":
        core.send_data(1, b"", end_stream=True)
    frames = split(core.data_to_send())
    assert [bool(flags & END) for _, flags, _, _ in frames] == [False] * (len(frames) - 1) + [True]
    assert core.open_streams == 0


def test_informational_heads_come_before_the_response():
    core = server()
    receive(core, headers(1))
    core.send_headers(1, ((b":status", b"103"), (b"link", b"</a>")))
    core.send_headers(1, OK, end_stream=True)
    assert [flags for _, flags, _, _ in split(core.data_to_send())] == [4, 5]


def test_a_block_longer_than_a_frame_is_continued():
    core = server()
    receive(core, headers(1))
    value = b"\xff" * 40_000
    core.send_headers(1, (*OK, (b"x", value)), end_stream=True)
    frames = split(core.data_to_send())
    assert [(kind, flags) for kind, flags, _, _ in frames] == [(HEADERS, 1), (CONTINUATION, 0), (CONTINUATION, 4)]
    decoded = hpack.Decoder().decode(b"".join(payload for _, _, _, payload in frames), raw=True)
    assert decoded[1] == (b"x", value)


def test_a_smaller_header_table_of_the_peer_is_confirmed_before_the_next_block():
    core = server()
    receive(core, settings((1, 0)), headers(1), headers(3))
    core.send_headers(1, OK, end_stream=True)
    core.send_headers(3, OK, end_stream=True)
    assert [payload for kind, _, _, payload in sent(core) if kind == HEADERS] == [b"\x20\x88", b"\x88"]


# -- a malformed request costs its stream, nothing else --------------------------


@pytest.mark.parametrize(
    "wire",
    [
        headers(1, [*GET, (b"X", b"y")]),
        headers(1, GET[1:]),
        headers(1, [*GET, (b"connection", b"x")]),
        headers(1, [*POST, (b"content-length", b"5")], end=True),
        headers(1, [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]),
        frame(HEADERS, 0x25, 1, struct.pack(">LB", 1, 0) + block(GET)),
    ],
)
def test_a_malformed_request_resets_its_stream_alone(wire):
    core = server()
    found = receive(core, wire, headers(3))
    assert [type(event) for event in found] == [RequestReceived]
    assert found[0].stream_id == 3
    assert resets(core) == [(1, Http2Code.PROTOCOL_ERROR)]
    assert core.failure is None


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ((data(1, b"123456"),), Http2Code.PROTOCOL_ERROR),
        ((data(1, b"1234", end=True),), Http2Code.PROTOCOL_ERROR),
        ((data(1, b"1234"), headers(1, [(b"x", b"y")])), Http2Code.PROTOCOL_ERROR),
        ((data(1, b"12345"), headers(1, [(b"x", b"y")], end=False)), Http2Code.PROTOCOL_ERROR),
        ((data(1, b"12345"), headers(1, [(b":path", b"y")])), Http2Code.PROTOCOL_ERROR),
        ((data(1, b"12345", end=True), data(1, b"")), Http2Code.STREAM_CLOSED),
        ((data(1, b"12345", end=True), headers(1, [(b"x", b"y")])), Http2Code.STREAM_CLOSED),
        ((window(1, 0),), Http2Code.PROTOCOL_ERROR),
        ((window(1, 2**31 - 1),), Http2Code.FLOW_CONTROL_ERROR),
    ],
)
def test_a_stream_error_resets_the_stream_and_tells_the_driver(frames, code):
    core = server()
    found = receive(core, headers(1, [*POST, (b"content-length", b"5")], end=False), *frames, headers(3))
    assert StreamReset(1, code, by_peer=False) in found
    assert found[-1].stream_id == 3
    assert resets(core) == [(1, code)]


def test_a_body_as_long_as_its_content_length_is_fine():
    core = server()
    found = receive(core, headers(1, [*POST, (b"content-length", b"5")], end=False), data(1, b"12345", end=True))
    assert isinstance(found[-1], DataReceived)


@pytest.mark.parametrize(
    ("extra", "name"),
    [([(b"x", b"y" * 33_000)], "http2.max_header_list"), ([(b"x", b"y")] * 97, "http2.max_fields")],
)
def test_a_head_over_a_limit_is_refused_and_the_connection_goes_on(extra, name):
    core = server()
    encoder = hpack.Encoder()
    wire = encoder.encode([*GET, *extra])
    split_at = 16_000
    first, *rest = [wire[at : at + split_at] for at in range(0, len(wire), split_at)]
    frames = [frame(HEADERS, 1 if rest else 5, 1, first)]
    frames += [frame(CONTINUATION, 4 if piece is rest[-1] else 0, 1, piece) for piece in rest]
    refused, request = receive(core, *frames, frame(HEADERS, 5, 3, encoder.encode(GET)))
    assert isinstance(refused, RequestRefused)
    assert refused.error.name == name
    assert refused.status == 431
    assert request.path == b"/"
    core.send_headers(1, ((b":status", b"431"),), end_stream=True)
    assert sent(core)[0][2] == 1


def test_a_call_of_grpc_counts_bytes_and_not_fields():
    core = server()
    grpc = [*POST, (b"content-type", b"application/grpc")]
    many, large = [*grpc, *[(b"x", b"y")] * 97], [*grpc, *[(b"x", b"y" * 100)] * 100, *[(b"x", b"y")] * 600]
    accepted, refused = receive(core, headers(1, many), headers(3, large))
    assert isinstance(accepted, RequestReceived)
    assert isinstance(refused, RequestRefused)
    assert (refused.grpc, refused.error.name) == (True, "http2.max_header_list")


# -- connection errors -------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ((headers(2),), Http2Code.PROTOCOL_ERROR),
        ((headers(5), headers(3)), Http2Code.PROTOCOL_ERROR),
        ((data(1, b"x"),), Http2Code.PROTOCOL_ERROR),
        ((reset(1),), Http2Code.PROTOCOL_ERROR),
        ((reset(2),), Http2Code.PROTOCOL_ERROR),
        ((window(1, 1),), Http2Code.PROTOCOL_ERROR),
        ((window(0, 0),), Http2Code.PROTOCOL_ERROR),
        ((window(0, 2**31 - 1),), Http2Code.FLOW_CONTROL_ERROR),
        ((frame(HEADERS, 5, 1, b"\xbe"),), Http2Code.COMPRESSION_ERROR),
        ((settings((2, 1)), settings((2, 2))), Http2Code.PROTOCOL_ERROR),
        ((settings((4, 2**31)),), Http2Code.FLOW_CONTROL_ERROR),
        ((settings((5, 100)),), Http2Code.PROTOCOL_ERROR),
        ((headers(1), window(1, 2**31 - 1 - 65_535), settings((4, 65_536))), Http2Code.FLOW_CONTROL_ERROR),
    ],
)
def test_a_connection_error_ends_the_connection_with_its_code(frames, code):
    core = server()
    error = failure(receive(core, *frames))
    assert core.failure is error
    assert goaway(core)[1] == code


def test_events_of_good_frames_before_a_bad_one_are_kept_and_counted():
    core = server()
    found = receive(core, headers(1), headers(3), frame(PING, 0, 0, b"short"), headers(5))
    assert [type(event) for event in found] == [RequestReceived, RequestReceived, ConnectionFailed]
    assert goaway(core)[0] == 3


def test_after_a_failure_input_and_output_are_discarded():
    core = server()
    receive(core, headers(1), frame(PING, 0, 0, b"short"))
    assert receive(core, headers(3)) == []
    core.send_headers(1, OK, end_stream=True)
    core.consumed(1, 5)
    core.reset_stream(1, 8)
    assert [kind for kind, _, _, _ in sent(core)] == [GOAWAY]


def test_an_end_inside_a_frame_is_a_failure_and_a_clean_one_is_not():
    core = server()
    core.receive_eof()
    assert core.failure is None
    receive(core, headers(1)[:12])
    core.receive_eof()
    assert failure(events(core)) is core.failure


# -- frames for streams that are over -----------------------------------------------


def complete(core, stream_id):
    receive(core, headers(stream_id))
    core.send_headers(stream_id, OK, end_stream=True)
    core.data_to_send()


def test_headers_on_a_complete_stream_are_a_connection_error():
    core = server()
    complete(core, 1)
    failure(receive(core, headers(1)))
    assert goaway(core)[1] == Http2Code.STREAM_CLOSED


def test_a_frame_after_the_peers_own_reset_is_answered_once():
    core = server()
    receive(core, headers(1, POST, end=False), reset(1), data(1, b"x"), data(1, b"x"), headers(1))
    assert resets(core) == [(1, Http2Code.STREAM_CLOSED)]
    assert core.failure is None


def test_data_after_the_peers_own_reset_is_no_second_reset():
    core = server(resets=Bucket(1, 0), max_concurrent_streams=50)
    for stream_id in range(1, 100, 2):  # .NET's client ends a call in the middle of a write so
        receive(core, headers(stream_id, POST, end=False), reset(stream_id), data(stream_id, bytes(16_384)))
    assert core.failure is None
    assert any(kind == WINDOW and stream_id == 0 for kind, _, stream_id, _ in sent(core))  # its credit goes back
    receive(core, headers(101), reset(101))
    assert core.failure is not None


def test_frames_after_our_reset_are_ignored():
    core = server()
    receive(core, headers(1, POST, end=False))
    core.reset_stream(1, Http2Code.CANCEL)
    core.data_to_send()
    assert receive(core, data(1, b"x"), headers(1, [(b"x", b"y")]), window(1, 5), reset(1)) == []
    assert core.data_to_send() == b""


def test_late_window_updates_and_resets_of_honest_calls_are_free():
    core = server()
    for stream_id in range(1, 4001, 2):
        complete(core, stream_id)
        assert receive(core, window(stream_id, 100), reset(stream_id, 0)) == []


def test_data_for_a_reset_stream_gives_connection_credit_back():
    core = server()
    receive(core, headers(1, POST, end=False))
    core.reset_stream(1, Http2Code.CANCEL)
    core.data_to_send()
    updates = []
    for _ in range(200):
        receive(core, data(1, bytes(16_384)), now=1000.0)
        updates += [payload for kind, _, stream, payload in sent(core) if (kind, stream) == (WINDOW, 0)]
    assert len(updates) == 6
    assert core.failure is None


# -- ends -----------------------------------------------------------------------------


def test_after_a_received_goaway_responses_still_go_out():
    core = server()
    receive(core, headers(1))
    core.send_headers(1, OK)
    core.send_data(1, b"queued before")
    assert receive(core, frame(GOAWAY, 0, 0, struct.pack(">LL", 0, 0) + b"bye")) == [GoAwayReceived(0, 0, b"bye")]
    core.send_data(1, b", and after", end_stream=True)
    assert sent(core)[-1] == (DATA, END, 1, b"queued before, and after")


def test_after_our_goaway_requests_still_arrive():
    core = server()
    core.go_away(2**31 - 1, Http2Code.NO_ERROR)
    assert goaway(core) == (2**31 - 1, 0, b"")
    (request,) = receive(core, headers(1))
    assert request.stream_id == 1
    core.go_away(core.last_peer_stream_id, Http2Code.NO_ERROR, b"done")
    assert goaway(core) == (1, 0, b"done")


def test_a_ping_is_answered_and_ours_is_recognised():
    core = server()
    assert receive(core, frame(PING, 0, 0, b"12345678")) == []
    assert sent(core) == [(PING, 1, 0, b"12345678")]
    core.ping(b"abcdefgh")
    assert receive(core, frame(PING, 1, 0, b"abcdefgh"), frame(PING, 1, 0, b"abcdefgh")) == [
        PingAcknowledged(b"abcdefgh")
    ]


def test_a_reset_of_the_peer_drops_what_is_queued():
    core = server()
    receive(core, headers(1))
    core.send_headers(1, OK)
    core.send_data(1, bytes(100))
    assert receive(core, reset(1, 8)) == [StreamReset(1, 8, by_peer=True)]
    assert core.queued(1) == 0
    core.send_data(1, b"too late")
    assert core.data_to_send() == b""


def test_our_reset_comes_instead_of_what_was_queued():
    core = server()
    receive(core, headers(1))
    core.send_headers(1, OK)
    core.send_data(1, b"x")
    core.reset_stream(1, Http2Code.INTERNAL_ERROR)
    assert sent(core) == [(RST, 0, 1, struct.pack(">L", 2))]
    core.reset_stream(1, Http2Code.CANCEL)
    assert core.data_to_send() == b""


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("call", ["finish_early", "reset_stream"])
def test_a_finished_response_to_an_unfinished_request_is_followed_by_reset_no_error(flushed, call):
    core = server()
    receive(core, headers(1, POST, end=False))
    core.send_headers(1, OK)
    core.send_data(1, b"done", end_stream=True)
    frames = sent(core) if flushed else []
    if call == "finish_early":
        core.finish_early(1)
    else:
        core.reset_stream(1, Http2Code.NO_ERROR)
    frames += sent(core)
    assert frames[1:] == [(DATA, END, 1, b"done"), (RST, 0, 1, bytes(4))]
    assert core.open_streams == 0


def test_a_request_that_completed_meanwhile_needs_no_reset():
    core = server()
    receive(core, headers(1, POST, end=False))
    core.send_headers(1, OK, end_stream=True)
    core.finish_early(1)
    receive(core, data(1, b"", end=True))
    assert [kind for kind, _, _, _ in sent(core)] == [HEADERS]


def test_an_ignored_body_makes_no_events_and_gets_no_credit_but_the_connections():
    core = server()
    receive(core, headers(1, [*POST, (b"content-length", b"20")], end=False), headers(3, POST, end=False))
    receive(core, data(1, b"unread"))
    core.send_headers(1, OK, end_stream=True)
    core.send_headers(3, OK, end_stream=True)
    core.ignore_body(1)
    core.ignore_body(3)
    core.ignore_body(5)
    sent(core)
    assert receive(core, *[data(1, bytes(16_000))] * 16, *[data(3, bytes(16_000))] * 16) == []
    core.consumed(1, 6)
    assert receive(core, headers(1, [(b"x", b"y")]), data(3, b"", end=True)) == []
    assert [(kind, stream) for kind, _, stream, _ in sent(core)] == []
    assert core.open_streams == 0
    receive(core, headers(5, POST, end=False), *[data(5, bytes(16_000))] * 2)
    assert [(kind, stream) for kind, _, stream, _ in sent(core)] == [(WINDOW, 0)]
    core.finish_early(1)
    assert core.data_to_send() == b""


def test_refusing_a_stream_says_so():
    core = server()
    receive(core, headers(1))
    core.refuse(1)
    assert resets(core) == [(1, Http2Code.REFUSED_STREAM)]


# -- our own mistakes --------------------------------------------------------------------


def test_calls_out_of_place_are_our_own_errors():
    core = server()
    receive(core, headers(1), headers(3))
    with pytest.raises(LocalProtocolError):
        core.send_headers(7, OK)
    with pytest.raises(LocalProtocolError):
        core.send_data(1, b"x")
    with pytest.raises(LocalProtocolError):
        core.send_trailers(1, ())
    with pytest.raises(LocalProtocolError):
        core.send_headers(1, ((b"x", b"y"),))
    with pytest.raises(LocalProtocolError):
        core.send_headers(1, ((b":status", b"100"),), end_stream=True)
    core.send_headers(1, OK, end_stream=True)
    for call in (core.send_data, core.send_trailers):
        with pytest.raises(LocalProtocolError):
            call(1, ())
    core.send_headers(3, OK)
    with pytest.raises(LocalProtocolError):
        core.send_headers(3, OK)
    with pytest.raises(LocalProtocolError):
        core.ping(b"short")


# -- chunking ----------------------------------------------------------------------------

STREAMS = st.sampled_from([1, 3, 5, 7])
ACTIONS = st.one_of(
    st.builds(lambda sid, end: headers(sid, POST, end=end), STREAMS, st.booleans()),
    st.builds(lambda sid: headers(sid, [(b"x", b"y")]), STREAMS),
    st.builds(lambda sid, body, end: data(sid, body, end=end), STREAMS, st.binary(max_size=300), st.booleans()),
    st.builds(reset, STREAMS),
    st.builds(window, st.sampled_from([0, 1, 3]), st.integers(0, 2**31 - 1)),
    st.builds(lambda size: settings((4, size)), st.integers(0, 2**31)),
    st.just(frame(PING, 0, 0, b"12345678")),
    st.just(frame(GOAWAY, 0, 0, bytes(8))),
    st.just(frame(0xEE, 0, 0, b"?")),
    st.binary(min_size=1, max_size=12),
)


@given(st.lists(ACTIONS, max_size=30), st.integers(1, 40))
def test_the_same_bytes_give_the_same_events_and_answers_however_they_are_cut(frames, size):
    wire = b"".join(frames)

    def outcome(pieces):
        core = server(resets=Bucket(4, 0), glitches=Bucket(3, 0))
        for piece in pieces:
            core.receive_data(piece, 0.0)
        return [str(event) for event in events(core)], core.data_to_send()

    assert outcome([wire]) == outcome([wire[at : at + size] for at in range(0, len(wire), size)])


def test_a_write_says_whether_it_held_body() -> None:
    core = server()
    receive(core, settings((4, 3)), headers(1))
    core.send_headers(1, OK)
    core.send_data(1, b"12345")
    written = []
    for frames in (b"", b"", frame(PING, 0, 0, bytes(8)), window(1, 2)):
        if frames:
            receive(core, frames)
        written.append((bool(core.data_to_send()), core.body_left))
    assert written == [(True, True), (False, False), (True, False), (True, True)]

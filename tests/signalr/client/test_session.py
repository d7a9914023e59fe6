"""The client's session and the readers around it, byte by byte."""

from __future__ import annotations

import pytest

from engine.errors import RemoteProtocolError
from engine.signalr.client.event_stream import EventStreamReader
from engine.signalr.client.session import ClientSession, HandshakeDone, SessionEvent, SessionFailed, State
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import Close, Completion, Ping

PROTOCOL = JsonHubProtocol()


def session(buffer_size: float | None = None) -> ClientSession:
    return ClientSession(PROTOCOL, max_message_size=1000, buffer_size=buffer_size)


def events(subject: ClientSession, data: bytes, step: int = 10**6) -> list[SessionEvent]:
    found: list[SessionEvent] = []
    for start in range(0, len(data), step):
        subject.receive_data(data[start : start + step])
        while (event := subject.next_event()) is not None:
            found.append(event)
    return found


@pytest.mark.parametrize("step", [1, 5, 10**6])
def test_messages_follow_the_handshake_in_any_pieces(step):
    subject = session()
    assert subject.handshake_request() == b'{"protocol":"json","version":1}\x1e'
    assert events(subject, b'{}\x1e{"type":6}\x1e{"type":8,"sequenceId":1}\x1e{"type":7}\x1e', step) == [
        HandshakeDone(),
        Ping(),
        Close(),
    ]


def test_nothing_follows_a_failure():
    subject = session()
    (failed,) = events(subject, b'{"error":"no"}\x1e{"type":6}\x1e')
    assert isinstance(failed, SessionFailed)
    assert subject.state is State.FAILED
    assert events(subject, b'{}\x1e{"type":6}\x1e') == []


def test_acks_free_the_buffer_and_a_cut_repeats_the_rest():
    subject = session(buffer_size=100)
    outgoing = subject.outgoing
    assert outgoing is not None
    assert subject.handshake_request().endswith(b'"version":2}\x1e')
    events(subject, b"{}\x1e")
    for frame in (b"a" * 60, b"b" * 60, b"c"):
        outgoing.sent(frame)
    assert outgoing.blocked
    assert events(subject, b'{"type":8,"sequenceId":1}\x1e') == []
    assert not outgoing.blocked
    subject.cut()
    assert subject.resume() == [b'{"type":9,"sequenceId":2}\x1e', b"b" * 60, b"c"]


def test_repetitions_are_dropped_and_acknowledged_again():
    subject = session(buffer_size=100)
    completion = b'{"type":3,"invocationId":"0"}\x1e'
    assert events(subject, b"{}\x1e" + completion) == [HandshakeDone(), Completion("0")]
    assert subject.ack_due
    assert subject.acknowledge() == b'{"type":8,"sequenceId":1}\x1e'
    assert not subject.ack_due
    subject.receive_data(b'{"type":3,"invoc')
    subject.cut()
    assert events(subject, completion) == []  # no Sequence yet
    assert events(subject, b'{"type":9,"sequenceId":1}\x1e' + completion) == []
    assert subject.ack_due
    assert events(subject, b'{"type":7}\x1e') == [Close()]


@pytest.mark.parametrize("step", [1, 2, 3, 10**6])
def test_events_are_read_as_the_standard_says(step):
    reader = EventStreamReader(1000)
    data = b":\r\n\r\ndata: a\r\ndata:b\r\n\r\nid: 1\n\nevent: x\ndata\n\ndata:  c\r\rdata: d"
    found: list[bytes] = []
    for start in range(0, len(data), step):
        reader.receive_data(data[start : start + step])
        while (event := reader.next_event()) is not None:
            found.append(event)
    assert found == [b"a\nb", b"", b" c"]


def test_a_long_event_in_many_pieces_costs_no_more_than_its_length():
    reader = EventStreamReader(10**9)
    reader.receive_data(b"data: ")
    piece = b"x" * 1000
    for _ in range(20_000):
        reader.receive_data(piece)
    reader.receive_data(b"\r")
    reader.receive_data(b"\n\r\n")
    assert reader.next_event() == piece * 20_000
    assert reader.next_event() is None


def test_an_event_without_an_end_is_refused():
    reader = EventStreamReader(100)
    with pytest.raises(RemoteProtocolError, match="more than 100 bytes"):
        reader.receive_data(b"data: abcdef\n" * 20)

"""What a hub client reads never raises but as it says, does not care about chunks, and ends at its first error."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.errors import RemoteProtocolError
from engine.signalr.client.event_stream import EventStreamReader
from engine.signalr.client.session import ClientSession, SessionFailed
from engine.wire.http1_client import DataReceived, Http1ClientCore, ResponseFailed
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.msgpack import MsgpackHubProtocol

LIMIT = 2048

SEEDS: list[bytes] = [
    b'{}\x1e{"type":6}\x1e{"type":3,"invocationId":"0","result":1}\x1e{"type":7,"error":"x","allowReconnect":true}\x1e',
    b'{}\x1e{"type":1,"target":"a","arguments":[1]}\x1e{"type":9,"sequenceId":1}\x1e{"type":8,"sequenceId":9}\x1e',
    b'{"error":"no"}\x1e',
    b'{"type":1}\x1e',
    b"{}\x1e\x02\x91\x06\x05\x93\x07\xc0\xc3",
    b":\r\n\r\ndata: {}\x1e\r\n\r\ndata: a\ndata: b\n\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]


def _session(chunks: list[bytes], protocol: Any, buffer_size: float | None, cut_after: int) -> list[Any]:
    session = ClientSession(protocol, max_message_size=LIMIT, buffer_size=buffer_size)
    events: list[Any] = []
    for index, chunk in enumerate(chunks):
        session.receive_data(chunk)
        while (event := session.next_event()) is not None:
            assert not events or not isinstance(events[-1], SessionFailed), "something came after the failure"
            events.append(event)
        if index == cut_after:
            session.cut()
    if buffer_size is not None:
        assert session.resume()
    return [_plain(each) for each in events if not isinstance(each, SessionFailed)]


def _plain(event: Any) -> list[Any]:
    """Raw values compare by identity."""
    values = [getattr(event, name) for name in getattr(event, "__struct_fields__", ())]
    return [type(event), *(bytes(value) if isinstance(value, msgspec.Raw) else value for value in values)]


def _reader(chunks: list[bytes], reader: EventStreamReader) -> list[Any]:
    events: list[Any] = []
    for chunk in chunks:
        try:
            reader.receive_data(chunk)
        except RemoteProtocolError:
            break
        finally:
            while (event := reader.next_event()) is not None:
                events.append(event)
    return events


def _http(chunks: list[bytes]) -> list[Any]:
    core = Http1ClientCore()
    core.send_request(b"GET", b"/", [(b"host", b"x"), (b"connection", b"upgrade"), (b"upgrade", b"websocket")])
    events: list[Any] = []
    body = b""
    for chunk in chunks:
        core.receive_data(chunk)
        while (event := core.next_event()) is not None:
            if isinstance(event, DataReceived):
                body += event.data
            elif not isinstance(event, ResponseFailed):
                events.append(event)
    core.receive_eof()
    return [*events, body if core.failure is None else None]


def run(data: bytes) -> None:
    """Whole, byte by byte and in two halves."""
    middle = len(data) // 2
    cuts = [[data], [data[index : index + 1] for index in range(len(data))], [data[:middle], data[middle:]]]
    for protocol in (JsonHubProtocol(), MsgpackHubProtocol()):
        for buffer_size in (None, 100.0):
            answers = [_session(chunks, protocol, buffer_size, -1) for chunks in cuts]
            assert answers[0] == answers[1] == answers[2], answers
        _session(cuts[2], protocol, 100.0, 0)
    events = [_reader(chunks, EventStreamReader(10**9)) for chunks in cuts]
    assert events[0] == events[1] == events[2], events
    assert all(_reader(chunks, EventStreamReader(LIMIT)) == events[0] for chunks in cuts if len(data) < LIMIT)
    _http(cuts[1])
    heads = [_http(chunks) for chunks in cuts]
    assert heads[0][:1] == heads[1][:1] == heads[2][:1], heads

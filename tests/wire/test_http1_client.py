"""The client's half of HTTP/1.1, byte by byte."""

from __future__ import annotations

import pytest

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.wire.http1_client import (
    DataReceived,
    Http1ClientCore,
    Http1ClientEvent,
    ResponseEnded,
    ResponseFailed,
    ResponseReceived,
)

HOST = [(b"host", b"x")]


def asked(method: bytes = b"GET") -> Http1ClientCore:
    core = Http1ClientCore()
    core.send_request(method, b"/", HOST)
    return core


def events(core: Http1ClientCore, data: bytes, *, step: int = 10**6, eof: bool = False) -> list[Http1ClientEvent]:
    found: list[Http1ClientEvent] = []
    pieces = [data[start : start + step] for start in range(0, len(data), step)]
    for piece in [*pieces, b""] if eof else pieces:
        if piece:
            core.receive_data(piece)
        else:
            core.receive_eof()
        while (event := core.next_event()) is not None:
            found.append(event)
    return found


def test_a_request_leaves_whole():
    core = Http1ClientCore()
    assert core.send_request(b"POST", b"/a?b=c", HOST, b"body") == (
        b"POST /a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
    )
    assert Http1ClientCore().send_request(b"POST", b"/", HOST, b"").endswith(b"content-length: 0\r\n\r\n")
    assert b"length" not in Http1ClientCore().send_request(b"GET", b"/", HOST)


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_response_arrives_in_any_pieces_and_the_connection_is_kept(step):
    core = asked()
    found = events(core, b"HTTP/1.1 100 X\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 4\r\n\r\nbody", step=step)
    assert found[0] == ResponseReceived(200, ((b"x-a", b"b"), (b"content-length", b"4")))
    assert b"".join(each.data for each in found if isinstance(each, DataReceived)) == b"body"
    assert found[-1] == ResponseEnded()
    assert core.reusable
    core.start_next()
    assert core.send_request(b"GET", b"/2", HOST).startswith(b"GET /2 ")


def test_a_response_may_end_with_the_connection_which_is_then_not_kept():
    core = asked()
    found = events(core, b"HTTP/1.1 200 OK\r\n\r\nbody", eof=True)
    assert found[1:] == [DataReceived(b"body"), ResponseEnded()]
    assert not core.reusable
    with pytest.raises(LocalProtocolError):
        core.start_next()


def test_bytes_behind_a_response_are_not_taken_for_the_next_one():
    core = asked()
    assert events(core, b"HTTP/1.1 204 X\r\n\r\nHTTP/1.1 200 X\r\n\r\n")[-1] == ResponseEnded()
    assert not core.reusable


@pytest.mark.parametrize(
    ("data", "eof"),
    [
        (b"", True),
        (b"nonsense\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 101 X\r\n\r\n", False),  # nobody asked
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, False),
    ],
)
def test_a_server_that_breaks_the_protocol_fails_the_connection(data, eof):
    core = asked()
    last = events(core, data, eof=eof)[-1]
    assert isinstance(last, ResponseFailed)
    assert isinstance(core.failure, RemoteProtocolError)
    assert events(core, b"HTTP/1.1 200 OK\r\n\r\n") == []
    assert not core.reusable


@pytest.mark.parametrize(
    ("target", "fields"), [(b"/a b", HOST), (b"/", [*HOST, (b"x", b"a\r\nb: c")]), (b"/\r\nx", HOST), (b"/", [])]
)
def test_requests_that_would_break_the_protocol_are_not_sent(target, fields):
    with pytest.raises(LocalProtocolError):
        Http1ClientCore().send_request(b"GET", target, fields)

"""Every way known to make two parsers see different requests is refused, whole and byte by byte."""

import pytest

from engine.config import Http1Config
from engine.errors import answer_for
from engine.wire.http1 import ConnectionFailed, Http1Core, RequestEnded, RequestReceived

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

VECTORS = {
    "bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF after a field": (400, b"GET / HTTP/1.1\r\nHost: a\n\r\n"),
    "bare LF as the empty line": (400, GET + b"\n"),
    "only LFs": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare CR after the request line": (400, b"GET / HTTP/1.1\rHost: a\r\n\r\n"),
    "bare CR in a value": (400, GET + b"X: a\rb\r\n\r\n"),
    "bare CR before CR LF": (400, GET + b"X: a\r\r\n\r\n"),
    "only CRs": (400, b"GET / HTTP/1.1\rHost: a\r\r"),
    "NUL in a value": (400, GET + b"X: a\0b\r\n\r\n"),
    "NUL in a name": (400, GET + b"X\0: a\r\n\r\n"),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "control character in a value": (400, GET + b"X: a\x01b\r\n\r\n"),
    "DEL in a value": (400, GET + b"X: a\x7fb\r\n\r\n"),
    "vertical tab in a value": (400, GET + b"X: a\x0bb\r\n\r\n"),
    "folded field": (400, GET + b"X: a\r\n b\r\n\r\n"),
    "folded field with a tab": (400, GET + b"X: a\r\n\tb\r\n\r\n"),
    "folded first field": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "folded Transfer-Encoding": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    "space before the colon": (400, GET + b"X : a\r\n\r\n"),
    "tab before the colon": (400, GET + b"X\t: a\r\n\r\n"),
    "space before the colon of Content-Length": (400, POST + b"Content-Length : 1\r\n\r\nx"),
    "no colon": (400, GET + b"X\r\n\r\n"),
    "empty name": (400, GET + b": a\r\n\r\n"),
    "name with a slash": (400, GET + b"X/Y: a\r\n\r\n"),
    "name beyond ASCII": (400, GET + b"X\xe9: a\r\n\r\n"),
    "Content-Length with Transfer-Encoding": (
        400,
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "Transfer-Encoding with Content-Length": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    "Content-Length with a strange Transfer-Encoding": (
        400,
        POST + b"Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\nhello",
    ),
    "two different Content-Lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    "two equal Content-Lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "list of Content-Lengths": (400, POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    "negative Content-Length": (400, POST + b"Content-Length: -5\r\n\r\nhello"),
    "Content-Length with a plus": (400, POST + b"Content-Length: +5\r\n\r\nhello"),
    "hexadecimal Content-Length": (400, POST + b"Content-Length: 0x5\r\n\r\nhello"),
    "Content-Length with an underscore": (400, POST + b"Content-Length: 1_0\r\n\r\nhellohello"),
    "Content-Length with a space inside": (400, POST + b"Content-Length: 1 0\r\n\r\nhellohello"),
    "empty Content-Length": (400, POST + b"Content-Length:\r\n\r\n"),
    "Content-Length in other digits": (400, POST + b"Content-Length: \xd9\xa5\r\n\r\nhello"),
    "Content-Length of twenty digits": (413, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "unknown transfer coding": (501, POST + b"Transfer-Encoding: gzip\r\n\r\n"),
    "chunked behind another coding": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (501, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in two fields": (
        501,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked, then identity": (
        501,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    "xchunked": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "quoted chunked": (501, POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "chunked with a parameter": (501, POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n"),
    "empty Transfer-Encoding": (501, POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    "Transfer-Encoding behind a vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "Transfer-Encoding in HTTP/1.0": (
        400,
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + b"Host: b\r\n\r\n"),
    "two equal Hosts": (400, GET + b"Host: a\r\n\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    "Host with a slash": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host with a user": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "Host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "Host with a strange port": (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    "Host that is a list": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "Host with an open bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "two spaces in the request line": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "tab in the request line": (400, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space before the request line": (400, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space behind the request line": (400, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    "no target": (400, b"GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no version": (400, b"GET /\r\nHost: a\r\n\r\n"),
    "bad method": (400, b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "endless method": (501, b"A" * 40 + b" / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target beyond ASCII": (400, b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "relative target": (400, b"GET index.html HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target with a fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "asterisk without OPTIONS": (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "authority without CONNECT": (400, b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target of another scheme": (400, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target without host": (400, b"GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target with a user": (400, b"GET http://u:p@a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    "HTTP/0.9": (505, b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    "HTTP/9.9": (505, b"GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
    "http/1.1": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/1.10": (400, b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    "HTTP/01.1": (400, b"GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
    "two empty lines first": (400, b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an empty line of LF first": (400, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "another expectation": (417, POST + b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n"),
    "a WebSocket handshake with a body": (
        400,
        GET + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
    ),
    "bare LF after a chunk size": (400, CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
    "bare CR after a chunk size": (400, CHUNKED + b"5\rhello\r\n0\r\n\r\n"),
    "bare LF after chunk data": (400, CHUNKED + b"5\r\nhello\n0\r\n\r\n"),
    "bare LF after the last chunk": (400, CHUNKED + b"0\n\r\n"),
    "bare LF as the end": (400, CHUNKED + b"0\r\n\n"),
    "chunk longer than its size": (400, CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk shorter than its size": (400, CHUNKED + b"6\r\nhello\r\n0\r\n\r\n"),
    "space behind a chunk size": (400, CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n"),
    "space before a chunk size": (400, CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk size with 0x": (400, CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"),
    "negative chunk size": (400, CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk size with an underscore": (400, CHUNKED + b"1_0\r\nhellohellohello!\r\n0\r\n\r\n"),
    "empty chunk size": (400, CHUNKED + b"\r\nhello\r\n0\r\n\r\n"),
    "endless chunk size": (400, CHUNKED + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n"),
    "chunk size that overflows": (400, CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk extension without name": (400, CHUNKED + b"5;\r\nhello\r\n0\r\n\r\n"),
    "chunk extension with a bare LF": (400, CHUNKED + b"5;a\nhello\r\n0\r\n\r\n"),
    "chunk extension with a NUL": (400, CHUNKED + b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    "chunk extension with an open quote": (400, CHUNKED + b'5;a="b\r\nhello\r\n0\r\n\r\n'),
    "chunk extension without end": (400, CHUNKED + b"5;a=" + b"b" * 2000),
    "bad trailer": (400, CHUNKED + b"0\r\nX : a\r\n\r\n"),
    "folded trailer": (400, CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n"),
    "Content-Length as a trailer": (400, CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n"),
    "Host as a trailer": (400, CHUNKED + b"0\r\nHost: b\r\n\r\n"),
    "endless trailers": (431, CHUNKED + b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n"),
}


def failure(pieces):
    core = Http1Core(Http1Config())
    requests, ended, error = 0, 0, None
    for piece in pieces:
        core.receive_data(piece)
        while (event := core.next_event()) is not None:
            assert error is None, "an event behind the failure"
            requests += isinstance(event, RequestReceived)
            ended += isinstance(event, RequestEnded)
            if isinstance(event, ConnectionFailed):
                error = event.error
    assert requests <= 1
    assert not ended
    assert core.buffered == 0
    return error


@pytest.mark.parametrize("name", VECTORS)
def test_the_vector_is_refused(name):
    status, data = VECTORS[name]
    error = failure([data + BEHIND])
    assert error is not None
    assert answer_for(error).http_status == status


@pytest.mark.parametrize("name", VECTORS)
def test_the_vector_is_refused_byte_by_byte_for_the_same_reason(name):
    status, data = VECTORS[name]
    error = failure([bytes([byte]) for byte in data])
    assert error is not None
    assert answer_for(error).http_status == status
    assert str(error) == str(failure([data]))

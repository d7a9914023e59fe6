"""The HTTP/1 core for arbitrary bytes: it never raises, sees the same requests however the bytes were
cut, keeps no more than its limits, and accepts no head that h11 refuses or the other way reads
differently.
"""

from __future__ import annotations

import h11

from engine.config import Http1Config
from engine.wire.http1 import BodyReceived, ConnectionFailed, Http1Core, RequestEnded, RequestReceived

_CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_CONFIG = Http1Config(max_head_size=512, max_target_size=64, max_fields=8)

SEEDS: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nHEAD /%41?q=1 HTTP/1.0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    _CHUNKED + b'5\r\nhello\r\n1;a=b;c="d\\""\r\nx\r\n0\r\nT: v\r\n\r\n',
    _CHUNKED + b"1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"GET http://a/b?c HTTP/1.1\r\nHost: b\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 9 + b"\r\n",
    b"GET /" + b"a" * 90 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
]


def _trace(pieces: list[bytes]) -> list[object]:
    """What the core makes of the pieces, bodies joined; each request is answered at its end."""
    core = Http1Core(_CONFIG)
    trace: list[object] = []
    body = b""
    for piece in [*pieces, None]:
        if piece is None:
            core.receive_eof()
        else:
            core.receive_data(piece)
        while (event := core.next_event()) is not None:
            if isinstance(event, BodyReceived):
                assert event.data, "an empty piece of body"
                body += event.data
                continue
            if body:
                trace.append(body)
                body = b""
            if isinstance(event, ConnectionFailed):
                assert core.failure is event.error, "the failure is another than the event's"
                trace.append((type(event.error).__name__, str(event.error)))
                core.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert core.next_event() is None, "an event after the failure"
                assert core.buffered == 0, "bytes kept after the failure"
                continue
            trace.append(event)
            if isinstance(event, RequestReceived):
                _check_head(event)
            elif isinstance(event, RequestEnded):
                answer = core.send_response(200, [(b"content-length", b"2")])
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), "no response head"
                core.send_data(b"" if core.bodiless else b"ok")
                if not core.bodiless:
                    core.end_response()
                if core.keeps_alive:
                    core.next_request()
        assert core.request_complete or core.buffered <= _CONFIG.max_head_size + 1024, "more kept than the limits allow"
    if body:
        trace.append(body)
    return trace


def _check_head(event: RequestReceived) -> None:
    """What the strict reader let through, h11 reads the same way."""
    lines = [b"%b: %b\r\n" % field for field in event.fields]
    version = event.http_version.encode()
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(b"%b %b HTTP/%b\r\n%b\r\n" % (event.method, event.path, version, b"".join(lines)))
    request = oracle.next_event()
    assert isinstance(request, h11.Request), f"h11 reads {request!r}"
    names = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in event.fields]
    assert list(request.headers) == names, f"h11 reads {list(request.headers)!r}"
    for name, value in event.fields:
        assert name == name.lower(), "a field name in upper case"
        assert not any(byte in b"\r\n\0" for byte in name + value), "a line end within a field"


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    whole = _trace([data])
    bytewise = _trace([data[index : index + 1] for index in range(len(data))])
    assert whole == bytewise, f"whole: {whole!r}\nbyte by byte: {bytewise!r}"
    size = 1 + sum(data) % 13
    pieces = _trace([data[index : index + size] for index in range(0, len(data), size)])
    assert whole == pieces, f"whole: {whole!r}\nin pieces of {size}: {pieces!r}"

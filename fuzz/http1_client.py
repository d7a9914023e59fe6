"""The client's side of HTTP/1.1 takes any response without raising, alike however it is cut.

An input is what a server sends; its first byte says what was asked for.
"""

from __future__ import annotations

from engine.errors import LocalProtocolError
from engine.wire.http1_client import DataReceived, Http1ClientCore, ResponseEnded, ResponseFailed, ResponseReceived

_METHODS = (b"GET", b"HEAD", b"POST")
_HOST = [(b"host", b"a")]

SEEDS: list[bytes] = [
    b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n",
    b"\0HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"\1HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"\2HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"\0HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"\0HTTP/1.1 200 OK\r\nfolded: a\r\n b\r\n\r\n",
    b"\0SSH-2.0-OpenSSH_9.2\r\n",
]


def _trace(pieces: list[bytes], method: bytes) -> list[object]:
    """What the core makes of the pieces, bodies joined; it asks again where it may."""
    core = Http1ClientCore()
    core.send_request(method, b"/", _HOST)
    trace: list[object] = []
    body = b""
    for piece in [*pieces, None]:
        if piece is None:
            core.receive_eof()
        else:
            core.receive_data(piece)
        while (event := core.next_event()) is not None:
            if isinstance(event, DataReceived):
                assert event.data, "an empty piece of body"
                body += event.data
                continue
            # What exactly is wrong, h11 says of what it has.
            trace.append((body, event if not isinstance(event, ResponseFailed) else type(event.error)))
            body = b""
            if isinstance(event, ResponseReceived):
                assert 200 <= event.status <= 999, "a response without a status of one"
                assert all(name == name.lower() for name, _ in event.headers), "a field name in upper case"
            elif isinstance(event, ResponseFailed):
                assert core.failure is event.error, "the failure is another than the event's"
                core.receive_data(b"HTTP/1.1 200 OK\r\n\r\n")
                assert core.next_event() is None, "an event after the failure"
                assert not core.reusable, "a failed connection is to be used again"
            elif isinstance(event, ResponseEnded):
                _check_end(core)
    return [*trace, body]


def _check_end(core: Http1ClientCore) -> None:
    """A response is over: nothing follows, and another request is taken where `reusable` says so and nowhere else."""
    assert core.ended
    assert core.next_event() is None, "an event after the end"
    reusable = core.reusable
    try:
        core.start_next()
    except LocalProtocolError:
        assert not reusable, "what is reusable was not used"
    else:
        assert reusable, "what is not reusable was used"
        core.send_request(b"GET", b"/", _HOST)


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    method, data = _METHODS[data[0] % len(_METHODS)] if data else b"GET", data[1:]
    for size in (1, 7):
        # Bytes behind a response that came with it forbid another request; so a cut may show only before them.
        first = _first(_trace([data], method))
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert _first(_trace(pieces, method)) == first, f"in pieces of {size} it is another response"


def _first(trace: list[object]) -> list[object]:
    """The first response of a trace."""
    kinds = [type(each[1]) if isinstance(each, tuple) else None for each in trace]
    if ResponseEnded in kinds:
        return trace[: kinds.index(ResponseEnded) + 1]
    return trace[:-1]

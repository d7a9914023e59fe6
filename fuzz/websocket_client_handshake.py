"""The client's handshake takes any answer without raising, alike however it is cut, and opens only for a right one.

An input is what a server sends. `ACCEPT` in it stands for the right Sec-WebSocket-Accept.
"""

from __future__ import annotations

from engine.config import Http1Config, WebSocketConfig
from engine.errors import EngineError
from engine.wire.websocket.client_handshake import (
    MAX_REJECTION_BODY,
    ClientHandshake,
    Event,
    Offered,
    Opened,
    Rejected,
)
from engine.wire.websocket.handshake import accept_token

_NONCE = b"the sample nonce"
_ACCEPT = accept_token(b"dGhlIHNhbXBsZSBub25jZQ==")
_OFFERED = Offered(b"example.com", b"/", subprotocols=("a", "b"), config=WebSocketConfig())
_CONFIG = Http1Config(max_head_size=2048, max_fields=20)
_GOOD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"
)
_DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"

SEEDS: list[bytes] = [
    _GOOD + b"\r\n\x81\x02hi",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + _GOOD + b"sec-websocket-protocol: b\r\n\r\n",
    _GOOD + _DEFLATE + b"\r\n\r\n",
    _GOOD + _DEFLATE + b'; server_max_window_bits="10"; client_max_window_bits=9; server_no_context_takeover\r\n\r\n',
    _GOOD + _DEFLATE + b", permessage-deflate\r\n\r\n",
    _GOOD + _DEFLATE + b"; server_max_window_bits=13\r\n\r\n",
    _GOOD + _DEFLATE + b"; client_no_context_takeover, permessage-deflate\r\n\r\n",
    _GOOD + b"sec-websocket-protocol: c\r\n\r\n",
    _GOOD.replace(b"ACCEPT", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo") + b"\r\n",
    _GOOD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n",
    b"HTTP/1.1 204 \r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 200 x\r\nfolded:\r\n y\r\n\r\n",
]


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    data = data.replace(b"ACCEPT", _ACCEPT)
    whole = _outcome([data])
    for size in (1, 7):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert repr(_outcome(pieces)) == repr(whole), "the outcome depends on how the answer was cut"
    if isinstance(whole, Opened):
        _check_opened(whole, data)
    elif isinstance(whole, Rejected):
        assert 200 <= whole.status <= 999
        assert len(whole.body) <= MAX_REJECTION_BODY
        assert len(whole.headers) <= _CONFIG.max_fields
    else:
        assert isinstance(whole.error, EngineError)


def _outcome(pieces: list[bytes]) -> Event:
    """What came of it; bytes that come behind the outcome are what follows an opening."""
    core = ClientHandshake(_OFFERED, _NONCE, _CONFIG)
    assert core.data_to_send()
    event: Event | None = None
    trailing = b""
    for piece in pieces:
        if event is not None:
            trailing += piece
            continue
        core.receive_data(piece)
        event = core.next_event()
    if event is None:
        core.receive_eof()
        event = core.next_event()
    assert event is not None, "the end of the input must have an outcome"
    core.receive_data(b"more")
    core.receive_eof()
    assert core.next_event() is None, "there is one outcome"
    if isinstance(event, Opened):
        return Opened(event.headers, event.subprotocol, event.agreed, event.trailing + trailing)
    return event


def _check_opened(opened: Opened, data: bytes) -> None:
    fields = [(name, value.lower()) for name, value in opened.headers]
    assert [value for name, value in opened.headers if name == b"sec-websocket-accept"] == [_ACCEPT]
    assert any(name == b"upgrade" and b"websocket" in value for name, value in fields)
    assert any(name == b"connection" and b"upgrade" in value for name, value in fields)
    assert opened.subprotocol in (None, "a", "b")
    assert data.endswith(opened.trailing)
    extensions = b", ".join(value for name, value in fields if name == b"sec-websocket-extensions")
    assert extensions.count(b"permessage-deflate") == (opened.agreed is not None), (
        "agreed on twice, or on something else"
    )
    if opened.agreed is not None:
        assert opened.agreed.server_window_bits <= (12 if b"server_max" in extensions else 15), "more than was offered"
        assert 8 <= opened.agreed.client_window_bits <= 12
        assert 8 <= opened.agreed.server_window_bits <= 15

"""The hub handshake never raises for bytes, has one outcome, and loses nothing of what comes behind it."""

from __future__ import annotations

from engine.wire.signalr.handshake import HandshakeAccepted, HandshakeReader, HandshakeRefused
from engine.wire.signalr.json import JsonHubProtocol
from engine.wire.signalr.messages import TransferFormat

LIMIT = 256

SEEDS: list[bytes] = [
    b'{"protocol":"json","version":1}\x1e',
    b'{"x":[{}],"version":2,"protocol":"JSON"}\x1e{"type":6}\x1e',
    b'{"protocol":"messagepack","version":1}\x1e',
    b'{"protocol":"json","version":3}\x1e',
    b'{"protocol":"json","version":"1"}\x1e',
    b'{"protocol":"\xff","version":1e99}\x1e',
    b"\x1e",
    b"x" * (LIMIT + 1),
    b'{"protocol":' + b"[" * 200 + b"\x1e",
]

_PROTOCOLS = {"json": JsonHubProtocol()}


def _outcome(chunks: list[bytes]) -> HandshakeAccepted | HandshakeRefused | None:
    reader = HandshakeReader(_PROTOCOLS, frozenset(TransferFormat), LIMIT, detailed=True)
    for position, chunk in enumerate(chunks):
        reader.receive_data(chunk)
        assert len(reader._buffer) <= LIMIT, "more than the limit is kept"
        event = reader.next_event()
        if isinstance(event, HandshakeAccepted):
            return HandshakeAccepted(
                event.protocol, event.version, event.rest + b"".join(chunks[position + 1 :]), event.answer
            )
        if event is not None:
            assert event.answer.endswith(b"}\x1e")
            return event
    return None


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    whole = _outcome([data])
    size = 1 + len(data) % 5
    pieces = _outcome([data[start : start + size] for start in range(0, len(data), size)])
    assert whole == pieces, "chunks change the outcome"
    if isinstance(whole, HandshakeAccepted):
        assert whole.rest == data.partition(b"\x1e")[2]

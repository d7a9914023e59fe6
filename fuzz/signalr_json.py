"""The JSON hub protocol never raises for bytes, ends at its first error, and does not care about chunks.

The short way of invocations is compared with the general one.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from engine.errors import RemoteProtocolError
from engine.wire.signalr.json import RECORD_SEPARATOR, JsonHubProtocol, parse_envelope, parse_record
from engine.wire.signalr.messages import BindingError, Invocation, Malformed, StreamInvocation

LIMIT = 4096

SEEDS: list[bytes] = [
    b'{"type":1,"headers":{"a":"b"},"invocationId":"7","target":"Echo","arguments":["x",1.5,null],"streamIds":["s"]}\x1e',
    b'{"arguments":[[{"a":[1]}]],"target":"T","x":{},"type":1}\x1e{"type":6}\x1e{"type":7,"allowReconnect":true}\x1e',
    b'{"type":2,"invocationId":"7","item":{"a":"\\u00e9\\ud83d\\ude00"}}\x1e{"type":3,"invocationId":"7","result":-0.5e3}\x1e',
    b'{"type":4,"invocationId":"7","target":"S","arguments":[]}\x1e{"type":5,"invocationId":"7"}\x1e{"type":99}\x1e',
    b'{"type":8,"sequenceId":1}\x1e{"type":9,"sequenceId":2}\x1e{"type":3,"invocationId":"7","error":"e"}\x1e{"ty',
    b'{"type":1,"target":"\xff","arguments":["\xff\xed\xa0\x80"]}\x1e',
    b'{"type":1,"target":"T","arguments":' + b"[" * 70 + b"]" * 70 + b"}\x1e",
]

_PROTOCOL = JsonHubProtocol()
_BINDERS = [_PROTOCOL.argument_decoder(types) for types in ([], [Any], [int, str], [list[float], bytes, str | None])]


def _parse(chunks: list[bytes], limit: int = LIMIT) -> list[Any]:
    reader = _PROTOCOL.reader(limit)
    events: list[Any] = []
    for chunk in chunks:
        reader.receive_data(chunk)
        assert reader._size <= limit, "more than the limit is kept"
        while (event := reader.next_event()) is not None:
            assert not events or not isinstance(events[-1], Malformed), "an event behind the terminal one"
            events.append(event)
    assert (reader.failure is not None) == bool(events and isinstance(events[-1], Malformed))
    return events


def _shape(event: Any) -> Any:
    """What can be compared: errors and raw values have no equality of their own."""
    if isinstance(event, Malformed):
        return "malformed"
    return type(event), tuple(
        bytes(value) if isinstance(value, msgspec.Raw) else value
        for value in (getattr(event, name) for name in event.__struct_fields__)
    )


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    whole = _parse([data])
    size = 1 + len(data) % 7
    pieces = _parse([data[start : start + size] for start in range(0, len(data), size)])
    assert [_shape(each) for each in whole] == [_shape(each) for each in pieces], "chunks change the messages"
    for record in data.split(RECORD_SEPARATOR):
        with contextlib.suppress(RemoteProtocolError):
            message = parse_record(record)
            if isinstance(message, Invocation):
                assert _shape(message) == _shape(parse_envelope(record)), "the short way differs from the general one"
    longest = max(map(len, data.split(b"\x1e")[:-1]), default=0)
    if longest:
        assert isinstance(_parse([data], longest)[-1], Malformed), "a message of the limit leaves no room for its end"
    for event in whole:
        if isinstance(event, Invocation | StreamInvocation):
            for bind in _BINDERS:
                with contextlib.suppress(BindingError, RemoteProtocolError):
                    assert isinstance(bind(event.arguments), tuple)
